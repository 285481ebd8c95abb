#include "core/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using Json = nlohmann::ordered_json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Architecture kAll[] = {Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                                 Architecture::kQwen3, Architecture::kGemma3};

Json Base(Architecture architecture) { return TinyConfig({.architecture = architecture}); }

absl::StatusOr<ModelConfig> Read(const Json& json) { return ModelConfigFromJson(json.dump(), "here"); }

ModelConfig ReadOk(const Json& json) {
  const auto config = Read(json);
  EXPECT_TRUE(config.ok()) << MessageOf(config.status());
  return config.ok() ? *config : ModelConfig();
}

void ExpectError(const Json& json, std::string_view reason, std::string_view message) {
  const auto config = Read(json);
  ASSERT_FALSE(config.ok()) << json.dump();
  EXPECT_EQ(ReasonOf(config.status()), reason) << MessageOf(config.status());
  EXPECT_THAT(MessageOf(config.status()), HasSubstr(std::string(message)));
}

TEST(ModelConfigTest, ReadsSizesOfEveryArchitecture) {
  for (const Architecture architecture : kAll) {
    SCOPED_TRACE(ArchitectureName(architecture));
    const ModelConfig config = ReadOk(Base(architecture));
    EXPECT_EQ(config.architecture, architecture);
    EXPECT_EQ(config.vocab_size, 320);
    EXPECT_EQ(config.hidden_size, 64);
    EXPECT_EQ(config.intermediate_size, 128);
    EXPECT_EQ(config.num_layers, 2);
    EXPECT_EQ(config.q_size(), 64);
    EXPECT_EQ(config.kv_size(), 32);
    EXPECT_EQ(config.context_length, 256);
    EXPECT_EQ(config.rms_eps, 1e-6);
    EXPECT_DOUBLE_EQ(config.attention_scale, 0.25);
    EXPECT_FALSE(config.tie_embeddings);
    const bool gemma = architecture == Architecture::kGemma3;
    EXPECT_EQ(config.attention_bias, architecture == Architecture::kQwen2);
    EXPECT_EQ(config.qk_norm, architecture == Architecture::kQwen3 || gemma);
    EXPECT_EQ(config.sandwich_norms, gemma);
    EXPECT_EQ(config.gelu, gemma);
    EXPECT_EQ(config.embedding_scale, gemma ? 8 : 1);
    EXPECT_EQ(config.stored_norms_less_one, gemma);
    EXPECT_EQ(config.rope_theta, gemma ? 1e6 : 1e4);
  }
}

TEST(ModelConfigTest, TakesTheArchitecturesDefaults) {
  Json llama = Base(Architecture::kLlama);
  for (const char* field : {"head_dim", "num_key_value_heads", "tie_word_embeddings", "rope_theta"}) llama.erase(field);
  EXPECT_EQ(ReadOk(llama).head_dim, 16);
  EXPECT_EQ(ReadOk(llama).num_kv_heads, 4);
  EXPECT_FALSE(ReadOk(llama).tie_embeddings);
  EXPECT_EQ(ReadOk(llama).rope_theta, 1e4);

  Json gemma = {{"architectures", {"Gemma3ForCausalLM"}}, {"hidden_size", 640}};
  const ModelConfig config = ReadOk(gemma);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.num_layers, 26);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.rope_theta_local, 1e4);

  Json qwen = Base(Architecture::kQwen3);
  qwen.erase("head_dim");
  EXPECT_EQ(ReadOk(qwen).head_dim, 128);
}

TEST(ModelConfigTest, GemmaSlidesOnAllButEverySixthLayer) {
  Json json = Base(Architecture::kGemma3);
  json["num_hidden_layers"] = 7;
  const ModelConfig config = ReadOk(json);
  EXPECT_EQ(config.sliding_window, 16);
  EXPECT_THAT(config.layer_slides, ElementsAre(true, true, true, true, true, false, true));
  json["layer_types"] = {"full_attention", "full_attention", "sliding_attention", "full_attention",
                         "full_attention", "full_attention", "full_attention"};
  EXPECT_THAT(ReadOk(json).layer_slides, ElementsAre(false, false, true, false, false, false, false));
}

TEST(ModelConfigTest, SlidingWindowOfMistralAndQwen) {
  Json mistral = Base(Architecture::kMistral);
  EXPECT_EQ(ReadOk(mistral).sliding_window, 0);
  EXPECT_THAT(ReadOk(mistral).layer_slides, ElementsAre(false, false));
  mistral["sliding_window"] = 32;
  EXPECT_THAT(ReadOk(mistral).layer_slides, ElementsAre(true, true));
  mistral.erase("sliding_window");
  EXPECT_EQ(ReadOk(mistral).sliding_window, 4096);

  Json qwen = Base(Architecture::kQwen2);
  qwen["sliding_window"] = 32;
  EXPECT_THAT(ReadOk(qwen).layer_slides, ElementsAre(false, false));
  qwen["use_sliding_window"] = true;
  qwen["max_window_layers"] = 1;
  EXPECT_THAT(ReadOk(qwen).layer_slides, ElementsAre(false, true));
  EXPECT_EQ(ReadOk(qwen).sliding_window, 32);
}

TEST(ModelConfigTest, RopeScaling) {
  Json json = Base(Architecture::kLlama);
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 8.0}};
  EXPECT_EQ(ReadOk(json).rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(ReadOk(json).rope_scaling.factor, 8);
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 32.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(ReadOk(json).rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(ReadOk(json).rope_scaling.original_context, 8192);
  json["rope_scaling"]["high_freq_factor"] = 1.0;
  ExpectError(json, "CONFIG_FIELD", "high_freq_factor");
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  ExpectError(json, "ARCHITECTURE_UNSUPPORTED", "\"yarn\"");
}

TEST(ModelConfigTest, RopeParametersOfNewerTransformers) {
  Json llama = Base(Architecture::kLlama);
  llama.erase("rope_theta");
  llama["rope_parameters"] = {{"rope_type", "linear"}, {"rope_theta", 5e5}, {"factor", 2.0}};
  EXPECT_EQ(ReadOk(llama).rope_theta, 5e5);
  EXPECT_EQ(ReadOk(llama).rope_scaling.factor, 2);

  Json gemma = Base(Architecture::kGemma3);
  gemma["rope_parameters"] = {{"full_attention", {{"rope_type", "linear"}, {"rope_theta", 2e6}, {"factor", 8.0}}},
                              {"sliding_attention", {{"rope_type", "default"}, {"rope_theta", 2e4}}}};
  EXPECT_EQ(ReadOk(gemma).rope_theta, 2e6);
  EXPECT_EQ(ReadOk(gemma).rope_theta_local, 2e4);
  EXPECT_EQ(ReadOk(gemma).rope_scaling.kind, RopeScaling::Kind::kLinear);
}

TEST(ModelConfigTest, TextPartOfAMultimodalGemma) {
  Json text = Base(Architecture::kGemma3);
  text.erase("architectures");
  text["model_type"] = "gemma3_text";
  const ModelConfig config =
      ReadOk({{"architectures", {"Gemma3ForConditionalGeneration"}}, {"model_type", "gemma3"}, {"text_config", text}});
  EXPECT_EQ(config.architecture, Architecture::kGemma3);
  EXPECT_EQ(config.hidden_size, 64);
}

TEST(ModelConfigTest, NamesWhatItDoesNotSupport) {
  const auto with = [](const char* field, const Json& value) {
    Json json = Base(Architecture::kLlama);
    json[field] = value;
    return json;
  };
  ExpectError(with("architectures", {"MixtralForCausalLM"}), "ARCHITECTURE_UNSUPPORTED", "MixtralForCausalLM");
  ExpectError(with("hidden_act", "relu"), "ARCHITECTURE_UNSUPPORTED", "hidden_act \"relu\"");
  ExpectError(with("attention_bias", true), "ARCHITECTURE_UNSUPPORTED", "attention_bias");
  ExpectError(with("mlp_bias", true), "ARCHITECTURE_UNSUPPORTED", "mlp_bias");
  ExpectError(with("partial_rotary_factor", 0.5), "ARCHITECTURE_UNSUPPORTED", "partial_rotary_factor");
  ExpectError(with("quantization_config", {{"quant_method", "gptq"}}), "ARCHITECTURE_UNSUPPORTED", "gptq");
  Json gemma = Base(Architecture::kGemma3);
  gemma["hidden_activation"] = "gelu";
  ExpectError(gemma, "ARCHITECTURE_UNSUPPORTED", "hidden_activation \"gelu\"");
}

TEST(ModelConfigTest, FieldsOutOfTheirLimitsAreNamed) {
  const std::pair<const char*, Json> bad[] = {
      {"vocab_size", 0},
      {"vocab_size", 1 << 23},
      {"hidden_size", -64},
      {"hidden_size", "64"},
      {"hidden_size", 1e30},
      {"hidden_size", 18446744073709551615u},
      {"intermediate_size", int64_t{1} << 40},
      {"num_hidden_layers", 0},
      {"num_hidden_layers", 1000000000},
      {"num_attention_heads", 0},
      {"num_key_value_heads", 3},
      {"num_key_value_heads", 8},
      {"head_dim", 15},
      {"head_dim", 0},
      {"max_position_embeddings", 0},
      {"rms_norm_eps", 0},
      {"rms_norm_eps", -1e-6},
      {"rope_theta", 0.5},
      {"rope_theta", Json::array({1e4})},
      {"tie_word_embeddings", 1},
      {"rope_scaling", 7},
  };
  for (const auto& [field, value] : bad) {
    SCOPED_TRACE(std::string(field) + " " + value.dump());
    Json json = Base(Architecture::kLlama);
    json[field] = value;
    ExpectError(json, "CONFIG_FIELD", field);
  }
  Json qwen = Base(Architecture::kQwen3);
  qwen["use_sliding_window"] = true;
  qwen["sliding_window"] = 0;
  ExpectError(qwen, "CONFIG_FIELD", "sliding_window is 0");
  qwen["sliding_window"] = 8;
  qwen["layer_types"] = {"sliding_attention"};
  ExpectError(qwen, "CONFIG_FIELD", "layer_types has 1 entries");
  qwen["use_sliding_window"] = false;
  qwen["layer_types"] = {"sliding_attention", "full_attention"};
  ExpectError(qwen, "CONFIG_FIELD", "layer 0 slides");
  Json gemma = Base(Architecture::kGemma3);
  gemma["query_pre_attn_scalar"] = -1;
  ExpectError(gemma, "CONFIG_FIELD", "query_pre_attn_scalar");
}

TEST(ModelConfigTest, TextThatIsNoObject) {
  for (const std::string text : {"", "[]", "{\"a\":", "null", "\xff"}) {
    const auto config = ModelConfigFromJson(text, "here");
    ASSERT_FALSE(config.ok());
    EXPECT_EQ(ReasonOf(config.status()), "CONFIG_FIELD");
    EXPECT_THAT(MessageOf(config.status()), HasSubstr("here: config.json"));
  }
  // Depth is no danger, not even in a message.
  const std::string deep(200000, '[');
  const auto config =
      ModelConfigFromJson("{\"model_type\":\"llama\",\"vocab_size\":" + deep + std::string(200000, ']') + "}", "here");
  EXPECT_EQ(ReasonOf(config.status()), "CONFIG_FIELD");
}

void ExpectSame(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.architecture, b.architecture);
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.intermediate_size, b.intermediate_size);
  EXPECT_EQ(a.num_layers, b.num_layers);
  EXPECT_EQ(a.num_heads, b.num_heads);
  EXPECT_EQ(a.num_kv_heads, b.num_kv_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(a.rms_eps, b.rms_eps);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.rope_theta_local, b.rope_theta_local);
  EXPECT_EQ(a.rope_scaling.kind, b.rope_scaling.kind);
  EXPECT_EQ(a.rope_scaling.factor, b.rope_scaling.factor);
  EXPECT_EQ(a.rope_scaling.original_context, b.rope_scaling.original_context);
  EXPECT_EQ(a.sliding_window, b.sliding_window);
  EXPECT_EQ(a.layer_slides, b.layer_slides);
  EXPECT_EQ(a.tie_embeddings, b.tie_embeddings);
  EXPECT_DOUBLE_EQ(a.attention_scale, b.attention_scale);
  EXPECT_EQ(a.embedding_scale, b.embedding_scale);
}

TEST(ModelConfigTest, JsonOfAConfigReadsBackAsTheSame) {
  for (const Architecture architecture : kAll) {
    for (const int64_t window : {int64_t{0}, int64_t{24}}) {
      SCOPED_TRACE(ArchitectureName(architecture));
      Json json = TinyConfig({.architecture = architecture, .num_layers = 7, .sliding_window = window});
      json["use_sliding_window"] = window > 0;
      json["max_window_layers"] = 2;
      if (architecture == Architecture::kLlama) {
        json["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", 32.0},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 8192}};
      }
      const ModelConfig config = ReadOk(json);
      const auto again = ModelConfigFromJson(ModelConfigToJson(config), "again");
      ASSERT_TRUE(again.ok()) << MessageOf(again.status());
      ExpectSame(config, *again);
    }
  }
}

absl::StatusOr<ModelConfig> ReadGguf(const TinyModelOptions& options) {
  const TempFolder folder;
  const std::string path = folder / "tiny.gguf";
  RETURN_IF_ERROR(WriteTinyGguf(options, path));
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(path));
  ASSIGN_OR_RETURN(const auto gguf, GgufReader::Open(*files.FindGguf()));
  return ModelConfigFromGguf(*gguf);
}

TEST(ModelConfigGgufTest, SaysTheSameAsConfigJson) {
  for (const Architecture architecture :
       {Architecture::kLlama, Architecture::kQwen2, Architecture::kQwen3, Architecture::kGemma3}) {
    SCOPED_TRACE(ArchitectureName(architecture));
    const TinyModelOptions options{.architecture = architecture, .num_layers = 7};
    const auto config = ReadGguf(options);
    ASSERT_TRUE(config.ok()) << MessageOf(config.status());
    ExpectSame(*config, ReadOk(TinyConfig(options)));
    EXPECT_FALSE(config->stored_norms_less_one);
  }
  EXPECT_TRUE(ReadGguf({.tie_embeddings = true})->tie_embeddings);
}

// Divisors as Llama 3.1 defines them, computed here from its published formula on wavelengths.
std::vector<float> Llama3Divisors(double factor, double original, double theta, int64_t head_dim) {
  std::vector<float> out;
  for (int64_t i = 0; i < head_dim; i += 2) {
    const double frequency = 1 / std::pow(theta, static_cast<double>(i) / static_cast<double>(head_dim));
    const double wavelength = 2 * std::numbers::pi / frequency;
    double scaled = frequency;
    if (wavelength > original) {
      scaled = frequency / factor;
    } else if (wavelength >= original / 4) {
      const double smooth = (original / wavelength - 1) / 3;
      scaled = (1 - smooth) * frequency / factor + smooth * frequency;
    }
    out.push_back(static_cast<float>(frequency / scaled));
  }
  return out;
}

TEST(ModelConfigGgufTest, FindsTheParametersBehindRopeFreqs) {
  TinyModelOptions options{.head_dim = 64};
  options.edit_gguf = [](GgufWriter& gguf) {
    gguf.AddTensor("rope_freqs.weight", {32}, DType::kF32, Llama3Divisors(32, 8192, 1e4, 64));
  };
  const auto config = ReadGguf(options);
  ASSERT_TRUE(config.ok()) << MessageOf(config.status());
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(config->rope_scaling.factor, 32);
  EXPECT_EQ(config->rope_scaling.original_context, 8192);

  options.edit_gguf = [](GgufWriter& gguf) {
    std::vector<float> divisors = Llama3Divisors(32, 8192, 1e4, 64);
    divisors[20] *= 1.01f;
    gguf.AddTensor("rope_freqs.weight", {32}, DType::kF32, divisors);
  };
  EXPECT_EQ(ReasonOf(ReadGguf(options).status()), "ARCHITECTURE_UNSUPPORTED");
  options.edit_gguf = [](GgufWriter& gguf) {
    gguf.AddTensor("rope_freqs.weight", {8}, DType::kF32, std::vector<float>(8, 1.0f));
  };
  EXPECT_EQ(ReasonOf(ReadGguf(options).status()), "TENSOR_SHAPE");
}

TEST(ModelConfigGgufTest, KeysThatChangeTheMathematics) {
  TinyModelOptions options;
  options.edit_gguf = [](GgufWriter& gguf) {
    gguf.AddString("llama.rope.scaling.type", "linear");
    gguf.AddFloat32("llama.rope.scaling.factor", 4);
  };
  EXPECT_EQ(ReadGguf(options)->rope_scaling.factor, 4);
  const std::pair<std::string, std::function<void(GgufWriter&)>> bad[] = {
      {"llama.rope.scaling.type", [](GgufWriter& g) { g.AddString("llama.rope.scaling.type", "yarn"); }},
      {"llama.expert_count", [](GgufWriter& g) { g.AddUint32("llama.expert_count", 8); }},
      {"llama.rope.dimension_count", [](GgufWriter& g) { g.AddUint32("llama.rope.dimension_count", 8); }}};
  for (const auto& [name, edit] : bad) {
    options.edit_gguf = edit;
    const auto config = ReadGguf(options);
    EXPECT_EQ(ReasonOf(config.status()), "ARCHITECTURE_UNSUPPORTED");
    EXPECT_THAT(MessageOf(config.status()), HasSubstr(name));
  }
  EXPECT_EQ(ReasonOf(ReadGguf({.context_length = 0}).status()), "CONFIG_FIELD");
  EXPECT_EQ(ReasonOf(ReadGguf({.num_kv_heads = 3}).status()), "CONFIG_FIELD");
}

// What is made of config.json is copied and printed by recursion.
TEST(ModelConfigTest, DeepNestingIsRefused) {
  const std::string deep = R"({"other": )" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}";
  const absl::Status status = ModelConfigFromJson(deep, "x").status();
  EXPECT_EQ(ReasonOf(status), "CONFIG_FIELD");
  EXPECT_NE(MessageOf(status).find("64 levels"), std::string::npos);
}

}  // namespace
}  // namespace qamserve
