// One transformer block on a batch, and what all blocks share. Used by Model, which holds all layers, and by
// StreamForward, which holds one at a time.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/kernels/kernels.h"
#include "core/model/config.h"
#include "core/model/kv_cache.h"
#include "core/model/linear.h"

namespace qamserve {

// Norm weights are whole (see ModelConfig::stored_norms_less_one); [hidden_size] unless said.
struct LayerWeights {
  std::vector<float> attention_norm;      // before attention
  std::vector<float> attention_out_norm;  // after it, before the residual sum; sandwich_norms only
  std::vector<float> mlp_norm;            // before the MLP
  std::vector<float> mlp_out_norm;        // sandwich_norms only
  std::vector<float> q_norm, k_norm;      // [head_dim]; qk_norm only
  LinearGroup qkv;                        // q, k, v
  LinearGroup o;
  LinearGroup gate_up;  // gate, up
  LinearGroup down;
};

// Rotation angles per position: frequency of each pair of a head, for global and for sliding layers.
struct RopeFrequencies {
  std::vector<double> global;  // [head_dim / 2], radians per token
  std::vector<double> local;
};
RopeFrequencies MakeRopeFrequencies(const ModelConfig& config);

// Where the angles of one position go: [head_dim / 2] each.
struct RopeRow {
  float* cosines;
  float* sines;
  float* local_cosines;
  float* local_sines;
};
void RopeAngles(const RopeFrequencies& frequencies, int64_t position, const RopeRow& row);

// Consecutive rows of a batch that belong to one sequence.
struct BatchSpan {
  int64_t first_row = 0;
  int64_t tokens = 0;
  int64_t position = 0;  // of the first token in its sequence
};

// Memory of a forward pass; grows to what is asked and is kept.
struct ForwardBuffers {
  std::vector<float> x;                           // [rows][hidden] residual stream
  std::vector<float> normed;                      // [rows][hidden]
  std::vector<float> q, k, v;                     // [rows][q_size], [rows][kv_size] x 2
  std::vector<float> attention;                   // [rows][q_size]
  std::vector<float> projected;                   // [rows][hidden]
  std::vector<float> gate, up;                    // [rows][intermediate]
  std::vector<float> cosines, sines;              // [rows][head_dim / 2] of global layers
  std::vector<float> local_cosines, local_sines;  // of sliding layers
  PackedActivations activations;
  void Reserve(const ModelConfig& config, int64_t rows);
};

// Sees the input of every linear group: [tokens][cols].
using InputObserver = absl::FunctionRef<void(const LinearGroup& group, const float* x, int64_t tokens)>;

struct ForwardContext {
  const ModelConfig& config;
  const Kernels& kernels;
  ThreadPool& pool;
  ForwardBuffers& buffers;
  const InputObserver* observer = nullptr;
};

// Fills the cosines and sines of all rows.
void PrepareRope(const RopeFrequencies& frequencies, std::span<const BatchSpan> spans, ForwardContext& context);

// context.buffers.x <- block(x) for `rows` rows. caches[i] belongs to spans[i] and has room for its tokens.
void RunLayer(const LayerWeights& weights, int64_t layer, std::span<const BatchSpan> spans,
              std::span<const LayerKv> caches, int64_t rows, ForwardContext& context);

}  // namespace qamserve
