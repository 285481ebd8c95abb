// From tensors to the weights that a forward pass uses.
#pragma once

#include <absl/functional/function_ref.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/model/checkpoint.h"
#include "core/model/forward.h"

namespace qamserve {

// The linear layers of a block by input group, without ".weight" (self_attn.qkv: q_proj, k_proj, v_proj; ...).
struct GroupNames {
  std::string name;                 // "model.layers.3.self_attn.qkv"
  std::vector<std::string> layers;  // "model.layers.3.self_attn.q_proj", ...
};
std::array<GroupNames, 4> LinearGroupNames(int64_t layer);
// The group of "model.layers.3.self_attn.q_proj", or "" for what is not a linear layer.
std::string InputGroupOf(std::string_view layer);

// The type of a loaded matrix: its stored one where that has 16 bits, else float. Exact either way.
DenseType DenseTypeOf(DType stored);
// Bytes of a matrix in that type.
int64_t DenseBytes(const TensorInfo& info);
// Gives `take` the whole matrix in that type, some rows at a time in order. The errors of ReadRows and of `take`.
absl::Status ReadDense(const Checkpoint& checkpoint, std::string_view name,
                       absl::FunctionRef<absl::Status(std::span<const std::byte>)> take);
absl::StatusOr<Linear> LoadDense(const Checkpoint& checkpoint, std::string_view name);
// The input embedding, if they are tied, or the output head.
const char* HeadName(const ModelConfig& config);

// One block of an unquantized checkpoint; matrices by `load` ("model.layers.0.mlp.up_proj.weight"), else by LoadDense.
using LoadMatrix = absl::FunctionRef<absl::StatusOr<Linear>(const std::string& name)>;
absl::StatusOr<LayerWeights> LoadDenseLayer(const Checkpoint& checkpoint, int64_t layer, LoadMatrix load);
absl::StatusOr<LayerWeights> LoadDenseLayer(const Checkpoint& checkpoint, int64_t layer);

// Loads the norms of a block through `load` (name -> vector), for checkpoints and artifacts alike.
template <typename Load>
absl::Status LoadNorms(const ModelConfig& config, int64_t layer, Load load, LayerWeights& out) {
  const std::string prefix = fmt::format("model.layers.{}.", layer);
  struct Wanted {
    bool present;
    const char* name;
    std::vector<float>* target;
  };
  const bool sandwich = config.sandwich_norms;
  const Wanted wanted[] = {
      {true, "input_layernorm.weight", &out.attention_norm},
      {true, "post_attention_layernorm.weight", sandwich ? &out.attention_out_norm : &out.mlp_norm},
      {sandwich, "pre_feedforward_layernorm.weight", &out.mlp_norm},
      {sandwich, "post_feedforward_layernorm.weight", &out.mlp_out_norm},
      {config.qk_norm, "self_attn.q_norm.weight", &out.q_norm},
      {config.qk_norm, "self_attn.k_norm.weight", &out.k_norm},
  };
  for (const Wanted& w : wanted) {
    if (!w.present) continue;
    ASSIGN_OR_RETURN(*w.target, load(prefix + w.name));
  }
  return absl::OkStatus();
}

// The kernels need head_dim and hidden_size in whole vectors of 8: UNIMPLEMENTED (MODEL_DIMENSION) names what is not.
absl::Status CheckKernelDimensions(const ModelConfig& config, std::string_view origin);

}  // namespace qamserve
