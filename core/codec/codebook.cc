#include "core/codec/codebook.h"

#include <algorithm>
#include <cmath>

#include "core/codec/codebook_tables.h"

namespace qamserve {

const Codebook& CodebookFor(int pair_bits) { return kCodebooks[static_cast<size_t>(pair_bits - kMinPairBits)]; }

absl::StatusOr<int> PairBitsFor(double bpw) {
  const double doubled = bpw * 2;
  if (!(doubled >= kMinPairBits && doubled <= kMaxPairBits) || doubled != std::floor(doubled)) {
    return InvalidArgument("BPW_RANGE", "bpw is {}; it must be 2.5 to 6 in steps of 0.5", bpw);
  }
  return static_cast<int>(doubled);
}

NearestPoint::NearestPoint(const Codebook& codebook) : magnitude_bits_(codebook.magnitude_bits()) {
  const size_t n = codebook.x.size();
  float extent = 0;
  for (size_t i = 0; i < n; ++i) {
    x_.push_back(codebook.step * static_cast<float>(codebook.x[i]));
    y_.push_back(codebook.step * static_cast<float>(codebook.y[i]));
    extent = std::max({extent, x_.back(), y_.back()});
  }
  cells_per_sigma_ = static_cast<float>(kCells) / (extent * 1.001f);
  const double side = 1.0 / static_cast<double>(cells_per_sigma_);
  // The outermost cells stand for all that lies beyond them.
  constexpr double kFar = 1e4;

  cell_begin_.push_back(0);
  std::vector<double> nearest(n);
  for (int cx = 0; cx < kCells; ++cx) {
    for (int cy = 0; cy < kCells; ++cy) {
      const double x0 = cx * side, x1 = cx + 1 == kCells ? kFar : x0 + side;
      const double y0 = cy * side, y1 = cy + 1 == kCells ? kFar : y0 + side;
      // A point can win in the cell only if no other point is nearer everywhere in it. Against one rival that test is
      // linear, so the four corners decide it.
      auto beaten = [&](size_t i, size_t rival) {
        for (double px : {x0, x1}) {
          for (double py : {y0, y1}) {
            const double di = (px - x_[i]) * (px - x_[i]) + (py - y_[i]) * (py - y_[i]);
            const double dr = (px - x_[rival]) * (px - x_[rival]) + (py - y_[rival]) * (py - y_[rival]);
            if (di <= dr + 1e-5 * dr) return false;  // the margin keeps float queries on the safe side
          }
        }
        return true;
      };
      // Rivals worth trying first: those nearest to the finite middle of the cell.
      const double mx = x0 + side / 2, my = y0 + side / 2;
      size_t best = 0;
      for (size_t i = 0; i < n; ++i) {
        nearest[i] = (mx - x_[i]) * (mx - x_[i]) + (my - y_[i]) * (my - y_[i]);
        if (nearest[i] < nearest[best]) best = i;
      }
      for (size_t i = 0; i < n; ++i) {
        if (i == best || !beaten(i, best)) candidates_.push_back(static_cast<uint16_t>(i));
      }
      cell_begin_.push_back(static_cast<uint32_t>(candidates_.size()));
    }
  }
}

uint32_t NearestPoint::Encode(float x, float y) const {
  const float ax = std::fabs(x), ay = std::fabs(y);
  const float limit = static_cast<float>(kCells - 1);
  const int cx = static_cast<int>(std::min(ax * cells_per_sigma_, limit));
  const int cy = static_cast<int>(std::min(ay * cells_per_sigma_, limit));
  const size_t cell = static_cast<size_t>(cx * kCells + cy);
  uint32_t best = candidates_[cell_begin_[cell]];
  float best_distance = HUGE_VALF;
  for (uint32_t i = cell_begin_[cell]; i < cell_begin_[cell + 1]; ++i) {
    const uint32_t point = candidates_[i];
    const float dx = ax - x_[point], dy = ay - y_[point];
    const float distance = dx * dx + dy * dy;
    if (distance < best_distance) {
      best_distance = distance;
      best = point;
    }
  }
  return MakeCode(magnitude_bits_, best, std::signbit(x), std::signbit(y));
}

void NearestPoint::Decode(uint32_t code, float* x, float* y) const {
  const uint32_t magnitude = code & ((1u << magnitude_bits_) - 1);
  *x = (code >> magnitude_bits_) & 1 ? -x_[magnitude] : x_[magnitude];
  *y = (code >> (magnitude_bits_ + 1)) & 1 ? -y_[magnitude] : y_[magnitude];
}

}  // namespace qamserve
