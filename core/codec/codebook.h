// Codebooks: the points that a pair of weights may take. Start here for core/codec.
//
// A codebook of b bits a pair (b = 2 x bpw, 5 to 12) is symmetric in both axes: a code is m = b - 2 bits of magnitude
// and two sign bits, so the table holds the 2^m points of one quadrant. Coordinates are small integers times one step,
// which is what lets every backend decode the same number: at most 127 up to b = 9 (so that 8-bit multiply-add cannot
// saturate) and at most 255 from b = 10 on.
//
// Four families share this form, and so the packed layout and the kernels. All but the last minimize the mean squared
// error of a unit circular Gaussian, the source that a rotated, row-normalized weight pair is:
// * joint: the points are free (Lloyd 1982). Quadrant symmetry costs under 1 % in error from b = 7 on, the integer grid
//   under 1 % everywhere. It is the codec; the others are what it is compared with.
// * polar: 2^a rings of 2^p phases, b = a + p, the best split. 1.15 to 1.25 times joint's error.
// * scalar: each column by itself (Max 1960). For even b 1.14 to 1.26 times joint's error; an odd b gives the even
//   column one bit more, which is 1.29 to 1.56 times, since a bit cannot be shared between the columns.
// * uniform: each column rounded to evenly spaced levels, as round-to-nearest does. `step` and `gaussian_mse` are those
//   of the best spacing on a Gaussian; a row scaled by its largest weight puts that on `outermost` instead.
// The integer grid costs polar at most 0.3 %, scalar 0.6 % at b = 12 and less below, uniform nothing.
//
// The tables are fixed: tools/make_codebooks.cc made them, and a test holds them to their digest.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

inline constexpr int kMinPairBits = 5;
inline constexpr int kMaxPairBits = 12;

enum class CodebookKind : uint8_t { kJoint, kPolar, kScalar, kUniform };
inline constexpr CodebookKind kCodebookKinds[] = {CodebookKind::kJoint, CodebookKind::kPolar, CodebookKind::kScalar,
                                                  CodebookKind::kUniform};

// "joint", "polar", "scalar", "uniform": as specs, artifacts and reports have it.
std::string_view CodebookKindName(CodebookKind kind);
// INVALID_ARGUMENT (CODEBOOK_UNKNOWN) for any other name.
absl::StatusOr<CodebookKind> ParseCodebookKind(std::string_view name);

// Of one quadrant. Static data: valid for ever, safe from any thread.
struct Codebook {
  CodebookKind kind = CodebookKind::kJoint;
  int pair_bits = 0;           // b
  float step = 0;              // a coordinate is step x integer, in units of the source's sigma
  int outermost = 0;           // the largest integer of either column
  std::span<const uint8_t> x;  // 2^(b-2) magnitudes of the even column
  std::span<const uint8_t> y;  // of the odd column
  double gaussian_mse = 0;     // per weight, on the unit Gaussian, as the generator measured it

  int magnitude_bits() const { return pair_bits - 2; }
};

// REQUIRES: kMinPairBits <= pair_bits <= kMaxPairBits.
const Codebook& CodebookFor(CodebookKind kind, int pair_bits);
// The joint one.
const Codebook& CodebookFor(int pair_bits);

// 2 x bpw for a bpw of 2.5 to 6 in half bits, else INVALID_ARGUMENT (BPW_RANGE).
absl::StatusOr<int> PairBitsFor(double bpw);

// A code as stored: magnitude index, then the sign of the even column, then that of the odd one. A set bit negates.
inline constexpr uint32_t MakeCode(int magnitude_bits, uint32_t magnitude, bool negative_x, bool negative_y) {
  return magnitude | static_cast<uint32_t>(negative_x) << magnitude_bits |
         static_cast<uint32_t>(negative_y) << (magnitude_bits + 1);
}

// Exact nearest point, ties to the lower index. Thread-safe after construction; about 1 MB at 12 bits.
// The quadrant is cut into square cells; each keeps the points that are nearest to some place in it, so a query looks
// at a handful of them. Coordinates beyond the last cell use that cell, whose list then holds every point that can win.
class NearestPoint {
 public:
  struct Point {
    uint32_t code;
    float x, y;  // of the code, in units of sigma
  };

  explicit NearestPoint(const Codebook& codebook);

  // The point nearest to (x, y), both in units of sigma.
  Point Encode(float x, float y) const {
    const float ax = std::fabs(x), ay = std::fabs(y);
    const auto limit = static_cast<float>(kCells - 1);
    const int cx = static_cast<int>(std::min(ax * cells_per_sigma_, limit));
    const int cy = static_cast<int>(std::min(ay * cells_per_sigma_, limit));
    const size_t cell = static_cast<size_t>(cx) * kCells + static_cast<size_t>(cy);
    const Candidate* best = &candidates_[cell_begin_[cell]];
    const Candidate* const end = candidates_.data() + cell_begin_[cell + 1];
    float best_distance = best->Distance(ax, ay);
    for (const Candidate* c = best + 1; c < end; ++c) {
      const float distance = c->Distance(ax, ay);
      const bool nearer = distance < best_distance;
      best_distance = nearer ? distance : best_distance;
      best = nearer ? c : best;
    }
    return {MakeCode(magnitude_bits_, best->index, std::signbit(x), std::signbit(y)), std::copysign(best->x, x),
            std::copysign(best->y, y)};
  }

  // The point of a code, in units of sigma.
  void Decode(uint32_t code, float* x, float* y) const;

 private:
  static constexpr int kCells = 64;  // per axis; at 11 bits a side is about the spacing of the points
  static constexpr int kCoarse = 8;  // cells per axis of the coarse squares that construction looks at first
  struct Candidate {
    float x, y;
    uint32_t index;
    float Distance(float ax, float ay) const {
      const float dx = ax - x, dy = ay - y;
      return dx * dx + dy * dy;
    }
  };
  void AddCell(int cx, int cy, const std::vector<uint32_t>& points);
  std::vector<uint32_t> PointsNear(double middle_x, double middle_y, double side,
                                   const std::vector<uint32_t>& points) const;

  int magnitude_bits_;
  float cells_per_sigma_ = 0;
  std::vector<float> x_, y_;           // magnitudes in sigma
  std::vector<uint32_t> cell_begin_;   // [kCells * kCells + 1]
  std::vector<Candidate> candidates_;  // ascending index within a cell
};

}  // namespace qamserve
