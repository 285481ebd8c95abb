// The rotation that makes a weight row look Gaussian: random signs, then a Hadamard matrix, over the whole input
// dimension or over blocks of it. The same rotation is applied to activations, so products are unchanged.
//
// Hadamard matrices come from Sylvester (powers of two) and Paley I and II (Paley 1933) over primes, joined by
// Kronecker products: 576 = 12 x 12 x 4, 1536 = 12 x 128, 640 = 20 x 32, 5632 = 44 x 128. Only additions, in a fixed
// order, so results are the same on every instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

enum class RotationKind {
  kFull,   // one matrix over the whole dimension
  kBlock,  // blocks of the largest power of two that divides the dimension
  kNone,   // the identity: rows stay as they are (baselines)
};
// "full", "block", "none".
const char* RotationKindName(RotationKind kind);
// INVALID_ARGUMENT (ROTATION) names what there is.
absl::StatusOr<RotationKind> ParseRotationKind(std::string_view name);

// An orthogonal matrix Q = H D / sqrt(block). Immutable; thread-safe.
class Rotation {
 public:
  // INVALID_ARGUMENT (ROTATION_DIMENSION) if no product of known orders gives `n` (1 <= n <= 2^20).
  // The signs are a function of (n, seed).
  static absl::StatusOr<Rotation> Create(int64_t n, RotationKind kind, uint64_t seed);

  int64_t size() const { return n_; }
  // The orders of the Kronecker factors, power of two last: "12 x 12 x 4".
  std::string Describe() const;
  // x <- Q x, in place; `scratch` holds size() floats and does not overlap x.
  void Apply(float* x, float* scratch) const;
  // x <- Q' x.
  void ApplyInverse(float* x, float* scratch) const;

  struct Factor {
    int64_t order = 1;
    std::vector<float> entries;  // [order][order], +1 or -1; empty for a power of two
  };
  // The parts of Q, for those that apply it elsewhere: `blocks` runs of x <- x signs, each factor in turn, x <- x scale.
  // No factors: the identity, signs and scale do not matter.
  int64_t blocks() const { return blocks_; }
  float scale() const { return scale_; }
  const std::vector<float>& signs() const { return signs_; }
  const std::vector<Factor>& factors() const { return factors_; }

 private:
  void Transform(float* x, float* scratch, bool transpose) const;

  int64_t n_ = 0;
  int64_t blocks_ = 1;
  float scale_ = 1;
  std::vector<float> signs_;
  std::vector<Factor> factors_;
};

// The orders, ascending and without powers of two except a last one, whose product is `n` and whose sum is least; empty
// if there are none.
std::vector<int64_t> HadamardFactors(int64_t n);
// A Hadamard matrix of `order` by Paley's constructions, or empty if they give none.
std::vector<float> PaleyMatrix(int64_t order);

}  // namespace qamserve
