// Random-weight models on disk, for tests: a Hugging Face directory or a GGUF file of any supported architecture, small
// unless told otherwise. Start here for tests of anything that needs a model.
// A tensor's values depend on the seed, its name and its row only, so the same model can be written in every format,
// in any number of shards, with memory for one tensor's slice at a time. Names and layouts are written out here and
// not taken from core/model, so that a mistake there shows.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/format/tensor.h"
#include "core/model/config.h"
#include "tests/support/gguf_writer.h"

namespace qamserve {

// One tensor under its Hugging Face name, and the distribution of its values.
struct TinyTensor {
  std::string name;
  std::vector<int64_t> shape;
  double mean = 0;
  double deviation = 1;
  // Values that replace the random ones: index in the tensor, value.
  std::vector<std::pair<int64_t, float>> overrides;
};

struct TinyModelOptions {
  Architecture architecture = Architecture::kLlama;
  int64_t vocab_size = 320;  // at least 262
  int64_t hidden_size = 64;
  int64_t intermediate_size = 128;
  int64_t num_layers = 2;
  int64_t num_heads = 4;
  int64_t num_kv_heads = 2;
  int64_t head_dim = 16;
  int64_t context_length = 256;
  int64_t sliding_window = 0;  // Mistral; Gemma 3 takes 16 for 0
  bool tie_embeddings = false;
  DType dtype = DType::kF32;  // safetensors: kF32, kF16, kBF16; GGUF matrices: kF32, kF16, kQ8_0, kQ4_1
  int64_t shard_bytes = 0;    // safetensors: a new shard once one has this many; 0 = one file
  uint64_t seed = 1;
  // Called last, to spoil what would be written.
  std::function<void(nlohmann::ordered_json&)> edit_config;
  std::function<void(std::vector<TinyTensor>&)> edit_tensors;
  std::function<void(GgufWriter&)> edit_gguf;
};

// What config.json holds and which tensors there are; edits included.
nlohmann::ordered_json TinyConfig(const TinyModelOptions& options);
std::vector<TinyTensor> TinyTensors(const TinyModelOptions& options);
const TinyTensor* FindTinyTensor(const std::vector<TinyTensor>& tensors, std::string_view name);
TinyTensor* FindTinyTensor(std::vector<TinyTensor>& tensors, std::string_view name);
// Values [begin, end) of a tensor, which both lie at starts of rows. Norm weights are as Hugging Face stores them.
void FillTinyValues(const TinyModelOptions& options, const TinyTensor& tensor, int64_t begin, int64_t end, float* out);
// A whole tensor.
std::vector<float> TinyValues(const TinyModelOptions& options, const TinyTensor& tensor);

// config.json, model*.safetensors (with an index if there are several), tokenizer.json, tokenizer_config.json and
// generation_config.json into `folder`, which is made.
absl::Status WriteTinyModel(const TinyModelOptions& options, const std::string& folder);
// The same weights as one GGUF file: rows of q and k permuted for "llama", Gemma's norms whole, vectors as F32.
absl::Status WriteTinyGguf(const TinyModelOptions& options, const std::string& path);

}  // namespace qamserve
