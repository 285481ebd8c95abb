// Exports of tiny models of every architecture, opened by the readers of checkpoints: other code than what wrote them.
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/digest.h"
#include "core/base/rng.h"
#include "core/format/gguf.h"
#include "core/model/checkpoint.h"
#include "core/model/dequantize.h"
#include "core/model/parameters.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/core/export/export_fixture.h"

namespace qamserve {
namespace {

using Json = nlohmann::json;

constexpr char kText[] =
    "The cat's 12 hats\n\n  <|im_start|>caf\xC3\xA9 \xE6\xBC\xA2\xE5\xAD\x97 \xF0\x9F\x98\x80\tend";

std::shared_ptr<const Checkpoint> MustOpen(const std::string& path) {
  auto checkpoint = Checkpoint::Open(*FileSet::FromPath(path));
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? *checkpoint : nullptr;
}

// Half the distance to the next number of the type, relative, and near zero absolute.
float Rounding(DType dtype, float value) {
  if (dtype == DType::kF32) return 0;
  return dtype == DType::kBF16 ? std::abs(value) * 0x1p-8f : std::max(std::abs(value) * 0x1p-11f, 0x1p-25f);
}

// Every tensor of the export is the artifact's within the rounding of its type.
void ExpectTensorsOf(const Exported& e, const Checkpoint& exported) {
  const auto artifact = ArtifactReader::Open(*FileSet::FromPath(e.artifact()));
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  const Dequantizer dequantizer(**artifact);
  for (const ParameterSpec& spec : ParametersOf((*artifact)->config())) {
    const auto rows = dequantizer.Open(spec.name);
    ASSERT_TRUE(rows.ok()) << rows.status();
    ASSERT_EQ(rows->shape(), spec.shape) << spec.name;
    std::vector<float> expected(static_cast<size_t>(rows->rows() * rows->cols())), actual(expected.size());
    rows->Read(0, rows->rows(), expected);
    ASSERT_EQ(exported.ReadRows(spec.name, 0, rows->rows(), actual), absl::OkStatus());
    const DType dtype = spec.shape.size() > 1 ? e.options.dtype : DType::kF32;
    ASSERT_EQ(exported.Info(spec.name).dtype, dtype) << spec.name;
    const float whole = spec.is_norm && (*artifact)->config().stored_norms_less_one ? 1.0f : 0.0f;
    for (size_t i = 0; i < expected.size(); ++i) {
      const float want = expected[i] + whole;
      ASSERT_LE(std::abs(actual[i] - want), Rounding(dtype, want)) << spec.name << " at " << i;
    }
  }
}

// The codec's error and no more: neither another basis nor another order of rows.
void ExpectCloseToCheckpoint(const Exported& e, const Checkpoint& exported) {
  const auto original = MustOpen(e.folder / "model");
  for (int64_t layer = 0; layer < exported.config().num_layers; ++layer) {
    for (const std::string& name : original->LinearNames(layer)) {
      const TensorInfo& info = original->Info(name + ".weight");
      std::vector<float> a(static_cast<size_t>(info.elements())), b(a.size());
      ASSERT_EQ(original->ReadRows(info.name, 0, info.rows(), a), absl::OkStatus());
      ASSERT_EQ(exported.ReadRows(info.name, 0, info.rows(), b), absl::OkStatus());
      double error = 0, energy = 0;
      for (size_t i = 0; i < a.size(); ++i) {
        error += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
        energy += std::pow(static_cast<double>(a[i]), 2);
      }
      EXPECT_LT(error, 5e-3 * energy) << name;
    }
  }
}

std::vector<float> Logits(const std::string& path, int tokens) {
  const auto model = Model::Load(*FileSet::FromPath(path));
  EXPECT_TRUE(model.ok()) << model.status();
  if (!model.ok()) return {};
  Rng rng(5);
  std::vector<int32_t> ids;
  ids.reserve(tokens);
  for (int t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(rng.NextU64() % 300));
  ThreadPool pool(1);
  Workspace workspace;
  KvCache cache((*model)->config(), tokens);
  const SequenceChunk chunk{ids, &cache, /*all_logits=*/true};
  std::vector<float> logits;
  EXPECT_EQ((*model)->Forward(std::span(&chunk, 1), workspace, pool, logits), absl::OkStatus());
  return logits;
}

// Logits have a deviation near 2. The kernels round activations to 14 bits; the rest is the type's rounding.
void ExpectSameLogits(const Exported& e, int tokens) {
  const std::vector<float> a = Logits(e.artifact(), tokens), b = Logits(e.out(), tokens);
  ASSERT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, static_cast<double>(std::abs(a[i] - b[i])));
  EXPECT_LT(worst, e.options.dtype == DType::kF32 ? 5e-3 : e.options.dtype == DType::kF16 ? 1e-2 : 8e-2);
}

std::shared_ptr<const Tokenizer> MustTokenize(const std::string& path) {
  const auto files = ReadTokenizerFiles(*FileSet::FromPath(path));
  EXPECT_TRUE(files.ok()) << files.status();
  return *Tokenizer::Create(*files, path);
}

void ExpectSameTokenizer(const Exported& e) {
  const auto a = MustTokenize(e.artifact()), b = MustTokenize(e.out());
  for (const bool special : {false, true}) {
    const EncodeOptions options{.add_special = true, .parse_special = special};
    EXPECT_EQ(a->Encode(kText, options), b->Encode(kText, options));
  }
  for (int32_t id = 0; id < a->size(); ++id) {
    ASSERT_EQ(a->TokenBytes(id), b->TokenBytes(id)) << id;
    ASSERT_EQ(a->IsSpecial(id), b->IsSpecial(id)) << id;
  }
  EXPECT_EQ(b->Decode(b->Encode(kText, {}), false), kText);
  EXPECT_EQ(a->bos_id(), b->bos_id());
  EXPECT_EQ(a->stop_ids(), b->stop_ids());
  EXPECT_EQ(ReadTokenizerFiles(*FileSet::FromPath(e.artifact()))->chat_template,
            ReadTokenizerFiles(*FileSet::FromPath(e.out()))->chat_template);
}

class EveryArchitecture : public testing::TestWithParam<Architecture> {};

TEST_P(EveryArchitecture, IsTheModelThatTheKernelsCompute) {
  Exported e;
  e.model.architecture = GetParam();
  // Seven layers, so that one of Gemma's is global. Qwen 2 in GGUF has heads that add up to the hidden size.
  if (GetParam() == Architecture::kGemma3) e.model.num_layers = 7;
  if (GetParam() != Architecture::kQwen2) e.model.head_dim = 24;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  const bool all_types = GetParam() == Architecture::kLlama || GetParam() == Architecture::kGemma3;
  for (const ExportFormat format : kFormats) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      if (dtype != DType::kF32 && !all_types) continue;
      SCOPED_TRACE(fmt::format("{} {}", format == ExportFormat::kGguf ? "gguf" : "hf", DTypeName(dtype)));
      e.options = {.format = format, .dtype = dtype};
      ASSERT_EQ(e.Export(), absl::OkStatus());
      const auto exported = MustOpen(e.out());
      ASSERT_NE(exported, nullptr);
      ExpectTensorsOf(e, *exported);
      ExpectCloseToCheckpoint(e, *exported);
      ExpectSameLogits(e, 40);
      ExpectSameTokenizer(e);
    }
  }
  EXPECT_EQ(e.Leftovers().size(), all_types ? 6u : 2u);
}

INSTANTIATE_TEST_SUITE_P(All, EveryArchitecture,
                         testing::Values(Architecture::kLlama, Architecture::kMistral, Architecture::kQwen2,
                                         Architecture::kQwen3, Architecture::kGemma3),
                         [](const auto& info) { return ArchitectureName(info.param); });

TEST(BothFormats, TiedEmbeddingsAreWrittenOnce) {
  Exported e;
  e.model.tie_embeddings = true;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  for (const ExportFormat format : kFormats) {
    e.options.format = format;
    ASSERT_EQ(e.Export(), absl::OkStatus());
    const auto exported = MustOpen(e.out());
    ASSERT_NE(exported, nullptr);
    EXPECT_TRUE(exported->config().tie_embeddings);
    EXPECT_FALSE(exported->Has("lm_head.weight"));
    ExpectSameLogits(e, 16);
  }
}

TEST(BothFormats, FullPrecisionIsWrittenAsItIs) {
  Exported e;
  e.model.dtype = DType::kBF16;
  e.spec = {.codec = Codec::kFull, .bpw = 16, .channel_scale = false, .rotation = RotationKind::kNone};
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  for (const ExportFormat format : kFormats) {
    e.options.format = format;
    ASSERT_EQ(e.Export(), absl::OkStatus());
    const auto exported = MustOpen(e.out());
    ASSERT_NE(exported, nullptr);
    ExpectTensorsOf(e, *exported);
    ExpectSameLogits(e, 16);
  }
}

TEST(BothFormats, EmbeddingsIn8BitsAreWrittenAsTheModelReadsThem) {
  for (const bool tied : {false, true}) {
    Exported e;
    e.model.tie_embeddings = tied;
    e.model.vocab_size = 331;  // the last strip has 11 rows
    e.spec.embedding_bits = 8;
    ASSERT_EQ(e.Quantize(), absl::OkStatus());
    for (const ExportFormat format : kFormats) {
      e.options = {.format = format, .dtype = DType::kF32};
      ASSERT_EQ(e.Export(), absl::OkStatus());
      const auto exported = MustOpen(e.out());
      ASSERT_NE(exported, nullptr);
      ExpectTensorsOf(e, *exported);
      ExpectSameLogits(e, 40);
    }
  }
}

void ExpectScalingKept(Architecture architecture, const Json& scaling) {
  Exported e;
  e.model.architecture = architecture;
  e.model.num_layers = architecture == Architecture::kGemma3 ? 6 : 2;
  e.model.edit_config = [&](nlohmann::ordered_json& config) { config["rope_scaling"] = scaling; };
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  for (const ExportFormat format : kFormats) {
    e.options = {.format = format, .dtype = DType::kF32};
    ASSERT_EQ(e.Export(), absl::OkStatus());
    const auto exported = MustOpen(e.out());
    ASSERT_NE(exported, nullptr);
    EXPECT_EQ(exported->config().rope_scaling.factor, scaling["factor"].get<double>());
    ExpectSameLogits(e, 40);
  }
}

TEST(BothFormats, RopeScalingIsKept) {
  const Json linear = {{"rope_type", "linear"}, {"factor", 4.0}};
  ExpectScalingKept(Architecture::kLlama, linear);
  ExpectScalingKept(Architecture::kGemma3, linear);
  ExpectScalingKept(Architecture::kLlama, {{"rope_type", "llama3"},
                                           {"factor", 8.0},
                                           {"low_freq_factor", 1.0},
                                           {"high_freq_factor", 4.0},
                                           {"original_max_position_embeddings", 8192}});
}

TEST(BothFormats, BytesDoNotDependOnThreads) {
  Exported e;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  for (const ExportFormat format : kFormats) {
    std::set<std::string> digests;
    for (const int threads : {1, 5}) {
      e.options.format = format;
      e.threads = threads;
      ASSERT_EQ(e.Export(), absl::OkStatus());
      digests.insert(*Sha256OfFile(format == ExportFormat::kGguf ? e.out() : e.out() + "/model.safetensors"));
    }
    EXPECT_EQ(digests.size(), 1u);
  }
}

TEST(HuggingFace, ConfigSaysWhatTheWeightsAre) {
  Exported e;
  e.options.dtype = DType::kF16;
  ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
  const Json config = Json::parse(*ReadFile(e.out() + "/config.json", 1 << 20));
  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_EQ(config["torch_dtype"], "float16");
  EXPECT_EQ(config["bos_token_id"], 0);  // what our own reader has no use for stays
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"}) {
    EXPECT_EQ(*ReadFile(e.out() + "/" + name, 1 << 20), *ReadFile(e.artifact() + "/" + name, 1 << 20)) << name;
  }
  EXPECT_EQ(SafetensorsReader::Open(*FileSet::FromPath(e.out())).value()->metadata().at("format"), "pt");
}

TEST(HuggingFace, ShardsStayBelowTheLimitAndAnIndexNamesThem) {
  Exported e;
  e.options.max_shard_bytes = 50'000;
  ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
  const Json index = Json::parse(*ReadFile(e.out() + "/model.safetensors.index.json", 1 << 20));
  std::set<std::string> shards;
  for (const auto& [tensor, file] : index["weight_map"].items()) shards.insert(file.get<std::string>());
  ASSERT_GT(shards.size(), 2u);
  EXPECT_EQ(*shards.begin(), fmt::format("model-00001-of-{:05}.safetensors", shards.size()));
  for (const std::string& shard : shards) EXPECT_LT(std::filesystem::file_size(e.out() + "/" + shard), 55'000u);
  EXPECT_FALSE(std::filesystem::exists(e.out() + "/model.safetensors"));
  ExpectTensorsOf(e, *MustOpen(e.out()));
}

TEST(HuggingFace, ATensorPastTheLimitHasAShardOfItsOwn) {
  Exported e;
  e.options.max_shard_bytes = 1;
  ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
  ExpectTensorsOf(e, *MustOpen(e.out()));
}

TEST(HuggingFace, AnEmptyFolderIsFilled) {
  Exported e;
  ASSERT_EQ(e.Quantize(), absl::OkStatus());
  ASSERT_EQ(CreateDirectories(e.out()), absl::OkStatus());
  EXPECT_EQ(e.Export(), absl::OkStatus());
}

std::unique_ptr<GgufReader> Keys(const Exported& e) {
  return GgufReader::Open({"out.gguf", e.out(), std::filesystem::file_size(e.out())}).value();
}

TEST(Gguf, KeysThatReadersOfItWant) {
  Exported e;
  e.options.format = ExportFormat::kGguf;
  e.model.vocab_size = 330;
  ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
  const auto gguf = Keys(e);
  EXPECT_EQ(*gguf->GetString("general.architecture"), "llama");
  EXPECT_EQ(*gguf->GetInt("llama.vocab_size"), 330);
  EXPECT_EQ(gguf->GetStrings("tokenizer.ggml.tokens")->size(), 330u);
  EXPECT_EQ(*gguf->GetInt("llama.rope.dimension_count"), 16);
  EXPECT_EQ(*gguf->GetInt("llama.attention.key_length"), 16);
  EXPECT_EQ(*gguf->GetString("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(*gguf->GetInt("tokenizer.ggml.eos_token_id"), 2);
  EXPECT_FALSE(*gguf->GetBool("tokenizer.ggml.add_bos_token"));
  EXPECT_EQ(*gguf->GetInt("general.file_type"), 32);
}

TEST(Gguf, RowsOfHeadsAreInterleavedForLlamaOnly) {
  for (const Architecture architecture : {Architecture::kMistral, Architecture::kQwen3}) {
    Exported e;
    e.options = {.format = ExportFormat::kGguf, .dtype = DType::kF32};
    e.model.architecture = architecture;
    ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
    const auto gguf = Keys(e);
    const auto exported = MustOpen(e.out());
    const int64_t cols = e.model.hidden_size, half = e.model.head_dim / 2;
    std::vector<float> stored(static_cast<size_t>(cols)), row(stored.size());
    // Row 1 of the file is the first of the second half of a head, the partner of row 0.
    ASSERT_EQ(ReadRows(*gguf, *gguf->Find("blk.1.attn_k.weight"), 1, 2, stored), absl::OkStatus());
    const auto artifact = ArtifactReader::Open(*FileSet::FromPath(e.artifact())).value();
    const int64_t source = architecture == Architecture::kMistral ? half : 1;
    Dequantizer(*artifact).Open("model.layers.1.self_attn.k_proj.weight")->Read(source, source + 1, row);
    EXPECT_EQ(stored, row);
  }
}

TEST(Gguf, AWindowThatItHasNoKeyForLimitsTheContext) {
  Exported e;
  e.options.format = ExportFormat::kGguf;
  e.model.architecture = Architecture::kMistral;
  e.model.sliding_window = 32;
  ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
  EXPECT_EQ(MustOpen(e.out())->config().context_length, 32);
  ExpectSameLogits(e, 32);
}

TEST(Gguf, GemmaKeepsItsLayers) {
  Exported e;
  e.options = {.format = ExportFormat::kGguf, .dtype = DType::kF32};
  e.model.architecture = Architecture::kGemma3;
  e.model.num_layers = 5;
  e.model.edit_config = [](nlohmann::ordered_json& config) {
    config["sliding_window_pattern"] = 2;
    config["rope_local_base_freq"] = 20000.0;
  };
  ASSERT_EQ(e.QuantizeAndExport(), absl::OkStatus());
  const ModelConfig config = MustOpen(e.out())->config();
  EXPECT_EQ(config.layer_slides, (std::vector<bool>{true, false, true, false, true}));
  EXPECT_EQ(config.rope_theta_local, 20000);
  ExpectSameLogits(e, 40);
}

}  // namespace
}  // namespace qamserve
