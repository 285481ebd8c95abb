#include "core/format/artifact_format.h"

#include <gtest/gtest.h>

namespace qamserve {
namespace {

constexpr char kConfig[] = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 64})";

TEST(QuantizationConfig, RoundTripsBesideTheModelsOwnFields) {
  QuantizationConfig config;
  config.format = {"trellis", 7};
  config.tensors["model.layers.0.mlp.down_proj"] = {"joint", 9};
  config.rotation = "block";
  config.rotation_seed = 0xffffffffffffffffu;
  config.channel_scale = false;
  const auto text = WithQuantizationConfig(kConfig, config);
  ASSERT_TRUE(text.ok());
  EXPECT_NE(text->find("LlamaForCausalLM"), std::string::npos);
  EXPECT_TRUE(IsArtifactConfig(*text));
  const auto read = ReadQuantizationConfig(*text, "config.json");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->format.codec, "trellis");
  EXPECT_EQ(read->format.pair_bits, 7);
  ASSERT_EQ(read->tensors.size(), 1u);
  EXPECT_EQ(read->tensors.begin()->second.codec, "joint");
  EXPECT_EQ(read->tensors.begin()->second.pair_bits, 9);
  EXPECT_EQ(read->rotation, "block");
  EXPECT_EQ(read->rotation_seed, config.rotation_seed);
  EXPECT_FALSE(read->channel_scale);
}

TEST(QuantizationConfig, OtherConfigsAreNotArtifacts) {
  for (const char* text : {kConfig, "", "[]", "{", R"({"quantization_config": 3})",
                           R"({"quantization_config": {"quant_method": "gptq"}})"}) {
    EXPECT_FALSE(IsArtifactConfig(text)) << text;
    EXPECT_FALSE(ReadQuantizationConfig(text, "x").ok()) << text;
  }
}

// Copying and printing JSON recurse: a megabyte of brackets must not get that far.
TEST(QuantizationConfig, DeepNestingIsRefused) {
  for (const int depth : {100, 1'000'000}) {
    const std::string deep = std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']');
    for (const std::string& text : {R"({"quantization_config": {"quant_method": )" + deep + "}}",
                                    R"({"quantization_config": {"quant_method": "qamw", "tensors": )" + deep + "}}",
                                    R"({"other": )" + deep + "}"}) {
      EXPECT_FALSE(IsArtifactConfig(text));
      EXPECT_EQ(ReasonOf(ReadQuantizationConfig(text, "x").status()), "CONFIG_FIELD");
      EXPECT_EQ(ReasonOf(WithQuantizationConfig(text, {}).status()), "CONFIG_FIELD");
    }
  }
}

TEST(QuantizationConfig, RefusesWhatItCannotRead) {
  const std::string good = *WithQuantizationConfig(kConfig, {});
  const auto with = [&](std::string from, const std::string& to) {
    std::string text = good;
    text.replace(text.find(from), from.size(), to);
    return ReasonOf(ReadQuantizationConfig(text, "x").status());
  };
  EXPECT_EQ(with("\"version\": 2", "\"version\": 3"), "ARTIFACT_VERSION");
  EXPECT_EQ(with("\"codec\": \"joint\"", "\"codec\": 3"), "CONFIG_FIELD");
  EXPECT_EQ(with("\"codec\"", "\"tensors\": 5, \"codec\""), "CONFIG_FIELD");
  EXPECT_EQ(with("\"codec\"", "\"tensors\": {\"x\": 5}, \"codec\""), "CONFIG_FIELD");
  EXPECT_EQ(with("\"pair_bits\": 11", "\"pair_bits\": 33"), "CONFIG_FIELD");
  EXPECT_EQ(with("\"pair_bits\": 11", "\"pair_bits\": \"x\""), "CONFIG_FIELD");
}

}  // namespace
}  // namespace qamserve
