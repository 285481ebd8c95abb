#include "core/model/parameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace qamserve {
namespace {

using NamePair = std::pair<std::string_view, std::string_view>;

constexpr NamePair kGlobalNames[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

// Within a block. The norms before and after the MLP are not here: their names depend on the architecture.
constexpr NamePair kBlockNames[] = {
    {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},           {"ffn_down", "mlp.down_proj"},
    {"attn_norm", "input_layernorm"},
};

// Gemma 3 has two more norms, and what others call post_attention_layernorm is its pre_feedforward_layernorm.
constexpr NamePair kPlainNorms[] = {{"ffn_norm", "post_attention_layernorm"}};
constexpr NamePair kSandwichNorms[] = {{"post_attention_norm", "post_attention_layernorm"},
                                       {"ffn_norm", "pre_feedforward_layernorm"},
                                       {"post_ffw_norm", "post_feedforward_layernorm"}};

template <size_t N>
std::optional<std::string_view> Translate(const NamePair (&pairs)[N], std::string_view name) {
  for (const auto& [gguf, hugging_face] : pairs) {
    if (gguf == name) return hugging_face;
  }
  return std::nullopt;
}

template <size_t N>
std::optional<std::string_view> TranslateBack(const NamePair (&pairs)[N], std::string_view name) {
  for (const auto& [gguf, hugging_face] : pairs) {
    if (hugging_face == name) return gguf;
  }
  return std::nullopt;
}

void AddBlock(const ModelConfig& c, int64_t layer, std::vector<ParameterSpec>& out) {
  const std::string block = fmt::format("model.layers.{}.", layer);
  const auto add = [&](std::string_view name, std::vector<int64_t> shape, bool is_norm = false) {
    out.push_back({block + std::string(name), std::move(shape), is_norm});
  };
  add("self_attn.q_proj.weight", {c.q_size(), c.hidden_size});
  add("self_attn.k_proj.weight", {c.kv_size(), c.hidden_size});
  add("self_attn.v_proj.weight", {c.kv_size(), c.hidden_size});
  add("self_attn.o_proj.weight", {c.hidden_size, c.q_size()});
  add("mlp.gate_proj.weight", {c.intermediate_size, c.hidden_size});
  add("mlp.up_proj.weight", {c.intermediate_size, c.hidden_size});
  add("mlp.down_proj.weight", {c.hidden_size, c.intermediate_size});
  if (c.attention_bias) {
    add("self_attn.q_proj.bias", {c.q_size()});
    add("self_attn.k_proj.bias", {c.kv_size()});
    add("self_attn.v_proj.bias", {c.kv_size()});
  }
  if (c.qk_norm) {
    add("self_attn.q_norm.weight", {c.head_dim}, true);
    add("self_attn.k_norm.weight", {c.head_dim}, true);
  }
  add("input_layernorm.weight", {c.hidden_size}, true);
  add("post_attention_layernorm.weight", {c.hidden_size}, true);
  if (c.sandwich_norms) {
    add("pre_feedforward_layernorm.weight", {c.hidden_size}, true);
    add("post_feedforward_layernorm.weight", {c.hidden_size}, true);
  }
}

}  // namespace

std::vector<ParameterSpec> ParametersOf(const ModelConfig& config) {
  std::vector<ParameterSpec> out;
  out.push_back({"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}});
  out.push_back({"model.norm.weight", {config.hidden_size}, true});
  if (!config.tie_embeddings) out.push_back({"lm_head.weight", {config.vocab_size, config.hidden_size}});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) AddBlock(config, layer, out);
  std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return out;
}

std::optional<std::string> HuggingFaceName(Architecture architecture, std::string_view gguf_name) {
  if (const auto global = Translate(kGlobalNames, gguf_name); global.has_value()) return std::string(*global);
  if (!gguf_name.starts_with("blk.")) return std::nullopt;
  const std::string_view rest = gguf_name.substr(4);
  const size_t number_end = rest.find('.');
  const size_t suffix_begin = rest.rfind('.');
  if (number_end == 0 || number_end == std::string_view::npos || suffix_begin <= number_end) return std::nullopt;
  const std::string_view number = rest.substr(0, number_end);
  const std::string_view part = rest.substr(number_end + 1, suffix_begin - number_end - 1);
  const std::string_view suffix = rest.substr(suffix_begin);
  if (number.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  if (suffix != ".weight" && suffix != ".bias") return std::nullopt;

  std::optional<std::string_view> name = Translate(kBlockNames, part);
  if (!name.has_value()) {
    name = architecture == Architecture::kGemma3 ? Translate(kSandwichNorms, part) : Translate(kPlainNorms, part);
  }
  if (!name.has_value()) return std::nullopt;
  return fmt::format("model.layers.{}.{}{}", number, *name, suffix);
}

std::string GgufName(Architecture architecture, std::string_view hugging_face_name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (const auto global = TranslateBack(kGlobalNames, hugging_face_name); global.has_value()) {
    return std::string(*global);
  }
  if (!hugging_face_name.starts_with(kLayers)) return "";
  const std::string_view rest = hugging_face_name.substr(kLayers.size());
  const size_t number_end = rest.find('.'), suffix_begin = rest.rfind('.');
  if (number_end == std::string_view::npos || suffix_begin <= number_end) return "";
  const std::string_view part = rest.substr(number_end + 1, suffix_begin - number_end - 1);
  std::optional<std::string_view> name = TranslateBack(kBlockNames, part);
  if (!name.has_value()) {
    name =
        architecture == Architecture::kGemma3 ? TranslateBack(kSandwichNorms, part) : TranslateBack(kPlainNorms, part);
  }
  if (!name.has_value()) return "";
  return fmt::format("blk.{}.{}{}", rest.substr(0, number_end), *name, rest.substr(suffix_begin));
}

}  // namespace qamserve
