#include "core/kernels/cuda/matmul.h"

#include <algorithm>

#include "core/codec/codebook.h"
#include "core/kernels/cuda/int8_warp.h"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_plan.h"
#include "core/kernels/cuda/runtime.h"

namespace qamserve {
namespace {

constexpr int64_t kMaxByteTokens = 8;

absl::Status Misaligned(std::string_view what, const void* at, uintptr_t alignment) {
  if (reinterpret_cast<uintptr_t>(at) % alignment == 0) return absl::OkStatus();
  return InvalidArgument("CUDA_MATMUL", "{} begin at an address that is no multiple of {}", what, alignment);
}

// Blocks pass over strips in turn, as many at a time as there are multiprocessors.
template <typename Args>
int BlocksFor(const Args& args, const CudaStream& stream) {
  return static_cast<int>(std::min<int64_t>(args.strip_end - args.strip_begin, stream.multiprocessors()));
}

// `args` with the `count` tokens from `first` on.
template <typename Args>
Args TokensOf(const Args& args, int64_t first, int64_t count) {
  Args group = args;
  group.x.q += first * args.x.stride;
  group.x.scale += first;
  group.x.tokens = count;
  group.y += first * args.y_stride;
  return group;
}

PackedQueue QueueOf(const PackedMatrix& w, int tokens) {
  return w.table == nullptr ? TrellisPackedQueue(w.pair_bits, tokens) : TablePackedQueue(w.pair_bits, tokens);
}
PackedWideQueue WideQueueOf(const PackedMatrix& w) {
  return w.table == nullptr ? TrellisPackedWideQueue(w.pair_bits) : TablePackedWideQueue(w.pair_bits);
}

PackedPlan PlanOf(const PackedMatmulArgs& args, const CudaStream& stream) {
  PackedNeeds needs;
  for (int i = 0; i < 5; ++i) needs.narrow[i] = QueueOf(args.w, 1 << i).shared_bytes;
  const PackedWideQueue wide = WideQueueOf(args.w);
  needs.wide = wide.shared_bytes;
  needs.wide_half = wide.shared_bytes_of_half;
  return PlanPacked(args.x.tokens, args.strip_end - args.strip_begin, needs,
                    {stream.shared_bytes(), stream.multiprocessors()});
}

// Queues the fragments of all groups, one behind the other.
absl::Status MakeFragments(const PackedMatmulArgs& args, const PackedPlan& plan, const CudaStream& stream) {
  const int64_t steps = PackedSteps(args.w.cols);
  auto* to = static_cast<unsigned char*>(args.scratch);
  for (int64_t first = 0; first < args.x.tokens;) {
    const int tokens = first < plan.wide_tokens ? kWideTokens : plan.narrow;
    const PackedMatmulArgs group = TokensOf(args, first, std::min<int64_t>(tokens, args.x.tokens - first));
    RETURN_IF_ERROR(
        CudaStatus(QueueFragments(group.x, args.w.cols, tokens, to, stream.handle()), "queueing fragments"));
    to += steps * FragmentStepBytes(tokens);
    first += tokens;
  }
  return absl::OkStatus();
}

template <typename Args>
absl::Status LaunchBytes(const Args& args, cudaError_t (*queue)(const Args&, int, cudaStream_t),
                         const CudaStream& stream) {
  constexpr auto kWord = static_cast<int64_t>(4 * sizeof(*args.x.q));
  if (args.strip_begin >= args.strip_end || args.x.tokens <= 0) return absl::OkStatus();
  RETURN_IF_ERROR(Misaligned("weights", args.w.data, 16));
  RETURN_IF_ERROR(Misaligned("activations", args.x.q, kWord));
  if (args.x.stride % 4 != 0) {
    return InvalidArgument("CUDA_MATMUL", "activations lie {} apart, which is no multiple of 4", args.x.stride);
  }
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
  for (int64_t first = 0; first < args.x.tokens; first += kMaxByteTokens) {
    const Args group = TokensOf(args, first, std::min(kMaxByteTokens, args.x.tokens - first));
    RETURN_IF_ERROR(CudaStatus(queue(group, BlocksFor(args, stream), stream.handle()), "queueing a product"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t CudaPackedScratchBytes(int64_t cols, int64_t tokens) { return PackedScratchBytes(cols, tokens); }

absl::Status LaunchPackedMatmul(const PackedMatmulArgs& args, const CudaStream& stream, PackedFragments* held) {
  const int most = args.w.table == nullptr ? kMaxTrellisPairBits : kMaxPairBits;
  if (args.w.pair_bits < kMinPairBits || args.w.pair_bits > most) {
    return InvalidArgument("CUDA_MATMUL", "{} bits a pair; a {} has {} to {}", args.w.pair_bits,
                           args.w.table == nullptr ? "trellis" : "codebook", kMinPairBits, most);
  }
  if (args.strip_begin >= args.strip_end || args.x.tokens <= 0) return absl::OkStatus();
  RETURN_IF_ERROR(Misaligned("codes", args.w.codes, 16));
  RETURN_IF_ERROR(Misaligned("scratch", args.scratch, 16));
  const PackedPlan plan = PlanOf(args, stream);
  if (plan.narrow == 0) {
    return FailedPrecondition(
        "CUDA_SHARED_MEMORY", "{} bits a pair need {} bytes of shared memory; a block of device {} gets {}",
        args.w.pair_bits, QueueOf(args.w, 1).shared_bytes, stream.device(), stream.shared_bytes());
  }
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
  const PackedFragments wanted{args.scratch,  args.x.q,         args.x.stride, args.w.cols,
                               args.x.tokens, plan.wide_groups, plan.narrow};
  if (held == nullptr || *held != wanted) {
    if (held != nullptr) *held = {};
    RETURN_IF_ERROR(MakeFragments(args, plan, stream));
    if (held != nullptr) *held = wanted;
  }
  if (plan.wide_groups > 0) {
    const PackedWideArgs wide{args.w,           static_cast<const unsigned char*>(args.scratch),
                              args.x.scale,     plan.wide_tokens,
                              args.y,           args.y_stride,
                              args.strip_begin, args.strip_end,
                              plan.wide_warps};
    RETURN_IF_ERROR(CudaStatus(WideQueueOf(args.w).queue(wide, stream.handle()), "queueing a product"));
  }
  const PackedQueue queue = QueueOf(args.w, plan.narrow);
  auto* fragments = static_cast<unsigned char*>(args.scratch) +
                    plan.wide_groups * PackedSteps(args.w.cols) * FragmentStepBytes(kWideTokens);
  for (int64_t first = plan.wide_tokens; first < args.x.tokens; first += plan.narrow) {
    PackedMatmulArgs group = TokensOf(args, first, std::min<int64_t>(plan.narrow, args.x.tokens - first));
    group.scratch = fragments;
    RETURN_IF_ERROR(CudaStatus(queue.queue(group, BlocksFor(args, stream), stream.handle()), "queueing a product"));
    fragments += PackedSteps(args.w.cols) * FragmentStepBytes(plan.narrow);
  }
  return absl::OkStatus();
}

absl::Status LaunchInt8Matmul(const Int8MatmulArgs& args, const CudaStream& stream) {
  if (args.w.cols > kInt8BlockCols) {
    return InvalidArgument("CUDA_MATMUL", "{} columns; sums are exact up to {}", args.w.cols, kInt8BlockCols);
  }
  return LaunchBytes(args, &QueueInt8, stream);
}

absl::Status LaunchInt8WideMatmul(const Int8WideMatmulArgs& args, const CudaStream& stream) {
  return LaunchBytes(args, &QueueInt8Wide, stream);
}

}  // namespace qamserve
