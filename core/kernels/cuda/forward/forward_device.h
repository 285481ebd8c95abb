// What a forward pass asks of a device: memory, and one queued operation a function. Start here for
// core/kernels/cuda/forward; core/model/cuda makes a model of it.
//
// An interface because the operations are written for host and device alike (block.h): tests run all of a model's steps
// on a machine without a GPU, thread by thread, and must get the bits of the CPU. On a GPU none of it has been run or
// measured yet.
//
// Operations run in the order in which they are queued; what one reads, the ones before it have written. Errors of an
// operation may come up at any later call (INTERNAL, CUDA_ERROR), and after some of them, such as that of a device that
// fell off the bus (INTERNAL, CUDA_LOST), all calls fail. Used by one thread at a time.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/kernels/cuda/forward/args.h"
#include "core/kernels/kernels.h"

namespace qamserve {

class ForwardDevice {
 public:
  using Memory = std::shared_ptr<void>;

  virtual ~ForwardDevice() = default;

  // "cuda:0 NVIDIA H200".
  virtual std::string name() const = 0;
  // Undefined contents, at a multiple of 256 bytes. RESOURCE_EXHAUSTED (CUDA_MEMORY) names the bytes.
  virtual absl::StatusOr<Memory> Allocate(int64_t bytes) = 0;
  // `from` may be gone when it returns.
  virtual absl::Status Upload(void* to, const void* from, int64_t bytes) = 0;
  // Waits until it and all before it is done.
  virtual absl::Status Download(void* to, const void* from, int64_t bytes) = 0;

  virtual absl::Status Embed(const EmbedArgs& args) = 0;
  virtual absl::Status Norm(const NormArgs& args) = 0;
  virtual absl::Status Residual(const ResidualArgs& args) = 0;
  virtual absl::Status Bias(const BiasArgs& args) = 0;
  virtual absl::Status Gate(const GateArgs& args) = 0;
  // FAILED_PRECONDITION (CUDA_SHARED_MEMORY) for rows that a block of threads cannot hold: an A100's has room for 36 K
  // columns, an H100's for 52 K.
  virtual absl::Status Input(const InputArgs& args) = 0;
  virtual absl::Status Heads(const HeadsArgs& args) = 0;
  virtual absl::Status Attend(const AttendArgs& args) = 0;
  virtual absl::Status Sample(const SampleArgs& args) = 0;

  // As those of core/kernels/kernels.h, bit for bit; strips must be all of a matrix. PackedMatmulArgs::scratch is
  // memory of the device, PackedScratchBytes of it, that products of one input share.
  virtual absl::Status DenseMatmul(const DenseMatmulArgs& args) = 0;
  virtual int64_t PackedScratchBytes(int64_t cols, int64_t tokens) const = 0;
  virtual absl::Status PackedMatmul(const PackedMatmulArgs& args) = 0;
  virtual absl::Status Int8Matmul(const Int8MatmulArgs& args) = 0;
  virtual absl::Status Int8WideMatmul(const Int8WideMatmulArgs& args) = 0;

  // Does what `queue` queues, operations only. Whoever gives the same key again promises the same operations with the
  // same arguments (what the arguments point to may differ), so a device may keep them and queue them all at once.
  virtual absl::Status Repeat(const std::vector<int64_t>& key, absl::FunctionRef<absl::Status()> queue) = 0;
  // How often a device that keeps them could not, for want of memory or whatever else. What was not kept is queued one
  // by one whenever it comes again: the same results, later.
  virtual int64_t graphs_refused() const { return 0; }
};

// A GPU by its number. The errors of FindCudaDevices and CudaStream::Create; UNIMPLEMENTED (CUDA_NOT_BUILT) in a build
// without a CUDA compiler.
absl::StatusOr<std::unique_ptr<ForwardDevice>> OpenCudaForwardDevice(int ordinal);

}  // namespace qamserve
