#include "core/model/streamed_model.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "core/model/weights.h"

namespace qamserve {
namespace {

// Matrices in the scratch file begin at whole cache lines.
constexpr uint64_t kScratchAlignment = 64;

uint64_t Aligned(uint64_t bytes) { return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment; }

std::vector<std::string> MatricesOf(const Checkpoint& checkpoint, int64_t layer) {
  std::vector<std::string> names = checkpoint.LinearNames(layer);
  for (std::string& name : names) name += ".weight";
  return names;
}

// All that are multiplied: those of the blocks in their order, then the head.
std::vector<std::string> MatricesOf(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (int64_t layer = 0; layer < checkpoint.config().num_layers; ++layer) {
    for (std::string& name : MatricesOf(checkpoint, layer)) names.push_back(std::move(name));
  }
  names.emplace_back(HeadName(checkpoint.config()));
  return names;
}

// Matrices one after the other, as LoadDense would have them.
class ScratchFile {
 public:
  explicit ScratchFile(AtomicFile file) : file_(std::move(file)) {}

  absl::Status Append(const Checkpoint& checkpoint, const std::string& name) {
    constexpr std::array<std::byte, kScratchAlignment> kPadding{};
    const uint64_t size = file_.size();
    RETURN_IF_ERROR(file_.Append(std::span(kPadding).first(Aligned(size) - size)));
    offsets_.emplace_back(name, file_.size());
    return ReadDense(checkpoint, name, [this](std::span<const std::byte> rows) { return file_.Append(rows); });
  }
  absl::Status Commit() { return file_.Commit(); }
  const std::vector<std::pair<std::string, uint64_t>>& offsets() const { return offsets_; }

 private:
  AtomicFile file_;
  std::vector<std::pair<std::string, uint64_t>> offsets_;
};

}  // namespace

StreamedModel::StreamedModel(const Checkpoint& checkpoint, ThreadPool& pool)
    : checkpoint_(checkpoint),
      pool_(pool),
      context_{checkpoint.config(), BestKernels(), pool, buffers_},
      rope_(MakeRopeFrequencies(checkpoint.config())),
      final_norm_(static_cast<size_t>(checkpoint.config().hidden_size)) {}

absl::StatusOr<std::unique_ptr<StreamedModel>> StreamedModel::Create(const Checkpoint& checkpoint, ThreadPool& pool,
                                                                     const std::string& scratch,
                                                                     StreamProgress progress) {
  RETURN_IF_ERROR(CheckKernelDimensions(checkpoint.config(), checkpoint.origin()));
  std::unique_ptr<StreamedModel> model(new StreamedModel(checkpoint, pool));  // the constructor is private
  RETURN_IF_ERROR(checkpoint.ReadRows("model.norm.weight", 0, 1, model->final_norm_));
  RETURN_IF_ERROR(model->Prepare(scratch, progress));
  return model;
}

absl::Status StreamedModel::Prepare(const std::string& scratch, StreamProgress progress) {
  const std::vector<std::string> names = MatricesOf(checkpoint_);
  std::optional<ScratchFile> converted;
  double done = 0;
  for (const std::string& name : names) {
    if (const std::optional<StoredTensor> stored = checkpoint_.Stored(name)) {
      RETURN_IF_ERROR(CheckAndPlace(name, *stored));
    } else {
      if (!converted) {
        ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(scratch));
        converted.emplace(std::move(file));
      }
      RETURN_IF_ERROR(converted->Append(checkpoint_, name));
    }
    RETURN_IF_ERROR(progress(++done / static_cast<double>(names.size())));
  }
  if (!converted) return absl::OkStatus();
  RETURN_IF_ERROR(converted->Commit());
  const absl::StatusOr<const MappedFile*> mapped = Map(scratch);
  std::error_code ignored;  // a name that stays goes with the folder of the task
  std::filesystem::remove(scratch, ignored);
  RETURN_IF_ERROR(mapped.status());
  for (const auto& [name, offset] : converted->offsets()) places_[name] = {*mapped, offset};
  return absl::OkStatus();
}

absl::Status StreamedModel::CheckAndPlace(const std::string& name, const StoredTensor& stored) {
  RETURN_IF_ERROR(ReadDense(checkpoint_, name, [](std::span<const std::byte>) { return absl::OkStatus(); }));
  ASSIGN_OR_RETURN(const MappedFile* file, Map(stored.path));
  const size_t size = file->bytes().size();
  if (stored.offset > size || stored.bytes > size - stored.offset) {
    return DataLoss("FILE_TRUNCATED", "{}: tensor {} has {} bytes from byte {} of {}, which has {}",
                    checkpoint_.origin(), name, stored.bytes, stored.offset, stored.path, size);
  }
  places_[name] = {file, stored.offset};
  return absl::OkStatus();
}

absl::StatusOr<const MappedFile*> StreamedModel::Map(const std::string& path) {
  if (const auto known = files_.find(path); known != files_.end()) return &known->second;
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  return &files_.emplace(path, std::move(file)).first->second;
}

absl::StatusOr<Linear> StreamedModel::Matrix(const std::string& name) const {
  const TensorInfo& info = checkpoint_.Info(name);
  const Place& place = places_.at(name);
  Linear out;
  out.rows = info.rows();
  out.cols = info.cols();
  out.dense_type = DenseTypeOf(info.dtype);
  out.mapped = place.file->bytes().data() + place.offset;
  return out;
}

void StreamedModel::DropPages() const {
  for (const auto& [path, file] : files_) file.DropPages();
}

absl::Status StreamedModel::Embed(std::span<const SequenceChunk> chunks) {
  const auto n = static_cast<size_t>(checkpoint_.config().hidden_size);
  const auto scale = static_cast<float>(checkpoint_.config().embedding_scale);
  float* at = buffers_.x.data();
  for (const SequenceChunk& chunk : chunks) {
    for (const int32_t token : chunk.tokens) {
      const std::span<float> row(at, n);
      RETURN_IF_ERROR(checkpoint_.ReadRows("model.embed_tokens.weight", token, token + 1, row));
      if (scale != 1.0f) {
        for (float& value : row) value *= scale;
      }
      at += n;
    }
  }
  return absl::OkStatus();
}

absl::Status StreamedModel::Forward(std::span<const SequenceChunk> chunks, StreamProgress progress,
                                    std::vector<float>& logits) {
  const ModelConfig& config = checkpoint_.config();
  RETURN_IF_ERROR(CheckChunks(config, chunks));
  std::vector<BatchSpan> spans;
  int64_t rows = 0;
  for (const SequenceChunk& chunk : chunks) {
    spans.push_back({rows, static_cast<int64_t>(chunk.tokens.size()), chunk.cache->length()});
    rows += spans.back().tokens;
  }
  buffers_.Reserve(config, rows);
  RETURN_IF_ERROR(Embed(chunks));
  PrepareRope(rope_, spans, context_);
  const auto load = [this](const std::string& name) { return Matrix(name); };
  std::vector<LayerKv> caches;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    ASSIGN_OR_RETURN(const LayerWeights weights, LoadDenseLayer(checkpoint_, layer, load));
    caches.clear();
    for (const SequenceChunk& chunk : chunks) caches.emplace_back(*chunk.cache, layer);
    RunLayer(weights, layer, spans, caches, rows, context_);
    DropPages();
    RETURN_IF_ERROR(progress(static_cast<double>(layer + 1) / static_cast<double>(config.num_layers)));
  }
  const int64_t n = config.hidden_size;
  std::vector<float> hidden(chunks.size() * static_cast<size_t>(n));
  for (size_t i = 0; i < chunks.size(); ++i) {
    const BatchSpan& span = spans[i];
    chunks[i].cache->SetLength(span.position + span.tokens);
    context_.kernels.rms_norm(buffers_.x.data() + (span.first_row + span.tokens - 1) * n, final_norm_.data(),
                              static_cast<float>(config.rms_eps), n, hidden.data() + static_cast<int64_t>(i) * n);
  }
  ASSIGN_OR_RETURN(const Linear head, Matrix(HeadName(config)));
  const auto count = static_cast<int64_t>(chunks.size());
  logits.resize(static_cast<size_t>(count * config.vocab_size));
  ApplyHead(head, hidden.data(), count, context_.kernels, pool_, logits.data());
  DropPages();
  return absl::OkStatus();
}

int64_t StreamedModel::ResidentBytes(const Checkpoint& checkpoint) {
  int64_t block = 0;
  for (const std::string& name : MatricesOf(checkpoint, 0)) block += DenseBytes(checkpoint.Info(name));
  return std::max(block, DenseBytes(checkpoint.Info(HeadName(checkpoint.config()))));
}

int64_t StreamedModel::ScratchBytes(const Checkpoint& checkpoint) {
  int64_t bytes = 0;
  for (const std::string& name : MatricesOf(checkpoint)) {
    if (checkpoint.Stored(name)) continue;
    bytes += static_cast<int64_t>(Aligned(static_cast<uint64_t>(DenseBytes(checkpoint.Info(name)))));
  }
  return bytes;
}

}  // namespace qamserve
