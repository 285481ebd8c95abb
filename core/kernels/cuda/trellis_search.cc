#include "core/kernels/cuda/trellis_search.h"

#include <algorithm>

#include "core/codec/trellis.h"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/runtime.h"

namespace qamserve {

absl::Status LaunchTrellisSearch(const CudaTrellisArgs& args, const CudaStream& stream) {
  if (args.pair_bits < kMinTrellisPairBits || args.pair_bits > kMaxTrellisPairBits) {
    return InvalidArgument("BPW_RANGE", "a trellis of {} bits a pair; it must have {} to {}", args.pair_bits,
                           kMinTrellisPairBits, kMaxTrellisPairBits);
  }
  const int64_t needed = TrellisBlockBytes(args.pair_bits);
  if (needed > stream.shared_bytes()) {
    return FailedPrecondition("CUDA_SHARED_MEMORY",
                              "a trellis search of {} bits a pair needs {} bytes of shared memory; device {} gives {}",
                              args.pair_bits, needed, stream.device(), stream.shared_bytes());
  }
  if (args.rings <= 0) return absl::OkStatus();
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
  return CudaStatus(QueueTrellisSearch(args, stream.handle()), "queueing a trellis search");
}

absl::Status CudaTrellisSearch(int pair_bits, std::span<const float> x, std::span<const float> y,
                               std::span<uint16_t> codes, const CudaStream& stream) {
  if (x.size() != y.size() || x.size() != codes.size() || x.size() % kTileRows != 0) {
    return InvalidArgument("TRELLIS_SHAPE", "{} and {} targets for {} codes; all must be the same multiple of {}",
                           x.size(), y.size(), codes.size(), kTileRows);
  }
  const size_t piece = std::min(x.size(), static_cast<size_t>(kCudaTrellisPiece * kTileRows));
  const auto float_bytes = static_cast<int64_t>(piece * sizeof(float));
  ASSIGN_OR_RETURN(const CudaBuffer device_x, CudaBuffer::Allocate(float_bytes, stream));
  ASSIGN_OR_RETURN(const CudaBuffer device_y, CudaBuffer::Allocate(float_bytes, stream));
  ASSIGN_OR_RETURN(const CudaBuffer device_codes,
                   CudaBuffer::Allocate(static_cast<int64_t>(piece * sizeof(uint16_t)), stream));
  for (size_t at = 0; at < x.size(); at += piece) {
    const size_t n = std::min(piece, x.size() - at);
    RETURN_IF_ERROR(device_x.Upload(x.data() + at, static_cast<int64_t>(n * sizeof(float)), stream));
    RETURN_IF_ERROR(device_y.Upload(y.data() + at, static_cast<int64_t>(n * sizeof(float)), stream));
    RETURN_IF_ERROR(LaunchTrellisSearch({pair_bits, static_cast<int64_t>(n / kTileRows), device_x.as<float>(),
                                         device_y.as<float>(), device_codes.as<uint16_t>()},
                                        stream));
    RETURN_IF_ERROR(device_codes.Download(codes.data() + at, static_cast<int64_t>(n * sizeof(uint16_t)), stream));
  }
  return stream.Wait();
}

}  // namespace qamserve
