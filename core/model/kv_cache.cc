#include "core/model/kv_cache.h"

#include <new>

namespace qamserve {

LayerKv::LayerKv(const ModelConfig& config, int64_t capacity)
    : capacity_((capacity + 7) / 8 * 8), kv_heads_(config.num_kv_heads), head_dim_(config.head_dim) {
  const int64_t floats = 2 * kv_heads_ * head_dim_ * capacity_;
  data_.reset(static_cast<float*>(std::calloc(static_cast<size_t>(floats), sizeof(float))));
  if (data_ == nullptr) throw std::bad_alloc();
}

int64_t LayerKv::BytesFor(const ModelConfig& config, int64_t capacity) {
  return 2 * config.kv_size() * ((capacity + 7) / 8 * 8) * static_cast<int64_t>(sizeof(float));
}

KvCache::KvCache(const ModelConfig& config, int64_t capacity_tokens) : capacity_(capacity_tokens) {
  layers_.reserve(static_cast<size_t>(config.num_layers));
  for (int64_t i = 0; i < config.num_layers; ++i) layers_.emplace_back(config, capacity_tokens);
}

int64_t KvCache::BytesFor(const ModelConfig& config, int64_t capacity_tokens) {
  return config.num_layers * LayerKv::BytesFor(config, capacity_tokens);
}

}  // namespace qamserve
