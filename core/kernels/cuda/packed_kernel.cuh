// The product of a packed matrix and up to 16 tokens: the kernel and what queues it. Included by one source for each
// half of the codecs, so that they compile side by side.
//
// A block of 16 warps takes strips of 32 rows in turn. Columns come in rounds of 16 steps (4096 columns): the block
// keeps the round's activations in shared memory while its strips pass, warp w multiplies step w of each, and the exact
// sums of the steps are added in order. For 16 tokens it is 8 warps and 8 steps. The table of codes is written to
// shared memory once, a copy for every bank. A warp asks for its next 16 bytes of a line as soon as it has decoded the
// last.
//
// Not measured yet. Counted in sm_90 machine code (nvcc 13.0, one token): instructions a pair of weights, sums
// and all, beside what 80 % of an H200's 4.8 TB/s leaves (1.755 GHz; 128 issue slots and 64 ALU lanes a clock).
//   bits a pair           6    7    8    9    10   11     8 tokens at 11 bits: 7.6 issued
//   issued               6.0  6.5  4.0  5.3  6.8  7.2
//     there are          5.8  6.8  7.7  8.7  9.7 10.6
//   ALU                  2.4  2.7  1.6  2.2  2.4  3.1
//     there are          2.9  3.4  3.9  4.4  4.8  5.3
// Each pair is one lookup without bank conflicts and a quarter of a matrix instruction for every 4 tokens. All kernels
// take 114 to 128 registers, the most that 512 threads may have; none spills but those of trellises of 5 and 7 bits, by
// up to 52 bytes. For 16 tokens, looked at for 6 and 11 bits and trellises of 5, 7 and 8, it is 137 to 254 of 255, no
// spills. Shared memory: the table (8 to 128 KiB), and a token 16 KiB of activations and 2.5 KiB of sums.
#pragma once

#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/mma.cuh"
#include "core/kernels/cuda/packed_warp.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// Steps of a round, and warps of a block, which take one each. 16 tokens' activations of 16 steps would not fit beside
// a table.
inline constexpr int RoundSteps(int tokens) { return tokens <= 8 ? kRoundSteps : kRoundSteps / 2; }
static_assert(RoundSteps(16) % 2 == 0, "a block of kPackedBlockCols is two steps of one round");
inline constexpr int PackedThreads(int tokens) { return 32 * RoundSteps(tokens); }
// Words between the sums of one token and the next: the 16-byte stores of 8 lanes then meet in no bank.
inline constexpr int kSumStride = kTileRows + 8;

template <typename Decoder, int kTokens>
struct PackedShared {
  static constexpr int kSteps = RoundSteps(kTokens);
  static constexpr int64_t kActivations = Decoder::kTableBytes;
  static constexpr int64_t kSums = kActivations + kSteps * FragmentStepBytes(kTokens);
  static constexpr int64_t kBytes = kSums + int64_t{kSteps} * kTokens * kSumStride * 4;
};

// A lane's 16 bytes of each line of its tile, and of the one that comes next. Weights pass once: they need no cache.
template <int kBits>
struct LaneLines {
  uint4 line[kBits];
  __device__ void Load(const uint8_t* tile, int i) {
    line[i] = __ldcs(reinterpret_cast<const uint4*>(tile + kTileLine * i));
  }
};

// Own rows from the 16 bytes; rows above from the lane that has them, around the strip.
template <int kBack>
__device__ inline void RowsOf(const uint4& own, uint32_t (&rows)[kBack + kLaneRows]) {
  const uint32_t words[kLaneRows] = {own.x, own.y, own.z, own.w};
  for (int i = 0; i < kLaneRows; ++i) rows[kBack + i] = words[i];
  const int above = (static_cast<int>(threadIdx.x) + 28) & 31;
  for (int i = 0; i < kBack; ++i) rows[i] = __shfl_sync(~0u, words[kLaneRows - kBack + i], above);
}

// Where a block's work goes on: strips of a round, then the next round.
struct PackedPlace {
  int64_t strip;
  int64_t round;
};

template <typename Decoder, int kTokens>
struct PackedBlock {
  static constexpr int kBits = Decoder::kBitsOfRate;
  using Lane = typename Decoder::Lane;
  static constexpr int kColumnTiles = (2 * kTokens + 7) / 8;
  static constexpr int kSteps = RoundSteps(kTokens);
  static constexpr int kThreads = PackedThreads(kTokens);
  using Shared = PackedShared<Decoder, kTokens>;

  const PackedMatmulArgs& a;
  unsigned char* const shared;
  const int64_t tiles = TilesAcross(a.w.cols);
  const int64_t steps = (tiles + kStepTiles - 1) / kStepTiles;
  const int64_t rounds = (steps + kSteps - 1) / kSteps;
  const int64_t first_strip = a.strip_begin + blockIdx.x;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int g = lane >> 2, t = lane & 3;

  __device__ bool HasStep(int64_t round) const { return round < rounds && round * kSteps + warp < steps; }
  // A last step may have fewer tiles than lanes want: they read the last one again, with activations of 0.
  __device__ const uint8_t* TileAt(PackedPlace at) const {
    const int64_t wanted = (at.round * kSteps + warp) * kStepTiles + t;
    const int64_t tile = wanted < tiles ? wanted : tiles - 1;
    return a.w.codes + at.strip * StripBytes(a.w.cols, kBits) + tile * TileBytes(kBits) + 16 * g;
  }
  __device__ PackedPlace After(PackedPlace at) const {
    at.strip += gridDim.x;
    return at.strip < a.strip_end ? at : PackedPlace{first_strip, at.round + 1};
  }

  __device__ void LoadActivations(int64_t round) const {
    const int64_t first = round * kSteps, count = steps - first < kSteps ? steps - first : kSteps;
    const auto* from =
        reinterpret_cast<const uint4*>(static_cast<const char*>(a.scratch) + first * FragmentStepBytes(kTokens));
    auto* to = reinterpret_cast<uint4*>(shared + Shared::kActivations);
    for (int64_t i = threadIdx.x; i < count * FragmentStepBytes(kTokens) / 16; i += kThreads) to[i] = from[i];
  }

  __device__ uint2 Activations(int s, int column_tile) const {
    const int column = 8 * column_tile + g;
    if (2 * kTokens < 8 && column >= 2 * kTokens) return uint2{0, 0};
    const auto* fragments = reinterpret_cast<const uint2*>(shared + Shared::kActivations);
    return fragments[((warp * kMmaSteps + s) * (2 * kTokens) + column) * kStepTiles + t];
  }

  // One step of one strip; `lines` are its words and become those of `next`, if there is more.
  __device__ void Step(LaneLines<kBits>& lines, const uint8_t* next, bool more, float (&c)[kColumnTiles][2][4]) const {
    Lane view;
#pragma unroll
    for (int e = 0; e < Lane::kExtra; ++e) {
      RowsOf<Lane::kBack>(lines.line[Lane::kBaseLines + e], view.extra[e]);
      if (more) lines.Load(next, Lane::kBaseLines + e);
    }
#pragma unroll
    for (int v = 0; v < kPairGroups; ++v) {
      if (v < Lane::kBaseLines) {
        RowsOf<Lane::kBack>(lines.line[v % Lane::kBaseLines], view.base[v % Lane::kBaseLines]);
        if (more) lines.Load(next, v % Lane::kBaseLines);
      }
      uint32_t halves[kLaneRows][kGroupPairs];
      Decoder::Decode(view, v, 4u * static_cast<uint32_t>(lane), shared, halves);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int n = 0; n < kColumnTiles; ++n) {
          const uint2 b = Activations(2 * v + k, n);
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t weights[4] = {halves[2 * h][2 * k], halves[2 * h + 1][2 * k], halves[2 * h][2 * k + 1],
                                         halves[2 * h + 1][2 * k + 1]};
            MultiplyHalves(c[n][h], weights, b.x, b.y);
          }
        }
      }
    }
  }

  __device__ void StoreSums(const float (&c)[kColumnTiles][2][4]) const {
    auto* sums = reinterpret_cast<int32_t*>(shared + Shared::kSums);
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n) {
      const int token = 4 * n + t;
      if (token >= kTokens) continue;
      const int4 rows = {StepSum(c[n][0][0], c[n][0][1]), StepSum(c[n][0][2], c[n][0][3]),
                         StepSum(c[n][1][0], c[n][1][1]), StepSum(c[n][1][2], c[n][1][3])};
      *reinterpret_cast<int4*>(sums + (warp * kTokens + token) * kSumStride + kLaneRows * g) = rows;
    }
  }

  // Until the last round y holds the sums of the blocks so far.
  __device__ void AddSums(PackedPlace at) const {
    const int64_t row = at.strip * kTileRows + lane;
    if (row >= a.w.rows) return;
    const int64_t left = steps - at.round * kSteps;
    for (int token = warp; token < kTokens && token < a.x.tokens; token += kSteps) {
      const auto* sums = reinterpret_cast<const int32_t*>(shared + Shared::kSums) + token * kSumStride + lane;
      float* y = a.y + token * a.y_stride + row;
      const float total = AddRound(at.round == 0 ? 0.0f : *y, static_cast<int>(left < kSteps ? left : kSteps),
                                   [&](int i) { return sums[i * kTokens * kSumStride]; });
      *y = at.round + 1 < rounds ? total : total * (a.w.row_scale[row] * a.x.scale[token]);
    }
  }

  __device__ void Run() const {
    PackedPlace at{first_strip, 0};
    LaneLines<kBits> lines;
    if (HasStep(0)) {
#pragma unroll
      for (int i = 0; i < kBits; ++i) lines.Load(TileAt(at), i);
    }
    FillTable<Decoder>(a.w.table, shared, static_cast<int>(threadIdx.x), kThreads);
    for (int64_t loaded = -1; rounds > at.round; at = After(at)) {
      if (loaded != at.round) {
        LoadActivations(loaded = at.round);  // nobody reads the last ones: sums were waited for
        __syncthreads();
      }
      if (HasStep(at.round)) {
        const PackedPlace after = After(at);
        float c[kColumnTiles][2][4] = {};
        Step(lines, TileAt(after), HasStep(after.round), c);
        StoreSums(c);
      }
      __syncthreads();
      AddSums(at);
      __syncthreads();
    }
  }
};

template <typename Decoder, int kTokens>
__global__ void __launch_bounds__(PackedThreads(kTokens), 1)
    PackedKernel(const __grid_constant__ PackedMatmulArgs args) {
  extern __shared__ __align__(16) unsigned char shared[];
  PackedBlock<Decoder, kTokens>{args, shared}.Run();
}

template <typename Decoder, int kTokens>
cudaError_t QueuePacked(const PackedMatmulArgs& args, int blocks, cudaStream_t stream) {
  constexpr auto kBytes = static_cast<int>(PackedShared<Decoder, kTokens>::kBytes);
  const cudaError_t error =
      cudaFuncSetAttribute(PackedKernel<Decoder, kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  PackedKernel<Decoder, kTokens><<<static_cast<unsigned>(blocks), PackedThreads(kTokens), kBytes, stream>>>(args);
  return cudaGetLastError();
}

template <typename Decoder>
PackedQueue PackedQueueOf(int tokens) {
  switch (tokens) {
    case 1:
      return {QueuePacked<Decoder, 1>, PackedShared<Decoder, 1>::kBytes};
    case 2:
      return {QueuePacked<Decoder, 2>, PackedShared<Decoder, 2>::kBytes};
    case 4:
      return {QueuePacked<Decoder, 4>, PackedShared<Decoder, 4>::kBytes};
    case 8:
      return {QueuePacked<Decoder, 8>, PackedShared<Decoder, 8>::kBytes};
    default:
      return {QueuePacked<Decoder, 16>, PackedShared<Decoder, 16>::kBytes};
  }
}

}  // namespace qamserve
