// The product of 8-bit weights and up to 8 tokens of 8-bit or 14-bit activations as a block of threads does it, for
// host and device. A block of 16 warps takes strips of 32 rows in turn, for one round of columns after the other, whose
// activations it keeps in shared memory; what its warps do is in int8_warp.h. Work is written for what runs it
// (Threads), as block_threads.cuh describes.
#pragma once

#include <cstdint>

#include "core/codec/half.h"
#include "core/kernels/cuda/int8_warp.h"
#include "core/kernels/cuda/packed_warp.h"
#include "core/kernels/cuda/words.h"
#include "core/kernels/kernels.h"

namespace qamserve {

static_assert(kInt8RoundCols == kInt8WideBlockCols);

// Four activations, as bytes of a plane.
QAMSERVE_HOST_DEVICE inline uint32_t Int8Word(const int8_t* q, int) { return ReadWord(q); }
QAMSERVE_HOST_DEVICE inline uint32_t Int8Word(const int16_t* q, int plane) {
  return FourBytes(ActivationPart(q[0], plane), ActivationPart(q[1], plane), ActivationPart(q[2], plane),
                   ActivationPart(q[3], plane));
}

// Sums of a row over the rounds so far, in y's own memory: whole numbers of 8-bit activations, which add up to the end,
// floats of 14-bit ones, whose blocks end with a round.
QAMSERVE_HOST_DEVICE inline float AddInt8Round(float before, bool first, uint32_t round, const Int8MatmulArgs&) {
  return FloatOfBits((first ? 0 : BitsOfFloat(before)) + round);
}
QAMSERVE_HOST_DEVICE inline float AddInt8Round(float before, bool first, uint32_t round, const Int8WideMatmulArgs&) {
  return (first ? 0.0f : before) + static_cast<float>(static_cast<int32_t>(round));
}
QAMSERVE_HOST_DEVICE inline float Int8Total(float rounds, const Int8MatmulArgs&) {
  return static_cast<float>(static_cast<int32_t>(BitsOfFloat(rounds)));
}
QAMSERVE_HOST_DEVICE inline float Int8Total(float rounds, const Int8WideMatmulArgs&) { return rounds; }

template <typename ArgsOf, int kTokens>
struct Int8Block {
  using Args = ArgsOf;
  static constexpr int kThreads = 32 * kInt8Warps;
  static constexpr int kPlanes = sizeof(*Args{}.x.q);

  struct Shared {
    alignas(16) uint32_t words[kPlanes][kTokens][kInt8RoundCols / 4];
    alignas(16) int32_t sums[kInt8Warps][kTokens][kTileRows];
  };
  struct State {
    FourWords lines[kInt8WarpSteps][kInt8LaneLines];
    int32_t sums[kPlanes][kTokens][kLaneRows];
    uint32_t rows[kLaneRows];
  };

  // What a block of threads works on.
  struct Place {
    const Args& a;
    Shared& shared;
    const int64_t padded, rounds;

    QAMSERVE_HOST_DEVICE Place(const Args& args, Shared& memory)
        : a(args),
          shared(memory),
          padded(PaddedCols(args.w.cols)),
          rounds((padded + kInt8RoundCols - 1) / kInt8RoundCols) {}

    QAMSERVE_HOST_DEVICE int64_t FirstCol(int thread, int64_t round, int step) const {
      return round * kInt8RoundCols + (thread / 32 * kInt8WarpSteps + step) * kInt8StepCols;
    }
    QAMSERVE_HOST_DEVICE void LoadWeights(int thread, int64_t strip, int64_t round, int step,
                                          FourWords (&lines)[kInt8LaneLines]) const {
      const int64_t col = FirstCol(thread, round, step);
      if (strip >= a.strip_end || col >= padded) return;
      const int8_t* base = a.w.data + strip * Int8StripBytes(a.w.cols);
      QAMSERVE_UNROLL
      for (int i = 0; i < kInt8LaneLines; ++i) lines[i] = ReadOnce(base + Int8LaneOffset(col, thread % 32, i));
    }
    QAMSERVE_HOST_DEVICE void LoadActivations(int thread, int64_t round) const {
      const int64_t first = round * kInt8RoundCols;
      for (int i = thread; i < kTokens * kInt8RoundCols / 4; i += kThreads) {
        const int token = i / (kInt8RoundCols / 4), word = i % (kInt8RoundCols / 4);
        const bool there = token < a.x.tokens && first + 4 * word < padded;
        const auto* q = a.x.q + token * a.x.stride + first + 4 * word;
        for (int p = 0; p < kPlanes; ++p) shared.words[p][token][word] = there ? Int8Word(q, p) : 0;
      }
    }
  };

  QAMSERVE_HOST_DEVICE static void AddStep(const Place& p, int thread, int step, State& s) {
    const int word = ((thread / 32 * kInt8WarpSteps + step) * kInt8StepCols + Int8LaneCol(thread % 32)) / 4;
    QAMSERVE_UNROLL
    for (int plane = 0; plane < kPlanes; ++plane) {
      QAMSERVE_UNROLL
      for (int token = 0; token < kTokens; ++token) {
        const FourWords x = *reinterpret_cast<const FourWords*>(&p.shared.words[plane][token][word]);
        QAMSERVE_UNROLL
        for (int i = 0; i < kInt8LaneLines; ++i) {
          QAMSERVE_UNROLL
          for (int row = 0; row < kLaneRows; ++row) {
            int32_t& sum = s.sums[plane][token][row];
            sum = DotBytes(s.lines[step][i].of[row], x.of[i], sum);
          }
        }
      }
    }
  }

  // Adds up the lanes of each row.
  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void StoreSums(const Place& p, typename Threads::template Own<State>& own,
                                             const Threads& threads) {
    QAMSERVE_UNROLL
    for (int token = 0; token < kTokens; ++token) {
      threads.Alone([&](int thread) {
        State& s = own[thread];
        QAMSERVE_UNROLL
        for (int i = 0; i < kLaneRows; ++i) {
          s.rows[i] = static_cast<uint32_t>(s.sums[0][token][i]);
          if (kPlanes == 2) s.rows[i] = 128u * s.rows[i] + static_cast<uint32_t>(s.sums[kPlanes - 1][token][i]);
        }
      });
      QAMSERVE_UNROLL
      for (int i = 0; i < kLaneRows; ++i) {
        QAMSERVE_UNROLL
        for (int mask = 1; mask <= 2; ++mask) {
          threads.Swap(
              mask, [&](int thread) { return own[thread].rows[i]; },
              [&](int thread, uint32_t word) { own[thread].rows[i] += word; });
        }
      }
      threads.Alone([&](int thread) {
        if (thread % 4 != 0) return;
        FourInts rows;
        QAMSERVE_UNROLL
        for (int i = 0; i < kLaneRows; ++i) rows.of[i] = static_cast<int32_t>(own[thread].rows[i]);
        *reinterpret_cast<FourInts*>(&p.shared.sums[thread / 32][token][thread % 32]) = rows;
      });
    }
  }

  QAMSERVE_HOST_DEVICE static void AddSums(const Place& p, int thread, int64_t strip, int64_t round) {
    const Args& a = p.a;
    const int token = thread / kTileRows, in_strip = thread % kTileRows;
    const int64_t row = strip * kTileRows + in_strip;
    if (token >= kTokens || token >= a.x.tokens || row >= a.w.rows) return;
    uint32_t sum = 0;
    QAMSERVE_UNROLL
    for (int w = 0; w < kInt8Warps; ++w) sum += static_cast<uint32_t>(p.shared.sums[w][token][in_strip]);
    float* y = a.y + token * a.y_stride + row;
    const float total = AddInt8Round(*y, round == 0, sum, a);
    *y = round + 1 < p.rounds ? total : Int8Total(total, a) * (a.w.row_scale[row] * a.x.scale[token]);
  }

  // Block `block` of `blocks`.
  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, int64_t blocks, unsigned char* shared,
                                       const Threads& threads) {
    const Place p(a, *reinterpret_cast<Shared*>(shared));
    typename Threads::template Own<State> own;
    const int64_t first_strip = a.strip_begin + block;
    for (int64_t round = 0; round < p.rounds; ++round) {
      threads([&](int thread) {
        QAMSERVE_UNROLL
        for (int step = 0; step < kInt8WarpSteps; ++step) {
          p.LoadWeights(thread, first_strip, round, step, own[thread].lines[step]);
        }
        p.LoadActivations(thread, round);  // nobody reads the last ones: sums were waited for
      });
      for (int64_t strip = first_strip; strip < a.strip_end; strip += blocks) {
        threads.Alone([&](int thread) {
          State& s = own[thread];
          QAMSERVE_UNROLL
          for (int i = 0; i < kPlanes * kTokens * kLaneRows; ++i) {
            s.sums[i / (kTokens * kLaneRows)][i / kLaneRows % kTokens][i % kLaneRows] = 0;
          }
          QAMSERVE_UNROLL
          for (int step = 0; step < kInt8WarpSteps; ++step) {
            if (p.FirstCol(thread, round, step) < p.padded) AddStep(p, thread, step, s);
            p.LoadWeights(thread, strip + blocks, round, step, s.lines[step]);
          }
        });
        StoreSums(p, own, threads);
        threads([](int) {});
        threads([&](int thread) { AddSums(p, thread, strip, round); });
      }
    }
  }
};

}  // namespace qamserve
