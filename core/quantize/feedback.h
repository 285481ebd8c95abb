// Error feedback: what a column's rounding error does to the output is made up for by the columns after it (LDLQ,
// Chee et al., arXiv 2307.13304; the same as GPTQ, Frantar et al., arXiv 2210.17323), with a pair of columns as the
// unit.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/codec/rotation.h"

namespace qamserve {

// Added to the diagonal, times its mean. From 1e-3 to 1e-2 the loss is the same within 3 %; 3e-2 costs 10 %.
inline constexpr double kFeedbackDamping = 1e-2;

// With H = E[x x'] of the inputs in the scaled, rotated basis, H + damping = (I + U) D (I + U)', U strictly upper and D
// diagonal, both in blocks of 2 x 2. Columns are quantized in order, column k to the value nearest to
// W_k + (W - W^)_{<k} U_{<k,k}; the expected squared output error is then the sum of e_p D_p e_p' over the rounding
// errors e_p of the pairs. Immutable; thread-safe.
class ErrorFeedback {
 public:
  // `hessian`: [n][n] mean outer products in the original basis, symmetric; is overwritten. `scale`: empty or [n].
  // n is even. INVALID_ARGUMENT (STATISTICS_SINGULAR) names `group` if a value is not finite or all channels are dead.
  static absl::StatusOr<ErrorFeedback> Create(std::string_view group, std::span<float> hessian,
                                              std::span<const float> scale, const Rotation& rotation);

  int64_t size() const { return n_; }
  // U' as rows: entry [k][i] is U_ik, for i below the first column of k's pair; [n][n], the rest is undefined.
  std::span<const float> rows() const { return rows_; }
  // D of pair p: (2p, 2p), (2p, 2p + 1), (2p + 1, 2p + 1).
  std::span<const std::array<double, 3>> weights() const { return weights_; }

 private:
  int64_t n_ = 0;
  std::vector<float> rows_;
  std::vector<std::array<double, 3>> weights_;
};

// What Create says of matrices that it cannot factor, for those that factor elsewhere.
absl::Status CheckTrace(std::string_view group, double trace, int64_t n);
absl::Status NotPositiveDefinite(std::string_view group);

}  // namespace qamserve
