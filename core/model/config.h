// The shape of a transformer, read once from config.json or GGUF metadata and trusted afterwards.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/gguf.h"

namespace qamserve {

enum class Architecture { kLlama, kMistral, kQwen2, kQwen3, kGemma3 };
const char* ArchitectureName(Architecture architecture);  // "llama", ...

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 } kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1;    // llama3
  double high_freq_factor = 4;   // llama3
  int64_t original_context = 0;  // llama3, tokens
};

struct ModelConfig {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t context_length = 0;  // tokens
  double rms_eps = 1e-5;
  double rope_theta = 10000;
  double rope_theta_local = 10000;  // sliding layers of Gemma 3
  RopeScaling rope_scaling;         // global layers only
  int64_t sliding_window = 0;       // tokens; 0 = none
  std::vector<bool> layer_slides;   // per layer: attends to the last sliding_window tokens only
  bool tie_embeddings = false;
  bool attention_bias = false;  // on q, k, v (Qwen 2)
  bool qk_norm = false;         // RMSNorm on each head of q and k (Qwen 3, Gemma 3)
  bool sandwich_norms = false;  // also after attention and after the MLP (Gemma 3)
  bool gelu = false;            // tanh GELU in the MLP instead of SiLU (Gemma 3)
  double embedding_scale = 1;   // sqrt(hidden_size) for Gemma 3
  double attention_scale = 0;   // multiplies q k'
  // Hugging Face stores Gemma's norm weights less one. GGUF and our own loader hold them whole.
  bool stored_norms_less_one = false;

  int64_t q_size() const { return num_heads * head_dim; }
  int64_t kv_size() const { return num_kv_heads * head_dim; }
};

// From the text of config.json. UNIMPLEMENTED (ARCHITECTURE_UNSUPPORTED) names an unknown architecture, activation or
// rope type; INVALID_ARGUMENT (CONFIG_FIELD) names a field that is missing or out of its limits.
absl::StatusOr<ModelConfig> ModelConfigFromJson(std::string_view json, std::string_view origin);
absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufReader& gguf);
// The Hugging Face config.json of `config`, for a checkpoint that came as GGUF.
std::string ModelConfigToJson(const ModelConfig& config);

}  // namespace qamserve
