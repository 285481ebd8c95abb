// TrellisSearch (core/kernels/trellis_search.h) for many rings at once on a GPU: the same codes, bit for bit.
#pragma once

#include <cstdint>
#include <span>

#include "core/base/status.h"
#include "core/kernels/cuda/args.h"
#include "core/kernels/cuda/buffer.h"

namespace qamserve {

// Queues the search; returns before it is done. Needs no device memory but that of the arguments (10 bytes a weight
// pair), and 35 to 163 KiB of shared memory a block: FAILED_PRECONDITION (CUDA_SHARED_MEMORY) on devices with less.
// INVALID_ARGUMENT (BPW_RANGE) for rates without a trellis.
absl::Status LaunchTrellisSearch(const CudaTrellisArgs& args, const CudaStream& stream);

// The same for arrays of this machine, in pieces of kCudaTrellisPiece rings (160 MiB of device memory); returns when
// the codes are there. Sizes must agree and be a multiple of 32: else INVALID_ARGUMENT (TRELLIS_SHAPE).
inline constexpr int64_t kCudaTrellisPiece = int64_t{1} << 19;
absl::Status CudaTrellisSearch(int pair_bits, std::span<const float> x, std::span<const float> y,
                               std::span<uint16_t> codes, const CudaStream& stream);

}  // namespace qamserve
