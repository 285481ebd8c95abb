#include "core/quantize/feedback.h"

#include <cmath>

#include "core/quantize/cholesky.h"

namespace qamserve {
namespace {

// H <- Q S^-1 H S^-1 Q'. Rows are rotated, then, as the matrix is symmetric, the rows of the transpose.
void ToRotatedBasis(std::span<float> h, std::span<const float> scale, const Rotation& rotation) {
  const auto n = static_cast<size_t>(rotation.size());
  std::vector<float> scratch(n);
  for (size_t i = 0; i < n && !scale.empty(); ++i) {
    for (size_t j = 0; j < n; ++j) h[i * n + j] /= scale[i] * scale[j];
  }
  for (int pass = 0; pass < 2; ++pass) {
    for (size_t i = 0; i < n; ++i) rotation.Apply(&h[i * n], scratch.data());
    for (size_t i = 0; i < n; ++i) {
      for (size_t j = 0; j < i; ++j) std::swap(h[i * n + j], h[j * n + i]);
    }
  }
}

}  // namespace

absl::Status CheckTrace(std::string_view group, double trace, int64_t n) {
  if (std::isfinite(trace) && trace > 0) return absl::OkStatus();
  return InvalidArgument("STATISTICS_SINGULAR",
                         "the input statistics of {} have a mean square of {}: error feedback needs inputs that are "
                         "finite and not all zero",
                         group, trace / static_cast<double>(n));
}

absl::Status NotPositiveDefinite(std::string_view group) {
  return InvalidArgument("STATISTICS_SINGULAR", "the input statistics of {} are not positive definite", group);
}

absl::StatusOr<ErrorFeedback> ErrorFeedback::Create(std::string_view group, std::span<float> hessian,
                                                    std::span<const float> scale, const Rotation& rotation) {
  ErrorFeedback out;
  out.n_ = rotation.size();
  const int64_t n = out.n_;
  ToRotatedBasis(hessian, scale, rotation);
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += static_cast<double>(hessian[static_cast<size_t>(i * n + i)]);
  RETURN_IF_ERROR(CheckTrace(group, trace, n));
  // Reversed, so that the lower factor of the reversed matrix is the upper factor of this one. Column by column.
  std::vector<double> reversed(static_cast<size_t>(n * n));
  for (int64_t j = 0; j < n; ++j) {
    double* column = &reversed[static_cast<size_t>(j * n)];
    for (int64_t i = j; i < n; ++i) {
      column[i] = static_cast<double>(hessian[static_cast<size_t>((n - 1 - i) * n + (n - 1 - j))]);
    }
    column[j] += kFeedbackDamping * trace / static_cast<double>(n);
  }
  if (!CholeskyInOrder(reversed, n)) return NotPositiveDefinite(group);
  out.rows_.resize(static_cast<size_t>(n * n));
  for (int64_t p = 0; p < n / 2; ++p) {
    // The pair's columns of the upper factor, and its 2 x 2 block B = (a b; 0 c).
    const double* even = &reversed[static_cast<size_t>((n - 1 - 2 * p) * n)];
    const double* odd = even - n;
    const double a = even[n - 1 - 2 * p], c = odd[n - 2 - 2 * p], b = odd[n - 1 - 2 * p];
    out.weights_.push_back({a * a + b * b, b * c, c * c});
    float* to_even = &out.rows_[static_cast<size_t>(2 * p * n)];
    float* to_odd = to_even + n;
    for (int64_t i = 0; i < 2 * p; ++i) {
      // (u v) B^-1
      const double u = even[n - 1 - i] / a;
      to_even[i] = static_cast<float>(u);
      to_odd[i] = static_cast<float>((odd[n - 1 - i] - u * b) / c);
    }
  }
  return out;
}

}  // namespace qamserve
