#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "core/codec/half.h"
#include "core/quantize/internal.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {
namespace {

constexpr size_t kCopyBytes = 1 << 20;

absl::Status CopyTensor(const SafetensorsReader& source, const std::string& name, SafetensorsWriter& writer) {
  const TensorInfo* info = source.Find(name);
  if (info == nullptr) return FailedPrecondition("GATE_COVERAGE", "{}: tensor {} is missing", source.origin(), name);
  std::vector<std::byte> buffer(std::min<uint64_t>(info->bytes, kCopyBytes));
  for (uint64_t at = 0; at < info->bytes; at += buffer.size()) {
    const auto part = std::span(buffer).first(std::min<uint64_t>(buffer.size(), info->bytes - at));
    RETURN_IF_ERROR(source.ReadBytes(*info, at, part));
    RETURN_IF_ERROR(writer.Append(part));
  }
  return absl::OkStatus();
}

// Floats in the stored type. Values of F16 and BF16 sources come back to their own bits.
absl::Status AppendAs(DType dtype, std::span<const float> values, SafetensorsWriter& writer) {
  if (dtype == DType::kF32) return writer.Append(std::as_bytes(values));
  std::vector<uint16_t> narrow;
  narrow.reserve(values.size());
  for (float v : values) {
    narrow.push_back(dtype == DType::kF16 ? FloatToHalf(v) : static_cast<uint16_t>(std::bit_cast<uint32_t>(v) >> 16));
  }
  return writer.Append(std::as_bytes(std::span(narrow)));
}

absl::Status CopyKept(const Checkpoint& checkpoint, const std::string& name, SafetensorsWriter& writer) {
  const TensorInfo& info = checkpoint.Info(name);
  // config.json of an artifact is in Hugging Face's form, which stores Gemma's norms less one.
  const bool less_one = checkpoint.config().architecture == Architecture::kGemma3 && name.ends_with("norm.weight");
  const int64_t cols = info.cols();
  const int64_t rows_at_once = std::max<int64_t>(1, static_cast<int64_t>(kCopyBytes / sizeof(float)) / cols);
  std::vector<float> rows(static_cast<size_t>(std::min(rows_at_once, info.rows()) * cols));
  for (int64_t row = 0; row < info.rows(); row += rows_at_once) {
    const int64_t end = std::min(info.rows(), row + rows_at_once);
    const auto part = std::span(rows).first(static_cast<size_t>((end - row) * cols));
    RETURN_IF_ERROR(checkpoint.ReadRows(name, row, end, part));
    if (less_one) {
      for (float& v : part) v -= 1.0f;
    }
    RETURN_IF_ERROR(AppendAs(KeptType(info), part, writer));
  }
  return absl::OkStatus();
}

absl::Status WriteWeights(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                          const ArtifactInputs& inputs, ProgressFn progress, const std::string& path) {
  std::vector<std::unique_ptr<SafetensorsReader>> packed;
  for (const std::string& file : inputs.packed) {
    ASSIGN_OR_RETURN(auto reader, SafetensorsReader::Open(FileSet(file, {{"packed.safetensors", file, 0}})));
    packed.push_back(std::move(reader));
  }
  const size_t n = plan.tensors.size();
  // In file order the tensors of the plan come first, each under the name that it has in its packed file.
  std::vector<SafetensorsWriter::Declaration> declarations = ArtifactDeclarations(checkpoint, spec, plan);
  for (size_t i = 0; i < n; ++i) {
    const TensorInfo* info = packed[i]->Find(declarations[i].name);
    if (info != nullptr && !HasCodes(plan.tensors[i].format)) declarations[i].dtype = info->dtype;
  }
  ASSIGN_OR_RETURN(SafetensorsWriter writer,
                   SafetensorsWriter::Create(path, declarations, ArtifactMetadata(), kCodesAlignment,
                                             static_cast<uint64_t>(plan.artifact_bytes)));
  for (size_t i = 0; i < n; ++i) {
    RETURN_IF_ERROR(CopyTensor(*packed[i], declarations[i].name, writer));
    RETURN_IF_ERROR(progress(0.8 * static_cast<double>(i + 1) / static_cast<double>(n)));
  }
  auto embedding_progress = [&](double fraction) { return progress(0.8 + 0.15 * fraction); };
  ASSIGN_OR_RETURN(const std::vector<uint16_t> embedding_norms,
                   WriteEmbeddings(checkpoint, spec, plan, embedding_progress, writer));
  for (size_t i = 0; i < n; ++i) {
    if (!spec.channel_scale || (i > 0 && plan.tensors[i].group == plan.tensors[i - 1].group)) continue;
    RETURN_IF_ERROR(CopyTensor(*packed[i], plan.tensors[i].group + kChannelScaleSuffix, writer));
  }
  for (size_t i = 0; i < n; ++i) {
    if (!HasCodes(plan.tensors[i].format)) continue;
    RETURN_IF_ERROR(CopyTensor(*packed[i], plan.tensors[i].name + kRowNormSuffix, writer));
  }
  RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(embedding_norms))));
  for (const std::string& name : KeptTensors(checkpoint, plan)) RETURN_IF_ERROR(CopyKept(checkpoint, name, writer));
  return writer.Commit();
}

// generation_config.json of the checkpoint, or one with the tokenizer's own begin and end.
absl::StatusOr<std::string> GenerationConfig(const Checkpoint& checkpoint, const TokenizerFiles& tokenizer_files) {
  constexpr char kName[] = "generation_config.json";
  if (checkpoint.files().Find(kName) != nullptr) return checkpoint.files().ReadText(kName, 1 << 20);
  ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Create(tokenizer_files, checkpoint.origin()));
  nlohmann::json config = {{"eos_token_id", tokenizer->stop_ids()}};
  if (tokenizer->bos_id().has_value()) config["bos_token_id"] = *tokenizer->bos_id();
  return config.dump(2) + "\n";
}

absl::Status WriteSidecars(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                           const std::string& dir) {
  QuantizationConfig quantization;
  ASSIGN_OR_RETURN(const TensorFormat format, FormatFor(spec.codec, spec.bpw));
  quantization.format = {std::string(CodecName(format.codec)), format.pair_bits};
  for (const QuantizePlan::Tensor& tensor : plan.tensors) {
    if (tensor.format == format) continue;
    quantization.tensors[tensor.name] = {std::string(CodecName(tensor.format.codec)), tensor.format.pair_bits};
  }
  for (const QuantizePlan::Tensor& tensor : plan.embeddings) {
    quantization.tensors[tensor.name] = {std::string(CodecName(tensor.format.codec)), tensor.format.pair_bits};
  }
  quantization.rotation = RotationKindName(spec.rotation);
  quantization.rotation_seed = spec.seed;
  quantization.channel_scale = spec.channel_scale;
  ASSIGN_OR_RETURN(const std::string config, WithQuantizationConfig(checkpoint.config_json(), quantization));
  RETURN_IF_ERROR(WriteFileAtomically(dir + "/" + kConfigFile, config));
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, ReadTokenizerFiles(checkpoint.files()));
  RETURN_IF_ERROR(WriteFileAtomically(dir + "/tokenizer.json", tokenizer.tokenizer_json));
  if (!tokenizer.tokenizer_config_json.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(dir + "/tokenizer_config.json", tokenizer.tokenizer_config_json));
  }
  if (!tokenizer.chat_template.empty()) {
    RETURN_IF_ERROR(WriteFileAtomically(dir + "/chat_template.jinja", tokenizer.chat_template));
  }
  ASSIGN_OR_RETURN(const std::string generation, GenerationConfig(checkpoint, tokenizer));
  return WriteFileAtomically(dir + "/generation_config.json", generation);
}

}  // namespace

absl::Status AssembleArtifact(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                              const ArtifactInputs& inputs, ProgressFn progress, const std::string& out_dir) {
  if (inputs.packed.size() != plan.tensors.size() || inputs.outcomes.size() != plan.tensors.size()) {
    return FailedPrecondition("GATE_COVERAGE", "{} of {} tensors were quantized", inputs.packed.size(),
                              plan.tensors.size());
  }
  if (plan.tensors.empty()) {
    return FailedPrecondition("GATE_COVERAGE", "{}: no tensor was quantized", checkpoint.origin());
  }
  RETURN_IF_ERROR(CreateDirectories(out_dir));
  RETURN_IF_ERROR(WriteWeights(checkpoint, spec, plan, inputs, progress, out_dir + "/" + kWeightsFile));
  RETURN_IF_ERROR(WriteSidecars(checkpoint, spec, plan, out_dir));
  RETURN_IF_ERROR(VerifyArtifact(checkpoint, plan, inputs, out_dir));
  return progress(1.0);
}

absl::StatusOr<std::map<std::string, std::string>> DigestFiles(const std::string& dir) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(dir));
  std::map<std::string, std::string> digests;
  for (const FileEntry& file : files.files()) {
    ASSIGN_OR_RETURN(digests[file.name], Sha256OfFile(file.path));
  }
  return digests;
}

}  // namespace qamserve
