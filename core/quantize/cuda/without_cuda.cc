// Stands in for all sources of this folder that need a CUDA compiler, where there is none.
#include "core/quantize/cuda/encoder.h"
#include "core/quantize/cuda/input_sums.h"

namespace qamserve {
namespace {

absl::Status NotBuilt() {
  return Unimplemented("CUDA_NOT_BUILT", "this was built without CUDA (see QAMSERVE_CUDA in cmake/Cuda.cmake)");
}

}  // namespace

absl::StatusOr<CudaFactor> CudaFactor::Create(std::string_view, std::span<const float>, std::span<const float>,
                                              const Rotation&, const CudaStream&) {
  return NotBuilt();
}

// No object of these classes is ever made.
struct CudaEncoder::State {};
CudaEncoder::CudaEncoder(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudaEncoder::CudaEncoder(CudaEncoder&&) noexcept = default;
CudaEncoder& CudaEncoder::operator=(CudaEncoder&&) noexcept = default;
CudaEncoder::~CudaEncoder() = default;
absl::StatusOr<CudaEncoder> CudaEncoder::Create(const CudaEncodeContext&, int64_t, const CudaStream&) {
  return NotBuilt();
}
absl::Status CudaEncoder::Encode(std::span<const float>, std::span<uint16_t>, std::span<uint8_t>,
                                 std::span<StripOutcome>) {
  return NotBuilt();
}

struct CudaInputSums::State {};
CudaInputSums::CudaInputSums(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudaInputSums::CudaInputSums(CudaInputSums&&) noexcept = default;
CudaInputSums& CudaInputSums::operator=(CudaInputSums&&) noexcept = default;
CudaInputSums::~CudaInputSums() = default;
absl::StatusOr<CudaInputSums> CudaInputSums::Create(int64_t, bool, const CudaStream&) { return NotBuilt(); }
absl::Status CudaInputSums::Add(const float*, int64_t) { return NotBuilt(); }
absl::Status CudaInputSums::AddOnDevice(const float*, int64_t) { return NotBuilt(); }
absl::StatusOr<InputSums> CudaInputSums::Read() const { return NotBuilt(); }

}  // namespace qamserve
