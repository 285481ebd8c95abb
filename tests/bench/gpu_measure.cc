#include "tests/bench/gpu_measure.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "core/kernels/cuda/runtime.h"
#include "tests/bench/gpu_read.h"

namespace qamserve {
namespace {

struct DestroyEvent {
  void operator()(CUevent_st* event) const { cudaEventDestroy(event); }
};
using Event = std::unique_ptr<CUevent_st, DestroyEvent>;

absl::StatusOr<Event> MakeEvent() {
  cudaEvent_t event = nullptr;
  RETURN_IF_ERROR(CudaStatus(cudaEventCreate(&event), "making an event"));
  return Event(event);
}

}  // namespace

absl::StatusOr<double> TimeOnGpu(const CudaStream& stream, int repetitions, absl::FunctionRef<absl::Status()> queue) {
  ASSIGN_OR_RETURN(const Event begin, MakeEvent());
  ASSIGN_OR_RETURN(const Event end, MakeEvent());
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i <= repetitions; ++i) {
    RETURN_IF_ERROR(CudaStatus(cudaEventRecord(begin.get(), stream.handle()), "recording an event"));
    RETURN_IF_ERROR(queue());
    RETURN_IF_ERROR(CudaStatus(cudaEventRecord(end.get(), stream.handle()), "recording an event"));
    RETURN_IF_ERROR(stream.Wait());
    float milliseconds = 0;
    RETURN_IF_ERROR(CudaStatus(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()), "reading an event"));
    if (i > 0) best = std::min(best, static_cast<double>(milliseconds) / 1e3);
  }
  return best;
}

absl::StatusOr<double> MeasureGpuRead(const CudaStream& stream) {
  constexpr int64_t kBytes = int64_t{4} << 30;
  constexpr int kRepetitions = 5;
  ASSIGN_OR_RETURN(const CudaBuffer data, CudaBuffer::Allocate(kBytes, stream));
  ASSIGN_OR_RETURN(const CudaBuffer sink, CudaBuffer::Allocate(16, stream));
  double best = 0;
  for (const int blocks_each : {2, 4}) {
    const auto queue = [&] {
      return CudaStatus(QueueRead(data.as<void>(), kBytes, blocks_each * stream.multiprocessors(), sink.as<uint32_t>(),
                                  stream.handle()),
                        "queueing a read");
    };
    ASSIGN_OR_RETURN(const double seconds, TimeOnGpu(stream, kRepetitions, queue));
    best = std::max(best, static_cast<double>(kBytes) / seconds);
  }
  return best;
}

absl::StatusOr<double> MeasureGpuRead(int device) {
  ASSIGN_OR_RETURN(const CudaStream stream, CudaStream::Create(device));
  return MeasureGpuRead(stream);
}

}  // namespace qamserve
