// One GGUF file.
#include "core/format/gguf.h"

#include <algorithm>

#include "core/base/file.h"
#include "core/export/internal.h"
#include "core/export/weights.h"
#include "core/model/forward.h"
#include "core/model/parameters.h"

namespace qamserve {
namespace {

constexpr char kRopeFrequencies[] = "rope_freqs.weight";

// Values of llama.cpp's llama_ftype.
uint32_t FileType(DType dtype) {
  constexpr uint32_t kAllF32 = 0, kMostlyF16 = 1, kMostlyBF16 = 32;
  if (dtype == DType::kF32) return kAllF32;
  return dtype == DType::kF16 ? kMostlyF16 : kMostlyBF16;
}

// What GGUF changes in tensors: the order of rows and the norms.
void AdaptToGguf(const ModelConfig& config, ExportTensor& tensor) {
  const bool llama = config.architecture == Architecture::kLlama || config.architecture == Architecture::kMistral;
  const bool rotated = tensor.name.ends_with(".q_proj.weight") || tensor.name.ends_with(".k_proj.weight");
  if (llama && rotated) tensor.interleaved_head_dim = config.head_dim;
  if (config.stored_norms_less_one && tensor.name.ends_with("norm.weight")) tensor.add = 1;
}

// By what each rotary pair's frequency is divided; empty without Llama 3.1's scaling.
std::vector<float> RopeDivisors(const ModelConfig& config) {
  std::vector<float> divisors;
  if (config.rope_scaling.kind != RopeScaling::Kind::kLlama3) return divisors;
  ModelConfig plain = config;
  plain.rope_scaling = {};
  const RopeFrequencies scaled = MakeRopeFrequencies(config), unscaled = MakeRopeFrequencies(plain);
  for (size_t pair = 0; pair < scaled.global.size(); ++pair) {
    divisors.push_back(static_cast<float>(unscaled.global[pair] / scaled.global[pair]));
  }
  return divisors;
}

// An artifact's tokenizer is one that we read; what is not supported is GGUF's.
absl::Status ExportError(const absl::Status& status) {
  if (ReasonOf(status) != "TOKENIZER_UNSUPPORTED") return status;
  return MakeError(absl::StatusCode::kUnimplemented, "EXPORT_TOKENIZER", MessageOf(status));
}

// Reads the keys back before gigabytes follow them: their tokenizer must be the artifact's own.
absl::Status CheckTokenizer(const GgufMetadata& metadata, const TokenizerFiles& files, const std::string& origin,
                            const std::string& folder) {
  const std::string path = folder + "/keys.gguf";
  ASSIGN_OR_RETURN(GgufFileWriter writer, GgufFileWriter::Create(path, metadata, {}));
  RETURN_IF_ERROR(writer.Commit());
  ASSIGN_OR_RETURN(const FileSet written, FileSet::FromPath(path));
  ASSIGN_OR_RETURN(const TokenizerFiles read_back, ReadTokenizerFiles(written));
  ASSIGN_OR_RETURN(const auto expected, Tokenizer::Create(files, origin));
  ASSIGN_OR_RETURN(const auto actual, Tokenizer::Create(read_back, origin));
  RETURN_IF_ERROR(
      Annotate(CheckSameIds(*expected, *actual), fmt::format("{}: tokenizer: GGUF cannot say it exactly", origin)));
  return RemoveAll(path);
}

absl::StatusOr<GgufMetadata> MakeMetadata(const ExportSource& source, const std::string& folder) {
  const std::string& origin = source.files.origin();
  GgufMetadata metadata;
  RETURN_IF_ERROR(AddModelKeys(source.reader.config(), origin, metadata));
  metadata.AddString("general.type", "model");
  metadata.AddString("general.name", "qamserve export");
  metadata.AddUint32("general.file_type", FileType(source.options.dtype));
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, ReadTokenizerFiles(source.files));
  const auto vocabulary = GgufVocabularyOf(tokenizer, source.reader.config().vocab_size, origin);
  if (!vocabulary.ok()) return ExportError(vocabulary.status());
  AddTokenizerKeys(*vocabulary, metadata);
  RETURN_IF_ERROR(ExportError(CheckTokenizer(metadata, tokenizer, origin, folder)));
  return metadata;
}

}  // namespace

absl::Status WriteGguf(const ExportSource& source, const std::string& folder) {
  const ModelConfig& config = source.reader.config();
  ASSIGN_OR_RETURN(const GgufMetadata metadata, MakeMetadata(source, folder));
  std::vector<ExportTensor> tensors = TensorsOf(config, source.options.dtype);
  std::vector<GgufFileWriter::Declaration> declarations;
  uint64_t total = 0;
  for (ExportTensor& tensor : tensors) {
    AdaptToGguf(config, tensor);
    declarations.push_back({GgufName(config.architecture, tensor.name), tensor.dtype, tensor.shape});
    total += tensor.bytes();
  }
  const std::vector<float> divisors = RopeDivisors(config);
  if (!divisors.empty()) {
    declarations.push_back({kRopeFrequencies, DType::kF32, {static_cast<int64_t>(divisors.size())}});
  }
  ASSIGN_OR_RETURN(const uint64_t file_bytes, GgufFileWriter::TotalBytes(metadata, declarations));
  RETURN_IF_ERROR(CheckSpace(folder, file_bytes));
  ASSIGN_OR_RETURN(GgufFileWriter writer,
                   GgufFileWriter::Create(fmt::format("{}/{}", folder, kGgufName), metadata, declarations));
  WeightReader weights(source.reader, source.pool, source.progress, total);
  for (const ExportTensor& tensor : tensors) {
    RETURN_IF_ERROR(weights.Read(tensor, [&writer](std::span<const std::byte> bytes) { return writer.Append(bytes); }));
  }
  if (!divisors.empty()) RETURN_IF_ERROR(writer.Append(std::as_bytes(std::span(divisors))));
  return writer.Commit();
}

}  // namespace qamserve
