// Linear layers as the forward pass sees them: dense or packed, in groups that share an input.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/codec/rotation.h"
#include "core/kernels/kernels.h"

namespace qamserve {

// y = W x + bias, W [rows][cols]. Either dense (weights owned here, or in a mapped file) or packed (codes in a mapped
// file); the file must outlive this. Immutable once built.
struct Linear {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> bias;  // empty or [rows]

  DenseType dense_type = DenseType::kF32;
  std::vector<float> dense32;     // kF32
  std::vector<uint16_t> dense16;  // kF16, kBF16
  const void* mapped = nullptr;   // in place of the two

  const uint8_t* codes = nullptr;  // packed if not null
  bool int8 = false;               // codes are 8-bit weights; in a group they want 8-bit activations
  int pair_bits = 0;
  std::vector<float> row_scale;                       // [rows padded to 32]
  std::shared_ptr<const std::vector<int32_t>> table;  // null: trellis
  std::shared_ptr<const Rotation> rotation;           // of an embedding in 8 bits; layers have that of their group

  bool packed() const { return codes != nullptr; }
  DenseRows Dense() const {
    if (mapped != nullptr) return {mapped, dense_type, cols};
    return {dense_type == DenseType::kF32 ? static_cast<const void*>(dense32.data()) : dense16.data(), dense_type,
            cols};
  }
  PackedMatrix Packed() const {
    return {codes, row_scale.data(), table ? table->data() : nullptr, pair_bits, rows, cols};
  }
  Int8Matrix Int8() const { return {reinterpret_cast<const int8_t*>(codes), row_scale.data(), rows, cols}; }
  // Read for each token at batch 1.
  int64_t WeightBytes() const;
};

// Layers that multiply the same input, all dense, all 8-bit or all of other codecs, and what is done to that input
// first when they are packed.
struct LinearGroup {
  std::string name;  // "model.layers.0.self_attn.qkv"
  std::vector<Linear> layers;
  std::shared_ptr<const Rotation> rotation;  // packed only
  std::vector<float> inverse_scale;          // packed only; empty or [cols]

  int64_t cols() const { return layers.front().cols; }
};

// Rows of floats that a layer writes.
struct OutputRows {
  float* data = nullptr;
  int64_t stride = 0;
};

// Rotated and quantized activations, kept between calls so that memory is not asked for at every step.
struct PackedActivations {
  std::vector<int16_t> q;
  std::vector<int8_t> q8;  // for 8-bit weights
  std::vector<float> scale;
};

// outputs[i] = group.layers[i] x for `tokens` rows of `x` (`x_stride` apart). Work is split over output rows.
void ApplyGroup(const LinearGroup& group, const float* x, int64_t x_stride, int64_t tokens,
                std::span<const OutputRows> outputs, const Kernels& kernels, ThreadPool& pool,
                PackedActivations& activations);

// Row `row` of an embedding, dense or in 8 bits, as `cols` floats.
void ReadRow(const Linear& embedding, int64_t row, const Kernels& kernels, float* out);

// Hidden states [n][cols] as a head wants them: floats for a dense head, rotated and quantized for one in 8 bits.
// Points to `hidden`, which must outlive it. Immutable; thread-safe.
class HeadInput {
 public:
  HeadInput(const Linear& head, const float* hidden, int64_t n, const Kernels& kernels);
  // logits[t * stride + r - begin] for tokens t and rows [begin, end) of the head. REQUIRES: begin is a multiple of 32.
  void Logits(int64_t begin, int64_t end, float* logits, int64_t stride) const;

 private:
  const Linear& head_;
  const float* hidden_;
  int64_t n_;
  const Kernels& kernels_;
  PackedActivations quantized_;
};

// logits [n][rows of head] = head x hidden, for a head that is dense or in 8 bits.
void ApplyHead(const Linear& head, const float* hidden, int64_t n, const Kernels& kernels, ThreadPool& pool,
               float* logits);

}  // namespace qamserve
