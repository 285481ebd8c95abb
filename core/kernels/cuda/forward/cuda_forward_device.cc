#include <utility>

#include "core/kernels/cuda/buffer.h"
#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/forward/attention_blocks.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "core/kernels/cuda/forward/graph_cache.h"
#include "core/kernels/cuda/forward/launch.h"
#include "core/kernels/cuda/matmul.h"
#include "core/kernels/cuda/runtime.h"

namespace qamserve {
namespace {

struct DestroyGraph {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};
using Graph = std::unique_ptr<CUgraphExec_st, DestroyGraph>;

// Makes a graph of what `queue` queues, which is not run. Not measured yet.
absl::Status RecordGraph(absl::FunctionRef<absl::Status()> queue, cudaStream_t stream, Graph& out) {
  RETURN_IF_ERROR(
      CudaStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "beginning to record a graph"));
  const absl::Status queued = queue();
  cudaGraph_t graph = nullptr;
  absl::Status status = CudaStatus(cudaStreamEndCapture(stream, &graph), "recording a graph");
  if (!queued.ok()) status = queued;
  if (status.ok()) {
    cudaGraphExec_t ready = nullptr;
    status = CudaStatus(cudaGraphInstantiate(&ready, graph, 0), "making a graph ready");
    out.reset(ready);
  }
  // Else the first launch would ask for the memory that it has on the device, when there is no way back any more.
  if (status.ok()) status = CudaStatus(cudaGraphUpload(out.get(), stream), "putting a graph on the device");
  if (graph != nullptr) cudaGraphDestroy(graph);
  return status;
}

class CudaForwardDevice : public ForwardDevice {
 public:
  CudaForwardDevice(CudaStream stream, std::string name) : stream_(std::move(stream)), name_(std::move(name)) {}

  std::string name() const override { return name_; }

  absl::StatusOr<Memory> Allocate(int64_t bytes) override {
    ASSIGN_OR_RETURN(CudaBuffer buffer, CudaBuffer::Allocate(bytes, stream_));
    auto owner = std::make_shared<CudaBuffer>(std::move(buffer));
    void* const data = owner->as<void>();
    return Memory(std::move(owner), data);
  }

  absl::Status Upload(void* to, const void* from, int64_t bytes) override {
    if (bytes == 0) return absl::OkStatus();
    RETURN_IF_ERROR(Choose());
    RETURN_IF_ERROR(
        CudaStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_.handle()),
                   "copying to the device"));
    return stream_.Wait();
  }

  absl::Status Download(void* to, const void* from, int64_t bytes) override {
    RETURN_IF_ERROR(Choose());
    if (bytes > 0) {
      RETURN_IF_ERROR(
          CudaStatus(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_.handle()),
                     "copying from the device"));
    }
    return stream_.Wait();
  }

  absl::Status Embed(const EmbedArgs& args) override {
    RETURN_IF_ERROR(CheckShared(EmbedBlock::SharedBytes(args), args.n));
    return Queue(QueueEmbed, args, "embeddings");
  }
  absl::Status Norm(const NormArgs& args) override {
    RETURN_IF_ERROR(CheckShared(NormBlock::SharedBytes(args), args.n));
    return Queue(QueueNorm, args, "a norm");
  }
  absl::Status Residual(const ResidualArgs& args) override {
    RETURN_IF_ERROR(CheckShared(ResidualBlock::SharedBytes(args), args.n));
    return Queue(QueueResidual, args, "a residual sum");
  }
  absl::Status Bias(const BiasArgs& args) override { return Queue(QueueBias, args, "a bias"); }
  absl::Status Gate(const GateArgs& args) override { return Queue(QueueGate, args, "a gate"); }
  absl::Status Input(const InputArgs& args) override {
    RETURN_IF_ERROR(CheckShared(InputBlock::SharedBytes(args), args.n));
    fragments_ = {};
    return Queue(QueueInput, args, "a layer's input");
  }
  absl::Status Heads(const HeadsArgs& args) override { return Queue(QueueHeads, args, "heads"); }
  absl::Status Attend(const AttendArgs& args) override { return Queue(QueueAttend, args, "attention"); }
  absl::Status Sample(const SampleArgs& args) override { return Queue(QueueSample, args, "a choice of tokens"); }
  absl::Status DenseMatmul(const DenseMatmulArgs& args) override { return Queue(QueueDense, args, "a dense product"); }

  int64_t PackedScratchBytes(int64_t cols, int64_t tokens) const override {
    return CudaPackedScratchBytes(cols, tokens);
  }
  absl::Status PackedMatmul(const PackedMatmulArgs& args) override {
    return LaunchPackedMatmul(args, stream_, &fragments_);
  }
  absl::Status Int8Matmul(const Int8MatmulArgs& args) override { return LaunchInt8Matmul(args, stream_); }
  absl::Status Int8WideMatmul(const Int8WideMatmulArgs& args) override { return LaunchInt8WideMatmul(args, stream_); }

  absl::Status Repeat(const std::vector<int64_t>& key, absl::FunctionRef<absl::Status()> queue) override {
    RETURN_IF_ERROR(Choose());
    return graphs_.Repeat(
        key, queue, [this](const auto& step, Graph& graph) { return RecordGraph(step, stream_.handle(), graph); },
        [this](const Graph& graph) {
          return CudaStatus(cudaGraphLaunch(graph.get(), stream_.handle()), "queueing a graph");
        });
  }
  int64_t graphs_refused() const override { return graphs_.refused(); }

 private:
  absl::Status Choose() const { return CudaStatus(cudaSetDevice(stream_.device()), "choosing a device"); }

  template <typename Args>
  absl::Status Queue(cudaError_t (*queue)(const Args&, cudaStream_t), const Args& args, std::string_view what) const {
    RETURN_IF_ERROR(Choose());
    return CudaStatus(queue(args, stream_.handle()), fmt::format("queueing {}", what));
  }

  absl::Status CheckShared(int64_t needed, int64_t columns) const {
    if (needed <= stream_.shared_bytes()) return absl::OkStatus();
    return FailedPrecondition("CUDA_SHARED_MEMORY",
                              "a row of {} columns needs {} bytes of shared memory; a block of device {} gets {}",
                              columns, needed, stream_.device(), stream_.shared_bytes());
  }

  CudaStream stream_;
  GraphCache<Graph> graphs_;  // go before the stream
  std::string name_;
  PackedFragments fragments_;  // in the scratch memory of the last packed product
};

}  // namespace

absl::StatusOr<std::unique_ptr<ForwardDevice>> OpenCudaForwardDevice(int ordinal) {
  ASSIGN_OR_RETURN(const CudaPlatform platform, FindCudaDevices());
  ASSIGN_OR_RETURN(CudaStream stream, CudaStream::Create(ordinal));
  std::string name = fmt::format("cuda:{}", ordinal);
  for (const CudaDevice& device : platform.devices) {
    if (device.ordinal == ordinal) name += " " + device.name;
  }
  return std::make_unique<CudaForwardDevice>(std::move(stream), std::move(name));
}

}  // namespace qamserve
