#include "server/serving/core_model_loader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "core/codec/packing.h"
#include "core/kernels/cuda/matmul.h"
#include "core/model/checkpoint.h"
#include "core/model/cuda/cuda_model.h"
#include "core/model/cuda/open.h"
#include "core/model/model.h"
#include "core/model/parameters.h"
#include "core/tokenizer/conversations.h"

namespace qamserve {
namespace {

// config.json is a few kilobytes in practice.
constexpr uint64_t kMaxConfigBytes = uint64_t{1} << 20;

class EngineGenerator final : public Generator {
 public:
  explicit EngineGenerator(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}
  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                  std::shared_ptr<TokenSink> sink, const RequestOptions& request) override {
    return engine_->Submit(std::move(prompt), params, std::move(sink), request);
  }
  void Cancel(uint64_t id) override { engine_->Cancel(id); }
  absl::StatusOr<TextScores> Score(std::span<const int32_t> tokens, int32_t top) override {
    return engine_->ScoreWithTop(tokens, top);
  }
  absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens) override { return engine_->Embed(tokens); }
  absl::StatusOr<std::vector<TokenComparison>> Compare(Generator& other, std::span<const int32_t> tokens,
                                                       int64_t first) override {
    if (other.engine() == nullptr) return Internal("MODEL_WITHOUT_ENGINE", "a model without weights is compared");
    return engine_->Compare(*other.engine(), tokens, first);
  }
  EngineStats stats() const override { return engine_->stats(); }
  int64_t context_tokens() const override { return engine_->context_tokens(); }
  Engine* engine() override { return engine_.get(); }

 private:
  const std::unique_ptr<Engine> engine_;
};

struct Shape {
  ModelConfig config;
  int64_t weight_bytes = 0;
  int64_t widest_input = 0;  // of packed layers, padded; 0 of a checkpoint
};

// What is read from an artifact's files as halves and kept as floats: half of these bytes are beside the files. Tables
// and rotations, which the files only name, are a few kilobytes for each width of a layer.
int64_t FloatBytes(const ModelConfig& config) {
  constexpr int64_t kTablesAndRotations = int64_t{1} << 20;
  const int64_t rows = config.q_size() + 2 * config.kv_size() + 2 * config.hidden_size + 2 * config.intermediate_size;
  const int64_t scales = 2 * config.hidden_size + config.q_size() + config.intermediate_size;
  const int64_t vectors = config.num_layers * (rows + scales + 4 * config.hidden_size + 2 * config.head_dim);
  return static_cast<int64_t>(sizeof(float)) * (vectors + 2 * config.vocab_size) + kTablesAndRotations;
}

bool IsArtifactConfig(std::string_view text) {
  const nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  const auto quantization = json.find("quantization_config");
  return quantization != json.end() && quantization->is_object() && quantization->contains("quant_method") &&
         (*quantization)["quant_method"] == "qamw";
}

absl::StatusOr<Shape> ShapeOf(const FileSet& files) {
  Shape shape;
  if (files.FindGguf() == nullptr) {
    ASSIGN_OR_RETURN(const std::string text, files.ReadText("config.json", kMaxConfigBytes));
    if (IsArtifactConfig(text)) {
      ASSIGN_OR_RETURN(shape.config, ModelConfigFromJson(text, files.origin()));
      for (const FileEntry& file : files.files()) {
        if (file.name.ends_with(".safetensors")) shape.weight_bytes += static_cast<int64_t>(file.size);
      }
      shape.weight_bytes += FloatBytes(shape.config);
      shape.widest_input =
          PaddedCols(std::max({shape.config.hidden_size, shape.config.q_size(), shape.config.intermediate_size}));
      return shape;
    }
  }
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  shape.config = checkpoint->config();
  for (const ParameterSpec& parameter : ParametersOf(shape.config)) {
    const TensorInfo& info = checkpoint->Info(parameter.name);
    const bool half = info.dtype == DType::kF16 || info.dtype == DType::kBF16;
    const bool matrix = info.shape.size() > 1;
    shape.weight_bytes += info.elements() * (half && matrix ? 2 : 4);
  }
  return shape;
}

// Activations of one step and the logits of each sequence and of its guesses, as float.
int64_t ScratchBytes(const ModelConfig& config, const EngineOptions& engine) {
  const int64_t rows = int64_t{engine.max_running} * (1 + engine.draft_tokens);
  const int64_t tokens = engine.prefill_tokens + rows;
  const int64_t floats_per_token =
      4 * config.hidden_size + 3 * config.intermediate_size + 2 * config.q_size() + 2 * config.kv_size();
  return static_cast<int64_t>(sizeof(float)) * (tokens * floats_per_token + rows * config.vocab_size);
}

// The same on a GPU, where it is taken when the model is loaded. What the driver takes later is LoadPlan::driver_bytes.
int64_t DeviceScratchBytes(const Shape& shape, const EngineOptions& engine) {
  const KvLayout layout(shape.config, shape.config.num_layers, engine.kv);
  const StepLimits limits = StepLimitsOf(engine, shape.config);
  const int64_t packed = CudaPackedScratchBytes(shape.widest_input, CudaModel::ReservedRows(limits.rows));
  return CudaModel::StepBytes(shape.config, layout, limits, shape.widest_input, packed);
}

// A template that does not work takes chat from the model and leaves it the rest.
absl::Status FindChatTemplate(const TokenizerFiles& files, LoadedModel& loaded) {
  absl::StatusOr<std::shared_ptr<const ChatTemplate>> chat = ReadChatTemplate(files);
  if (!chat.ok() && ReasonOf(chat.status()) != "CHAT_TEMPLATE_INVALID") return chat.status();
  loaded.chat_error = chat.ok() && *chat != nullptr ? TryChatTemplate(**chat) : chat.status();
  if (loaded.chat_error.ok()) loaded.chat_template = *std::move(chat);
  return absl::OkStatus();
}

}  // namespace

EngineOptions CoreModelLoader::OptionsFor(const LoadPlan& plan) const {
  EngineOptions options = engine_;
  options.context_tokens = plan.context_tokens;
  options.kv_bytes = plan.kv_bytes;
  return options;
}

absl::StatusOr<LoadPlan> CoreModelLoader::Plan(const FileSet& files, int64_t context_tokens) {
  ASSIGN_OR_RETURN(const Shape shape, ShapeOf(files));
  if (context_tokens < 0 || context_tokens > shape.config.context_length) {
    return InvalidArgument("CONTEXT_RANGE", "context_tokens must be 0 to {} (the context of {}); got {}",
                           shape.config.context_length, files.origin(), context_tokens);
  }
  LoadPlan plan;
  plan.context_tokens = context_tokens > 0 ? context_tokens : std::min(shape.config.context_length, kMaxContextTokens);
  plan.weight_bytes = shape.weight_bytes;
  const int64_t sequence_bytes = KvCache::BytesFor(shape.config, plan.context_tokens, engine_.kv);
  plan.kv_bytes = std::max(sequence_bytes, std::min(engine_.kv_bytes, engine_.max_running * sequence_bytes));
  plan.scratch_bytes = ScratchBytes(shape.config, engine_);
  ASSIGN_OR_RETURN(const int device, ParseDevice(engine_.device));
  plan.on_device = device >= 0;
  if (!plan.on_device) return plan;
  plan.scratch_bytes = DeviceScratchBytes(shape, OptionsFor(plan));
  plan.driver_bytes = CudaModel::DriverBytes(shape.config);
  ASSIGN_OR_RETURN(const CudaMemory memory, device_memory_(device));
  const int64_t free_bytes = memory.bytes - memory.used_bytes;
  if (plan.device_bytes() <= free_bytes) return plan;
  return ResourceExhausted(
      "DEVICE_MEMORY",
      "{} needs {} bytes of {} ({} weights, {} KV cache, {} scratch, {} left to the driver), of whose {} only {} are "
      "free",
      files.origin(), plan.device_bytes(), engine_.device, plan.weight_bytes, plan.kv_bytes, plan.scratch_bytes,
      plan.driver_bytes, memory.bytes, free_bytes);
}

absl::StatusOr<LoadedModel> CoreModelLoader::Load(const FileSet& files, const LoadPlan& plan) {
  LoadedModel loaded;
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer_files, ReadTokenizerFiles(files));
  ASSIGN_OR_RETURN(loaded.tokenizer, Tokenizer::Create(tokenizer_files, files.origin()));
  RETURN_IF_ERROR(FindChatTemplate(tokenizer_files, loaded));
  ASSIGN_OR_RETURN(std::shared_ptr<const Model> model, Model::Load(files));
  ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine,
                   Engine::Create(std::move(model), loaded.tokenizer, OptionsFor(plan), open_));
  loaded.generator = std::make_unique<EngineGenerator>(std::move(engine));
  return loaded;
}

}  // namespace qamserve
