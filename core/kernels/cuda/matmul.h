// The packed and 8-bit products of core/kernels/kernels.h on a GPU: the bits of the scalar reference, from the bytes as
// they lie on disk.
//
// Arguments are those of the CPU kernels with all pointers to memory of the stream's device, weights at multiples of 16
// bytes. Packed layers take 64 tokens at a time where a prompt has enough of them to fill the device, else 16; 8-bit
// ones take 8. The weights are read as often. What holds a kernel back is counted from its machine code in the .cu
// files; nothing has been measured yet.
#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "core/kernels/cuda/buffer.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// What PackedMatmulArgs::scratch must hold: 64 bytes a column up to 16 tokens, then 256 for every 64.
int64_t CudaPackedScratchBytes(int64_t cols, int64_t tokens);

// Which activations a scratch holds in the order of the matrix instruction: layers that share an input need not put
// them there again. To be reset when what q points to changes.
struct PackedFragments {
  const void* scratch = nullptr;
  const int16_t* q = nullptr;
  int64_t stride = 0;
  int64_t cols = 0;
  int64_t tokens = 0;
  int64_t wide_groups = 0;  // of 64 tokens, the first ones
  int narrow = 0;           // tokens of the others' kernel
  bool operator==(const PackedFragments&) const = default;
};

// Queue the product and return. Of tables for 10 bits and more only the quadrant without sign bits is read: the others
// must be its mirror images, as those of all codebooks are. INVALID_ARGUMENT (CUDA_MATMUL) names an argument that the
// kernels do not take; FAILED_PRECONDITION (CUDA_SHARED_MEMORY) if a block gets too little: one token of a joint codec
// needs 26.5 (5 bits) to 146.5 KiB (12 bits). Where 16 tokens do not fit (148 KiB beside the table: more than 5 bits on
// an A100, 12 bits on an H100) 8 are taken at a time, and where they do not (74 KiB: 12 bits on an A100) one; where 64
// do not (at least 64 KiB beside it: 12 bits on an A100), as many of these.
// `held`, if given, is what the scratch holds before and after.
absl::Status LaunchPackedMatmul(const PackedMatmulArgs& args, const CudaStream& stream,
                                PackedFragments* held = nullptr);
// At most kInt8BlockCols columns.
absl::Status LaunchInt8Matmul(const Int8MatmulArgs& args, const CudaStream& stream);
absl::Status LaunchInt8WideMatmul(const Int8WideMatmulArgs& args, const CudaStream& stream);

}  // namespace qamserve
