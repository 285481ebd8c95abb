// Stands in for all sources of this folder that need a CUDA compiler, where there is none.
#include "core/kernels/cuda/buffer.h"
#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/matmul.h"
#include "core/kernels/cuda/trellis_search.h"

namespace qamserve {
namespace {

absl::Status NotBuilt() {
  return Unimplemented("CUDA_NOT_BUILT", "this was built without CUDA (see QAMSERVE_CUDA in cmake/Cuda.cmake)");
}

}  // namespace

absl::StatusOr<CudaPlatform> FindCudaDevices() { return NotBuilt(); }
absl::StatusOr<CudaMemory> CudaMemoryOf(int) { return NotBuilt(); }

// No object of either class is ever made.
void CudaStream::Destroy::operator()(CUstream_st*) const {}
void CudaBuffer::Free::operator()(void*) const {}
absl::StatusOr<CudaStream> CudaStream::Create(int) { return NotBuilt(); }
absl::Status CudaStream::Wait() const { return NotBuilt(); }
absl::StatusOr<CudaBuffer> CudaBuffer::Allocate(int64_t, const CudaStream&) { return NotBuilt(); }
absl::Status CudaBuffer::Upload(const void*, int64_t, const CudaStream&) const { return NotBuilt(); }
absl::Status CudaBuffer::Download(void*, int64_t, const CudaStream&) const { return NotBuilt(); }

absl::Status LaunchTrellisSearch(const CudaTrellisArgs&, const CudaStream&) { return NotBuilt(); }
absl::Status CudaTrellisSearch(int, std::span<const float>, std::span<const float>, std::span<uint16_t>,
                               const CudaStream&) {
  return NotBuilt();
}

int64_t CudaPackedScratchBytes(int64_t, int64_t) { return 0; }
absl::Status LaunchPackedMatmul(const PackedMatmulArgs&, const CudaStream&, PackedFragments*) { return NotBuilt(); }
absl::Status LaunchInt8Matmul(const Int8MatmulArgs&, const CudaStream&) { return NotBuilt(); }
absl::Status LaunchInt8WideMatmul(const Int8WideMatmulArgs&, const CudaStream&) { return NotBuilt(); }

}  // namespace qamserve
