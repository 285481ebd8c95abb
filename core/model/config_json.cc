// config.json of a Hugging Face directory. A field that transformers leaves out when it has its default gets that
// default here; a field that changes the mathematics in a way this library does not compute is an error that names it.
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/format/json_text.h"
#include "core/model/config.h"
#include "core/model/config_check.h"

namespace qamserve {
namespace {

using Json = nlohmann::json;

// A value as a message shows it. Only the type of a list or an object, for dump() recurses as deep as the input nests.
std::string Show(const Json& value) {
  if (value.is_structured()) return fmt::format("an {}", value.type_name());
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

// A JSON object with the name that messages give it. An absent field and a null one are the same.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  const Json* Find(const char* name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool HasKey(const char* name) const { return object_.contains(name); }

  absl::StatusOr<int64_t> Int(const char* name, std::optional<int64_t> fallback) const {
    const Json* value = Find(name);
    if (value == nullptr) return Fallback(name, fallback);
    const bool fits =
        value->is_number_unsigned() ? value->get<uint64_t>() <= uint64_t{INT64_MAX} : value->is_number_integer();
    if (!fits) return WrongType(name, *value, "an integer");
    return value->get<int64_t>();
  }

  absl::StatusOr<double> Real(const char* name, std::optional<double> fallback) const {
    const Json* value = Find(name);
    if (value == nullptr) return Fallback(name, fallback);
    if (!value->is_number()) return WrongType(name, *value, "a number");
    return value->get<double>();
  }

  absl::StatusOr<bool> Bool(const char* name, std::optional<bool> fallback) const {
    const Json* value = Find(name);
    if (value == nullptr) return Fallback(name, fallback);
    if (!value->is_boolean()) return WrongType(name, *value, "true or false");
    return value->get<bool>();
  }

  absl::StatusOr<std::string> String(const char* name, std::optional<std::string> fallback) const {
    const Json* value = Find(name);
    if (value == nullptr) return Fallback(name, fallback);
    if (!value->is_string()) return WrongType(name, *value, "a string");
    return value->get<std::string>();
  }

  // `name` as an object, or nothing.
  absl::StatusOr<std::optional<Fields>> Object(const char* name) const {
    const Json* value = Find(name);
    if (value == nullptr) return std::optional<Fields>();
    if (!value->is_object()) return WrongType(name, *value, "an object");
    return std::optional<Fields>(Fields(*value, fmt::format("{}: {}", where_, name)));
  }

  absl::Status WrongType(const char* name, const Json& value, std::string_view expected) const {
    return InvalidArgument("CONFIG_FIELD", "{}: {} is {}; it must be {}", where_, name, Show(value), expected);
  }

 private:
  template <typename T>
  absl::StatusOr<T> Fallback(const char* name, std::optional<T>& fallback) const {
    if (fallback.has_value()) return *std::move(fallback);
    return InvalidArgument("CONFIG_FIELD", "{}: {} is missing", where_, name);
  }

  const Json& object_;
  std::string where_;
};

// What transformers' configuration class of an architecture takes for fields that are absent.
struct Defaults {
  std::optional<int64_t> vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim;
  std::optional<int64_t> context_length, sliding_window;
  double rope_theta = 10000;
  bool tie_embeddings = false;
};

Defaults DefaultsOf(Architecture architecture) {
  Defaults d;
  switch (architecture) {
    case Architecture::kLlama:
      d.context_length = 2048;
      break;
    case Architecture::kMistral:
      d.num_kv_heads = 8;
      d.context_length = 131072;
      d.sliding_window = 4096;
      break;
    case Architecture::kQwen2:
      d.num_kv_heads = 32;
      d.context_length = 32768;
      d.sliding_window = 4096;
      break;
    case Architecture::kQwen3:
      d.num_kv_heads = 32;
      d.head_dim = 128;
      d.context_length = 32768;
      d.sliding_window = 4096;
      break;
    case Architecture::kGemma3:
      // The text part of the multimodal checkpoints lists only what differs from these.
      d = {.vocab_size = 262208,
           .hidden_size = 2304,
           .intermediate_size = 9216,
           .num_layers = 26,
           .num_heads = 8,
           .num_kv_heads = 4,
           .head_dim = 256,
           .context_length = 131072,
           .sliding_window = 4096,
           .rope_theta = 1e6,
           .tie_embeddings = true};
      break;
  }
  return d;
}

absl::StatusOr<Architecture> ArchitectureOf(const Fields& fields) {
  std::string name;
  if (const Json* list = fields.Find("architectures"); list != nullptr) {
    if (!list->is_array() || list->empty() || !list->front().is_string()) {
      return fields.WrongType("architectures", *list, "a list of class names");
    }
    name = list->front().get<std::string>();
  } else {
    ASSIGN_OR_RETURN(name, fields.String("model_type", std::nullopt));
  }
  struct Known {
    const char* class_name;
    const char* model_type;
    Architecture architecture;
  };
  static constexpr Known kKnown[] = {
      {"LlamaForCausalLM", "llama", Architecture::kLlama},
      {"MistralForCausalLM", "mistral", Architecture::kMistral},
      {"Qwen2ForCausalLM", "qwen2", Architecture::kQwen2},
      {"Qwen3ForCausalLM", "qwen3", Architecture::kQwen3},
      {"Gemma3ForCausalLM", "gemma3_text", Architecture::kGemma3},
      {"Gemma3ForConditionalGeneration", "gemma3", Architecture::kGemma3},
  };
  for (const Known& known : kKnown) {
    if (name == known.class_name || name == known.model_type) return known.architecture;
  }
  return Unimplemented("ARCHITECTURE_UNSUPPORTED",
                       "{}: architecture \"{}\" is not supported; supported are LlamaForCausalLM, MistralForCausalLM, "
                       "Qwen2ForCausalLM, Qwen3ForCausalLM and Gemma3ForCausalLM",
                       fields.where(), name);
}

absl::Status NotComputed(const Fields& fields, std::string_view field, std::string_view value,
                         std::string_view supported) {
  return Unimplemented("ARCHITECTURE_UNSUPPORTED", "{}: {} {} is not supported; supported: {}", fields.where(), field,
                       value, supported);
}

absl::Status CheckActivation(const Fields& fields, bool gemma) {
  const char* field = gemma && fields.Find("hidden_activation") != nullptr ? "hidden_activation" : "hidden_act";
  const std::string expected = gemma ? "gelu_pytorch_tanh" : "silu";
  ASSIGN_OR_RETURN(const std::string name, fields.String(field, expected));
  if (name == expected || (!gemma && name == "swish")) return absl::OkStatus();
  return NotComputed(fields, field, fmt::format("\"{}\"", name), fmt::format("\"{}\"", expected));
}

absl::Status CheckFeatures(const Fields& fields, Architecture architecture) {
  RETURN_IF_ERROR(CheckActivation(fields, architecture == Architecture::kGemma3));
  for (const char* field : {"attention_bias", "mlp_bias", "use_bidirectional_attention"}) {
    ASSIGN_OR_RETURN(const bool set, fields.Bool(field, false));
    // Qwen 2 has biases on q, k and v whatever this field says.
    if (set && architecture != Architecture::kQwen2) return NotComputed(fields, field, "true", "false");
  }
  for (const char* field : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    if (const Json* value = fields.Find(field); value != nullptr) {
      return NotComputed(fields, field, Show(*value), "null");
    }
  }
  ASSIGN_OR_RETURN(const double rotary, fields.Real("partial_rotary_factor", 1.0));
  if (rotary != 1) return NotComputed(fields, "partial_rotary_factor", fmt::format("{}", rotary), "1");
  ASSIGN_OR_RETURN(const auto quantization, fields.Object("quantization_config"));
  if (quantization.has_value()) {
    ASSIGN_OR_RETURN(const std::string method, quantization->String("quant_method", ""));
    if (method != "qamw") return NotComputed(*quantization, "quant_method", fmt::format("\"{}\"", method), "\"qamw\"");
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.vocab_size, fields.Int("vocab_size", defaults.vocab_size));
  ASSIGN_OR_RETURN(config.hidden_size, fields.Int("hidden_size", defaults.hidden_size));
  ASSIGN_OR_RETURN(config.intermediate_size, fields.Int("intermediate_size", defaults.intermediate_size));
  ASSIGN_OR_RETURN(config.num_layers, fields.Int("num_hidden_layers", defaults.num_layers));
  ASSIGN_OR_RETURN(config.num_heads, fields.Int("num_attention_heads", defaults.num_heads));
  ASSIGN_OR_RETURN(config.num_kv_heads,
                   fields.Int("num_key_value_heads", defaults.num_kv_heads.value_or(config.num_heads)));
  std::optional<int64_t> head_dim = defaults.head_dim;
  if (!head_dim.has_value() && fields.Find("head_dim") == nullptr) {
    if (config.num_heads < 1 || config.hidden_size % config.num_heads != 0) {
      return InvalidArgument(
          "CONFIG_FIELD", "{}: hidden_size {} is not a multiple of num_attention_heads {}, and head_dim is not given",
          fields.where(), config.hidden_size, config.num_heads);
    }
    head_dim = config.hidden_size / config.num_heads;
  }
  ASSIGN_OR_RETURN(config.head_dim, fields.Int("head_dim", head_dim));
  ASSIGN_OR_RETURN(config.context_length, fields.Int("max_position_embeddings", defaults.context_length));
  ASSIGN_OR_RETURN(config.rms_eps, fields.Real("rms_norm_eps", 1e-6));
  ASSIGN_OR_RETURN(config.tie_embeddings, fields.Bool("tie_word_embeddings", defaults.tie_embeddings));
  return absl::OkStatus();
}

absl::Status ReadRopeScaling(const Fields& fields, RopeScaling& scaling) {
  ASSIGN_OR_RETURN(const std::string older_name, fields.String("type", "default"));
  ASSIGN_OR_RETURN(const std::string type, fields.String("rope_type", older_name));
  if (type == "default") return absl::OkStatus();
  if (type != "linear" && type != "llama3") {
    return NotComputed(fields, "rope_type", fmt::format("\"{}\"", type), "\"default\", \"linear\", \"llama3\"");
  }
  ASSIGN_OR_RETURN(scaling.factor, fields.Real("factor", std::nullopt));
  scaling.kind = RopeScaling::Kind::kLinear;
  if (type == "linear") return absl::OkStatus();
  scaling.kind = RopeScaling::Kind::kLlama3;
  ASSIGN_OR_RETURN(scaling.low_freq_factor, fields.Real("low_freq_factor", std::nullopt));
  ASSIGN_OR_RETURN(scaling.high_freq_factor, fields.Real("high_freq_factor", std::nullopt));
  ASSIGN_OR_RETURN(scaling.original_context, fields.Int("original_max_position_embeddings", std::nullopt));
  return absl::OkStatus();
}

// transformers 5 keeps theta and scaling together in rope_parameters, for Gemma 3 one set for each kind of layer.
absl::Status ReadRopeParameters(const Fields& parameters, ModelConfig& config) {
  ASSIGN_OR_RETURN(const auto full, parameters.Object("full_attention"));
  ASSIGN_OR_RETURN(const auto sliding, parameters.Object("sliding_attention"));
  const Fields& global = full.has_value() ? *full : parameters;
  ASSIGN_OR_RETURN(config.rope_theta, global.Real("rope_theta", config.rope_theta));
  RETURN_IF_ERROR(ReadRopeScaling(global, config.rope_scaling));
  if (!sliding.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(config.rope_theta_local, sliding->Real("rope_theta", config.rope_theta_local));
  RopeScaling local;
  RETURN_IF_ERROR(ReadRopeScaling(*sliding, local));
  if (local.kind == RopeScaling::Kind::kNone) return absl::OkStatus();
  return NotComputed(*sliding, "rope_type", "with scaling", "\"default\"");
}

absl::Status ReadRope(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  ASSIGN_OR_RETURN(config.rope_theta, fields.Real("rope_theta", defaults.rope_theta));
  ASSIGN_OR_RETURN(config.rope_theta_local, fields.Real("rope_local_base_freq", 10000.0));
  ASSIGN_OR_RETURN(const auto scaling, fields.Object("rope_scaling"));
  if (scaling.has_value()) RETURN_IF_ERROR(ReadRopeScaling(*scaling, config.rope_scaling));
  ASSIGN_OR_RETURN(const auto parameters, fields.Object("rope_parameters"));
  if (parameters.has_value()) RETURN_IF_ERROR(ReadRopeParameters(*parameters, config));
  return absl::OkStatus();
}

absl::Status ReadLayerTypes(const Fields& fields, const Json& types, ModelConfig& config) {
  if (!types.is_array()) return fields.WrongType("layer_types", types, "a list");
  for (const Json& type : types) {
    if (type == "sliding_attention") {
      config.layer_slides.push_back(true);
    } else if (type == "full_attention") {
      config.layer_slides.push_back(false);
    } else {
      return NotComputed(fields, "layer_types entry", Show(type), "\"sliding_attention\", \"full_attention\"");
    }
  }
  return absl::OkStatus();
}

// Layers that slide where config.json has no layer_types, which transformers before 4.53 did not write.
absl::Status DeriveLayerTypes(const Fields& fields, ModelConfig& config) {
  const bool qwen = config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3;
  ASSIGN_OR_RETURN(const int64_t first_sliding, fields.Int("max_window_layers", 28));
  ASSIGN_OR_RETURN(const int64_t older_pattern, fields.Int("_sliding_window_pattern", 6));
  ASSIGN_OR_RETURN(const int64_t pattern, fields.Int("sliding_window_pattern", older_pattern));
  if (pattern < 1 || pattern > kMaxLayers) {
    return InvalidArgument("CONFIG_FIELD", "{}: sliding_window_pattern is {}; allowed are 1 to {}", fields.where(),
                           pattern, kMaxLayers);
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    bool slides = config.sliding_window > 0;
    if (qwen) slides = slides && layer >= first_sliding;
    if (config.architecture == Architecture::kGemma3) slides = slides && (layer + 1) % pattern != 0;
    config.layer_slides.push_back(slides);
  }
  return absl::OkStatus();
}

absl::Status ReadSliding(const Fields& fields, const Defaults& defaults, ModelConfig& config) {
  // Bounded before the loops over layers; CheckModelConfig runs when all is read.
  if (config.num_layers < 1 || config.num_layers > kMaxLayers) {
    return InvalidArgument("CONFIG_FIELD", "{}: num_hidden_layers is {}; allowed are 1 to {}", fields.where(),
                           config.num_layers, kMaxLayers);
  }
  const bool qwen = config.architecture == Architecture::kQwen2 || config.architecture == Architecture::kQwen3;
  ASSIGN_OR_RETURN(const bool qwen_slides, fields.Bool("use_sliding_window", false));
  const bool used = !qwen || qwen_slides;
  if (config.architecture != Architecture::kLlama && used) {
    // null says none; only an absent key means the default.
    const std::optional<int64_t> fallback = fields.HasKey("sliding_window") ? 0 : defaults.sliding_window;
    ASSIGN_OR_RETURN(config.sliding_window, fields.Int("sliding_window", fallback));
    if (fields.Find("sliding_window") != nullptr && config.sliding_window < 1) {
      return InvalidArgument("CONFIG_FIELD", "{}: sliding_window is {}; allowed are null and 1 to {}", fields.where(),
                             config.sliding_window, kMaxContext);
    }
  }
  const Json* types = fields.Find("layer_types");
  if (types != nullptr && config.architecture != Architecture::kLlama) return ReadLayerTypes(fields, *types, config);
  return DeriveLayerTypes(fields, config);
}

absl::StatusOr<ModelConfig> ReadFields(const Fields& fields, Architecture architecture) {
  ModelConfig config;
  config.architecture = architecture;
  const Defaults defaults = DefaultsOf(architecture);
  RETURN_IF_ERROR(CheckFeatures(fields, architecture));
  RETURN_IF_ERROR(ReadSizes(fields, defaults, config));
  RETURN_IF_ERROR(ReadRope(fields, defaults, config));
  RETURN_IF_ERROR(ReadSliding(fields, defaults, config));
  double scalar = static_cast<double>(config.head_dim);
  if (architecture == Architecture::kGemma3) {
    ASSIGN_OR_RETURN(scalar, fields.Real("query_pre_attn_scalar", 256.0));
  }
  config.attention_scale = 1 / std::sqrt(scalar);
  config.stored_norms_less_one = architecture == Architecture::kGemma3;
  SetArchitectureTraits(config);
  RETURN_IF_ERROR(CheckModelConfig(config, fields.where()));
  return config;
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfigFromJson(std::string_view json, std::string_view origin) {
  const Json parsed = ParseJson(json);
  if (!parsed.is_object()) {
    return InvalidArgument("CONFIG_FIELD", "{}: config.json is not a JSON object, or nests deeper than {} levels",
                           origin, kMaxJsonDepth);
  }
  const Fields fields(parsed, fmt::format("{}: config.json", origin));
  ASSIGN_OR_RETURN(const Architecture architecture, ArchitectureOf(fields));
  ASSIGN_OR_RETURN(const auto text_config, fields.Object("text_config"));
  if (architecture == Architecture::kGemma3 && text_config.has_value()) return ReadFields(*text_config, architecture);
  return ReadFields(fields, architecture);
}

}  // namespace qamserve
