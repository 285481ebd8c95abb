#include "core/quantize/cuda/input_sums.h"

#include <cuda_runtime_api.h>

#include <optional>
#include <utility>

#include "core/kernels/cuda/runtime.h"
#include "core/quantize/cuda/queue.h"

namespace qamserve {

struct CudaInputSums::State {
  State(const CudaStream& s, int64_t n, CudaBuffer of_squares, CudaBuffer of_max)
      : stream(s), cols(n), squares(std::move(of_squares)), max_abs(std::move(of_max)) {}

  // Makes `buffer` hold at least `floats`.
  absl::Status Grow(std::optional<CudaBuffer>& buffer, int64_t floats) const {
    const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
    if (buffer && buffer->bytes() >= bytes) return absl::OkStatus();
    RETURN_IF_ERROR(stream.Wait());  // what is queued may use the old one
    buffer.reset();
    ASSIGN_OR_RETURN(buffer, CudaBuffer::Allocate(bytes, stream));
    return absl::OkStatus();
  }

  const CudaStream& stream;
  int64_t cols;
  CudaBuffer squares, max_abs;
  std::optional<CudaBuffer> outer, channels, inputs;
};

CudaInputSums::CudaInputSums(std::unique_ptr<State> state) : state_(std::move(state)) {}
CudaInputSums::CudaInputSums(CudaInputSums&&) noexcept = default;
CudaInputSums& CudaInputSums::operator=(CudaInputSums&&) noexcept = default;
CudaInputSums::~CudaInputSums() = default;

absl::StatusOr<CudaInputSums> CudaInputSums::Create(int64_t cols, bool outer, const CudaStream& stream) {
  ASSIGN_OR_RETURN(CudaBuffer squares, CudaBuffer::Allocate(cols * static_cast<int64_t>(sizeof(double)), stream));
  ASSIGN_OR_RETURN(CudaBuffer max_abs, CudaBuffer::Allocate(cols * static_cast<int64_t>(sizeof(float)), stream));
  auto state = std::make_unique<State>(stream, cols, std::move(squares), std::move(max_abs));
  if (outer) RETURN_IF_ERROR(state->Grow(state->outer, TriangleSize(cols)));
  return CudaInputSums(std::move(state));
}

absl::Status CudaInputSums::AddOnDevice(const float* x, int64_t tokens) {
  State& s = *state_;
  if (tokens <= 0) return absl::OkStatus();
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(s.stream.device()), "choosing a device"));
  InputSumsMemory memory{s.cols, s.squares.as<double>(), s.max_abs.as<float>()};
  if (s.outer) {
    RETURN_IF_ERROR(s.Grow(s.channels, s.cols * PaddedTokens(tokens)));
    memory.outer = s.outer->as<float>();
    memory.channels = s.channels->as<float>();
  }
  return CudaStatus(QueueAddInputs(memory, x, tokens, s.stream.handle()), "queueing sums of inputs");
}

absl::Status CudaInputSums::Add(const float* x, int64_t tokens) {
  State& s = *state_;
  RETURN_IF_ERROR(s.Grow(s.inputs, tokens * s.cols));
  const absl::Status copied = s.inputs->Upload(x, tokens * s.cols * static_cast<int64_t>(sizeof(float)), s.stream);
  const absl::Status queued = copied.ok() ? AddOnDevice(s.inputs->as<float>(), tokens) : copied;
  const absl::Status done = s.stream.Wait();
  return queued.ok() ? done : queued;
}

absl::StatusOr<InputSums> CudaInputSums::Read() const {
  const State& s = *state_;
  InputSums sums;
  sums.squares.resize(static_cast<size_t>(s.cols));
  sums.max_abs.resize(static_cast<size_t>(s.cols));
  if (s.outer) sums.outer.resize(static_cast<size_t>(TriangleSize(s.cols)));
  const auto copy = [&]() -> absl::Status {
    RETURN_IF_ERROR(s.squares.Download(sums.squares.data(), s.squares.bytes(), s.stream));
    RETURN_IF_ERROR(s.max_abs.Download(sums.max_abs.data(), s.max_abs.bytes(), s.stream));
    return s.outer ? s.outer->Download(sums.outer.data(), s.outer->bytes(), s.stream) : absl::OkStatus();
  };
  const absl::Status copied = copy(), done = s.stream.Wait();
  RETURN_IF_ERROR(copied);
  RETURN_IF_ERROR(done);
  return sums;
}

}  // namespace qamserve
