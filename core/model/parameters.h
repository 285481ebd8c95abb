// Which tensors an architecture has: their Hugging Face names, shapes, and what GGUF calls them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/model/config.h"

namespace qamserve {

// Without ".weight".
inline constexpr char kInputEmbedding[] = "model.embed_tokens";
inline constexpr char kOutputHead[] = "lm_head";

struct ParameterSpec {
  std::string name;            // "model.layers.0.self_attn.q_proj.weight"
  std::vector<int64_t> shape;  // outermost first
  bool is_norm = false;
};

// Every tensor that a model of this config needs, sorted by name. With tied embeddings there is no lm_head.weight.
std::vector<ParameterSpec> ParametersOf(const ModelConfig& config);

// The Hugging Face name of a GGUF tensor ("blk.0.attn_q.weight"), or nothing if it has no counterpart.
std::optional<std::string> HuggingFaceName(Architecture architecture, std::string_view gguf_name);
// The inverse, for a name of ParametersOf.
std::string GgufName(Architecture architecture, std::string_view hugging_face_name);

}  // namespace qamserve
