#include "core/model/config.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/model/config_check.h"

namespace qamserve {
namespace {

absl::Status CheckInteger(std::string_view where, std::string_view field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("CONFIG_FIELD", "{}: {} is {}; allowed are {} to {}", where, field, value, low, high);
}

absl::Status CheckReal(std::string_view where, std::string_view field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();  // false for NaN
  return InvalidArgument("CONFIG_FIELD", "{}: {} is {}; allowed are {} to {}", where, field, value, low, high);
}

absl::Status CheckSizes(const ModelConfig& c, std::string_view where) {
  RETURN_IF_ERROR(CheckInteger(where, "vocab_size", c.vocab_size, 1, kMaxVocabSize));
  RETURN_IF_ERROR(CheckInteger(where, "hidden_size", c.hidden_size, 1, kMaxHiddenSize));
  RETURN_IF_ERROR(CheckInteger(where, "intermediate_size", c.intermediate_size, 1, kMaxIntermediateSize));
  RETURN_IF_ERROR(CheckInteger(where, "num_hidden_layers", c.num_layers, 1, kMaxLayers));
  RETURN_IF_ERROR(CheckInteger(where, "num_attention_heads", c.num_heads, 1, kMaxHeads));
  RETURN_IF_ERROR(CheckInteger(where, "num_key_value_heads", c.num_kv_heads, 1, c.num_heads));
  RETURN_IF_ERROR(CheckInteger(where, "head_dim", c.head_dim, 2, kMaxHeadDim));
  RETURN_IF_ERROR(CheckInteger(where, "max_position_embeddings", c.context_length, 1, kMaxContext));
  if (c.num_heads % c.num_kv_heads != 0) {
    return InvalidArgument("CONFIG_FIELD", "{}: num_attention_heads {} is not a multiple of num_key_value_heads {}",
                           where, c.num_heads, c.num_kv_heads);
  }
  if (c.head_dim % 2 != 0) {
    return InvalidArgument("CONFIG_FIELD", "{}: head_dim is {}; rotary embedding needs an even number", where,
                           c.head_dim);
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const ModelConfig& c, std::string_view where) {
  RETURN_IF_ERROR(CheckReal(where, "rope_theta", c.rope_theta, 1, 1e15));
  RETURN_IF_ERROR(CheckReal(where, "rope_local_base_freq", c.rope_theta_local, 1, 1e15));
  const RopeScaling& scaling = c.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kNone) return absl::OkStatus();
  RETURN_IF_ERROR(CheckReal(where, "rope_scaling.factor", scaling.factor, 1, 1e6));
  if (scaling.kind == RopeScaling::Kind::kLinear) return absl::OkStatus();
  RETURN_IF_ERROR(CheckReal(where, "rope_scaling.low_freq_factor", scaling.low_freq_factor, 1e-3, 1e6));
  RETURN_IF_ERROR(CheckReal(where, "rope_scaling.high_freq_factor", scaling.high_freq_factor, 1e-3, 1e6));
  if (scaling.high_freq_factor <= scaling.low_freq_factor) {
    return InvalidArgument("CONFIG_FIELD", "{}: rope_scaling.high_freq_factor {} must be above low_freq_factor {}",
                           where, scaling.high_freq_factor, scaling.low_freq_factor);
  }
  return CheckInteger(where, "rope_scaling.original_max_position_embeddings", scaling.original_context, 1, kMaxContext);
}

absl::Status CheckSliding(const ModelConfig& c, std::string_view where) {
  if (static_cast<int64_t>(c.layer_slides.size()) != c.num_layers) {
    return InvalidArgument("CONFIG_FIELD", "{}: layer_types has {} entries, num_hidden_layers is {}", where,
                           c.layer_slides.size(), c.num_layers);
  }
  RETURN_IF_ERROR(CheckInteger(where, "sliding_window", c.sliding_window, 0, kMaxContext));
  for (size_t layer = 0; layer < c.layer_slides.size(); ++layer) {
    if (c.layer_slides[layer] && c.sliding_window == 0) {
      return InvalidArgument("CONFIG_FIELD", "{}: layer {} slides, but sliding_window is not set", where, layer);
    }
  }
  return absl::OkStatus();
}

nlohmann::ordered_json RopeScalingToJson(const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
      break;
    case RopeScaling::Kind::kLinear:
      return {{"rope_type", "linear"}, {"factor", scaling.factor}};
    case RopeScaling::Kind::kLlama3:
      return {{"rope_type", "llama3"},
              {"factor", scaling.factor},
              {"low_freq_factor", scaling.low_freq_factor},
              {"high_freq_factor", scaling.high_freq_factor},
              {"original_max_position_embeddings", scaling.original_context}};
  }
  return nullptr;
}

const char* ArchitectureClass(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "LlamaForCausalLM";
    case Architecture::kMistral:
      return "MistralForCausalLM";
    case Architecture::kQwen2:
      return "Qwen2ForCausalLM";
    case Architecture::kQwen3:
      return "Qwen3ForCausalLM";
    case Architecture::kGemma3:
      return "Gemma3ForCausalLM";
  }
  return "";
}

void AddSlidingToJson(const ModelConfig& config, nlohmann::ordered_json& json) {
  bool any = false;
  auto types = nlohmann::ordered_json::array();
  for (const bool slides : config.layer_slides) {
    types.push_back(slides ? "sliding_attention" : "full_attention");
    any = any || slides;
  }
  json["sliding_window"] = config.sliding_window > 0 ? nlohmann::ordered_json(config.sliding_window) : nullptr;
  if (config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3) {
    json["use_sliding_window"] = any;
    json["layer_types"] = types;
  }
  if (config.architecture == Architecture::kGemma3) {
    json["layer_types"] = types;
  }
}

}  // namespace

const char* ArchitectureName(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return "llama";
    case Architecture::kMistral:
      return "mistral";
    case Architecture::kQwen2:
      return "qwen2";
    case Architecture::kQwen3:
      return "qwen3";
    case Architecture::kGemma3:
      return "gemma3";
  }
  return "";
}

void SetArchitectureTraits(ModelConfig& config) {
  const bool gemma = config.architecture == Architecture::kGemma3;
  config.attention_bias = config.architecture == Architecture::kQwen2;
  config.qk_norm = gemma || config.architecture == Architecture::kQwen3;
  config.sandwich_norms = gemma;
  config.gelu = gemma;
  config.embedding_scale = gemma ? std::sqrt(static_cast<double>(config.hidden_size)) : 1;
}

absl::Status CheckModelConfig(const ModelConfig& config, std::string_view where) {
  RETURN_IF_ERROR(CheckSizes(config, where));
  RETURN_IF_ERROR(CheckReal(where, "rms_norm_eps", config.rms_eps, 1e-30, 0.1));
  RETURN_IF_ERROR(CheckReal(where, "1 / sqrt(query_pre_attn_scalar)", config.attention_scale, 1e-6, 1e6));
  RETURN_IF_ERROR(CheckRope(config, where));
  return CheckSliding(config, where);
}

std::string ModelConfigToJson(const ModelConfig& config) {
  const bool gemma = config.architecture == Architecture::kGemma3;
  nlohmann::ordered_json json;
  json["architectures"] = {ArchitectureClass(config.architecture)};
  json["model_type"] = gemma ? "gemma3_text" : ArchitectureName(config.architecture);
  json["vocab_size"] = config.vocab_size;
  json["hidden_size"] = config.hidden_size;
  json["intermediate_size"] = config.intermediate_size;
  json["num_hidden_layers"] = config.num_layers;
  json["num_attention_heads"] = config.num_heads;
  json["num_key_value_heads"] = config.num_kv_heads;
  json["head_dim"] = config.head_dim;
  json["max_position_embeddings"] = config.context_length;
  json["rms_norm_eps"] = config.rms_eps;
  json["rope_theta"] = config.rope_theta;
  json["rope_scaling"] = RopeScalingToJson(config.rope_scaling);
  json[gemma ? "hidden_activation" : "hidden_act"] = gemma ? "gelu_pytorch_tanh" : "silu";
  json["tie_word_embeddings"] = config.tie_embeddings;
  if (gemma) {
    json["rope_local_base_freq"] = config.rope_theta_local;
    // The square of a rounded square root; the published values are whole numbers.
    const double scalar = 1 / (config.attention_scale * config.attention_scale);
    const double whole = std::round(scalar);
    json["query_pre_attn_scalar"] = std::abs(scalar - whole) < 1e-9 * scalar
                                        ? nlohmann::ordered_json(static_cast<int64_t>(whole))
                                        : nlohmann::ordered_json(scalar);
  }
  AddSlidingToJson(config, json);
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace qamserve
