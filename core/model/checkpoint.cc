#include "core/model/checkpoint.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <map>

#include "core/format/gguf.h"
#include "core/format/safetensors.h"
#include "core/model/parameters.h"

namespace qamserve {
namespace {

// The largest published config.json files are under 100 KB.
constexpr uint64_t kMaxConfigBytes = 4 << 20;

// Text checkpoints name their tensors "model.layers.0..."; the multimodal Gemma 3 ones put the text model below one of
// these, the older and the newer form.
struct Prefix {
  std::string_view stored;
  std::string_view plain;
};
constexpr Prefix kTextPrefixes[] = {{"language_model.", ""}, {"model.language_model.", "model."}};
// What multimodal checkpoints hold beside the text model.
constexpr std::string_view kOtherParts[] = {"vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                                            "model.multi_modal_projector."};

// Buffers that can be computed from the config; older converters stored them.
bool IsDerivedBuffer(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq") || name == "rope_freqs.weight";
}

bool IsMultimodal(const TensorSource& source) {
  return std::any_of(source.tensors().begin(), source.tensors().end(), [](const TensorInfo& tensor) {
    return std::any_of(std::begin(kTextPrefixes), std::end(kTextPrefixes),
                       [&](const Prefix& prefix) { return tensor.name.starts_with(prefix.stored); });
  });
}

std::string WithoutTextPrefix(std::string_view name) {
  for (const Prefix& prefix : kTextPrefixes) {
    if (name.starts_with(prefix.stored)) {
      return std::string(prefix.plain) + std::string(name.substr(prefix.stored.size()));
    }
  }
  return std::string(name);
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  TensorInfo info;
  info.shape = shape;
  return info.ShapeString();
}

bool IsFloatType(DType dtype) {
  switch (dtype) {
    case DType::kI8:
    case DType::kU8:
    case DType::kI16:
    case DType::kI32:
    case DType::kI64:
      return false;
    default:
      return true;
  }
}

// The stored row of row `row` of a q or k matrix in a llama GGUF. The converter views the rows as
// [heads][2][head_dim / 2] and swaps the last two, so that the pairs that rotate together lie side by side.
int64_t InterleavedRow(int64_t row, int64_t head_dim) {
  const int64_t within = row % head_dim;
  const int64_t half = within / (head_dim / 2);
  const int64_t pair = within % (head_dim / 2);
  return row - within + 2 * pair + half;
}

// Index of the first value that is infinite or NaN, or -1.
int64_t FirstNotFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000;
  // The usual answer is "none", and this loop without an exit vectorizes.
  uint32_t worst = 0;
  for (const float value : values) worst = std::max(worst, std::bit_cast<uint32_t>(value) & kExponent);
  if (worst != kExponent) return -1;
  const auto bad = std::find_if(values.begin(), values.end(),
                                [](float value) { return (std::bit_cast<uint32_t>(value) & kExponent) == kExponent; });
  return bad - values.begin();
}

}  // namespace

struct Checkpoint::Entry {
  TensorInfo info;                     // under its Hugging Face name
  const TensorInfo* stored = nullptr;  // as the source knows it
  int64_t interleaved_head_dim = 0;    // rows are stored in InterleavedRow's order; 0 = in our own
  bool stored_less_one = false;
};

namespace {

absl::Status CheckStored(const std::string& origin, const ParameterSpec& spec, const TensorInfo& stored) {
  if (!IsFloatType(stored.dtype)) {
    return InvalidArgument("TENSOR_DTYPE_UNSUPPORTED",
                           "{}: tensor {} has type {}; a weight must be a floating-point type", origin, stored.name,
                           DTypeName(stored.dtype));
  }
  if (stored.shape != spec.shape) {
    return InvalidArgument("TENSOR_SHAPE", "{}: tensor {} has shape {}, expected {}", origin, stored.name,
                           stored.ShapeString(), ShapeText(spec.shape));
  }
  return absl::OkStatus();
}

// The tensors of `source` under their Hugging Face names, without those that no model needs.
absl::StatusOr<std::map<std::string, const TensorInfo*>> NamedTensors(const TensorSource& source,
                                                                      const ModelConfig& config, bool gguf) {
  const bool multimodal = !gguf && config.architecture == Architecture::kGemma3 && IsMultimodal(source);
  std::map<std::string, const TensorInfo*> named;
  for (const TensorInfo& tensor : source.tensors()) {
    if (IsDerivedBuffer(tensor.name)) continue;
    std::string name = tensor.name;
    if (gguf) {
      const auto translated = HuggingFaceName(config.architecture, tensor.name);
      if (!translated.has_value()) {
        return InvalidArgument("TENSOR_UNKNOWN", "{}: tensor {} has no place in architecture {}", source.origin(),
                               tensor.name, ArchitectureName(config.architecture));
      }
      name = *translated;
    } else if (multimodal) {
      const bool other = std::any_of(std::begin(kOtherParts), std::end(kOtherParts),
                                     [&](std::string_view part) { return tensor.name.starts_with(part); });
      if (other) continue;
      name = WithoutTextPrefix(name);
    }
    const auto [it, added] = named.emplace(std::move(name), &tensor);
    if (!added) {
      return InvalidArgument("TENSOR_UNKNOWN", "{}: tensors {} and {} are both {}", source.origin(), it->second->name,
                             tensor.name, it->first);
    }
  }
  return named;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Checkpoint>> Checkpoint::Open(const FileSet& files) {
  std::shared_ptr<Checkpoint> checkpoint(new Checkpoint(files));
  // A folder may hold a GGUF beside the Hugging Face files; config.json says what the folder is.
  const FileEntry* gguf_file = files.Find("config.json") == nullptr ? files.FindGguf() : nullptr;
  if (gguf_file != nullptr) {
    ASSIGN_OR_RETURN(auto gguf, GgufReader::Open(*gguf_file));
    ASSIGN_OR_RETURN(checkpoint->config_, ModelConfigFromGguf(*gguf));
    checkpoint->config_json_ = ModelConfigToJson(checkpoint->config_);
    checkpoint->source_ = std::move(gguf);
    checkpoint->paths_ = {gguf_file->path};
  } else {
    ASSIGN_OR_RETURN(checkpoint->config_json_, files.ReadText("config.json", kMaxConfigBytes));
    ASSIGN_OR_RETURN(checkpoint->config_, ModelConfigFromJson(checkpoint->config_json_, files.origin()));
    ASSIGN_OR_RETURN(auto safetensors, SafetensorsReader::Open(files));
    for (const TensorInfo& tensor : safetensors->tensors()) {
      const auto file = static_cast<size_t>(tensor.file);
      if (file >= checkpoint->paths_.size()) checkpoint->paths_.resize(file + 1);
      checkpoint->paths_[file] = safetensors->file(tensor.file).path();
    }
    checkpoint->source_ = std::move(safetensors);
    // The text model of a multimodal checkpoint stands alone from here on.
    if (checkpoint->config_.architecture == Architecture::kGemma3 && IsMultimodal(*checkpoint->source_)) {
      checkpoint->config_json_ = ModelConfigToJson(checkpoint->config_);
    }
  }
  RETURN_IF_ERROR(checkpoint->Index(gguf_file != nullptr));
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

absl::Status Checkpoint::Index(bool gguf) {
  ASSIGN_OR_RETURN(auto named, NamedTensors(*source_, config_, gguf));
  auto entries = std::make_shared<std::vector<Entry>>();
  for (const ParameterSpec& spec : ParametersOf(config_)) {
    const auto found = named.find(spec.name);
    if (found == named.end()) {
      return NotFound("TENSOR_MISSING", "{}: tensor {} with shape {} is missing", origin(), spec.name,
                      ShapeText(spec.shape));
    }
    const TensorInfo& stored = *found->second;
    RETURN_IF_ERROR(CheckStored(origin(), spec, stored));
    Entry entry{stored, &stored};
    entry.info.name = spec.name;
    entry.stored_less_one = spec.is_norm && config_.stored_norms_less_one;
    const bool rotated = spec.name.ends_with(".q_proj.weight") || spec.name.ends_with(".k_proj.weight");
    if (gguf && rotated && config_.architecture == Architecture::kLlama) {
      entry.interleaved_head_dim = config_.head_dim;
    }
    entries->push_back(std::move(entry));
    named.erase(found);
  }
  // Some converters store the tied head a second time; transformers ignores it too.
  if (config_.tie_embeddings) named.erase("lm_head.weight");
  if (!named.empty()) {
    return InvalidArgument("TENSOR_UNKNOWN", "{}: tensor {} has no place in architecture {} with this config", origin(),
                           named.begin()->second->name, ArchitectureName(config_.architecture));
  }
  entries_ = std::move(entries);
  return absl::OkStatus();
}

const Checkpoint::Entry* Checkpoint::Lookup(std::string_view name) const {
  const auto it = std::lower_bound(entries_->begin(), entries_->end(), name,
                                   [](const Entry& entry, std::string_view key) { return entry.info.name < key; });
  return it == entries_->end() || it->info.name != name ? nullptr : &*it;
}

int64_t Checkpoint::parameters() const {
  int64_t total = 0;
  for (const Entry& entry : *entries_) total += entry.info.elements();
  return total;
}

const TensorInfo& Checkpoint::Info(std::string_view name) const {
  const Entry* entry = Lookup(name);
  assert(entry != nullptr);
  return entry->info;
}

std::optional<StoredTensor> Checkpoint::Stored(std::string_view name) const {
  const Entry* entry = Lookup(name);
  if (entry == nullptr || entry->interleaved_head_dim != 0 || entry->stored_less_one) return std::nullopt;
  const TensorInfo& info = *entry->stored;
  const bool half = info.dtype == DType::kF16 || info.dtype == DType::kBF16;
  const uint64_t element = half ? sizeof(uint16_t) : sizeof(float);
  if ((!half && info.dtype != DType::kF32) || info.offset % element != 0) return std::nullopt;
  return StoredTensor{paths_[static_cast<size_t>(info.file)], info.offset, info.bytes};
}

absl::Status Checkpoint::ReadRows(std::string_view name, int64_t row_begin, int64_t row_end,
                                  std::span<float> out) const {
  const Entry* entry = Lookup(name);
  if (entry == nullptr) return NotFound("TENSOR_MISSING", "{}: there is no tensor {}", origin(), name);
  const int64_t cols = entry->info.cols();
  if (row_begin < 0 || row_begin > row_end || row_end > entry->info.rows() ||
      static_cast<int64_t>(out.size()) != (row_end - row_begin) * cols) {
    return OutOfRange("TENSOR_RANGE", "{}: rows {} to {} into {} values asked of tensor {} with shape {}", origin(),
                      row_begin, row_end, out.size(), name, entry->info.ShapeString());
  }
  if (entry->interleaved_head_dim == 0) {
    RETURN_IF_ERROR(qamserve::ReadRows(*source_, *entry->stored, row_begin, row_end, out));
  } else {
    for (int64_t row = row_begin; row < row_end; ++row) {
      const int64_t from = InterleavedRow(row, entry->interleaved_head_dim);
      const auto at = out.subspan(static_cast<size_t>((row - row_begin) * cols), static_cast<size_t>(cols));
      RETURN_IF_ERROR(qamserve::ReadRows(*source_, *entry->stored, from, from + 1, at));
    }
  }
  if (const int64_t bad = FirstNotFinite(out); bad >= 0) {
    return InvalidArgument("TENSOR_NOT_FINITE", "{}: tensor {} has {} in row {}, column {}; weights must be finite",
                           origin(), name, out[static_cast<size_t>(bad)], row_begin + bad / cols, bad % cols);
  }
  if (entry->stored_less_one) {
    for (float& value : out) value += 1;
  }
  return absl::OkStatus();
}

std::vector<std::string> Checkpoint::LinearNames(int64_t layer) const {
  std::vector<std::string> names;
  for (const char* part : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}) {
    names.push_back(fmt::format("model.layers.{}.{}", layer, part));
  }
  return names;
}

}  // namespace qamserve
