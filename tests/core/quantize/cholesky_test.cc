// The factor in a fixed order: that order to the bit, and the factor that a library finds.
#include "core/quantize/cholesky.h"

#include <gtest/gtest.h>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <cmath>
#include <vector>

#include "core/base/rng.h"

namespace qamserve {
namespace {

// x x' + n of Gaussian x, column by column.
std::vector<double> PositiveDefinite(int64_t n) {
  Rng rng(static_cast<uint64_t>(n));
  Eigen::MatrixXd x(n, n);
  for (int64_t i = 0; i < n * n; ++i) x.data()[i] = rng.NextGaussian();
  const Eigen::MatrixXd product = x * x.transpose() + Eigen::MatrixXd::Identity(n, n);
  return {product.data(), product.data() + n * n};
}

// As cholesky.h defines it.
std::vector<double> ByDefinition(std::vector<double> a, int64_t n) {
  const auto at = [&](int64_t i, int64_t j) -> double& { return a[static_cast<size_t>(j * n + i)]; };
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      for (int64_t k = 0; k < j; ++k) {
        const double product = at(i, k) * at(j, k);
        at(i, j) -= product;
      }
    }
    at(j, j) = std::sqrt(at(j, j));
    for (int64_t i = j + 1; i < n; ++i) at(i, j) /= at(j, j);
  }
  return a;
}

TEST(CholeskyInOrder, IsItsDefinitionToTheBit) {
  for (int64_t n : {1, 2, 3, 7, 8, 9, 63, 64, 65, 72, 73, 128, 137, 200}) {
    const std::vector<double> matrix = PositiveDefinite(n);
    std::vector<double> got = matrix;
    ASSERT_TRUE(CholeskyInOrder(got, n));
    const std::vector<double> expected = ByDefinition(matrix, n);
    for (int64_t j = 0; j < n; ++j) {
      for (int64_t i = j; i < n; ++i) {
        const auto at = static_cast<size_t>(j * n + i);
        ASSERT_EQ(got[at], expected[at]) << n << ": " << i << ", " << j;
      }
    }
  }
}

TEST(CholeskyInOrder, AgreesWithEigen) {
  const int64_t n = 300;
  std::vector<double> got = PositiveDefinite(n);
  const Eigen::Map<const Eigen::MatrixXd> matrix(got.data(), n, n);
  const Eigen::MatrixXd expected = matrix.llt().matrixL();
  ASSERT_TRUE(CholeskyInOrder(got, n));
  const Eigen::MatrixXd lower = matrix.triangularView<Eigen::Lower>();
  EXPECT_LT((lower - expected).cwiseAbs().maxCoeff(), 1e-11 * expected.cwiseAbs().maxCoeff());
}

TEST(CholeskyInOrder, RefusesWhatIsNotPositiveDefinite) {
  for (int64_t bad : {0, 5, 70, 99}) {
    std::vector<double> matrix = PositiveDefinite(100);
    matrix[static_cast<size_t>(bad * 101)] = bad == 5 ? std::nan("") : -1;
    EXPECT_FALSE(CholeskyInOrder(matrix, 100)) << bad;
  }
}

}  // namespace
}  // namespace qamserve
