// Attention over blocks of a pool, for host and device (block.h): heads are finished and put into the cache, then tiles
// of queries (AttentionTile) go through their keys in three operations: scores, softmax, values.
//
// The bits are those of core/model/attention.h, so that a sequence says the same however its prompt was cut, on
// whatever device: a score's sum runs in lanes of the element, the softmax's and the values' sums in lanes of the key's
// position, in ascending order. What would be one chain for a long sequence is thus 8 for each element and query, and
// no more: at batch 1 that leaves an H200 partly idle. Scores lie in memory in between, 4 bytes a query and key. Not
// measured yet.
#pragma once

#include <cstdint>

#include "core/kernels/cuda/forward/args.h"
#include "core/kernels/cuda/forward/block.h"
#include "core/kernels/cuda/forward/float_math.h"
#include "core/kernels/cuda/forward/row_blocks.h"

namespace qamserve {

// A tile of one KV head in one block of tokens.
struct KvTile {
  QAMSERVE_HOST_DEVICE KvTile(const KvView& kv, int32_t block, int32_t kv_head)
      : tokens(kv.block_tokens), head_dim(kv.head_dim), int8(kv.int8) {
    const int64_t elements = int64_t{tokens} * head_dim;
    uint8_t* tile = kv.data + block * kv.block_bytes + kv_head * kv.tile_bytes;
    keys = tile;
    values = tile + elements * (int8 ? 1 : 4);
    key_scales = reinterpret_cast<float*>(tile + 2 * elements);  // 8-bit tiles only
    value_scales = key_scales + tokens;
  }
  QAMSERVE_HOST_DEVICE int64_t KeyAt(int token, int i) const {
    return (int64_t{i / kLanes} * tokens + token) * kLanes + i % kLanes;
  }
  QAMSERVE_HOST_DEVICE int64_t ValueAt(int token, int i) const { return int64_t{token} * head_dim + i; }
  QAMSERVE_HOST_DEVICE float Key(int token, int i) const {
    if (!int8) return reinterpret_cast<const float*>(keys)[KeyAt(token, i)];
    return static_cast<float>(reinterpret_cast<const int8_t*>(keys)[KeyAt(token, i)]) * key_scales[token];
  }
  QAMSERVE_HOST_DEVICE float Value(int token, int i) const {
    if (!int8) return reinterpret_cast<const float*>(values)[ValueAt(token, i)];
    return static_cast<float>(reinterpret_cast<const int8_t*>(values)[ValueAt(token, i)]) * value_scales[token];
  }

  int tokens;
  int head_dim;
  bool int8;
  uint8_t* keys;
  uint8_t* values;
  float* key_scales;
  float* value_scales;
};

// A block of threads for each head of q and each KV head of a row.
struct HeadsBlock {
  using Args = HeadsArgs;
  static constexpr int kThreads = 128;
  static int64_t Blocks(const Args& a) { return a.rows * (a.heads + a.kv_heads); }
  static int64_t SharedBytes(const Args& a) { return Shared(nullptr, a.kv.head_dim).bytes; }

  struct Shared {
    float* head;     // [head_dim], before rotation
    float* rotated;  // [head_dim]
    float* lanes;
    float* partial;
    float* groups;
    int64_t bytes;
    QAMSERVE_HOST_DEVICE Shared(unsigned char* shared, int64_t d) {
      SharedLayout layout;
      const auto floats = [&](int64_t count) {
        const int64_t at = layout.Add<float>(count);
        return shared == nullptr ? nullptr : reinterpret_cast<float*>(shared + at);
      };
      head = floats(d);
      rotated = floats(d);
      lanes = floats(kLanes);
      partial = floats(kThreads);
      groups = floats(32);
      bytes = layout.bytes();
    }
  };

  // s.rotated <- the head, normed and rotated.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Finish(const Args& a, int64_t row, const float* from, const float* norm,
                                          const Shared& s, const Each& each) {
    const int d = a.kv.head_dim, half = d / 2;
    each([&](int thread) {
      for (int i = thread; i < d; i += kThreads) s.head[i] = from[i];
    });
    if (norm != nullptr) {
      SumOfSquares(s.head, d, s.lanes, each);
      each([&](int thread) {
        const float factor = NormFactor(s.lanes, d, a.eps);
        for (int i = thread; i < d; i += kThreads) s.head[i] = s.head[i] * factor * norm[i];
      });
    }
    each([&](int thread) {
      for (int i = thread; i < half; i += kThreads) {
        const float x = s.head[i], y = s.head[i + half];
        const int64_t angle = int64_t{a.positions[row]} * half + i;
        const float cosine = a.cosines[angle], sine = a.sines[angle];
        s.rotated[i] = x * cosine - y * sine;
        s.rotated[i + half] = y * cosine + x * sine;
      }
    });
  }

  // Integers of one token's head at place(i) of `to`, and their scale.
  template <typename Place, typename Each>
  QAMSERVE_HOST_DEVICE static void PutBytes(const float* from, int d, int8_t* to, float* to_scale, const Place& place,
                                            const Shared& s, const Each& each) {
    each([&](int thread) {
      float most = 0;
      for (int i = thread; i < d; i += kThreads) most = Magnitude(from[i]) > most ? Magnitude(from[i]) : most;
      s.partial[thread] = most;
    });
    GroupMaxima<kThreads>(s.partial, s.groups, each);
    each([&](int thread) {
      const float largest = LargestOf(s.groups);
      float scale = 0;
      for (int i = thread; i < d; i += kThreads) {
        scale = QuantizeShare<kMaxActivation8, 1>(0, from + i, 1, 1, largest, to + place(i));
      }
      if (thread == 0) *to_scale = scale;
    });
  }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const Shared s(shared, a.kv.head_dim);
    const int d = a.kv.head_dim;
    const int64_t row = block / (a.heads + a.kv_heads);
    const int head = static_cast<int>(block % (a.heads + a.kv_heads));
    if (head < a.heads) {
      float* q = a.q + (row * a.heads + head) * d;
      Finish(a, row, q, a.q_norm, s, each);
      each([&](int thread) {
        for (int i = thread; i < d; i += kThreads) q[i] = s.rotated[i];
      });
      return;
    }
    const int kv_head = head - a.heads;
    const int64_t from = (row * a.kv_heads + kv_head) * d;
    Finish(a, row, a.k + from, a.k_norm, s, each);
    const int position = a.positions[row], token = position % a.kv.block_tokens;
    const KvTile tile(a.kv, a.blocks[a.tables[row] + position / a.kv.block_tokens], kv_head);
    const float* value = a.v + from;
    if (a.kv.int8) {
      PutBytes(
          s.rotated, d, reinterpret_cast<int8_t*>(tile.keys), tile.key_scales + token,
          [&](int i) { return tile.KeyAt(token, i); }, s, each);
      PutBytes(
          value, d, reinterpret_cast<int8_t*>(tile.values), tile.value_scales + token,
          [&](int i) { return tile.ValueAt(token, i); }, s, each);
      return;
    }
    each([&](int thread) {
      for (int i = thread; i < d; i += kThreads) {
        reinterpret_cast<float*>(tile.keys)[tile.KeyAt(token, i)] = s.rotated[i];
        reinterpret_cast<float*>(tile.values)[tile.ValueAt(token, i)] = value[i];
      }
    });
  }
};

// The head of a tile's queries that lies first among those of a KV head.
QAMSERVE_HOST_DEVICE inline int KvHeadOf(const AttendArgs& a, const AttentionTile& tile) {
  return tile.head / (a.heads / a.kv_heads);
}
// Where query i of a tile has its row of q and of the result.
QAMSERVE_HOST_DEVICE inline int64_t QueryAt(const AttendArgs& a, const AttentionTile& tile, int i) {
  return (int64_t{tile.row + i / tile.heads} * a.heads + tile.head + i % tile.heads) * a.kv.head_dim;
}

// Scaled scores of 32 keys, 8 lanes each; -infinity for keys that a query does not see.
struct ScoresBlock {
  using Args = AttendArgs;
  static constexpr int kKeys = 32;
  static constexpr int kThreads = kKeys * kLanes;
  static constexpr float kHidden = -INFINITY;
  static QAMSERVE_HOST_DEVICE int64_t KeyTiles(const Args& a) { return (a.most_keys + kKeys - 1) / kKeys; }
  static int64_t Blocks(const Args& a) { return a.tile_count * KeyTiles(a); }
  static int64_t SharedBytes(const Args& a) {
    SharedLayout layout;
    layout.Add<float>(kTileQueries * a.kv.head_dim);
    layout.Add<float>(kTileQueries * kThreads);
    return layout.bytes();
  }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const AttentionTile tile = a.tiles[block / KeyTiles(a)];
    const int first = static_cast<int>(block % KeyTiles(a)) * kKeys;
    if (first >= tile.keys) return;
    const int d = a.kv.head_dim, queries = tile.tokens * tile.heads, kv_head = KvHeadOf(a, tile);
    SharedLayout layout;
    auto* q = reinterpret_cast<float*>(shared + layout.Add<float>(kTileQueries * d));
    auto* sums = reinterpret_cast<float*>(shared + layout.Add<float>(kTileQueries * kThreads));
    each([&](int thread) {
      for (int i = thread; i < queries * d; i += kThreads) q[i] = a.q[QueryAt(a, tile, i / d) + i % d];
    });
    each([&](int thread) {
      const int key = tile.begin + first + thread / kLanes, lane = thread % kLanes;
      if (key >= tile.position + tile.tokens) return;
      const KvTile keys(a.kv, a.blocks[tile.table + key / a.kv.block_tokens], kv_head);
      const int token = key % a.kv.block_tokens;
      float sum[kTileQueries] = {};
      for (int i = lane; i < d; i += kLanes) {
        const float element = keys.Key(token, i);
        for (int n = 0; n < kTileQueries; ++n) {
          if (n < queries) sum[n] = FusedMultiplyAdd(element, q[n * d + i], sum[n]);
        }
      }
      for (int n = 0; n < kTileQueries; ++n) {
        if (n < queries) sums[n * kThreads + thread] = sum[n];
      }
    });
    each([&](int thread) {
      const int n = thread / kKeys, index = first + thread % kKeys;
      if (n >= queries || index >= tile.keys) return;
      const int key = tile.begin + index, position = tile.position + n / tile.heads;
      const bool seen = key <= position && (a.window == 0 || key > position - a.window);
      a.scores[tile.scores + int64_t{n} * tile.keys + index] =
          seen ? AddLanes(sums + n * kThreads + thread % kKeys * kLanes) * a.scale : kHidden;
    });
  }
};

// The softmax of one query's row of scores, in place.
struct SoftmaxBlock {
  using Args = AttendArgs;
  static constexpr int kThreads = 256;
  static constexpr int kPiece = 2048;
  static int64_t Blocks(const Args& a) { return a.tile_count * kTileQueries; }
  static int64_t SharedBytes(const Args&) { return (kPiece + kThreads + 32 + kLanes) * 4; }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const AttentionTile tile = a.tiles[block / kTileQueries];
    const int query = static_cast<int>(block % kTileQueries);
    if (query >= tile.tokens * tile.heads) return;
    float* const scores = a.scores + tile.scores + int64_t{query} * tile.keys;
    auto* const piece = reinterpret_cast<float*>(shared);
    float* const partial = piece + kPiece;
    float* const groups = partial + kThreads;
    float* const lanes = groups + 32;
    each([&](int thread) {
      float most = scores[thread % tile.keys];
      for (int i = thread; i < tile.keys; i += kThreads) most = scores[i] > most ? scores[i] : most;
      partial[thread] = most;
      if (thread < kLanes) lanes[thread] = 0;
    });
    GroupMaxima<kThreads>(partial, groups, each);
    for (int first = 0; first < tile.keys; first += kPiece) {
      const int count = tile.keys - first < kPiece ? tile.keys - first : kPiece;
      each([&](int thread) {
        const float top = LargestOf(groups);
        for (int i = thread; i < count; i += kThreads) {
          const float score = scores[first + i];
          piece[i] = score < -3e38f ? 0.0f : ExpNonPositive(score - top);
          scores[first + i] = piece[i];
        }
      });
      each([&](int thread) {
        if (thread >= kLanes) return;
        float sum = lanes[thread];
        for (int i = thread; i < count; i += kLanes) sum += piece[i];
        lanes[thread] = sum;
      });
    }
    each([&](int thread) {
      const float inverse = 1.0f / AddLanes(lanes);
      for (int i = thread; i < tile.keys; i += kThreads) scores[i] *= inverse;
    });
  }
};

// 32 elements of a tile's results. A warp of 32 threads takes the keys of one lane, whose values lie side by side.
struct ValuesBlock {
  using Args = AttendArgs;
  static constexpr int kElements = 32;
  static constexpr int kThreads = kElements * kLanes;
  static QAMSERVE_HOST_DEVICE int64_t Pieces(const Args& a) { return (a.kv.head_dim + kElements - 1) / kElements; }
  static int64_t Blocks(const Args& a) { return a.tile_count * Pieces(a); }
  static int64_t SharedBytes(const Args&) { return kTileQueries * kThreads * 4; }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const AttentionTile tile = a.tiles[block / Pieces(a)];
    const int first = static_cast<int>(block % Pieces(a)) * kElements;
    const int queries = tile.tokens * tile.heads, kv_head = KvHeadOf(a, tile);
    const int end = tile.position + tile.tokens;
    auto* const sums = reinterpret_cast<float*>(shared);  // [query][lane][element]
    each([&](int thread) {
      const int lane = thread / kElements, element = first + thread % kElements;
      if (element >= a.kv.head_dim) return;
      float sum[kTileQueries] = {};
      for (int at = tile.begin; at < end;) {  // blocks begin at multiples of 8, as tiles do
        const int block_end = (at / a.kv.block_tokens + 1) * a.kv.block_tokens;
        const int stop = block_end < end ? block_end : end;
        const KvTile values(a.kv, a.blocks[tile.table + at / a.kv.block_tokens], kv_head);
        for (int key = at + lane; key < stop; key += kLanes) {
          const float value = values.Value(key % a.kv.block_tokens, element);
          const float* weight = a.scores + tile.scores + (key - tile.begin);
          for (int n = 0; n < kTileQueries; ++n) {
            if (n < queries) sum[n] = FusedMultiplyAdd(value, weight[int64_t{n} * tile.keys], sum[n]);
          }
        }
        at = block_end;
      }
      for (int n = 0; n < kTileQueries; ++n) {
        if (n < queries) sums[n * kThreads + thread] = sum[n];
      }
    });
    each([&](int thread) {
      const int n = thread / kElements, element = first + thread % kElements;
      if (n >= queries || element >= a.kv.head_dim) return;
      a.out[QueryAt(a, tile, n) + element] = AddLanes(sums + n * kThreads + thread % kElements, kElements);
    });
  }
};

}  // namespace qamserve
