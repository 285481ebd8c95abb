#include "core/model/cuda/device_weights.h"

#include <map>
#include <span>
#include <string>

#include "core/codec/int8_packing.h"
#include "core/codec/packing.h"
#include "core/model/forward.h"

namespace qamserve {
namespace {

// What layers share is loaded once: tables of codes and rotations.
class Uploader {
 public:
  Uploader(ForwardDevice& device, DeviceWeights& out) : device_(device), out_(out) {}

  absl::StatusOr<DeviceLinear> Linear(const qamserve::Linear& from) {
    DeviceLinear to;
    to.rows = from.rows;
    to.cols = from.cols;
    if (!from.packed()) {
      to.dense = from.Dense();
      const int64_t bytes = from.rows * from.cols * (from.dense_type == DenseType::kF32 ? 4 : 2);
      ASSIGN_OR_RETURN(to.dense.data, Bytes(to.dense.data, bytes));
    } else if (from.int8) {
      to.kind = DeviceLinear::Kind::kInt8;
      to.int8 = from.Int8();
      ASSIGN_OR_RETURN(to.int8.data, Array(to.int8.data, Int8Bytes(from.rows, from.cols)));
      ASSIGN_OR_RETURN(to.int8.row_scale, Vector(from.row_scale));
    } else {
      to.kind = DeviceLinear::Kind::kPacked;
      to.packed = from.Packed();
      ASSIGN_OR_RETURN(to.packed.codes, Array(to.packed.codes, PackedBytes(from.rows, from.cols, from.pair_bits)));
      ASSIGN_OR_RETURN(to.packed.row_scale, Vector(from.row_scale));
      ASSIGN_OR_RETURN(to.packed.table, Table(from.table.get()));
    }
    ASSIGN_OR_RETURN(to.bias, Vector(from.bias));
    ASSIGN_OR_RETURN(to.rotation, Rotation(from.rotation.get()));
    return to;
  }

  absl::StatusOr<DeviceGroup> Group(const LinearGroup& from) {
    DeviceGroup to;
    for (const qamserve::Linear& layer : from.layers) {
      ASSIGN_OR_RETURN(DeviceLinear linear, Linear(layer));
      to.layers.push_back(linear);
    }
    ASSIGN_OR_RETURN(to.rotation, Rotation(from.rotation.get()));
    ASSIGN_OR_RETURN(to.inverse_scale, Vector(from.inverse_scale));
    return to;
  }

  absl::StatusOr<DeviceLayer> Layer(const LayerWeights& from) {
    DeviceLayer to;
    ASSIGN_OR_RETURN(to.attention_norm, Vector(from.attention_norm));
    ASSIGN_OR_RETURN(to.attention_out_norm, Vector(from.attention_out_norm));
    ASSIGN_OR_RETURN(to.mlp_norm, Vector(from.mlp_norm));
    ASSIGN_OR_RETURN(to.mlp_out_norm, Vector(from.mlp_out_norm));
    ASSIGN_OR_RETURN(to.q_norm, Vector(from.q_norm));
    ASSIGN_OR_RETURN(to.k_norm, Vector(from.k_norm));
    ASSIGN_OR_RETURN(to.qkv, Group(from.qkv));
    ASSIGN_OR_RETURN(to.o, Group(from.o));
    ASSIGN_OR_RETURN(to.gate_up, Group(from.gate_up));
    ASSIGN_OR_RETURN(to.down, Group(from.down));
    return to;
  }

  // Null for an empty one.
  absl::StatusOr<const float*> Vector(const std::vector<float>& from) {
    if (from.empty()) return nullptr;
    return Array(from.data(), static_cast<int64_t>(from.size()));
  }

 private:
  absl::StatusOr<const void*> Bytes(const void* from, int64_t bytes) {
    ASSIGN_OR_RETURN(ForwardDevice::Memory memory, device_.Allocate(bytes));
    RETURN_IF_ERROR(device_.Upload(memory.get(), from, bytes));
    out_.memory.push_back(std::move(memory));
    out_.bytes += bytes;
    return out_.memory.back().get();
  }
  template <typename T>
  absl::StatusOr<const T*> Array(const T* from, int64_t count) {
    ASSIGN_OR_RETURN(const void* data, Bytes(from, count * static_cast<int64_t>(sizeof(T))));
    return static_cast<const T*>(data);
  }

  absl::StatusOr<const int32_t*> Table(const std::vector<int32_t>* from) {
    if (from == nullptr) return nullptr;
    if (const auto known = tables_.find(from); known != tables_.end()) return known->second;
    ASSIGN_OR_RETURN(const int32_t* table, Array(from->data(), static_cast<int64_t>(from->size())));
    tables_.emplace(from, table);
    return table;
  }

  absl::StatusOr<RotationView> Rotation(const qamserve::Rotation* from) {
    RotationView view;
    if (from == nullptr) return view;
    view.n = from->size();
    if (from->factors().empty()) return view;
    if (const auto known = rotations_.find(from); known != rotations_.end()) return known->second;
    if (from->factors().size() > RotationView::kMaxFactors) {
      return Internal("ROTATION_FACTORS", "a rotation of {} has {} factors", from->size(), from->factors().size());
    }
    view.blocks = from->blocks();
    view.scale = from->scale();
    ASSIGN_OR_RETURN(view.signs, Vector(from->signs()));
    for (const qamserve::Rotation::Factor& factor : from->factors()) {
      view.order[view.factors] = factor.order;
      ASSIGN_OR_RETURN(view.entries[view.factors], Vector(factor.entries));
      ++view.factors;
    }
    rotations_.emplace(from, view);
    return view;
  }

  ForwardDevice& device_;
  DeviceWeights& out_;
  std::map<const std::vector<int32_t>*, const int32_t*> tables_;
  std::map<const qamserve::Rotation*, RotationView> rotations_;
};

absl::Status UploadAll(const ModelWeights& weights, Uploader& uploader, DeviceWeights& out) {
  ASSIGN_OR_RETURN(out.embeddings, uploader.Linear(weights.embeddings));
  out.head = out.embeddings;
  if (&weights.head != &weights.embeddings) {
    ASSIGN_OR_RETURN(out.head, uploader.Linear(weights.head));
  }
  ASSIGN_OR_RETURN(out.final_norm, uploader.Vector(weights.final_norm));
  for (const LayerWeights& layer : weights.layers) {
    ASSIGN_OR_RETURN(DeviceLayer on_device, uploader.Layer(layer));
    out.layers.push_back(std::move(on_device));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DeviceWeights> DeviceWeights::Upload(const Model& model, ForwardDevice& device) {
  DeviceWeights out;
  Uploader uploader(device, out);
  const absl::Status status = UploadAll(model.weights(), uploader, out);
  if (!status.ok()) {
    return Annotate(status, fmt::format("{}: loading weights on {}, {} bytes of {} and {} of {} layers are there",
                                        model.origin(), device.name(), out.bytes, model.weight_bytes(),
                                        out.layers.size(), model.weights().layers.size()));
  }
  return out;
}

}  // namespace qamserve
