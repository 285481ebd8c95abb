// The product of a packed matrix and up to 16 tokens as a block of threads does it, for host and device: decoding. The
// warps, their lanes, the matrix instruction and the exact sums are those of packed_warp.h.
//
// A block of 16 warps takes strips of 32 rows in turn. Columns come in rounds of 16 steps (4096 columns): the block
// keeps the round's activations in shared memory while its strips pass, warp w multiplies step w of each, and the exact
// sums of the steps are added in order. For 8 and 16 tokens it is 8 warps and 8 steps. The table of codes is written to
// shared memory once, a copy for every bank. A warp asks for its next 16 bytes of a line as soon as it has taken the
// last. Work is written for what runs it (Threads), as block_threads.cuh describes.
#pragma once

#include <cstdint>

#include "core/kernels/cuda/packed_warp.h"
#include "core/kernels/cuda/words.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// Steps of a round, and warps of a block, which take one each. Activations of 16 steps would fit beside no table for 16
// tokens, and for 8 (148 KiB with their sums) on an A100 beside none of more than 5 bits, which would then go through
// the codes once for every 4 tokens. Beside those of 8 steps there is room for all up to 11 bits.
inline constexpr int RoundSteps(int tokens) { return tokens < 8 ? kRoundSteps : kRoundSteps / 2; }
static_assert(RoundSteps(16) % 2 == 0, "a block of kPackedBlockCols is two steps of one round");

template <typename Decoder, int kTokens>
struct PackedBlock {
  using Lane = typename Decoder::Lane;
  static constexpr int kBits = Decoder::kBitsOfRate;
  static constexpr int kRows = Lane::kRows;
  static constexpr int kColumnTiles = (2 * kTokens + 7) / 8;
  static constexpr int kSteps = RoundSteps(kTokens);
  static constexpr int kThreads = 32 * kSteps;
  // Words between the sums of one token and the next: the 16-byte stores of 8 lanes then meet in no bank.
  static constexpr int kSumStride = kTileRows + 8;
  static constexpr int kAbove = 28;  // to the lane whose rows are above, around the strip

  static constexpr int64_t kActivations = Decoder::kTableBytes;
  static constexpr int64_t kSums = kActivations + kSteps * FragmentStepBytes(kTokens);
  static constexpr int64_t kSharedBytes = kSums + int64_t{kSteps} * kTokens * kSumStride * 4;

  struct State {
    FourWords lines[kBits];  // a lane's words of each line of its tile: of this one, then of the one that comes next
    const uint8_t* next;
    bool more;
    Lane view;
    uint32_t halves[kLaneRows][kGroupPairs];
    float c[kColumnTiles][2][4];
    TwoWords b;
  };

  // Where a block's work goes on: strips of a round, then the next round.
  struct At {
    int64_t strip;
    int64_t round;
  };

  // What a block of threads works on.
  struct Place {
    const PackedMatmulArgs& a;
    unsigned char* const shared;
    const int64_t blocks, tiles, steps, rounds, first_strip;

    QAMSERVE_HOST_DEVICE Place(const PackedMatmulArgs& args, int64_t block, int64_t of_blocks, unsigned char* memory)
        : a(args),
          shared(memory),
          blocks(of_blocks),
          tiles(TilesAcross(args.w.cols)),
          steps((tiles + kStepTiles - 1) / kStepTiles),
          rounds((steps + kSteps - 1) / kSteps),
          first_strip(args.strip_begin + block) {}

    QAMSERVE_HOST_DEVICE At After(At at) const {
      at.strip += blocks;
      return at.strip < a.strip_end ? at : At{first_strip, at.round + 1};
    }
    QAMSERVE_HOST_DEVICE bool HasStep(int thread, int64_t round) const {
      return round < rounds && round * kSteps + thread / 32 < steps;
    }
    // A last step may have fewer tiles than lanes want: they read the last one again, with activations of 0.
    QAMSERVE_HOST_DEVICE const uint8_t* TileAt(int thread, At at) const {
      const int64_t wanted = (at.round * kSteps + thread / 32) * kStepTiles + thread % 4;
      const int64_t tile = wanted < tiles ? wanted : tiles - 1;
      return a.w.codes + at.strip * StripBytes(a.w.cols, kBits) + tile * TileBytes(kBits) + 16 * (thread % 32 / 4);
    }
    QAMSERVE_HOST_DEVICE void LoadActivations(int thread, int64_t round) const {
      const int64_t first = round * kSteps, count = steps - first < kSteps ? steps - first : kSteps;
      const auto* from = static_cast<const unsigned char*>(a.scratch) + first * FragmentStepBytes(kTokens);
      for (int64_t i = 16 * thread; i < count * FragmentStepBytes(kTokens); i += 16 * kThreads) {
        CopyFour(shared + kActivations + i, from + i);
      }
    }
    QAMSERVE_HOST_DEVICE TwoWords Activations(int thread, int s, int column_tile) const {
      const int column = 8 * column_tile + thread % 32 / 4;
      if (2 * kTokens < 8 && column >= 2 * kTokens) return TwoWords{};
      const auto* fragments = reinterpret_cast<const TwoWords*>(shared + kActivations);
      return fragments[(thread / 32 * kMmaSteps + s) * (2 * kTokens * kStepTiles) + column * kStepTiles + thread % 4];
    }
    QAMSERVE_HOST_DEVICE int32_t* Sums(int step, int token) const {
      return reinterpret_cast<int32_t*>(shared + kSums) + (step * kTokens + token) * kSumStride;
    }
  };

  // Line `line` becomes the rows that view(state) names, and the next one is asked for.
  template <typename Threads, typename View>
  QAMSERVE_HOST_DEVICE static void TakeLine(int line, typename Threads::template Own<State>& own,
                                            const Threads& threads, const View& view) {
    threads.Alone([&](int thread) {
      State& s = own[thread];
      QAMSERVE_UNROLL
      for (int i = 0; i < kLaneRows; ++i) view(s)[Lane::kBack + i] = s.lines[line].of[i];
    });
    QAMSERVE_UNROLL
    for (int i = 0; i < Lane::kBack; ++i) {
      threads.Rotate(
          kAbove, [&](int thread) { return own[thread].lines[line].of[kLaneRows - Lane::kBack + i]; },
          [&](int thread, uint32_t word) { view(own[thread])[i] = word; });
    }
    threads.Alone([&](int thread) {
      State& s = own[thread];
      if (s.more) s.lines[line] = ReadOnce(s.next + kTileLine * line);
    });
  }

  // What pairs 4 v .. 4 v + 3 have been decoded to, times their activations.
  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void MultiplyGroup(const Place& p, int v, typename Threads::template Own<State>& own,
                                                 const Threads& threads) {
    QAMSERVE_UNROLL
    for (int k = 0; k < 2; ++k) {
      QAMSERVE_UNROLL
      for (int n = 0; n < kColumnTiles; ++n) {
        threads.Alone([&](int thread) { own[thread].b = p.Activations(thread, 2 * v + k, n); });
        QAMSERVE_UNROLL
        for (int h = 0; h < 2; ++h) {
          threads.Multiply([&](int thread, uint32_t(&a)[4], uint32_t(&b)[2]) {
            State& s = own[thread];
            QAMSERVE_UNROLL
            for (int i = 0; i < 4; ++i) a[i] = s.halves[2 * h + i % 2][2 * k + i / 2];
            for (int i = 0; i < 2; ++i) b[i] = s.b.of[i];
            return &s.c[n][h];
          });
        }
      }
    }
  }

  // One step of one strip, whose words are in `lines`; those of the tile at `next` come in their place.
  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void Step(const Place& p, At next, typename Threads::template Own<State>& own,
                                        const Threads& threads) {
    threads.Alone([&](int thread) {
      State& s = own[thread];
      s.more = p.HasStep(thread, next.round);
      s.next = p.TileAt(thread, next);
      QAMSERVE_UNROLL
      for (int i = 0; i < 8 * kColumnTiles; ++i) s.c[i / 8][i / 4 % 2][i % 4] = 0;
    });
    QAMSERVE_UNROLL
    for (int e = 0; e < Lane::kExtra; ++e) {
      TakeLine(Lane::kBaseLines + e, own, threads, [&](State& s) -> uint32_t(&)[kRows] { return s.view.extra[e]; });
    }
    QAMSERVE_UNROLL
    for (int v = 0; v < kPairGroups; ++v) {
      if (v < Lane::kBaseLines) {
        constexpr int kLast = Lane::kBaseLines;
        TakeLine(v % kLast, own, threads, [&](State& s) -> uint32_t(&)[kRows] { return s.view.base[v % kLast]; });
      }
      threads.Alone([&](int thread) {
        State& s = own[thread];
        Decoder::Decode(s.view, v, 4u * static_cast<uint32_t>(thread % 32), p.shared, s.halves);
      });
      MultiplyGroup(p, v, own, threads);
    }
    threads.Alone([&](int thread) { StoreSums(p, thread, own[thread]); });
  }

  QAMSERVE_HOST_DEVICE static void StoreSums(const Place& p, int thread, const State& s) {
    QAMSERVE_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      const int token = 4 * n + thread % 4;
      if (token >= kTokens) continue;
      FourInts sums;
      QAMSERVE_UNROLL
      for (int i = 0; i < kLaneRows; ++i) sums.of[i] = StepSum(s.c[n][i / 2][i % 2 * 2], s.c[n][i / 2][i % 2 * 2 + 1]);
      *reinterpret_cast<FourInts*>(p.Sums(thread / 32, token) + kLaneRows * (thread % 32 / 4)) = sums;
    }
  }

  // Until the last round y holds the sums of the blocks so far.
  QAMSERVE_HOST_DEVICE static void AddSums(const Place& p, int thread, At at) {
    const PackedMatmulArgs& a = p.a;
    const int64_t row = at.strip * kTileRows + thread % 32;
    if (row >= a.w.rows) return;
    const int64_t left = p.steps - at.round * kSteps;
    for (int token = thread / 32; token < kTokens && token < a.x.tokens; token += kSteps) {
      float* y = a.y + token * a.y_stride + row;
      const float total = AddRound(at.round == 0 ? 0.0f : *y, static_cast<int>(left < kSteps ? left : kSteps),
                                   [&](int i) { return p.Sums(i, token)[thread % 32]; });
      *y = at.round + 1 < p.rounds ? total : total * (a.w.row_scale[row] * a.x.scale[token]);
    }
  }

  // Block `block` of `blocks`.
  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void Run(const PackedMatmulArgs& a, int64_t block, int64_t blocks, unsigned char* shared,
                                       const Threads& threads) {
    const Place p(a, block, blocks, shared);
    typename Threads::template Own<State> own;
    At at{p.first_strip, 0};
    threads.Alone([&](int thread) {
      if (p.HasStep(thread, 0)) {
        QAMSERVE_UNROLL
        for (int i = 0; i < kBits; ++i) own[thread].lines[i] = ReadOnce(p.TileAt(thread, at) + kTileLine * i);
      }
      FillTable<Decoder>(a.w.table, shared, thread, kThreads);
    });
    for (int64_t loaded = -1; p.rounds > at.round; at = p.After(at)) {
      if (loaded != at.round) {
        loaded = at.round;  // nobody reads the last ones: sums were waited for
        threads([&](int thread) { p.LoadActivations(thread, loaded); });
      }
      threads.OfWarps([&](int thread) { return p.HasStep(thread, at.round); },
                      [&](const Threads& some) { Step(p, p.After(at), own, some); });
      threads([](int) {});
      threads([&](int thread) { AddSums(p, thread, at); });
    }
  }
};

}  // namespace qamserve
