// Writes an artifact whose codes are random, of Mistral 7B's shapes or others: what speed is measured on where there is
// neither such a model nor the time to quantize one. It says nothing sensible, but every number is finite. Without a
// tokenizer: decode_bench needs none.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/codec/tensor_format.h"
#include "core/format/artifact_format.h"
#include "core/format/safetensors.h"
#include "core/model/config.h"
#include "core/model/parameters.h"
#include "core/model/weights.h"

namespace qamserve {
namespace {

struct Options {
  std::string out;
  std::string codec = "joint";
  int pair_bits = 11;
  int layers = 32;
  int hidden = 4096;
  int intermediate = 14336;
  int heads = 32;
  int kv_heads = 8;
  int vocab = 32000;
};

std::string ConfigOf(const Options& o) {
  return nlohmann::json({{"architectures", {"MistralForCausalLM"}},
                         {"model_type", "mistral"},
                         {"hidden_size", o.hidden},
                         {"intermediate_size", o.intermediate},
                         {"num_hidden_layers", o.layers},
                         {"num_attention_heads", o.heads},
                         {"num_key_value_heads", o.kv_heads},
                         {"head_dim", o.hidden / o.heads},
                         {"vocab_size", o.vocab},
                         {"max_position_embeddings", 32768},
                         {"rms_norm_eps", 1e-5},
                         {"rope_theta", 1000000.0},
                         {"hidden_act", "silu"},
                         {"tie_word_embeddings", false}})
      .dump(2);
}

// A tensor and what its 64-bit words are made of: random bits under `mask`, the others as in `set`.
struct Filling {
  SafetensorsWriter::Declaration tensor;
  uint64_t mask = 0;
  uint64_t set = 0;
};

// Halves of both signs from 2^-7 to 2^-6, near the 1 / sqrt(columns) of a layer of 4096.
constexpr uint64_t kHalfMask = 0x83ff83ff83ff83ff, kHalfSet = 0x2000200020002000;

std::vector<Filling> FillingsOf(const ModelConfig& config, const TensorFormat& format) {
  std::vector<Filling> codes, others;
  std::string group;
  for (const ParameterSpec& p : ParametersOf(config)) {
    const std::string layer = p.name.substr(0, p.name.rfind('.'));
    const std::string of = InputGroupOf(layer);
    if (p.is_norm) {
      others.push_back({{p.name, DType::kF32, p.shape}, 0, 0x3f8000003f800000});  // 1
    } else if (of.empty() || !HasCodes(format)) {
      others.push_back({{p.name, DType::kF16, p.shape}, kHalfMask, kHalfSet});
    } else {
      codes.push_back(
          {{layer + kCodesSuffix, DType::kU8, {CodesBytes(format, p.shape[0], p.shape[1])}, true}, ~uint64_t{0}, 0});
      others.push_back({{layer + kRowNormSuffix, DType::kF16, {p.shape[0]}}, 0, kHalfSet});
      const auto has_scale = [&](const Filling& f) { return f.tensor.name == of + kChannelScaleSuffix; };
      if (std::none_of(others.begin(), others.end(), has_scale)) {
        others.push_back({{of + kChannelScaleSuffix, DType::kF16, {p.shape[1]}}, 0, 0x3c003c003c003c00});  // 1
      }
    }
  }
  codes.insert(codes.end(), others.begin(), others.end());
  return codes;
}

int64_t BytesOf(const SafetensorsWriter::Declaration& tensor) {
  int64_t bytes = DTypeBlockBytes(tensor.dtype);
  for (const int64_t dim : tensor.shape) bytes *= dim;
  return bytes;
}

absl::Status Write(const Options& options) {
  ASSIGN_OR_RETURN(const Codec codec, ParseCodec(options.codec));
  const TensorFormat format{codec, codec == Codec::kFull ? kFullPairBits : options.pair_bits};
  RETURN_IF_ERROR(CheckTensorFormat(format));
  QuantizationConfig quantization;
  quantization.format = {options.codec, format.pair_bits};
  quantization.channel_scale = HasCodes(format);
  if (!HasCodes(format)) quantization.rotation = "none";
  ASSIGN_OR_RETURN(const std::string config_json, WithQuantizationConfig(ConfigOf(options), quantization));
  ASSIGN_OR_RETURN(const ModelConfig config, ModelConfigFromJson(config_json, options.out));
  const std::vector<Filling> fillings = FillingsOf(config, format);

  std::error_code error;
  std::filesystem::create_directories(options.out, error);
  std::vector<SafetensorsWriter::Declaration> declarations;
  declarations.reserve(fillings.size());
  for (const Filling& f : fillings) declarations.push_back(f.tensor);
  ASSIGN_OR_RETURN(SafetensorsWriter writer,
                   SafetensorsWriter::Create(options.out + "/" + kWeightsFile, declarations, {}, kCodesAlignment));
  Rng rng(1);
  std::vector<uint64_t> words(size_t{1} << 17);
  for (const Filling& f : fillings) {
    for (int64_t left = BytesOf(f.tensor); left > 0;) {
      for (uint64_t& word : words) word = (rng.NextU64() & f.mask) | f.set;
      const int64_t count = std::min(left, static_cast<int64_t>(words.size() * 8));
      RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(words)).first(static_cast<size_t>(count))));
      left -= count;
    }
  }
  RETURN_IF_ERROR(writer.Commit());
  return WriteFileAtomically(options.out + "/" + kConfigFile, config_json);
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Writes an artifact of random codes.");
  app.add_option("--out", options.out, "Folder to write")->required();
  app.add_option("--codec", options.codec, "joint, trellis, int8, ... or full: 16-bit floats");
  app.add_option("--pair-bits", options.pair_bits, "Twice the bits of a weight")->check(CLI::Range(5, 16));
  app.add_option("--layers", options.layers)->check(CLI::Range(1, 1000));
  app.add_option("--hidden", options.hidden)->check(CLI::Range(64, 1 << 16));
  app.add_option("--intermediate", options.intermediate)->check(CLI::Range(64, 1 << 17));
  app.add_option("--heads", options.heads)->check(CLI::Range(1, 1024));
  app.add_option("--kv-heads", options.kv_heads)->check(CLI::Range(1, 1024));
  app.add_option("--vocab", options.vocab)->check(CLI::Range(32, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = qamserve::Write(options);
  if (status.ok()) return 0;
  fmt::print(stderr, "error: {}: {}\n", qamserve::ReasonOf(status), qamserve::MessageOf(status));
  return 1;
}
