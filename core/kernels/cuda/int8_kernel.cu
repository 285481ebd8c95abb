// The products of 8-bit weights and up to 8 tokens of 8-bit or 14-bit activations. A block of 16 warps takes strips of
// 32 rows in turn, for one round of columns after the other, whose activations it keeps in shared memory.
//
// Not measured yet. Counted in sm_90 machine code (nvcc 13.0): instructions a weight, and byte products among them, at
// 1 and 8 tokens: 1.1, 0.25 and 3.9, 2.0; of 14-bit activations 1.4, 0.5 and 6.8, 4.0. 80 % of an H200's 4.8 TB/s
// leaves 7.7 and 3.9 at 1.755 GHz. 78 to 128 registers, no spills; 4 to 48 KiB of shared memory.
#include "core/kernels/cuda/int8_warp.h"
#include "core/kernels/cuda/launch.h"
#include "core/kernels/cuda/packed_warp.h"

namespace qamserve {
namespace {

constexpr int kThreads = 32 * kInt8Warps;
static_assert(kInt8RoundCols == kInt8WideBlockCols);

__device__ uint32_t WordOf(const int8_t* q, int) { return *reinterpret_cast<const uint32_t*>(q); }
__device__ uint32_t WordOf(const int16_t* q, int plane) {
  return FourBytes(ActivationPart(q[0], plane), ActivationPart(q[1], plane), ActivationPart(q[2], plane),
                   ActivationPart(q[3], plane));
}

// Sums of a row over the rounds so far, in y's own memory: whole numbers of 8-bit activations, which add up to the end,
// floats of 14-bit ones, whose blocks end with a round.
__device__ float AddInt8Round(float before, bool first, int32_t round, const Int8MatmulArgs&) {
  return __int_as_float((first ? 0 : __float_as_int(before)) + round);
}
__device__ float AddInt8Round(float before, bool first, int32_t round, const Int8WideMatmulArgs&) {
  return (first ? 0.0f : before) + static_cast<float>(round);
}
__device__ float Int8Total(float rounds, const Int8MatmulArgs&) { return static_cast<float>(__float_as_int(rounds)); }
__device__ float Int8Total(float rounds, const Int8WideMatmulArgs&) { return rounds; }

template <typename Args>
constexpr int kPlanesOf = sizeof(*Args{}.x.q);

template <typename Args, int kTokens>
struct Int8Shared {
  uint32_t words[kPlanesOf<Args>][kTokens][kInt8RoundCols / 4];
  int32_t sums[kInt8Warps][kTokens][kTileRows];
};

template <typename Args, int kTokens>
struct Int8Block {
  static constexpr int kPlanes = kPlanesOf<Args>;

  const Args& a;
  Int8Shared<Args, kTokens>& shared;
  const int64_t padded = PaddedCols(a.w.cols);
  const int64_t rounds = (padded + kInt8RoundCols - 1) / kInt8RoundCols;
  const int64_t first_strip = a.strip_begin + blockIdx.x;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;

  __device__ int64_t FirstCol(int64_t round, int step) const {
    return round * kInt8RoundCols + (warp * kInt8WarpSteps + step) * kInt8StepCols;
  }
  __device__ void LoadWeights(int64_t strip, int64_t round, int step, uint4 (&lines)[kInt8LaneLines]) const {
    const int64_t col = FirstCol(round, step);
    if (strip >= a.strip_end || col >= padded) return;
    const int8_t* base = a.w.data + strip * Int8StripBytes(a.w.cols);
#pragma unroll
    for (int i = 0; i < kInt8LaneLines; ++i) {
      lines[i] = __ldcs(reinterpret_cast<const uint4*>(base + Int8LaneOffset(col, lane, i)));
    }
  }

  __device__ void LoadActivations(int64_t round) const {
    const int64_t first = round * kInt8RoundCols;
    for (int i = threadIdx.x; i < kTokens * kInt8RoundCols / 4; i += kThreads) {
      const int token = i / (kInt8RoundCols / 4), word = i % (kInt8RoundCols / 4);
      const bool there = token < a.x.tokens && first + 4 * word < padded;
      const auto* q = a.x.q + token * a.x.stride + first + 4 * word;
      for (int p = 0; p < kPlanes; ++p) shared.words[p][token][word] = there ? WordOf(q, p) : 0;
    }
  }

  __device__ void AddStep(int step, const uint4 (&lines)[kInt8LaneLines],
                          int32_t (&sums)[kPlanes][kTokens][kLaneRows]) const {
    const int word = ((warp * kInt8WarpSteps + step) * kInt8StepCols + Int8LaneCol(lane)) / 4;
#pragma unroll
    for (int p = 0; p < kPlanes; ++p) {
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        const uint4 four = *reinterpret_cast<const uint4*>(&shared.words[p][token][word]);
        const uint32_t x[kInt8LaneLines] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < kInt8LaneLines; ++i) {
          int32_t(&s)[kLaneRows] = sums[p][token];
          s[0] = DotBytes(lines[i].x, x[i], s[0]);
          s[1] = DotBytes(lines[i].y, x[i], s[1]);
          s[2] = DotBytes(lines[i].z, x[i], s[2]);
          s[3] = DotBytes(lines[i].w, x[i], s[3]);
        }
      }
    }
  }

  __device__ void StoreSums(const int32_t (&sums)[kPlanes][kTokens][kLaneRows]) const {
#pragma unroll
    for (int token = 0; token < kTokens; ++token) {
      int32_t rows[kLaneRows];
#pragma unroll
      for (int i = 0; i < kLaneRows; ++i) {
        auto sum = static_cast<uint32_t>(sums[0][token][i]);
        if (kPlanes == 2) sum = 128u * sum + static_cast<uint32_t>(sums[kPlanes - 1][token][i]);
        sum += __shfl_xor_sync(~0u, sum, 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        rows[i] = static_cast<int32_t>(sum);
      }
      if ((lane & 3) == 0) {
        *reinterpret_cast<int4*>(&shared.sums[warp][token][lane]) = {rows[0], rows[1], rows[2], rows[3]};
      }
    }
  }

  __device__ void AddSums(int64_t strip, int64_t round) const {
    const int token = static_cast<int>(threadIdx.x) / kTileRows, in_strip = static_cast<int>(threadIdx.x) % kTileRows;
    const int64_t row = strip * kTileRows + in_strip;
    if (token >= kTokens || token >= a.x.tokens || row >= a.w.rows) return;
    uint32_t sum = 0;
#pragma unroll
    for (int w = 0; w < kInt8Warps; ++w) sum += static_cast<uint32_t>(shared.sums[w][token][in_strip]);
    float* y = a.y + token * a.y_stride + row;
    const float total = AddInt8Round(*y, round == 0, static_cast<int32_t>(sum), a);
    *y = round + 1 < rounds ? total : Int8Total(total, a) * (a.w.row_scale[row] * a.x.scale[token]);
  }

  __device__ void Run() const {
    uint4 lines[kInt8WarpSteps][kInt8LaneLines];
    for (int64_t round = 0; round < rounds; ++round) {
      for (int step = 0; step < kInt8WarpSteps; ++step) LoadWeights(first_strip, round, step, lines[step]);
      LoadActivations(round);  // nobody reads the last ones: sums were waited for
      __syncthreads();
      for (int64_t strip = first_strip; strip < a.strip_end; strip += gridDim.x) {
        int32_t sums[kPlanes][kTokens][kLaneRows] = {};
#pragma unroll
        for (int step = 0; step < kInt8WarpSteps; ++step) {
          if (FirstCol(round, step) < padded) AddStep(step, lines[step], sums);
          LoadWeights(strip + gridDim.x, round, step, lines[step]);
        }
        StoreSums(sums);
        __syncthreads();
        AddSums(strip, round);
        __syncthreads();
      }
    }
  }
};

template <typename Args, int kTokens>
__global__ void __launch_bounds__(kThreads, 1) Int8Kernel(const __grid_constant__ Args args) {
  extern __shared__ __align__(16) unsigned char shared[];
  Int8Block<Args, kTokens>{args, *reinterpret_cast<Int8Shared<Args, kTokens>*>(shared)}.Run();
}

template <typename Args, int kTokens>
cudaError_t QueueTokens(const Args& args, int blocks, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Int8Shared<Args, kTokens>);
  const cudaError_t error =
      cudaFuncSetAttribute(Int8Kernel<Args, kTokens>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  Int8Kernel<Args, kTokens><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(args);
  return cudaGetLastError();
}

template <typename Args>
cudaError_t Queue(const Args& args, int blocks, cudaStream_t stream) {
  if (args.x.tokens == 1) return QueueTokens<Args, 1>(args, blocks, stream);
  if (args.x.tokens == 2) return QueueTokens<Args, 2>(args, blocks, stream);
  if (args.x.tokens <= 4) return QueueTokens<Args, 4>(args, blocks, stream);
  return QueueTokens<Args, 8>(args, blocks, stream);
}

}  // namespace

cudaError_t QueueInt8(const Int8MatmulArgs& args, int blocks, cudaStream_t stream) {
  return Queue(args, blocks, stream);
}
cudaError_t QueueInt8Wide(const Int8WideMatmulArgs& args, int blocks, cudaStream_t stream) {
  return Queue(args, blocks, stream);
}

}  // namespace qamserve
