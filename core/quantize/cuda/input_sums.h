// AddInputs (core/quantize/input_sums.h) on a GPU: the same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "core/kernels/cuda/buffer.h"
#include "core/quantize/input_sums.h"

namespace qamserve {

// One group's sums in device memory: 12 bytes a channel and, with outer products, 4 bytes for each pair of them and 8
// for each float of the largest call. Used by one thread at a time, as its stream.
class CudaInputSums {
 public:
  static absl::StatusOr<CudaInputSums> Create(int64_t cols, bool outer, const CudaStream& stream);
  CudaInputSums(CudaInputSums&&) noexcept;
  CudaInputSums& operator=(CudaInputSums&&) noexcept;
  ~CudaInputSums();

  // x [tokens][cols] in the host's memory, which may go when the call returns.
  absl::Status Add(const float* x, int64_t tokens);
  // The same of the device's memory; queues, and x must stay until the stream was waited for.
  absl::Status AddOnDevice(const float* x, int64_t tokens);
  absl::StatusOr<InputSums> Read() const;

 private:
  struct State;
  explicit CudaInputSums(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace qamserve
