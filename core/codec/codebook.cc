#include "core/codec/codebook.h"

#include <algorithm>
#include <cmath>

#include "core/codec/tables/joint.h"
#include "core/codec/tables/polar.h"
#include "core/codec/tables/scalar.h"
#include "core/codec/tables/uniform.h"

namespace qamserve {

std::string_view CodebookKindName(CodebookKind kind) {
  switch (kind) {
    case CodebookKind::kJoint:
      return "joint";
    case CodebookKind::kPolar:
      return "polar";
    case CodebookKind::kScalar:
      return "scalar";
    case CodebookKind::kUniform:
      return "uniform";
  }
  return "";
}

absl::StatusOr<CodebookKind> ParseCodebookKind(std::string_view name) {
  for (CodebookKind kind : kCodebookKinds) {
    if (name == CodebookKindName(kind)) return kind;
  }
  return InvalidArgument("CODEBOOK_UNKNOWN", "codebook is {:?}; it must be joint, polar, scalar or uniform", name);
}

const Codebook& CodebookFor(CodebookKind kind, int pair_bits) {
  const auto at = static_cast<size_t>(pair_bits - kMinPairBits);
  switch (kind) {
    case CodebookKind::kPolar:
      return kPolarCodebooks[at];
    case CodebookKind::kScalar:
      return kScalarCodebooks[at];
    case CodebookKind::kUniform:
      return kUniformCodebooks[at];
    case CodebookKind::kJoint:
      break;
  }
  return kJointCodebooks[at];
}

const Codebook& CodebookFor(int pair_bits) { return CodebookFor(CodebookKind::kJoint, pair_bits); }

absl::StatusOr<int> PairBitsFor(double bpw) {
  const double doubled = bpw * 2;
  if (!(doubled >= kMinPairBits && doubled <= kMaxPairBits) || doubled != std::floor(doubled)) {
    return InvalidArgument("BPW_RANGE", "bpw is {}; it must be 2.5 to 6 in steps of 0.5", bpw);
  }
  return static_cast<int>(doubled);
}

NearestPoint::NearestPoint(const Codebook& codebook) : magnitude_bits_(codebook.magnitude_bits()) {
  float extent = 0;
  std::vector<uint32_t> all;
  for (size_t i = 0; i < codebook.x.size(); ++i) {
    x_.push_back(codebook.step * static_cast<float>(codebook.x[i]));
    y_.push_back(codebook.step * static_cast<float>(codebook.y[i]));
    extent = std::max({extent, x_.back(), y_.back()});
    all.push_back(static_cast<uint32_t>(i));
  }
  cells_per_sigma_ = static_cast<float>(kCells) / (extent * 1.001f);
  const double side = 1.0 / static_cast<double>(cells_per_sigma_);

  std::vector<std::vector<uint32_t>> coarse;
  constexpr int kSquares = kCells / kCoarse;
  for (int i = 0; i < kSquares * kSquares; ++i) {
    const int across = i / kSquares, up = i % kSquares;
    coarse.push_back(PointsNear((across + 0.5) * kCoarse * side, (up + 0.5) * kCoarse * side, kCoarse * side, all));
  }
  cell_begin_.push_back(0);
  for (int cx = 0; cx < kCells; ++cx) {
    for (int cy = 0; cy < kCells; ++cy) {
      const bool outermost = cx + 1 == kCells || cy + 1 == kCells;
      if (outermost) {
        AddCell(cx, cy, all);
      } else {
        const int square_index = cx / kCoarse * kSquares + cy / kCoarse;
        const auto& square = coarse[static_cast<size_t>(square_index)];
        AddCell(cx, cy, PointsNear((cx + 0.5) * side, (cy + 0.5) * side, side, square));
      }
      cell_begin_.push_back(static_cast<uint32_t>(candidates_.size()));
    }
  }
}

// By the triangle inequality a point farther from the middle of a square than the best one by more than the square's
// diagonal cannot be nearest anywhere in it.
std::vector<uint32_t> NearestPoint::PointsNear(double middle_x, double middle_y, double side,
                                               const std::vector<uint32_t>& points) const {
  std::vector<double> distance(points.size());
  double best = HUGE_VAL;
  for (size_t k = 0; k < points.size(); ++k) {
    const double dx = middle_x - static_cast<double>(x_[points[k]]), dy = middle_y - static_cast<double>(y_[points[k]]);
    distance[k] = dx * dx + dy * dy;
    best = std::min(best, distance[k]);
  }
  const double reach = std::sqrt(best) + side * 1.4143;
  std::vector<uint32_t> near;
  for (size_t k = 0; k < points.size(); ++k) {
    if (distance[k] <= reach * reach) near.push_back(points[k]);
  }
  return near;
}

// Adds those of `points` that can be nearest in a cell. One point beats another everywhere in a convex cell if it does
// so at all corners, since the comparison of two distances is linear in the place.
void NearestPoint::AddCell(int cx, int cy, const std::vector<uint32_t>& points) {
  const double side = 1.0 / static_cast<double>(cells_per_sigma_);
  constexpr double kFar = 1e4;  // the outermost cells stand for all that lies beyond them
  const double x0 = cx * side, x1 = cx + 1 == kCells ? kFar : x0 + side;
  const double y0 = cy * side, y1 = cy + 1 == kCells ? kFar : y0 + side;
  auto squared = [&](uint32_t i, double px, double py) {
    const double dx = px - static_cast<double>(x_[i]), dy = py - static_cast<double>(y_[i]);
    return dx * dx + dy * dy;
  };
  uint32_t rival = points.front();
  for (uint32_t i : points) {
    if (squared(i, x0 + side / 2, y0 + side / 2) < squared(rival, x0 + side / 2, y0 + side / 2)) rival = i;
  }
  auto beaten = [&](uint32_t i) {
    for (double px : {x0, x1}) {
      for (double py : {y0, y1}) {
        // The margin keeps queries in float on the safe side.
        if (squared(i, px, py) <= squared(rival, px, py) * (1 + 1e-5)) return false;
      }
    }
    return true;
  };
  for (uint32_t i : points) {
    if (i == rival || !beaten(i)) candidates_.push_back({x_[i], y_[i], i});
  }
}

void NearestPoint::Decode(uint32_t code, float* x, float* y) const {
  const uint32_t magnitude = code & ((1u << magnitude_bits_) - 1);
  *x = (code >> magnitude_bits_) & 1 ? -x_[magnitude] : x_[magnitude];
  *y = (code >> (magnitude_bits_ + 1)) & 1 ? -y_[magnitude] : y_[magnitude];
}

}  // namespace qamserve
