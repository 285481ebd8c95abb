// config.json, safetensors in shards, and the files that describe the tokenizer.
#include <nlohmann/json.hpp>

#include "core/base/file.h"
#include "core/export/internal.h"
#include "core/export/weights.h"
#include "core/format/artifact_format.h"
#include "core/format/json_text.h"
#include "core/format/safetensors.h"

namespace qamserve {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxConfigBytes = 16 << 20;
// Gemma's tokenizer.json, the largest known, has 33 MB.
constexpr uint64_t kMaxSidecarBytes = uint64_t{256} << 20;
// Multiples of a cache line, so that mapped tensors are aligned.
constexpr uint64_t kAlignment = 64;

// What an artifact takes over from its checkpoint.
constexpr const char* kSidecars[] = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                                     "generation_config.json"};

const char* TorchName(DType dtype) {
  if (dtype == DType::kF32) return "float32";
  return dtype == DType::kF16 ? "float16" : "bfloat16";
}

absl::StatusOr<std::string> ConfigText(const ExportSource& source) {
  ASSIGN_OR_RETURN(const std::string text, source.files.ReadText(kConfigFile, kMaxConfigBytes));
  Json config = ParseJson(text);
  // The text model of a multimodal one stands alone, as its tensors do.
  if (config.contains("text_config")) {
    config = Json::parse(ModelConfigToJson(source.reader.config()), nullptr, /*allow_exceptions=*/false);
  }
  if (!config.is_object()) return InvalidArgument("CONFIG_FIELD", "{}: not a JSON object", source.files.origin());
  config.erase("quantization_config");
  // transformers 5 calls it dtype and reads both.
  if (config.contains("dtype")) config["dtype"] = TorchName(source.options.dtype);
  config["torch_dtype"] = TorchName(source.options.dtype);
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::vector<std::vector<ExportTensor>> Shards(std::vector<ExportTensor> tensors, int64_t max_bytes) {
  std::vector<std::vector<ExportTensor>> shards;
  uint64_t bytes = 0;
  for (ExportTensor& tensor : tensors) {
    const uint64_t more = tensor.bytes();
    if (shards.empty() || bytes + more > static_cast<uint64_t>(std::max<int64_t>(1, max_bytes))) {
      shards.emplace_back();
      bytes = 0;
    }
    bytes += more;
    shards.back().push_back(std::move(tensor));
  }
  return shards;
}

absl::Status WriteShard(const std::vector<ExportTensor>& tensors, const std::string& path, WeightReader& weights) {
  std::vector<SafetensorsWriter::Declaration> declarations;
  declarations.reserve(tensors.size());
  for (const ExportTensor& tensor : tensors) declarations.push_back({tensor.name, tensor.dtype, tensor.shape});
  // transformers refuses files that do not say which framework wrote them.
  ASSIGN_OR_RETURN(auto writer, SafetensorsWriter::Create(path, declarations, {{"format", "pt"}}, kAlignment));
  for (const ExportTensor& tensor : tensors) {
    RETURN_IF_ERROR(weights.Read(tensor, [&writer](std::span<const std::byte> bytes) { return writer.Append(bytes); }));
  }
  return writer.Commit();
}

absl::Status WriteShards(const ExportSource& source, const std::string& folder) {
  std::vector<ExportTensor> tensors = TensorsOf(source.reader.config(), source.options.dtype);
  uint64_t total = 0;
  for (const ExportTensor& tensor : tensors) total += tensor.bytes();
  RETURN_IF_ERROR(CheckSpace(folder, total));
  const std::vector<std::vector<ExportTensor>> shards = Shards(std::move(tensors), source.options.max_shard_bytes);
  WeightReader weights(source.reader, source.pool, source.progress, total);
  if (shards.size() == 1) return WriteShard(shards[0], folder + "/" + kWeightsFile, weights);
  Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", Json::object()}};
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    for (const ExportTensor& tensor : shards[i]) index["weight_map"][tensor.name] = name;
    RETURN_IF_ERROR(WriteShard(shards[i], fmt::format("{}/{}", folder, name), weights));
  }
  return WriteFileAtomically(folder + "/model.safetensors.index.json", index.dump(2) + "\n");
}

}  // namespace

absl::Status WriteHuggingFace(const ExportSource& source, const std::string& folder) {
  ASSIGN_OR_RETURN(const std::string config, ConfigText(source));
  RETURN_IF_ERROR(WriteFileAtomically(folder + "/" + kConfigFile, config));
  for (const char* name : kSidecars) {
    if (source.files.Find(name) == nullptr) continue;
    ASSIGN_OR_RETURN(const std::string text, source.files.ReadText(name, kMaxSidecarBytes));
    RETURN_IF_ERROR(WriteFileAtomically(fmt::format("{}/{}", folder, name), text));
  }
  return WriteShards(source, folder);
}

}  // namespace qamserve
