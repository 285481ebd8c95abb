#include "core/model/weights.h"

#include <algorithm>
#include <bit>
#include <charconv>

#include "core/codec/half.h"

namespace qamserve {
namespace {

absl::StatusOr<std::vector<float>> LoadVector(const Checkpoint& checkpoint, const std::string& name) {
  std::vector<float> out(static_cast<size_t>(checkpoint.Info(name).elements()));
  RETURN_IF_ERROR(checkpoint.ReadRows(name, 0, 1, out));
  return out;
}

// Back to the 16 bits that the float came from.
uint16_t Narrow(DenseType type, float value) {
  return type == DenseType::kF16 ? FloatToHalf(value) : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

}  // namespace

std::array<GroupNames, 4> LinearGroupNames(int64_t layer) {
  const std::string p = fmt::format("model.layers.{}.", layer);
  return {{{p + "self_attn.qkv", {p + "self_attn.q_proj", p + "self_attn.k_proj", p + "self_attn.v_proj"}},
           {p + "self_attn.o", {p + "self_attn.o_proj"}},
           {p + "mlp.gate_up", {p + "mlp.gate_proj", p + "mlp.up_proj"}},
           {p + "mlp.down", {p + "mlp.down_proj"}}}};
}

std::string InputGroupOf(std::string_view layer) {
  const size_t part = layer.find('.', std::string_view("model.layers.").size());
  int64_t number = 0;
  if (!layer.starts_with("model.layers.") || part == std::string_view::npos) return "";
  const char* const begin = layer.data() + std::string_view("model.layers.").size();
  if (std::from_chars(begin, layer.data() + part, number).ptr != layer.data() + part) return "";
  for (const GroupNames& group : LinearGroupNames(number)) {
    if (std::find(group.layers.begin(), group.layers.end(), layer) != group.layers.end()) return group.name;
  }
  return "";
}

DenseType DenseTypeOf(DType stored) {
  if (stored == DType::kF16) return DenseType::kF16;
  return stored == DType::kBF16 ? DenseType::kBF16 : DenseType::kF32;
}

int64_t DenseBytes(const TensorInfo& info) {
  return info.elements() * (DenseTypeOf(info.dtype) == DenseType::kF32 ? 4 : 2);
}

absl::Status ReadDense(const Checkpoint& checkpoint, std::string_view name,
                       absl::FunctionRef<absl::Status(std::span<const std::byte>)> take) {
  constexpr int64_t kRowsAtOnce = 64;
  const TensorInfo& info = checkpoint.Info(name);
  const DenseType type = DenseTypeOf(info.dtype);
  std::vector<float> floats(static_cast<size_t>(std::min(kRowsAtOnce, info.rows()) * info.cols()));
  std::vector<uint16_t> halves(type == DenseType::kF32 ? 0 : floats.size());
  for (int64_t row = 0; row < info.rows(); row += kRowsAtOnce) {
    const int64_t end = std::min(info.rows(), row + kRowsAtOnce);
    const auto n = static_cast<size_t>((end - row) * info.cols());
    const std::span<float> some = std::span(floats).first(n);
    RETURN_IF_ERROR(checkpoint.ReadRows(name, row, end, some));
    if (type == DenseType::kF32) {
      RETURN_IF_ERROR(take(std::as_bytes(some)));
      continue;
    }
    for (size_t i = 0; i < n; ++i) halves[i] = Narrow(type, floats[i]);
    RETURN_IF_ERROR(take(std::as_bytes(std::span(halves).first(n))));
  }
  return absl::OkStatus();
}

absl::StatusOr<Linear> LoadDense(const Checkpoint& checkpoint, std::string_view name) {
  const TensorInfo& info = checkpoint.Info(name);
  Linear out;
  out.rows = info.rows();
  out.cols = info.cols();
  const auto elements = static_cast<size_t>(info.elements());
  out.dense_type = DenseTypeOf(info.dtype);
  if (out.dense_type == DenseType::kF32) {
    out.dense32.resize(elements);
    RETURN_IF_ERROR(checkpoint.ReadRows(name, 0, out.rows, out.dense32));
    return out;
  }
  out.dense16.resize(elements);
  const auto target = std::as_writable_bytes(std::span(out.dense16));
  size_t at = 0;
  RETURN_IF_ERROR(ReadDense(checkpoint, name, [&](std::span<const std::byte> rows) {
    std::copy(rows.begin(), rows.end(), target.begin() + static_cast<std::ptrdiff_t>(at));
    at += rows.size();
    return absl::OkStatus();
  }));
  return out;
}

const char* HeadName(const ModelConfig& config) {
  return config.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
}

absl::StatusOr<LayerWeights> LoadDenseLayer(const Checkpoint& checkpoint, int64_t layer) {
  return LoadDenseLayer(checkpoint, layer, [&](const std::string& name) { return LoadDense(checkpoint, name); });
}

absl::StatusOr<LayerWeights> LoadDenseLayer(const Checkpoint& checkpoint, int64_t layer, LoadMatrix load) {
  LayerWeights out;
  RETURN_IF_ERROR(LoadNorms(
      checkpoint.config(), layer, [&](const std::string& name) { return LoadVector(checkpoint, name); }, out));
  const std::array<GroupNames, 4> names = LinearGroupNames(layer);
  LinearGroup* const groups[] = {&out.qkv, &out.o, &out.gate_up, &out.down};
  for (size_t g = 0; g < names.size(); ++g) {
    groups[g]->name = names[g].name;
    for (const std::string& name : names[g].layers) {
      ASSIGN_OR_RETURN(Linear linear, load(name + ".weight"));
      if (checkpoint.Has(name + ".bias")) {
        ASSIGN_OR_RETURN(linear.bias, LoadVector(checkpoint, name + ".bias"));
      }
      groups[g]->layers.push_back(std::move(linear));
    }
  }
  return out;
}

absl::Status CheckKernelDimensions(const ModelConfig& config, std::string_view origin) {
  const std::pair<const char*, int64_t> dimensions[] = {{"hidden_size", config.hidden_size},
                                                        {"intermediate_size", config.intermediate_size},
                                                        {"head_dim", config.head_dim}};
  for (const auto& [name, value] : dimensions) {
    if (value % 8 != 0) {
      return Unimplemented("MODEL_DIMENSION", "{}: {} is {}; it must be a multiple of 8", origin, name, value);
    }
  }
  return absl::OkStatus();
}

}  // namespace qamserve
