#include "tests/support/tiny_model.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <span>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/codec/half.h"
#include "core/format/safetensors.h"
#include "tests/support/tiny_tokenizer.h"

namespace qamserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kGemmaWindow = 16;
constexpr int64_t kGemmaPattern = 6;  // every sixth layer is global

struct Shape {
  const char* class_name;
  const char* model_type;
  const char* gguf_name;
};

Shape NamesOf(Architecture architecture) {
  switch (architecture) {
    case Architecture::kMistral:
      return {"MistralForCausalLM", "mistral", "llama"};
    case Architecture::kQwen2:
      return {"Qwen2ForCausalLM", "qwen2", "qwen2"};
    case Architecture::kQwen3:
      return {"Qwen3ForCausalLM", "qwen3", "qwen3"};
    case Architecture::kGemma3:
      return {"Gemma3ForCausalLM", "gemma3_text", "gemma3"};
    case Architecture::kLlama:
      break;
  }
  return {"LlamaForCausalLM", "llama", "llama"};
}

bool IsGemma(const TinyModelOptions& o) { return o.architecture == Architecture::kGemma3; }

// One 64-bit draw gives a value: four 16-bit uniforms are near enough to a Gaussian, and a model of gigabytes is
// written in seconds.
double FastGaussian(Rng& rng) {
  uint64_t bits = rng.NextU64();
  uint64_t sum = 0;
  for (int lane = 0; lane < 4; ++lane, bits >>= 16) sum += bits & 0xffff;
  const double deviation = 65536 * std::sqrt(4.0 / 12);
  return (static_cast<double>(sum) - 4 * 32767.5) / deviation;
}

uint64_t NameHash(std::string_view name) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

int64_t Elements(const TinyTensor& tensor) {
  int64_t n = 1;
  for (const int64_t dim : tensor.shape) n *= dim;
  return n;
}

std::string EncodePlain(DType dtype, std::span<const float> values) {
  std::string out(values.size() * static_cast<size_t>(DTypeBlockBytes(dtype)), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) {
      std::memcpy(out.data() + 4 * i, &values[i], 4);
      continue;
    }
    uint16_t bits = FloatToHalf(values[i]);
    if (dtype == DType::kBF16) bits = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
  return out;
}

void AddBlockTensors(const TinyModelOptions& o, int64_t layer, std::vector<TinyTensor>& out) {
  const std::string block = "model.layers." + std::to_string(layer) + ".";
  const int64_t h = o.hidden_size, f = o.intermediate_size;
  const int64_t q = o.num_heads * o.head_dim, kv = o.num_kv_heads * o.head_dim;
  const auto linear = [&](const char* name, int64_t rows, int64_t cols) {
    out.push_back({block + name + ".weight", {rows, cols}, 0, 1 / std::sqrt(static_cast<double>(cols))});
  };
  const auto norm = [&](const char* name, int64_t size) {
    out.push_back({block + name + ".weight", {size}, IsGemma(o) ? 0.0 : 1.0, 0.1});
  };
  norm("input_layernorm", h);
  linear("self_attn.q_proj", q, h);
  linear("self_attn.k_proj", kv, h);
  linear("self_attn.v_proj", kv, h);
  linear("self_attn.o_proj", h, q);
  if (o.architecture == Architecture::kQwen2) {
    out.push_back({block + "self_attn.q_proj.bias", {q}, 0, 0.1});
    out.push_back({block + "self_attn.k_proj.bias", {kv}, 0, 0.1});
    out.push_back({block + "self_attn.v_proj.bias", {kv}, 0, 0.1});
  }
  if (o.architecture == Architecture::kQwen3 || IsGemma(o)) {
    norm("self_attn.q_norm", o.head_dim);
    norm("self_attn.k_norm", o.head_dim);
  }
  norm("post_attention_layernorm", h);
  if (IsGemma(o)) {
    norm("pre_feedforward_layernorm", h);
    norm("post_feedforward_layernorm", h);
  }
  linear("mlp.gate_proj", f, h);
  linear("mlp.up_proj", f, h);
  linear("mlp.down_proj", h, f);
}

std::vector<SafetensorsWriter::Declaration> Declarations(const TinyModelOptions& options,
                                                         std::span<const TinyTensor> tensors) {
  std::vector<SafetensorsWriter::Declaration> out;
  for (const TinyTensor& tensor : tensors) out.push_back({tensor.name, options.dtype, tensor.shape});
  return out;
}

absl::Status WriteShard(const TinyModelOptions& options, std::span<const TinyTensor> tensors, const std::string& path) {
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, Declarations(options, tensors), {{"format", "pt"}},
                                                          static_cast<uint64_t>(DTypeBlockBytes(options.dtype))));
  std::vector<float> values;
  for (const TinyTensor& tensor : tensors) {
    const int64_t total = Elements(tensor);
    const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
    const int64_t step = cols * std::max<int64_t>(1, (1 << 18) / std::max<int64_t>(1, cols));
    for (int64_t begin = 0; begin < total; begin += step) {
      const int64_t end = std::min(total, begin + step);
      values.resize(static_cast<size_t>(end - begin));
      FillTinyValues(options, tensor, begin, end, values.data());
      const std::string bytes = EncodePlain(options.dtype, values);
      RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(bytes))));
    }
  }
  return writer.Commit();
}

absl::Status WriteShards(const TinyModelOptions& options, const std::vector<TinyTensor>& tensors,
                         const std::string& folder) {
  std::vector<std::span<const TinyTensor>> shards;
  const int64_t width = DTypeBlockBytes(options.dtype);
  int64_t bytes = 0, total = 0;
  size_t begin = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    bytes += Elements(tensors[i]) * width;
    total += Elements(tensors[i]) * width;
    const bool full = options.shard_bytes > 0 && bytes >= options.shard_bytes;
    if (!full && i + 1 < tensors.size()) continue;
    shards.push_back(std::span(tensors).subspan(begin, i + 1 - begin));
    begin = i + 1;
    bytes = 0;
  }
  if (shards.size() == 1) return WriteShard(options, shards[0], folder + "/model.safetensors");
  Json index;
  index["metadata"]["total_size"] = total;
  for (size_t s = 0; s < shards.size(); ++s) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", s + 1, shards.size());
    for (const TinyTensor& tensor : shards[s]) index["weight_map"][tensor.name] = name;
    RETURN_IF_ERROR(WriteShard(options, shards[s], fmt::format("{}/{}", folder, name)));
  }
  return WriteFileAtomically(folder + "/model.safetensors.index.json", index.dump(2));
}

// ---- GGUF ----

std::string GgufName(const TinyModelOptions& options, const std::string& name) {
  if (name == "model.embed_tokens.weight") return "token_embd.weight";
  if (name == "model.norm.weight") return "output_norm.weight";
  if (name == "lm_head.weight") return "output.weight";
  if (!name.starts_with("model.layers.")) return name;
  const std::map<std::string, std::string> parts = {
      {"input_layernorm", "attn_norm"},
      {"self_attn.q_proj", "attn_q"},
      {"self_attn.k_proj", "attn_k"},
      {"self_attn.v_proj", "attn_v"},
      {"self_attn.o_proj", "attn_output"},
      {"self_attn.q_norm", "attn_q_norm"},
      {"self_attn.k_norm", "attn_k_norm"},
      {"post_attention_layernorm", IsGemma(options) ? "post_attention_norm" : "ffn_norm"},
      {"pre_feedforward_layernorm", "ffn_norm"},
      {"post_feedforward_layernorm", "post_ffw_norm"},
      {"mlp.gate_proj", "ffn_gate"},
      {"mlp.up_proj", "ffn_up"},
      {"mlp.down_proj", "ffn_down"}};
  const std::string rest = name.substr(13);
  const size_t dot = rest.find('.'), last = rest.rfind('.');
  const auto part = parts.find(rest.substr(dot + 1, last - dot - 1));
  if (part == parts.end()) return name;
  return "blk." + rest.substr(0, dot) + "." + part->second + rest.substr(last);
}

// What the Hugging Face to GGUF converter does to q and k of llama: each head's rows, viewed as [2][head_dim / 2],
// are transposed.
std::vector<float> Permuted(const std::vector<float>& values, int64_t rows, int64_t cols, int64_t head_dim) {
  std::vector<float> out(values.size());
  int64_t to = 0;
  for (int64_t head = 0; head < rows / head_dim; ++head) {
    for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t from = head * head_dim + half * (head_dim / 2) + pair;
        std::copy_n(values.begin() + from * cols, cols, out.begin() + to * cols);
        ++to;
      }
    }
  }
  return out;
}

void AddGgufKeys(const TinyModelOptions& o, GgufWriter& gguf) {
  const std::string arch = NamesOf(o.architecture).gguf_name;
  const auto size = [&](const char* key, int64_t value) {
    gguf.AddUint32(arch + "." + key, static_cast<uint32_t>(value));
  };
  gguf.AddString("general.architecture", arch);
  gguf.AddString("general.name", "tiny");
  size("block_count", o.num_layers);
  size("context_length", o.context_length);
  size("embedding_length", o.hidden_size);
  size("feed_forward_length", o.intermediate_size);
  size("attention.head_count", o.num_heads);
  size("attention.head_count_kv", o.num_kv_heads);
  size("attention.key_length", o.head_dim);
  size("attention.value_length", o.head_dim);
  gguf.AddFloat32(arch + ".attention.layer_norm_rms_epsilon", 1e-6f);
  gguf.AddFloat32(arch + ".rope.freq_base", IsGemma(o) ? 1e6f : 10000.0f);
  if (IsGemma(o)) size("attention.sliding_window", o.sliding_window > 0 ? o.sliding_window : kGemmaWindow);
}

void AddGgufTokenizer(const TinyModelOptions& options, GgufWriter& gguf) {
  const TinyVocabulary vocabulary = MakeTinyVocabulary(options.vocab_size);
  std::vector<std::string> merges;
  merges.reserve(vocabulary.merges.size());
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(fmt::format("{} {}", left, right));
  constexpr int32_t kNormal = 1, kControl = 3;
  std::vector<int32_t> types(vocabulary.tokens.size(), kNormal);
  std::fill_n(types.begin(), kTinySpecials, kControl);
  gguf.AddString("tokenizer.ggml.model", "gpt2");
  gguf.AddString("tokenizer.ggml.pre", "gpt-2");
  gguf.AddStrings("tokenizer.ggml.tokens", vocabulary.tokens);
  gguf.AddInt32s("tokenizer.ggml.token_type", types);
  gguf.AddStrings("tokenizer.ggml.merges", merges);
  gguf.AddUint32("tokenizer.ggml.bos_token_id", kTinyEndOfText);
  gguf.AddUint32("tokenizer.ggml.eos_token_id", kTinyImEnd);
  gguf.AddBool("tokenizer.ggml.add_bos_token", false);
  gguf.AddString("tokenizer.chat_template", TinyChatTemplate());
}

}  // namespace

Json TinyConfig(const TinyModelOptions& o) {
  const Shape names = NamesOf(o.architecture);
  Json json = {{"architectures", {names.class_name}},
               {"model_type", names.model_type},
               {"vocab_size", o.vocab_size},
               {"hidden_size", o.hidden_size},
               {"intermediate_size", o.intermediate_size},
               {"num_hidden_layers", o.num_layers},
               {"num_attention_heads", o.num_heads},
               {"num_key_value_heads", o.num_kv_heads},
               {"head_dim", o.head_dim},
               {"max_position_embeddings", o.context_length},
               {"rms_norm_eps", 1e-6},
               {"rope_theta", IsGemma(o) ? 1e6 : 10000.0},
               {"tie_word_embeddings", o.tie_embeddings},
               {"bos_token_id", kTinyEndOfText},
               {"eos_token_id", kTinyImEnd}};
  if (IsGemma(o)) {
    json["hidden_activation"] = "gelu_pytorch_tanh";
    json["query_pre_attn_scalar"] = o.head_dim;
    json["rope_local_base_freq"] = 10000.0;
    json["sliding_window"] = o.sliding_window > 0 ? o.sliding_window : kGemmaWindow;
    json["sliding_window_pattern"] = kGemmaPattern;
  } else {
    json["hidden_act"] = "silu";
    json["sliding_window"] = o.sliding_window > 0 ? Json(o.sliding_window) : Json();
  }
  if (o.edit_config) o.edit_config(json);
  return json;
}

std::vector<TinyTensor> TinyTensors(const TinyModelOptions& options) {
  std::vector<TinyTensor> out;
  // Logits then have a deviation near 2: neither flat nor decided.
  const double deviation = 2 / std::sqrt(static_cast<double>(options.hidden_size));
  out.push_back({"model.embed_tokens.weight", {options.vocab_size, options.hidden_size}, 0, deviation});
  for (int64_t layer = 0; layer < options.num_layers; ++layer) AddBlockTensors(options, layer, out);
  out.push_back({"model.norm.weight", {options.hidden_size}, IsGemma(options) ? 0.0 : 1.0, 0.1});
  if (!options.tie_embeddings) {
    out.push_back({"lm_head.weight", {options.vocab_size, options.hidden_size}, 0, deviation});
  }
  if (options.edit_tensors) options.edit_tensors(out);
  return out;
}

const TinyTensor* FindTinyTensor(const std::vector<TinyTensor>& tensors, std::string_view name) {
  const auto it = std::find_if(tensors.begin(), tensors.end(), [&](const TinyTensor& t) { return t.name == name; });
  return it == tensors.end() ? nullptr : &*it;
}

TinyTensor* FindTinyTensor(std::vector<TinyTensor>& tensors, std::string_view name) {
  return const_cast<TinyTensor*>(FindTinyTensor(std::as_const(tensors), name));
}

void FillTinyValues(const TinyModelOptions& options, const TinyTensor& tensor, int64_t begin, int64_t end, float* out) {
  const int64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  const uint64_t stream = options.seed * 0x9e3779b97f4a7c15u ^ NameHash(tensor.name);
  for (int64_t row_begin = begin; row_begin < end; row_begin += cols) {
    Rng rng(stream + static_cast<uint64_t>(row_begin / cols) * 0xd1342543de82ef95u);
    for (int64_t i = row_begin; i < std::min(end, row_begin + cols); ++i) {
      out[i - begin] = static_cast<float>(tensor.mean + tensor.deviation * FastGaussian(rng));
    }
  }
  for (const auto& [index, value] : tensor.overrides) {
    if (index >= begin && index < end) out[index - begin] = value;
  }
}

std::vector<float> TinyValues(const TinyModelOptions& options, const TinyTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(Elements(tensor)));
  FillTinyValues(options, tensor, 0, Elements(tensor), values.data());
  return values;
}

absl::Status WriteTinyModel(const TinyModelOptions& options, const std::string& folder) {
  RETURN_IF_ERROR(CreateDirectories(folder));
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/config.json", TinyConfig(options).dump(2)));
  const TinyVocabulary vocabulary = MakeTinyVocabulary(options.vocab_size);
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/tokenizer.json", TinyTokenizerJson(vocabulary)));
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/tokenizer_config.json", TinyTokenizerConfigJson()));
  const Json generation = {{"bos_token_id", kTinyEndOfText}, {"eos_token_id", kTinyImEnd}};
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/generation_config.json", generation.dump(2)));
  return WriteShards(options, TinyTensors(options), folder);
}

absl::Status WriteTinyGguf(const TinyModelOptions& options, const std::string& path) {
  GgufWriter gguf;
  AddGgufKeys(options, gguf);
  AddGgufTokenizer(options, gguf);
  const bool interleaved = std::string_view(NamesOf(options.architecture).gguf_name) == "llama";
  for (const TinyTensor& tensor : TinyTensors(options)) {
    std::vector<float> values = TinyValues(options, tensor);
    const bool vector = tensor.shape.size() < 2;
    const bool norm = vector && tensor.name.ends_with("norm.weight");
    if (norm && IsGemma(options)) {
      for (float& value : values) value += 1;
    }
    const bool rotated = tensor.name.ends_with("q_proj.weight") || tensor.name.ends_with("k_proj.weight");
    if (interleaved && rotated) values = Permuted(values, tensor.shape[0], tensor.shape[1], options.head_dim);
    gguf.AddTensor(GgufName(options, tensor.name), tensor.shape, vector ? DType::kF32 : options.dtype, values);
  }
  if (options.edit_gguf) options.edit_gguf(gguf);
  return gguf.Write(path);
}

}  // namespace qamserve
