// The Cholesky factor of a symmetric matrix in double, with the same bits on every device.
//
// Entry (i, j) of the factor is a_ij less l_ik l_jk for k = 0, 1, ..., j - 1 in this order, each product rounded and
// then subtracted, and at last divided by l_jj, which is the square root of what is left of a_jj. However the work is
// cut into blocks, this is the order: CPUs of any vector width and GPUs (core/quantize/cuda/factor_bodies.h) agree. A
// library's factor depends on its blocks, and those on the machine's caches.
#pragma once

#include <cstdint>
#include <span>

namespace qamserve {

// Columns that are factored at once before the rest is updated; 64 of 4096 rows are 2 MiB. Does not change the result.
inline constexpr int64_t kCholeskyBlock = 64;

// `a`: [n][n] column by column, of which the lower triangle is read and becomes the factor. False if it is not positive
// definite (a pivot is not above 0, or not a number); what `a` holds is then undefined.
bool CholeskyInOrder(std::span<double> a, int64_t n);

}  // namespace qamserve
