#include "core/model/artifact.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/codec/half.h"
#include "core/codec/packing.h"
#include "core/model/parameters.h"
#include "core/model/weights.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxConfigBytes = 16 << 20;

int64_t RowsOf(const ModelConfig& c, std::string_view name) {
  const std::string_view last = name.substr(name.rfind('.') + 1);
  if (last == "q_proj") return c.q_size();
  if (last == "k_proj" || last == "v_proj") return c.kv_size();
  if (last == "gate_proj" || last == "up_proj") return c.intermediate_size;
  return c.hidden_size;  // o_proj, down_proj
}

int64_t ColsOf(const ModelConfig& c, std::string_view name) {
  if (name.ends_with("o_proj")) return c.q_size();
  if (name.ends_with("down_proj")) return c.intermediate_size;
  return c.hidden_size;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ArtifactReader>> ArtifactReader::Open(const FileSet& files) {
  ASSIGN_OR_RETURN(const std::string config_json, files.ReadText(kConfigFile, kMaxConfigBytes));
  ASSIGN_OR_RETURN(ModelConfig config, ModelConfigFromJson(config_json, files.origin() + "/" + kConfigFile));
  ASSIGN_OR_RETURN(QuantizationConfig quantization,
                   ReadQuantizationConfig(config_json, files.origin() + "/" + kConfigFile));
  RETURN_IF_ERROR(CheckKernelDimensions(config, files.origin()));
  const FileEntry* entry = files.Find(kWeightsFile);
  if (entry == nullptr) return NotFound("CHECKPOINT_FILE_MISSING", "{} has no {}", files.origin(), kWeightsFile);
  ASSIGN_OR_RETURN(auto source, SafetensorsReader::Open(FileSet(files.origin(), {*entry})));
  ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(entry->path));

  std::unique_ptr<ArtifactReader> reader(new ArtifactReader(std::move(mapped)));
  reader->config_ = std::move(config);
  reader->quantization_ = std::move(quantization);
  reader->source_ = std::move(source);
  RETURN_IF_ERROR(Annotate(reader->PrepareFormats(), files.origin()));
  ASSIGN_OR_RETURN(const RotationKind kind, ParseRotationKind(reader->quantization_.rotation));
  for (int64_t cols : {reader->config_.hidden_size, reader->config_.q_size(), reader->config_.intermediate_size}) {
    if (reader->RotationFor(cols).ok()) continue;
    auto rotation = Rotation::Create(cols, kind, reader->quantization_.rotation_seed);
    if (!rotation.ok()) return Annotate(rotation.status(), files.origin());
    reader->rotations_.push_back(std::make_shared<const Rotation>(*std::move(rotation)));
  }
  return reader;
}

absl::Status ArtifactReader::PrepareFormats() {
  auto prepare = [&](const QuantizationConfig::Format& stored) -> absl::StatusOr<TensorFormat> {
    TensorFormat format{.codec = Codec::kJoint, .pair_bits = stored.pair_bits};
    ASSIGN_OR_RETURN(format.codec, ParseCodec(stored.codec));
    RETURN_IF_ERROR(CheckTensorFormat(format));
    auto& table = tables_[{format.codec, format.pair_bits}];
    std::vector<int32_t> entries = DecodeTable(format);
    if (table == nullptr && !entries.empty()) table = std::make_shared<const std::vector<int32_t>>(std::move(entries));
    return format;
  };
  ASSIGN_OR_RETURN(format_, prepare(quantization_.format));
  for (const auto& [name, stored] : quantization_.tensors) {
    ASSIGN_OR_RETURN(formats_[name], prepare(stored));
  }
  return absl::OkStatus();
}

TensorFormat ArtifactReader::FormatOf(const std::string& name) const {
  const auto it = formats_.find(name);
  return it == formats_.end() ? format_ : it->second;
}

absl::StatusOr<std::shared_ptr<const Rotation>> ArtifactReader::RotationFor(int64_t cols) const {
  for (const auto& rotation : rotations_) {
    if (rotation->size() == cols) return rotation;
  }
  return Internal("ROTATION_DIMENSION", "no rotation of dimension {} was prepared", cols);
}

absl::StatusOr<const std::byte*> ArtifactReader::Mapped(const std::string& name, DType dtype,
                                                        std::vector<int64_t> shape) const {
  const TensorInfo* info = source_->Find(name);
  if (info == nullptr) return NotFound("TENSOR_MISSING", "{}: tensor {} is missing", mapped_.path(), name);
  TensorInfo expected;
  expected.shape = std::move(shape);
  if (info->dtype != dtype || info->shape != expected.shape) {
    return InvalidArgument("TENSOR_SHAPE", "{}: tensor {} is {} {}; expected {} {}", mapped_.path(), name,
                           DTypeName(info->dtype), info->ShapeString(), DTypeName(dtype), expected.ShapeString());
  }
  return mapped_.bytes().data() + info->offset;
}

absl::StatusOr<std::vector<float>> ArtifactReader::LoadVector(const std::string& name) const {
  const TensorInfo* info = source_->Find(name);
  if (info == nullptr) return NotFound("TENSOR_MISSING", "{}: tensor {} is missing", mapped_.path(), name);
  std::vector<float> out(static_cast<size_t>(info->elements()));
  RETURN_IF_ERROR(ConvertToFloat(info->dtype, mapped_.bytes().data() + info->offset, info->elements(), out.data()));
  if (config_.stored_norms_less_one && name.ends_with("norm.weight")) {
    for (float& w : out) w += 1.0f;
  }
  for (float w : out) {
    if (!std::isfinite(w))
      return InvalidArgument("TENSOR_NOT_FINITE", "{}: tensor {} has a value that is not finite", mapped_.path(), name);
  }
  return out;
}

// A piece at a time, so that a large matrix is never in memory twice.
void ArtifactReader::CopyOut(const std::byte* from, size_t bytes, void* to) const {
  constexpr size_t kPieceBytes = size_t{16} << 20;
  for (size_t at = 0; at < bytes; at += kPieceBytes) {
    std::memcpy(static_cast<std::byte*>(to) + at, from + at, std::min(kPieceBytes, bytes - at));
    mapped_.DropPages();
  }
}

absl::StatusOr<Linear> ArtifactReader::LoadMatrix(const std::string& name, int64_t rows, int64_t cols) const {
  const TensorInfo* info = source_->Find(name);
  const DType dtype = info == nullptr ? DType::kF16 : info->dtype;
  ASSIGN_OR_RETURN(const std::byte* data, Mapped(name, dtype, {rows, cols}));
  Linear out;
  out.rows = rows;
  out.cols = cols;
  const auto n = static_cast<size_t>(rows * cols);
  if (dtype == DType::kF32) {
    out.dense32.resize(n);
    CopyOut(data, n * sizeof(float), out.dense32.data());
  } else if (dtype == DType::kF16 || dtype == DType::kBF16) {
    out.dense_type = dtype == DType::kF16 ? DenseType::kF16 : DenseType::kBF16;
    out.dense16.resize(n);
    CopyOut(data, n * sizeof(uint16_t), out.dense16.data());
  } else {
    return InvalidArgument("TENSOR_DTYPE_UNSUPPORTED", "{}: tensor {} is {}; F32, F16 or BF16 is expected",
                           mapped_.path(), name, DTypeName(dtype));
  }
  return out;
}

absl::StatusOr<Linear> ArtifactReader::LoadEmbedding(const std::string& name) const {
  if (!Has(name + kCodesSuffix)) return LoadMatrix(name + ".weight", config_.vocab_size, config_.hidden_size);
  if (const Codec codec = FormatOf(name).codec; codec != Codec::kInt8) {
    return Unimplemented("ARTIFACT_VERSION", "{}: tensor {} has codec {}; an embedding may have int8 only",
                         mapped_.path(), name, CodecName(codec));
  }
  ASSIGN_OR_RETURN(Linear out, LoadPacked(name, config_.vocab_size, config_.hidden_size));
  ASSIGN_OR_RETURN(out.rotation, RotationFor(out.cols));
  return out;
}

absl::StatusOr<Linear> ArtifactReader::LoadPacked(const std::string& name, int64_t rows, int64_t cols) const {
  Linear out;
  out.rows = rows;
  out.cols = cols;
  const TensorFormat format = FormatOf(name);
  out.pair_bits = format.pair_bits;
  out.int8 = format.codec == Codec::kInt8;
  out.table = tables_.at({format.codec, format.pair_bits});
  ASSIGN_OR_RETURN(const std::byte* codes, Mapped(name + kCodesSuffix, DType::kU8, {CodesBytes(format, rows, cols)}));
  ASSIGN_OR_RETURN(const std::byte* norms, Mapped(name + kRowNormSuffix, DType::kF16, {rows}));
  out.codes = reinterpret_cast<const uint8_t*>(codes);
  out.row_scale.assign(static_cast<size_t>(StripsDown(rows) * kTileRows), 0.0f);
  const float step = FormatStep(format);
  for (int64_t r = 0; r < rows; ++r) {
    uint16_t bits;
    std::memcpy(&bits, norms + r * 2, sizeof(bits));
    const float norm = HalfToFloat(bits);
    if (!std::isfinite(norm)) {
      return InvalidArgument("TENSOR_NOT_FINITE", "{}: tensor {}{} has a value that is not finite at row {}",
                             mapped_.path(), name, kRowNormSuffix, r);
    }
    out.row_scale[static_cast<size_t>(r)] = norm * step;
  }
  return out;
}

absl::StatusOr<Linear> ArtifactReader::LoadLinear(const std::string& name) const {
  const int64_t rows = RowsOf(config_, name), cols = ColsOf(config_, name);
  const bool packed = HasCodes(FormatOf(name));
  ASSIGN_OR_RETURN(Linear out, packed ? LoadPacked(name, rows, cols) : LoadMatrix(name + ".weight", rows, cols));
  if (Has(name + ".bias")) {
    ASSIGN_OR_RETURN(out.bias, LoadVector(name + ".bias"));
  }
  return out;
}

absl::StatusOr<ArtifactReader::QuantizedShape> ArtifactReader::ShapeOf(std::string_view layer) const {
  if (layer == kInputEmbedding || layer == kOutputHead) return QuantizedShape{config_.vocab_size, config_.hidden_size};
  QuantizedShape shape{RowsOf(config_, layer), ColsOf(config_, layer), InputGroupOf(layer)};
  if (!shape.group.empty()) return shape;
  return InvalidArgument("TENSOR_UNKNOWN", "{}: {} is not a linear layer of this model", mapped_.path(), layer);
}

absl::StatusOr<std::vector<float>> ArtifactReader::LoadChannelScale(const std::string& group, int64_t cols) const {
  ASSIGN_OR_RETURN(std::vector<float> scale, LoadVector(group + kChannelScaleSuffix));
  if (static_cast<int64_t>(scale.size()) != cols) {
    return InvalidArgument("TENSOR_SHAPE", "{}: tensor {}{} has {} values; expected {}", mapped_.path(), group,
                           kChannelScaleSuffix, scale.size(), cols);
  }
  if (std::all_of(scale.begin(), scale.end(), [](float s) { return s > 0; })) return scale;
  return InvalidArgument("TENSOR_NOT_FINITE", "{}: tensor {}{} has a value that is not positive", mapped_.path(), group,
                         kChannelScaleSuffix);
}

absl::StatusOr<LayerWeights> ArtifactReader::LoadLayer(int64_t layer) const {
  LayerWeights out;
  RETURN_IF_ERROR(LoadNorms(
      config_, layer, [&](const std::string& name) { return LoadVector(name); }, out));
  const std::array<GroupNames, 4> names = LinearGroupNames(layer);
  LinearGroup* const groups[] = {&out.qkv, &out.o, &out.gate_up, &out.down};
  for (size_t g = 0; g < names.size(); ++g) {
    LinearGroup& group = *groups[g];
    group.name = names[g].name;
    for (const std::string& name : names[g].layers) {
      ASSIGN_OR_RETURN(Linear linear, LoadLinear(name));
      group.layers.push_back(std::move(linear));
    }
    for (const Linear& linear : group.layers) {
      const Linear& first = group.layers.front();
      if (linear.int8 == first.int8 && linear.packed() == first.packed()) continue;
      return Unimplemented("ARTIFACT_VERSION",
                           "{}: the layers of {} are partly in 8 bits or in full precision; all or none must be",
                           mapped_.path(), group.name);
    }
    if (!group.layers.front().packed()) continue;
    ASSIGN_OR_RETURN(group.rotation, RotationFor(group.cols()));
    if (quantization_.channel_scale) {
      ASSIGN_OR_RETURN(group.inverse_scale, LoadChannelScale(group.name, group.cols()));
      for (float& s : group.inverse_scale) s = 1.0f / s;
    }
  }
  return out;
}

}  // namespace qamserve
