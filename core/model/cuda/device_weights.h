// The weights of a Model in a device's memory. Used by CudaModel.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "core/kernels/cuda/forward/forward_device.h"
#include "core/model/model.h"

namespace qamserve {

// A Linear (core/model/linear.h) whose pointers are to the device.
struct DeviceLinear {
  enum class Kind : uint8_t { kDense, kPacked, kInt8 };
  Kind kind = Kind::kDense;
  int64_t rows = 0;
  int64_t cols = 0;
  DenseRows dense;
  PackedMatrix packed;
  Int8Matrix int8;
  const float* bias = nullptr;
  RotationView rotation;  // of an embedding in 8 bits
};

struct DeviceGroup {
  std::vector<DeviceLinear> layers;
  RotationView rotation;                 // packed only
  const float* inverse_scale = nullptr;  // packed only; or null

  bool dense() const { return layers.front().kind == DeviceLinear::Kind::kDense; }
  bool int8() const { return layers.front().kind == DeviceLinear::Kind::kInt8; }
  int64_t cols() const { return layers.front().cols; }
};

// Norms that a model does not have are null.
struct DeviceLayer {
  const float* attention_norm = nullptr;
  const float* attention_out_norm = nullptr;
  const float* mlp_norm = nullptr;
  const float* mlp_out_norm = nullptr;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  DeviceGroup qkv, o, gate_up, down;
};

// Immutable after Upload; freed with the last copy of its memory.
struct DeviceWeights {
  // The device's errors; those of memory say what was being loaded and how much of the model there was before it.
  static absl::StatusOr<DeviceWeights> Upload(const Model& model, ForwardDevice& device);

  DeviceLinear embeddings;
  DeviceLinear head;  // the embeddings, if they are tied
  const float* final_norm = nullptr;
  std::vector<DeviceLayer> layers;
  int64_t bytes = 0;
  std::vector<ForwardDevice::Memory> memory;
};

}  // namespace qamserve
