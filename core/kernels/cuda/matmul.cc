#include "core/kernels/cuda/matmul.h"

#include <algorithm>

#include "core/codec/codebook.h"
#include "core/kernels/cuda/int8_warp.h"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_warp.h"
#include "core/kernels/cuda/runtime.h"

namespace qamserve {
namespace {

constexpr int64_t kMaxTokens = 16;
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

// Calls queue(args of at most `most` tokens) until all are done.
template <typename Args, typename Queue>
absl::Status InGroups(const Args& args, int64_t most, const Queue& queue) {
  for (int64_t first = 0; first < args.x.tokens; first += most) {
    Args group = args;
    group.x.q += first * args.x.stride;
    group.x.scale += first;
    group.x.tokens = std::min(most, args.x.tokens - first);
    group.y += first * args.y_stride;
    RETURN_IF_ERROR(CudaStatus(queue(group), "queueing a product"));
  }
  return absl::OkStatus();
}

PackedQueue QueueOf(const PackedMatrix& w, int tokens) {
  return w.table == nullptr ? TrellisPackedQueue(w.pair_bits, tokens) : TablePackedQueue(w.pair_bits, tokens);
}

// The number of tokens that a kernel is made for, as many as are wanted and as its shared memory allows; 0 if none
// does.
int TokensAtOnce(const PackedMatmulArgs& args, const CudaStream& stream) {
  int tokens = 1;
  while (tokens < kMaxTokens && tokens < args.x.tokens) tokens *= 2;
  while (tokens > 0 && QueueOf(args.w, tokens).shared_bytes > stream.shared_bytes()) tokens /= 2;
  return tokens;
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
  return InGroups(args, kMaxByteTokens,
                  [&](const Args& group) { return queue(group, BlocksFor(args, stream), stream.handle()); });
}

}  // namespace

int64_t CudaPackedScratchBytes(int64_t cols) {
  return (TilesAcross(cols) + kStepTiles - 1) / kStepTiles * FragmentStepBytes(kMaxTokens);
}

absl::Status LaunchPackedMatmul(const PackedMatmulArgs& args, const CudaStream& stream, PackedFragments* held) {
  const int most = args.w.table == nullptr ? kMaxTrellisPairBits : kMaxPairBits;
  if (args.w.pair_bits < kMinPairBits || args.w.pair_bits > most) {
    return InvalidArgument("CUDA_MATMUL", "{} bits a pair; a {} has {} to {}", args.w.pair_bits,
                           args.w.table == nullptr ? "trellis" : "codebook", kMinPairBits, most);
  }
  if (args.strip_begin >= args.strip_end || args.x.tokens <= 0) return absl::OkStatus();
  RETURN_IF_ERROR(Misaligned("codes", args.w.codes, 16));
  RETURN_IF_ERROR(Misaligned("scratch", args.scratch, 16));
  const int tokens = TokensAtOnce(args, stream);
  if (tokens == 0) {
    return FailedPrecondition(
        "CUDA_SHARED_MEMORY", "{} bits a pair need {} bytes of shared memory; a block of device {} gets {}",
        args.w.pair_bits, QueueOf(args.w, 1).shared_bytes, stream.device(), stream.shared_bytes());
  }
  RETURN_IF_ERROR(CudaStatus(cudaSetDevice(stream.device()), "choosing a device"));
  const PackedQueue queue = QueueOf(args.w, tokens);
  return InGroups(args, tokens, [&](const PackedMatmulArgs& group) {
    const PackedFragments wanted{group.x.q, group.x.stride, args.w.cols, group.x.tokens, tokens};
    if (held == nullptr || *held != wanted) {
      const cudaError_t error = QueueFragments(group.x, args.w.cols, tokens, args.scratch, stream.handle());
      if (error != cudaSuccess) return error;
      if (held != nullptr) *held = wanted;
    }
    return queue.queue(group, BlocksFor(args, stream), stream.handle());
  });
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
