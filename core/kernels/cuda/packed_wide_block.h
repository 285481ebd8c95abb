// The product of a packed matrix and 64 tokens as a block of threads does it, for host and device: prompts. The warps,
// their lanes, the matrix instruction and the exact sums are those of packed_warp.h; what differs is that a warp keeps
// one strip of 32 rows for all columns and multiplies what it has decoded by 64 tokens (128 columns of B, its parts),
// so that a weight is looked up once for 64 tokens instead of once for 16.
//
// A block has up to 8 warps, each with a strip. Activations come in pieces of two k-steps (8 KiB, which all warps read)
// through a ring of kPieces that asynchronous copies fill while earlier ones are multiplied. A lane holds the sums of
// its four rows for all tokens in 128 registers; after each block of 512 columns they become whole numbers and are
// added, as floats, to totals that each thread has to itself in shared memory. So sums are those of the reference, in
// its order.
//
// Work is written for what runs it (Threads), as block_threads.cuh describes.
//
// Not measured yet. Each activation is two columns of B, so there are twice the matrix instructions of a product of
// halves: of those that mma.sync allows on Hopper (about 62 % of its peak), 31 % of that peak is left at most.
#pragma once

#include <cstdint>
#if !defined(__CUDA_ARCH__)
#include <cstring>
#endif

#include "core/kernels/cuda/packed_warp.h"
#include "core/kernels/cuda/words.h"
#include "core/kernels/kernels.h"

namespace qamserve {

inline constexpr int kWideTokens = 64;
inline constexpr int kMostWideWarps = 8;

// Strips of a matrix times groups of kWideTokens tokens, whose fragments (FragmentCol) lie [group][step]; absent tokens
// are zeros.
struct PackedWideArgs {
  PackedMatrix w;
  const unsigned char* fragments = nullptr;
  const float* scale = nullptr;  // [tokens]
  int64_t tokens = 0;
  float* y = nullptr;  // as PackedMatmulArgs
  int64_t y_stride = 0;
  int64_t strip_begin = 0;
  int64_t strip_end = 0;
  int warps = kMostWideWarps;
};

// 16 bytes from global to shared memory, there when WaitForCopies says so.
QAMSERVE_HOST_DEVICE inline void CopyAsync(unsigned char* shared, const unsigned char* from) {
#if defined(__CUDA_ARCH__)
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
  std::memcpy(shared, from, 16);
#endif
}
// Ends a group of this thread's copies.
QAMSERVE_HOST_DEVICE inline void EndCopies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Until at most kLast of this thread's groups are on their way.
template <int kLast>
QAMSERVE_HOST_DEVICE inline void WaitForCopies() {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kLast) : "memory");
#endif
}

template <typename Decoder>
struct PackedWideBlock {
  using Lane = typename Decoder::Lane;
  static constexpr int kBits = Decoder::kBitsOfRate;
  static constexpr int kRows = Lane::kRows;
  static constexpr int kColumns = 2 * kWideTokens;
  static constexpr int kColumnTiles = kColumns / 8;
  static constexpr int kPieces = 4;
  static constexpr int64_t kPieceBytes = 2 * kColumns * kStepTiles * int64_t{sizeof(TwoWords)};
  static_assert(kPairGroups * kPieceBytes == FragmentStepBytes(kWideTokens));
  // Sums of the matrix instruction are whole numbers that float holds; both steps of a block may be added there if that
  // stays below 2^23.
  static constexpr bool kAddsBlocks = int64_t{64} * Decoder::kMaxWeight * kPackedBlockCols < (int64_t{1} << 23);

  static constexpr int64_t kRing = Decoder::kTableBytes;
  static constexpr int64_t kTotals = kRing + kPieces * kPieceBytes;
  static constexpr int64_t TotalsBytes(int warps) {
    return int64_t{32} * warps * kColumnTiles * static_cast<int64_t>(sizeof(FourFloats));
  }
  static constexpr int64_t SharedBytes(int warps) { return kTotals + (kAddsBlocks ? 1 : 2) * TotalsBytes(warps); }
  static int64_t Groups(const PackedWideArgs& a) { return (a.tokens + kWideTokens - 1) / kWideTokens; }
  static int64_t Blocks(const PackedWideArgs& a) {
    return (a.strip_end - a.strip_begin + a.warps - 1) / a.warps * Groups(a);
  }

  // Pairs 4 v .. 4 v + 3 that the i-th piece of a step has. With fewer than 8 bits a line holds those of v and of v
  // + 4.
  QAMSERVE_HOST_DEVICE static constexpr int PieceGroup(int i) { return Lane::kBaseLines == 8 ? i : i / 2 + i % 2 * 4; }
  QAMSERVE_HOST_DEVICE static constexpr bool BeginsLine(int i) { return Lane::kBaseLines == 8 || i % 2 == 0; }

  struct State {
    float c[kColumnTiles][2][4];
    uint32_t halves[kLaneRows][kGroupPairs];
    Lane view;
    uint32_t next_base[kRows];  // of the line that comes next
    uint32_t next_extra[Lane::kExtra > 0 ? Lane::kExtra : 1][kRows];
    TwoWords b;
  };

  // What a block of threads works on.
  struct Place {
    const PackedWideArgs& a;
    unsigned char* const shared;
    const int threads;
    const int64_t tiles, steps, group, first_strip;

    QAMSERVE_HOST_DEVICE Place(const PackedWideArgs& args, int64_t block, unsigned char* memory)
        : a(args),
          shared(memory),
          threads(32 * args.warps),
          tiles(TilesAcross(args.w.cols)),
          steps((tiles + kStepTiles - 1) / kStepTiles),
          group(block % ((args.tokens + kWideTokens - 1) / kWideTokens)),
          first_strip(args.strip_begin + block / ((args.tokens + kWideTokens - 1) / kWideTokens) * args.warps) {}

    QAMSERVE_HOST_DEVICE int64_t pieces() const { return steps * kPairGroups; }
    // Warps beyond the last strip do it again and keep the result to themselves.
    QAMSERVE_HOST_DEVICE int64_t StripOf(int thread) const { return first_strip + thread / 32; }
    // The words of a line that a lane wants of its tile; past the last tile it is that one again, with activations of
    // 0.
    QAMSERVE_HOST_DEVICE void LoadLine(int thread, int64_t step, int line, uint32_t (&rows)[kRows]) const {
      const int g = thread % 32 / 4, t = thread % 4;
      const int64_t strip = StripOf(thread) < a.strip_end ? StripOf(thread) : a.strip_end - 1;
      const int64_t tile = step * kStepTiles + t < tiles ? step * kStepTiles + t : tiles - 1;
      const uint8_t* from =
          a.w.codes + strip * StripBytes(a.w.cols, kBits) + tile * TileBytes(kBits) + kTileLine * line;
      const FourWords own = Read(from + 16 * g);
      QAMSERVE_UNROLL
      for (int i = 0; i < kLaneRows; ++i) rows[Lane::kBack + i] = own.of[i];
      if constexpr (Lane::kBack > 0) {  // rows above are another lane's, around the strip
        const FourWords above = Read(from + 16 * ((g + 7) & 7));
        QAMSERVE_UNROLL
        for (int i = 0; i < Lane::kBack; ++i) rows[i] = above.of[kLaneRows - Lane::kBack + i];
      }
    }
    QAMSERVE_HOST_DEVICE static FourWords Read(const uint8_t* from) {
      return *reinterpret_cast<const FourWords*>(from);
    }
    // Begins to copy a piece into its place in the ring.
    QAMSERVE_HOST_DEVICE void CopyPiece(int thread, int64_t piece) const {
      if (piece < pieces()) {
        const int64_t step = piece / kPairGroups, v = PieceGroup(static_cast<int>(piece % kPairGroups));
        const unsigned char* from =
            a.fragments + (group * steps + step) * FragmentStepBytes(kWideTokens) + v * kPieceBytes;
        unsigned char* to = shared + kRing + piece % kPieces * kPieceBytes;
        for (int64_t at = 16 * thread; at < kPieceBytes; at += 16 * threads) CopyAsync(to + at, from + at);
      }
      EndCopies();
    }
    QAMSERVE_HOST_DEVICE TwoWords Activations(int thread, int64_t piece, int k, int n) const {
      const auto* b = reinterpret_cast<const TwoWords*>(shared + kRing + piece % kPieces * kPieceBytes);
      return b[(k * kColumns + 8 * n + thread % 32 / 4) * kStepTiles + thread % 4];
    }
    template <typename Four>
    QAMSERVE_HOST_DEVICE Four& Kept(int64_t offset, int thread, int n) const {
      return reinterpret_cast<Four*>(shared + offset)[n * threads + thread];
    }
    QAMSERVE_HOST_DEVICE FourFloats& Total(int thread, int n) const { return Kept<FourFloats>(kTotals, thread, n); }
    // The sums of the first step of a block.
    QAMSERVE_HOST_DEVICE FourInts& FirstStep(int thread, int n) const {
      return Kept<FourInts>(kTotals + 16 * int64_t{kColumnTiles} * threads, thread, n);
    }
  };

  // After a step: sums of rows 4 g .. 4 g + 3 and token 4 n + t, for all n.
  QAMSERVE_HOST_DEVICE static void AddStep(const Place& p, int thread, int64_t step, State& s) {
    const bool ends_block = step % 2 == 1 || step + 1 == p.steps;
    if (kAddsBlocks && !ends_block) return;
    QAMSERVE_UNROLL
    for (int n = 0; n < kColumnTiles; ++n) {
      FourInts sums;
      QAMSERVE_UNROLL
      for (int i = 0; i < kLaneRows; ++i) {
        float(&c)[4] = s.c[n][i / 2];
        sums.of[i] = StepSum(c[2 * (i % 2)], c[2 * (i % 2) + 1]);
        c[2 * (i % 2)] = c[2 * (i % 2) + 1] = 0;
      }
      if constexpr (!kAddsBlocks) {
        if (!ends_block) {
          p.FirstStep(thread, n) = sums;
          continue;
        }
        if (step % 2 == 1) {
          const FourInts first = p.FirstStep(thread, n);
          for (int i = 0; i < kLaneRows; ++i) sums.of[i] += first.of[i];
        }
      }
      FourFloats total = p.Total(thread, n);
      for (int i = 0; i < kLaneRows; ++i) total.of[i] += static_cast<float>(sums.of[i]);
      p.Total(thread, n) = total;
    }
  }

  QAMSERVE_HOST_DEVICE static void StoreTotals(const Place& p, int thread) {
    const PackedWideArgs& a = p.a;
    const int64_t strip = p.StripOf(thread), row = strip * kTileRows + kLaneRows * (thread % 32 / 4);
    if (strip >= a.strip_end) return;
    for (int n = 0; n < kColumnTiles; ++n) {
      const int64_t token = p.group * kWideTokens + 4 * n + thread % 4;
      if (token >= a.tokens) return;
      const FourFloats total = p.Total(thread, n);
      float* y = a.y + token * a.y_stride + row;
      for (int i = 0; i < kLaneRows; ++i) {
        if (row + i < a.w.rows) y[i] = total.of[i] * (a.w.row_scale[row + i] * a.scale[token]);
      }
    }
  }

  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void MultiplyPiece(const Place& p, int64_t piece,
                                                 typename Threads::template Own<State>& own, const Threads& threads) {
    QAMSERVE_UNROLL
    for (int k = 0; k < 2; ++k) {
      QAMSERVE_UNROLL
      for (int n = 0; n < kColumnTiles; ++n) {
        threads.Alone([&](int thread) { own[thread].b = p.Activations(thread, piece, k, n); });
        QAMSERVE_UNROLL
        for (int h = 0; h < 2; ++h) {
          threads.Multiply([&](int thread, uint32_t(&a)[4], uint32_t(&b)[2]) {
            State& s = own[thread];
            for (int i = 0; i < 4; ++i) a[i] = s.halves[2 * h + i % 2][2 * k + i / 2];
            for (int i = 0; i < 2; ++i) b[i] = s.b.of[i];
            return &s.c[n][h];
          });
        }
      }
    }
  }

  template <typename Threads>
  QAMSERVE_HOST_DEVICE static void Run(const PackedWideArgs& a, int64_t block, unsigned char* shared,
                                       const Threads& threads) {
    const Place p(a, block, shared);
    typename Threads::template Own<State> own;
    threads.Alone([&](int thread) {
      for (int piece = 0; piece + 1 < kPieces; ++piece) p.CopyPiece(thread, piece);
      State& s = own[thread];
      p.LoadLine(thread, 0, 0, s.next_base);
      for (int e = 0; e < Lane::kExtra; ++e) p.LoadLine(thread, 0, Lane::kBaseLines + e, s.next_extra[e]);
      for (int n = 0; n < kColumnTiles; ++n) {
        p.Total(thread, n) = FourFloats{};
        for (int i = 0; i < 8; ++i) s.c[n][i / 4][i % 4] = 0;
      }
      FillTable<Decoder>(a.w.table, shared, thread, p.threads);
    });
    for (int64_t step = 0; step < p.steps; ++step) {
      QAMSERVE_UNROLL
      for (int i = 0; i < kPairGroups; ++i) {
        const int64_t piece = step * kPairGroups + i;
        // Its own copies of the piece are there; after the barrier everybody's are, and nobody reads the one before.
        threads([&](int) { WaitForCopies<kPieces - 2>(); });
        threads.Alone([&](int thread) {
          p.CopyPiece(thread, piece + kPieces - 1);
          State& s = own[thread];
          TakeLines(p, thread, step, i, s);
          Decoder::Decode(s.view, PieceGroup(i), 4u * static_cast<uint32_t>(thread % 32), p.shared, s.halves);
        });
        MultiplyPiece(p, piece, own, threads);
      }
      threads.Alone([&](int thread) { AddStep(p, thread, step, own[thread]); });
    }
    threads.Alone([&](int thread) { StoreTotals(p, thread); });
  }

  // The lines that piece i of a step begins with become those that are decoded, and the next ones are asked for.
  QAMSERVE_HOST_DEVICE static void TakeLines(const Place& p, int thread, int64_t step, int i, State& s) {
    const bool more = step + 1 < p.steps;
    if (i == 0) {
      QAMSERVE_UNROLL
      for (int e = 0; e < Lane::kExtra; ++e) {
        QAMSERVE_UNROLL
        for (int row = 0; row < kRows; ++row) s.view.extra[e][row] = s.next_extra[e][row];
        if (more) p.LoadLine(thread, step + 1, Lane::kBaseLines + e, s.next_extra[e]);
      }
    }
    if (!BeginsLine(i)) return;
    const int line = PieceGroup(i) % Lane::kBaseLines;
    QAMSERVE_UNROLL
    for (int row = 0; row < kRows; ++row) s.view.base[line][row] = s.next_base[row];
    if (line + 1 < Lane::kBaseLines) {
      p.LoadLine(thread, step, line + 1, s.next_base);
    } else if (more) {
      p.LoadLine(thread, step + 1, 0, s.next_base);
    }
  }
};

}  // namespace qamserve
