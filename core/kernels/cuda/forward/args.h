// What the operations of a forward pass take (forward_device.h). All pointers are to memory of the device; rows of
// activations are floats and follow each other unless a stride is given.
#pragma once

#include <cstdint>

#include "core/kernels/kernels.h"
#include "core/kernels/sampling_row.h"

namespace qamserve {

// A Rotation (core/codec/rotation.h). Its entries are +1 or -1.
struct RotationView {
  static constexpr int kMaxFactors = 8;  // 2^20, the largest dimension, has fewer than 6 orders of at least 12
  int64_t n = 0;
  int64_t blocks = 1;
  float scale = 1;
  const float* signs = nullptr;  // [n]; null: the identity
  int factors = 0;
  int64_t order[kMaxFactors] = {};
  const float* entries[kMaxFactors] = {};  // [order][order]; null: Sylvester's matrix
};

// out[row] = scale * embedding[tokens[row]]. Either dense or, where int8.data is not null, in 8 bits and rotated.
struct EmbedArgs {
  const int32_t* tokens = nullptr;
  int64_t rows = 0;
  int64_t n = 0;
  DenseRows dense;
  Int8Matrix int8;
  RotationView rotation;
  float scale = 1;
  float* out = nullptr;
};

// out[i] = x[of[i]] * weight / sqrt(mean(x^2) + eps), or of row i where `of` is null. n is a multiple of 8.
struct NormArgs {
  const float* x = nullptr;
  const int32_t* of = nullptr;
  const float* weight = nullptr;
  float eps = 0;
  int64_t n = 0;
  int64_t rows = 0;
  float* out = nullptr;
};

// x[row] += y[row], after the norm of `weight` if that is not null.
struct ResidualArgs {
  float* x = nullptr;
  const float* y = nullptr;
  const float* weight = nullptr;
  float eps = 0;
  int64_t n = 0;
  int64_t rows = 0;
};

// y[row][i] += bias[i].
struct BiasArgs {
  float* y = nullptr;
  const float* bias = nullptr;
  int64_t n = 0;
  int64_t rows = 0;
};

// gate <- silu(gate) * up, or tanh-GELU(gate) * up.
struct GateArgs {
  float* gate = nullptr;
  const float* up = nullptr;
  bool gelu = false;
  int64_t n = 0;
  int64_t rows = 0;
};

// What a packed layer multiplies: x, normed or gated, times the inverse channel scale, rotated, as integers of 14 bits
// (q) or 8 (q8).
struct InputArgs {
  const float* x = nullptr;
  int64_t n = 0;
  int64_t rows = 0;
  const float* norm = nullptr;  // [n] weights; null: as it is
  float eps = 0;
  const float* up = nullptr;  // x is a gate; null: it is not
  bool gelu = false;
  const float* inverse_scale = nullptr;  // [n] or null
  RotationView rotation;
  int16_t* q = nullptr;  // [rows][padded], or null
  int8_t* q8 = nullptr;  // the other one
  int64_t padded = 0;
  float* scale = nullptr;  // [rows]
};

// Keys and values of one layer of all blocks of a pool. What a KvLayout says of sizes and places of blocks and tiles
// holds here too, but a tile has keys [head_dim / 8][block_tokens][8], then values [block_tokens][head_dim]: threads
// that follow each other score 8 lanes of neighbouring keys, and add values of neighbouring elements. 8-bit tiles have
// bytes in this order, then a float scale for each token's key and one for each token's value.
struct KvView {
  uint8_t* data = nullptr;  // of the layer in block 0
  int64_t block_bytes = 0;
  int64_t tile_bytes = 0;  // of a KV head
  int32_t block_tokens = 0;
  int32_t head_dim = 0;  // a multiple of 8
  bool int8 = false;
};

// Which blocks a row's sequence has: blocks[table[row]] onwards.
struct HeadsArgs {
  float* q = nullptr;        // [rows][heads][head_dim]; normed and rotated in place
  const float* k = nullptr;  // [rows][kv_heads][head_dim]; go to the cache, normed and rotated
  const float* v = nullptr;
  int64_t rows = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  const float* q_norm = nullptr;  // [head_dim] or null
  const float* k_norm = nullptr;
  float eps = 0;
  const float* cosines = nullptr;  // [positions][head_dim / 2]
  const float* sines = nullptr;
  const int32_t* positions = nullptr;  // [rows]
  const int32_t* tables = nullptr;     // [rows]
  const int32_t* blocks = nullptr;
  KvView kv;
};

// Queries that go through keys together: `tokens` consecutive rows of one sequence times `heads` heads that share a KV
// head. Query i is head i % heads of token i / heads.
inline constexpr int kTileQueries = 8;
struct AttentionTile {
  int64_t scores = 0;  // where its rows of scores begin: [tokens * heads][keys]
  int32_t row = 0;
  int32_t tokens = 0;
  int32_t head = 0;
  int32_t heads = 0;
  int32_t position = 0;  // of the first token
  int32_t begin = 0;     // the first key that some query sees, rounded down to 8
  int32_t keys = 0;      // from there to the last token, rounded up to 8
  int32_t table = 0;
};

// out[row][head] = softmax(scale q k') v over the keys at or before each query, at most `window` of them if window > 0.
struct AttendArgs {
  const float* q = nullptr;  // [rows][heads][head_dim]
  float* out = nullptr;
  const AttentionTile* tiles = nullptr;
  int64_t tile_count = 0;
  int32_t most_keys = 0;  // of any tile
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t window = 0;
  float scale = 0;
  const int32_t* blocks = nullptr;
  KvView kv;
  float* scores = nullptr;
};

// results[i] <- what rows[i] says is chosen from its row of logits, which are adjusted and masked in place. No two of
// the rows are of the same one.
struct SampleArgs {
  float* logits = nullptr;  // [.][vocab]
  int64_t vocab = 0;
  const SampleRow* rows = nullptr;  // whose pointers are to memory of the device
  SampleResult* results = nullptr;
  int64_t count = 0;
};

}  // namespace qamserve
