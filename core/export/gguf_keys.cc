// Which keys say what: the names of ggml's docs/gguf.md, the meaning that llama.cpp's loader gives them.
#include <algorithm>
#include <cmath>
#include <optional>

#include "core/export/internal.h"

namespace qamserve {
namespace {

template <typename... Args>
absl::Status NoKey(const std::string& origin, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(
      absl::StatusCode::kUnimplemented, "EXPORT_MODEL",
      fmt::format("{}: readers of GGUF do not compute ", origin) + fmt::format(format, std::forward<Args>(args)...));
}

// Mistral is "llama": the two differ only in the window, which GGUF does not carry.
std::string GgufArchitecture(const ModelConfig& config) {
  return ArchitectureName(config.architecture == Architecture::kMistral ? Architecture::kLlama : config.architecture);
}

// Every layer but each `pattern`th slides.
bool Follows(const ModelConfig& config, int64_t pattern) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.layer_slides[static_cast<size_t>(layer)] != ((layer + 1) % pattern != 0)) return false;
  }
  return true;
}

std::optional<int64_t> SlidingPattern(const ModelConfig& config) {
  constexpr int64_t kUsual = 6;  // what readers take where the key is missing
  if (Follows(config, kUsual)) return kUsual;
  for (int64_t pattern = 1; pattern <= config.num_layers + 1; ++pattern) {
    if (Follows(config, pattern)) return pattern;
  }
  return std::nullopt;
}

// The scale that readers take, for they have no key for it.
double GemmaAttentionScale(const ModelConfig& config) {
  const bool is_27b = config.num_layers == 62;
  return 1 / std::sqrt(static_cast<double>(is_27b ? config.hidden_size / config.num_heads : config.head_dim));
}

class KeyWriter {
 public:
  KeyWriter(const ModelConfig& config, const std::string& origin, GgufMetadata& metadata)
      : config_(config), origin_(origin), metadata_(metadata), prefix_(GgufArchitecture(config) + ".") {}

  absl::Status Write() {
    AddSizes();
    RETURN_IF_ERROR(AddRope());
    if (config_.architecture == Architecture::kGemma3) return AddGemma();
    if (config_.architecture == Architecture::kQwen2 && config_.q_size() != config_.hidden_size) {
      return NoKey(origin_, "qwen2 with {} heads of {} where hidden_size is {}", config_.num_heads, config_.head_dim,
                   config_.hidden_size);
    }
    return absl::OkStatus();
  }

 private:
  void Int(const char* key, int64_t value) { metadata_.AddUint32(prefix_ + key, static_cast<uint32_t>(value)); }
  void Float(const char* key, double value) { metadata_.AddFloat32(prefix_ + key, static_cast<float>(value)); }

  void AddSizes() {
    Int("vocab_size", config_.vocab_size);
    Int("context_length", ContextLength());
    Int("embedding_length", config_.hidden_size);
    Int("block_count", config_.num_layers);
    Int("feed_forward_length", config_.intermediate_size);
    Int("attention.head_count", config_.num_heads);
    Int("attention.head_count_kv", config_.num_kv_heads);
    Int("attention.key_length", config_.head_dim);
    Int("attention.value_length", config_.head_dim);
    Float("attention.layer_norm_rms_epsilon", config_.rms_eps);
  }

  // Only Gemma has a key for the window. Up to its length a sliding layer is like any other, so that is how far the
  // file promises.
  int64_t ContextLength() const {
    const bool slides =
        std::find(config_.layer_slides.begin(), config_.layer_slides.end(), true) != config_.layer_slides.end();
    if (config_.architecture == Architecture::kGemma3 || !slides) return config_.context_length;
    return std::min(config_.context_length, config_.sliding_window);
  }

  absl::Status AddRope() {
    Int("rope.dimension_count", config_.head_dim);
    Float("rope.freq_base", config_.rope_theta);
    if (config_.rope_scaling.kind == RopeScaling::Kind::kLinear) {
      metadata_.AddString(prefix_ + "rope.scaling.type", "linear");
      Float("rope.scaling.factor", config_.rope_scaling.factor);
    }
    // Written as rope_freqs.weight, which only llama reads.
    if (config_.rope_scaling.kind == RopeScaling::Kind::kLlama3 && prefix_ != "llama.") {
      return NoKey(origin_, "rope_scaling \"llama3\" for {}", ArchitectureName(config_.architecture));
    }
    return absl::OkStatus();
  }

  absl::Status AddGemma() {
    const double scale = GemmaAttentionScale(config_);
    if (std::abs(config_.attention_scale - scale) > 1e-6 * scale) {
      return NoKey(origin_, "query_pre_attn_scalar {:.6g} for gemma3 with {} layers, but {:.6g}",
                   1 / (config_.attention_scale * config_.attention_scale), config_.num_layers, 1 / (scale * scale));
    }
    const std::optional<int64_t> pattern = SlidingPattern(config_);
    if (!pattern) return NoKey(origin_, "layer_types that do not repeat");
    Float("rope.freq_base_swa", config_.rope_theta_local);
    Int("attention.sliding_window", config_.sliding_window > 0 ? config_.sliding_window : config_.context_length);
    Int("attention.sliding_window_pattern", *pattern);
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const std::string& origin_;
  GgufMetadata& metadata_;
  std::string prefix_;
};

}  // namespace

absl::Status AddModelKeys(const ModelConfig& config, const std::string& origin, GgufMetadata& metadata) {
  metadata.AddString("general.architecture", GgufArchitecture(config));
  return KeyWriter(config, origin, metadata).Write();
}

void AddTokenizerKeys(const GgufVocabulary& v, GgufMetadata& metadata) {
  metadata.AddString("tokenizer.ggml.model", v.model);
  metadata.AddString("tokenizer.ggml.pre", v.pre);
  metadata.AddStrings("tokenizer.ggml.tokens", v.tokens);
  metadata.AddInt32s("tokenizer.ggml.token_type", v.types);
  if (v.model == "llama") {
    metadata.AddFloat32s("tokenizer.ggml.scores", v.scores);
    metadata.AddBool("tokenizer.ggml.add_space_prefix", v.add_space_prefix);
  } else {
    metadata.AddStrings("tokenizer.ggml.merges", v.merges);
  }
  const std::pair<const char*, std::optional<int32_t>> ids[] = {{"tokenizer.ggml.bos_token_id", v.bos},
                                                                {"tokenizer.ggml.eos_token_id", v.eos},
                                                                {"tokenizer.ggml.unknown_token_id", v.unknown}};
  for (const auto& [key, id] : ids) {
    if (id) metadata.AddUint32(key, static_cast<uint32_t>(*id));
  }
  metadata.AddBool("tokenizer.ggml.add_bos_token", v.add_bos);
  metadata.AddBool("tokenizer.ggml.add_eos_token", v.add_eos);
  if (!v.chat_template.empty()) metadata.AddString("tokenizer.chat_template", v.chat_template);
}

}  // namespace qamserve
