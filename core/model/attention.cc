#include "core/model/attention.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "core/model/forward.h"

namespace qamserve {
namespace {

// Query rows (tokens x heads) that share one pass over keys and values: 32 x 1024 scores are 128 KB, which stays in the
// second-level cache.
constexpr int64_t kQueryRows = 32;
// Rows of values [head_dim][keys] that are put together at a time: 8 x 1024 floats are 32 KB.
constexpr int64_t kValueRows = 8;
// Fewer multiply-adds than this in a step are not worth waking a thread.
constexpr int64_t kSerialWork = 1 << 17;

// Queries first .. first + count of a span, for heads head .. head + heads, which share a KV head.
struct Task {
  const BatchSpan* span;
  LayerKv cache;
  int64_t head;
  int64_t heads;
  int64_t first;
  int64_t count;
};

// An 8-bit tile's parts.
template <typename Byte>
struct Int8Tile {
  Int8Tile(Byte* tile, const KvLayout& layout) {
    keys = reinterpret_cast<decltype(keys)>(tile);
    values = keys + layout.half_elements();
    key_scales = reinterpret_cast<decltype(key_scales)>(values + layout.half_elements());
    value_scales = key_scales + layout.block_tokens();
  }
  template <typename T>
  using As = std::conditional_t<std::is_const_v<Byte>, const T, T>;
  As<int8_t>* keys;
  As<int8_t>* values;
  As<float>* key_scales;
  As<float>* value_scales;
};

// One task with its scratch memory. Keys [begin, end) are seen by some query; padded is their number, rounded up to
// lanes.
class AttentionTask {
 public:
  AttentionTask(const ModelConfig& config, int64_t window, const Task& task, const Kernels& kernels)
      : config_(config),
        kernels_(kernels),
        task_(task),
        layout_(task.cache.layout()),
        window_(window),
        d_(config.head_dim),
        kv_head_(task.head / (config.num_heads / config.num_kv_heads)),
        rows_(task.count * task.heads),
        first_position_(task.span->position + task.first),
        // Sums run in lanes of the key's position, so a later start must keep positions modulo 8.
        begin_(window > 0 ? std::max<int64_t>(0, first_position_ - window + 1) & ~int64_t{7} : 0),
        end_(first_position_ + task.count),
        padded_((end_ - begin_ + 7) & ~int64_t{7}) {}

  void Run(const float* q, float* out) {
    const int64_t unpacked = layout_.type() == KvType::kInt8 ? layout_.half_elements() : 0;
    const auto memory = std::make_unique_for_overwrite<float[]>(
        static_cast<size_t>(2 * rows_ * d_ + rows_ * padded_ + kValueRows * padded_ + unpacked));
    float* queries = memory.get();
    float* results = queries + rows_ * d_;
    float* scores = results + rows_ * d_;
    float* values = scores + rows_ * padded_;
    float* keys = values + kValueRows * padded_;
    for (int64_t t = 0; t < task_.count; ++t)
      std::copy_n(q + Offset(t), task_.heads * d_, queries + t * task_.heads * d_);
    Score(queries, keys, scores);
    for (int64_t t = 0; t < task_.count; ++t) Normalize(first_position_ + t, scores + t * task_.heads * padded_);
    for (int64_t i = 0; i < d_; i += kValueRows) {
      const int64_t n = std::min(kValueRows, d_ - i);
      GatherValues(i, n, values);
      kernels_.dense_matmul({scores, padded_, {values, DenseType::kF32, padded_}, results + i, d_, rows_, n, padded_});
    }
    for (int64_t t = 0; t < task_.count; ++t)
      std::copy_n(results + t * task_.heads * d_, task_.heads * d_, out + Offset(t));
  }

 private:
  // Of the task's heads of its query `t`.
  int64_t Offset(int64_t t) const {
    return (task_.span->first_row + task_.first + t) * config_.q_size() + task_.head * d_;
  }

  // visit(block, first key in it, keys in it, index of its first key in a row of scores), for each block seen.
  template <typename Visit>
  void ForEachBlock(Visit visit) const {
    const int64_t size = layout_.block_tokens();
    for (int64_t at = begin_; at < end_;) {
      const int64_t in_block = at % size;
      const int64_t n = std::min(size - in_block, end_ - at);
      visit(task_.cache.tile(at / size, kv_head_), in_block, n, at - begin_);
      at += n;
    }
  }

  void Score(const float* queries, float* unpacked, float* scores) const {
    ForEachBlock([&](const std::byte* tile, int64_t in_block, int64_t n, int64_t index) {
      const float* keys = reinterpret_cast<const float*>(tile) + in_block * d_;
      if (layout_.type() == KvType::kInt8) {
        const Int8Tile packed(tile, layout_);
        for (int64_t t = 0; t < n; ++t) {
          const int8_t* key = packed.keys + (in_block + t) * d_;
          const float scale = packed.key_scales[in_block + t];
          for (int64_t i = 0; i < d_; ++i) unpacked[t * d_ + i] = static_cast<float>(key[i]) * scale;
        }
        keys = unpacked;
      }
      kernels_.dense_matmul({queries, d_, {keys, DenseType::kF32, d_}, scores + index, padded_, rows_, n, d_});
    });
  }

  // The rows of scores of one query.
  void Normalize(int64_t position, float* scores) const {
    const auto scale = static_cast<float>(config_.attention_scale);
    const int64_t oldest = window_ > 0 ? std::max(begin_, position - window_ + 1) : begin_;
    for (int64_t head = 0; head < task_.heads; ++head) {
      float* s = scores + head * padded_;
      std::fill(s, s + (oldest - begin_), -std::numeric_limits<float>::infinity());
      for (int64_t i = oldest - begin_; i <= position - begin_; ++i) s[i] *= scale;
      std::fill(s + (position - begin_) + 1, s + padded_, -std::numeric_limits<float>::infinity());
      kernels_.softmax(s, padded_);
    }
  }

  // out [rows][padded] = values' rows `first` onwards. What pads them is zero and not what lies in the block, which may
  // be left from another sequence: 0 x NaN would be NaN.
  void GatherValues(int64_t first, int64_t rows, float* out) const {
    const int64_t size = layout_.block_tokens();
    ForEachBlock([&](const std::byte* tile, int64_t in_block, int64_t n, int64_t index) {
      if (layout_.type() == KvType::kInt8) {
        const Int8Tile packed(tile, layout_);
        const float* scales = packed.value_scales + in_block;
        for (int64_t r = 0; r < rows; ++r) {
          const int8_t* from = packed.values + (first + r) * size + in_block;
          float* to = out + r * padded_ + index;
          for (int64_t t = 0; t < n; ++t) to[t] = static_cast<float>(from[t]) * scales[t];
        }
        return;
      }
      const float* values = reinterpret_cast<const float*>(tile) + layout_.half_elements() + first * size + in_block;
      for (int64_t r = 0; r < rows; ++r) std::copy_n(values + r * size, n, out + r * padded_ + index);
    });
    for (int64_t r = 0; r < rows; ++r) std::fill(out + r * padded_ + (end_ - begin_), out + (r + 1) * padded_, 0.0f);
  }

  const ModelConfig& config_;
  const Kernels& kernels_;
  const Task& task_;
  const KvLayout& layout_;
  const int64_t window_;
  const int64_t d_;
  const int64_t kv_head_;
  const int64_t rows_;
  const int64_t first_position_;
  const int64_t begin_;
  const int64_t end_;
  const int64_t padded_;
};

void PutFloats(const KvLayout& layout, int64_t in_block, const float* key, const float* value, std::byte* tile) {
  const int64_t d = layout.head_dim(), size = layout.block_tokens();
  auto* keys = reinterpret_cast<float*>(tile);
  float* values = keys + layout.half_elements();
  std::copy(key, key + d, keys + in_block * d);
  for (int64_t i = 0; i < d; ++i) values[i * size + in_block] = value[i];
}

// `scratch` holds head_dim bytes.
void PutInt8(const KvLayout& layout, int64_t in_block, const float* key, const float* value, const Kernels& kernels,
             int8_t* scratch, std::byte* tile) {
  const int64_t d = layout.head_dim(), size = layout.block_tokens();
  const Int8Tile packed(tile, layout);
  packed.key_scales[in_block] = kernels.quantize_input8(key, d, d, packed.keys + in_block * d);
  packed.value_scales[in_block] = kernels.quantize_input8(value, d, d, scratch);
  for (int64_t i = 0; i < d; ++i) packed.values[i * size + in_block] = scratch[i];
}

}  // namespace

void AppendKeysAndValues(const ModelConfig& config, const float* k, const float* v, int64_t tokens, int64_t position,
                         LayerKv cache, const Kernels& kernels) {
  const KvLayout& layout = cache.layout();
  const int64_t d = config.head_dim, size = layout.block_tokens();
  std::vector<int8_t> scratch(layout.type() == KvType::kInt8 ? static_cast<size_t>(d) : 0);
  for (int64_t h = 0; h < config.num_kv_heads; ++h) {
    for (int64_t t = 0; t < tokens; ++t) {
      std::byte* tile = cache.tile((position + t) / size, h);
      const int64_t in_block = (position + t) % size;
      const float* key = k + t * config.kv_size() + h * d;
      const float* value = v + t * config.kv_size() + h * d;
      if (layout.type() == KvType::kInt8) {
        PutInt8(layout, in_block, key, value, kernels, scratch.data(), tile);
      } else {
        PutFloats(layout, in_block, key, value, tile);
      }
    }
  }
}

void Attend(const ModelConfig& config, int64_t window, std::span<const BatchSpan> spans,
            std::span<const LayerKv> caches, const float* q, float* out, const Kernels& kernels, ThreadPool& pool) {
  // Heads that share a KV head are taken together, which reads it once, unless that would leave threads without work.
  const int64_t group = config.num_heads / config.num_kv_heads;
  int64_t heads = group;
  while (heads > 1 && static_cast<int64_t>(spans.size()) * config.num_kv_heads * (group / heads) < pool.threads()) {
    heads = (heads + 1) / 2;
  }
  std::vector<Task> tasks;
  int64_t work = 0;
  for (size_t i = 0; i < spans.size(); ++i) {
    for (int64_t head = 0; head < config.num_heads;) {
      const int64_t n = std::min(heads, group - head % group);
      const int64_t queries = std::max<int64_t>(1, kQueryRows / n);
      for (int64_t first = 0; first < spans[i].tokens; first += queries) {
        const int64_t count = std::min(queries, spans[i].tokens - first);
        tasks.push_back({&spans[i], caches[i], head, n, first, count});
        work += count * n * (spans[i].position + first + count) * config.head_dim * 2;
      }
      head += n;
    }
  }
  const auto n = static_cast<int64_t>(tasks.size());
  pool.ParallelFor(n, work < kSerialWork ? n : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      AttentionTask(config, window, tasks[static_cast<size_t>(i)], kernels).Run(q, out);
    }
  });
}

}  // namespace qamserve
