// Keys and values of one sequence: what attention remembers.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "core/model/config.h"

namespace qamserve {

// Of one layer: keys [kv_heads][capacity][head_dim], then values [kv_heads][head_dim][capacity], so that both products
// of attention run along contiguous memory. Starts as zeros that take no memory until touched. Not thread-safe.
class LayerKv {
 public:
  // `capacity` is rounded up to a multiple of 8.
  LayerKv(const ModelConfig& config, int64_t capacity);
  static int64_t BytesFor(const ModelConfig& config, int64_t capacity);

  int64_t capacity() const { return capacity_; }
  float* keys(int64_t kv_head) const { return data_.get() + kv_head * capacity_ * head_dim_; }
  float* values(int64_t kv_head) const { return data_.get() + (kv_heads_ + kv_head) * capacity_ * head_dim_; }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  int64_t capacity_;
  int64_t kv_heads_;
  int64_t head_dim_;
  std::unique_ptr<float, Free> data_;
};

// All layers of one sequence; `length` tokens are in it. Not thread-safe.
class KvCache {
 public:
  KvCache(const ModelConfig& config, int64_t capacity_tokens);
  static int64_t BytesFor(const ModelConfig& config, int64_t capacity_tokens);

  int64_t capacity() const { return capacity_; }
  int64_t length() const { return length_; }
  // Forgets the tokens from `length` on, or counts tokens that a forward pass has put in. 0 <= length <= capacity.
  void SetLength(int64_t length) { length_ = length; }
  LayerKv& layer(int64_t i) { return layers_[static_cast<size_t>(i)]; }

 private:
  int64_t capacity_;
  int64_t length_ = 0;
  std::vector<LayerKv> layers_;
};

}  // namespace qamserve
