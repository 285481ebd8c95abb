// The metadata of a GGUF file. Key names: ggml's docs/gguf.md; what a missing key means: llama.cpp's loader.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numbers>
#include <optional>

#include "core/format/gguf.h"
#include "core/model/config.h"
#include "core/model/config_check.h"

namespace qamserve {
namespace {

// GGUF holds 32-bit floats; 1e-6 comes back as 9.99999997e-07. The shortest decimal that rounds to the same float is
// what config.json had, and float arithmetic cannot tell them apart.
double ShortestDecimal(double value) {
  return std::strtod(fmt::format("{}", static_cast<float>(value)).c_str(), nullptr);
}

// The keys of one architecture: "attention.head_count" is read as "llama.attention.head_count".
class Keys {
 public:
  Keys(const GgufReader& gguf, std::string prefix) : gguf_(gguf), prefix_(std::move(prefix)) {}

  std::string Full(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }
  bool Has(std::string_view key) const { return gguf_.Has(Full(key)); }
  absl::StatusOr<int64_t> Int(std::string_view key, std::optional<int64_t> fallback = std::nullopt) const {
    if (fallback.has_value() && !Has(key)) return *fallback;
    return gguf_.GetInt(Full(key));
  }
  absl::StatusOr<double> Float(std::string_view key, std::optional<double> fallback = std::nullopt) const {
    if (fallback.has_value() && !Has(key)) return *fallback;
    ASSIGN_OR_RETURN(const double value, gguf_.GetFloat(Full(key)));
    return ShortestDecimal(value);
  }
  const GgufReader& gguf() const { return gguf_; }
  const std::string& origin() const { return gguf_.origin(); }

 private:
  const GgufReader& gguf_;
  std::string prefix_;
};

absl::StatusOr<Architecture> ArchitectureOf(const GgufReader& gguf) {
  ASSIGN_OR_RETURN(const std::string name, gguf.GetString("general.architecture"));
  // "llama" is Mistral too: the two differ only in a window that GGUF does not carry.
  for (const Architecture known :
       {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3, Architecture::kGemma3}) {
    if (name == ArchitectureName(known)) return known;
  }
  return Unimplemented("ARCHITECTURE_UNSUPPORTED",
                       "{}: general.architecture \"{}\" is not supported; supported are llama, qwen2, qwen3 and gemma3",
                       gguf.origin(), name.substr(0, 80));
}

absl::Status CheckFeatures(const Keys& keys, int64_t head_dim) {
  ASSIGN_OR_RETURN(const int64_t experts, keys.Int("expert_count", 0));
  if (experts > 0) {
    return Unimplemented("ARCHITECTURE_UNSUPPORTED", "{}: {} is {}; mixtures of experts are not supported",
                         keys.origin(), keys.Full("expert_count"), experts);
  }
  for (const char* key : {"attention.value_length", "rope.dimension_count"}) {
    ASSIGN_OR_RETURN(const int64_t value, keys.Int(key, head_dim));
    if (value == head_dim) continue;
    return Unimplemented("ARCHITECTURE_UNSUPPORTED", "{}: {} is {}; only the head size {} is supported", keys.origin(),
                         keys.Full(key), value, head_dim);
  }
  for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    ASSIGN_OR_RETURN(const double value, keys.Float(key, 0.0));
    if (value == 0) continue;
    return Unimplemented("ARCHITECTURE_UNSUPPORTED", "{}: {} is {}; only 0 is supported", keys.origin(), keys.Full(key),
                         value);
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(const Keys& keys, ModelConfig& config) {
  const TensorInfo* embedding = keys.gguf().Find("token_embd.weight");
  if (embedding == nullptr) return NotFound("TENSOR_MISSING", "{}: token_embd.weight is missing", keys.origin());
  config.vocab_size = embedding->rows();
  config.tie_embeddings = keys.gguf().Find("output.weight") == nullptr;
  ASSIGN_OR_RETURN(config.hidden_size, keys.Int("embedding_length"));
  ASSIGN_OR_RETURN(config.intermediate_size, keys.Int("feed_forward_length"));
  ASSIGN_OR_RETURN(config.num_layers, keys.Int("block_count"));
  ASSIGN_OR_RETURN(config.num_heads, keys.Int("attention.head_count"));
  ASSIGN_OR_RETURN(config.num_kv_heads, keys.Int("attention.head_count_kv", config.num_heads));
  if (!keys.Has("attention.key_length") && (config.num_heads < 1 || config.hidden_size % config.num_heads != 0)) {
    return InvalidArgument("CONFIG_FIELD", "{}: {} {} is not a multiple of {} {}, and {} is not given", keys.origin(),
                           keys.Full("embedding_length"), config.hidden_size, keys.Full("attention.head_count"),
                           config.num_heads, keys.Full("attention.key_length"));
  }
  config.head_dim = config.num_heads < 1 ? 0 : config.hidden_size / config.num_heads;
  ASSIGN_OR_RETURN(config.head_dim, keys.Int("attention.key_length", config.head_dim));
  ASSIGN_OR_RETURN(config.context_length, keys.Int("context_length"));
  ASSIGN_OR_RETURN(config.rms_eps, keys.Float("attention.layer_norm_rms_epsilon"));
  return absl::OkStatus();
}

absl::Status ReadRopeKeys(const Keys& keys, ModelConfig& config) {
  const bool gemma = config.architecture == Architecture::kGemma3;
  ASSIGN_OR_RETURN(config.rope_theta, keys.Float("rope.freq_base", gemma ? 1e6 : 1e4));
  ASSIGN_OR_RETURN(config.rope_theta_local, keys.Float("rope.freq_base_swa", 1e4));
  // Files from before 2023-10 have the linear factor only.
  ASSIGN_OR_RETURN(const double linear, keys.Float("rope.scale_linear", 1.0));
  std::string type = linear == 1 ? "none" : "linear";
  if (keys.Has("rope.scaling.type")) {
    ASSIGN_OR_RETURN(type, keys.gguf().GetString(keys.Full("rope.scaling.type")));
  }
  if (type == "none") return absl::OkStatus();
  if (type != "linear") {
    return Unimplemented("ARCHITECTURE_UNSUPPORTED", "{}: {} \"{}\" is not supported; supported: none, linear",
                         keys.origin(), keys.Full("rope.scaling.type"), type.substr(0, 80));
  }
  config.rope_scaling.kind = RopeScaling::Kind::kLinear;
  ASSIGN_OR_RETURN(config.rope_scaling.factor, keys.Float("rope.scaling.factor", linear));
  return absl::OkStatus();
}

// What "llama3" divides the frequency of one rotary pair by. The definition is Llama 3.1's: wavelengths above
// original / low are stretched by the whole factor, those below original / high not at all, those between smoothly.
double Llama3Divisor(const RopeScaling& scaling, double theta, int64_t head_dim, int64_t pair) {
  const double exponent = 2.0 * static_cast<double>(pair) / static_cast<double>(head_dim);
  const double wavelength = 2 * std::numbers::pi * std::pow(theta, exponent);
  const double turns = static_cast<double>(scaling.original_context) / wavelength;
  if (turns < scaling.low_freq_factor) return scaling.factor;
  if (turns > scaling.high_freq_factor) return 1;
  const double smooth = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

bool Explains(const RopeScaling& scaling, const ModelConfig& config, const std::vector<float>& divisors) {
  for (size_t pair = 0; pair < divisors.size(); ++pair) {
    const double expected = Llama3Divisor(scaling, config.rope_theta, config.head_dim, static_cast<int64_t>(pair));
    // The converter computes in float: a few units of 6e-8, times up to 100 by cancellation in `smooth`.
    if (std::abs(divisors[pair] - expected) > 1e-4 * expected) return false;
  }
  return true;
}

// GGUF has no keys for Llama 3.1's scaling; the converter writes its result, a divisor for each rotary pair. The
// parameters are found again by trying those that published models use, and must explain every divisor.
absl::Status ReadRopeFactors(const Keys& keys, ModelConfig& config) {
  const TensorInfo* tensor = keys.gguf().Find("rope_freqs.weight");
  if (tensor == nullptr) return absl::OkStatus();
  if (config.head_dim < 2 || config.head_dim > kMaxHeadDim || tensor->elements() != config.head_dim / 2) {
    return InvalidArgument("TENSOR_SHAPE", "{}: rope_freqs.weight has shape {}, expected [{}]", keys.origin(),
                           tensor->ShapeString(), config.head_dim / 2);
  }
  std::vector<float> divisors(static_cast<size_t>(tensor->elements()));
  RETURN_IF_ERROR(ReadRows(keys.gguf(), *tensor, 0, tensor->rows(), divisors));
  if (std::all_of(divisors.begin(), divisors.end(), [](float d) { return d == 1; })) return absl::OkStatus();
  RopeScaling scaling{.kind = RopeScaling::Kind::kLlama3, .low_freq_factor = 1, .high_freq_factor = 4};
  scaling.factor = ShortestDecimal(*std::max_element(divisors.begin(), divisors.end()));
  for (const int64_t original : {8192, 4096, 2048, 16384, 32768, 65536, 131072}) {
    scaling.original_context = original;
    if (!Explains(scaling, config, divisors)) continue;
    config.rope_scaling = scaling;
    return absl::OkStatus();
  }
  return Unimplemented("ARCHITECTURE_UNSUPPORTED",
                       "{}: rope_freqs.weight is not Llama 3.1's scaling with low_freq_factor 1 and high_freq_factor 4",
                       keys.origin());
}

absl::Status ReadSliding(const Keys& keys, ModelConfig& config) {
  if (config.num_layers < 1 || config.num_layers > kMaxLayers) {
    return InvalidArgument("CONFIG_FIELD", "{}: {} is {}; allowed are 1 to {}", keys.origin(), keys.Full("block_count"),
                           config.num_layers, kMaxLayers);
  }
  config.layer_slides.assign(static_cast<size_t>(config.num_layers), false);
  if (config.architecture != Architecture::kGemma3) return absl::OkStatus();
  ASSIGN_OR_RETURN(config.sliding_window, keys.Int("attention.sliding_window"));
  if (config.sliding_window < 1) {
    return InvalidArgument("CONFIG_FIELD", "{}: {} is {}; allowed are 1 to {}", keys.origin(),
                           keys.Full("attention.sliding_window"), config.sliding_window, kMaxContext);
  }
  ASSIGN_OR_RETURN(const int64_t pattern, keys.Int("attention.sliding_window_pattern", 6));
  if (pattern < 1 || pattern > kMaxLayers) {
    return InvalidArgument("CONFIG_FIELD", "{}: {} is {}; allowed are 1 to {}", keys.origin(),
                           keys.Full("attention.sliding_window_pattern"), pattern, kMaxLayers);
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layer_slides[static_cast<size_t>(layer)] = (layer + 1) % pattern != 0;
  }
  return absl::OkStatus();
}

double AttentionScale(const ModelConfig& config) {
  // Of the Gemma 3 family only the 27B, the one with 62 layers, has a query_pre_attn_scalar other than head_dim, and
  // GGUF does not carry it.
  const bool gemma_27b = config.architecture == Architecture::kGemma3 && config.num_layers == 62;
  return 1 / std::sqrt(static_cast<double>(gemma_27b ? config.hidden_size / config.num_heads : config.head_dim));
}

}  // namespace

absl::StatusOr<ModelConfig> ModelConfigFromGguf(const GgufReader& gguf) {
  ModelConfig config;
  ASSIGN_OR_RETURN(config.architecture, ArchitectureOf(gguf));
  const Keys keys(gguf, ArchitectureName(config.architecture));
  RETURN_IF_ERROR(ReadSizes(keys, config));
  RETURN_IF_ERROR(CheckFeatures(keys, config.head_dim));
  RETURN_IF_ERROR(ReadRopeKeys(keys, config));
  RETURN_IF_ERROR(ReadRopeFactors(keys, config));
  RETURN_IF_ERROR(ReadSliding(keys, config));
  config.attention_scale = AttentionScale(config);
  SetArchitectureTraits(config);
  RETURN_IF_ERROR(CheckModelConfig(config, gguf.origin()));
  return config;
}

}  // namespace qamserve
