#include "core/model/attention.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "core/model/forward.h"

namespace qamserve {
namespace {

// Queries that share one pass over the keys: 32 x 1024 scores are 128 KB, which stays in the second-level cache.
constexpr int64_t kQueryBlock = 32;
// Fewer multiply-adds than this in a step are not worth waking a thread.
constexpr int64_t kSerialWork = 1 << 17;

struct Task {
  const BatchSpan* span;
  LayerKv* cache;
  int64_t head;
  int64_t first;  // query within the span
  int64_t count;
};

void RunTask(const ModelConfig& config, int64_t window, const Task& task, const float* q, float* out,
             const Kernels& kernels) {
  const int64_t d = config.head_dim;
  const int64_t kv_head = task.head / (config.num_heads / config.num_kv_heads);
  const int64_t first_position = task.span->position + task.first;
  const int64_t end = first_position + task.count;  // keys before this one are seen by some query
  // Sums run in lanes of the key's position, so a later start must keep positions modulo 8.
  const int64_t begin = window > 0 ? std::max<int64_t>(0, first_position - window + 1) & ~int64_t{7} : 0;
  const int64_t keys = end - begin, padded = (keys + 7) & ~int64_t{7};
  const auto scores = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(task.count * padded));
  const int64_t row = task.span->first_row + task.first;
  kernels.dense_matmul({q + row * config.q_size() + task.head * d,
                        config.q_size(),
                        {task.cache->keys(kv_head) + begin * d, DenseType::kF32, d},
                        scores.get(),
                        padded,
                        task.count,
                        keys,
                        d});
  const auto scale = static_cast<float>(config.attention_scale);
  for (int64_t t = 0; t < task.count; ++t) {
    float* s = scores.get() + t * padded;
    const int64_t position = first_position + t;
    const int64_t oldest = window > 0 ? std::max(begin, position - window + 1) : begin;
    for (int64_t i = 0; i < padded; ++i) {
      const int64_t key = begin + i;
      s[i] = key >= oldest && key <= position ? s[i] * scale : -std::numeric_limits<float>::infinity();
    }
    kernels.softmax(s, padded);
  }
  kernels.dense_matmul({scores.get(),
                        padded,
                        {task.cache->values(kv_head) + begin, DenseType::kF32, task.cache->capacity()},
                        out + row * config.q_size() + task.head * d,
                        config.q_size(),
                        task.count,
                        d,
                        padded});
}

}  // namespace

void AppendKeysAndValues(const ModelConfig& config, const float* k, const float* v, int64_t tokens, int64_t position,
                         LayerKv& cache) {
  const int64_t d = config.head_dim;
  for (int64_t h = 0; h < config.num_kv_heads; ++h) {
    float* keys = cache.keys(h) + position * d;
    float* values = cache.values(h) + position;
    for (int64_t t = 0; t < tokens; ++t) {
      const float* key = k + t * config.kv_size() + h * d;
      const float* value = v + t * config.kv_size() + h * d;
      std::copy(key, key + d, keys + t * d);
      for (int64_t i = 0; i < d; ++i) values[i * cache.capacity() + t] = value[i];
    }
  }
}

void Attend(const ModelConfig& config, int64_t window, std::span<const BatchSpan> spans,
            std::span<LayerKv* const> caches, const float* q, float* out, const Kernels& kernels, ThreadPool& pool) {
  std::vector<Task> tasks;
  int64_t work = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    for (int64_t head = 0; head < config.num_heads; ++head) {
      for (int64_t first = 0; first < spans[i].tokens; first += kQueryBlock) {
        const int64_t count = std::min(kQueryBlock, spans[i].tokens - first);
        tasks.push_back({&spans[i], caches[i], head, first, count});
        work += count * (spans[i].position + first + count) * config.head_dim * 2;
      }
    }
  }
  const auto n = static_cast<int64_t>(tasks.size());
  pool.ParallelFor(n, work < kSerialWork ? n : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) RunTask(config, window, tasks[static_cast<size_t>(i)], q, out, kernels);
  });
}

}  // namespace qamserve
