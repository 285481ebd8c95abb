// Keys and values of one sequence: what attention remembers, as a table of blocks of a pool (kv_pool.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "core/model/config.h"
#include "core/model/kv_pool.h"

namespace qamserve {

// All layers of one sequence; `length` tokens are in it. Gives its blocks back when it ends. Not thread-safe.
class KvCache {
 public:
  // With a pool of its own that has room for `capacity_tokens`, no more. std::bad_alloc if the system has no memory,
  // as with any container.
  KvCache(const ModelConfig& config, int64_t capacity_tokens, const KvFormat& format = {});
  // The same for the first `layers` layers only.
  KvCache(const ModelConfig& config, int64_t layers, int64_t capacity_tokens, const KvFormat& format);
  // Empty; Reserve takes blocks from `pool`, which must outlive this.
  explicit KvCache(KvPool& pool) : pool_(&pool) {}
  KvCache(KvCache&& other) noexcept;
  KvCache& operator=(KvCache&&) = delete;
  ~KvCache();

  static int64_t BytesFor(const ModelConfig& config, int64_t capacity_tokens, const KvFormat& format = {});

  // Tokens that there is room for.
  int64_t capacity() const { return capacity_; }
  int64_t length() const { return length_; }
  // Forgets the tokens from `length` on, or counts tokens that a forward pass has put in. 0 <= length <= capacity.
  void SetLength(int64_t length) { length_ = length; }

  // Makes room for `tokens` in all. False if the pool has too few blocks; nothing has changed then.
  bool Reserve(int64_t tokens);
  // Blocks that Reserve(tokens) would take.
  int64_t MissingBlocks(int64_t tokens) const;
  // Puts a full block behind those that are full; its tokens count as fed. Takes over one use of it.
  // REQUIRES: length() is capacity().
  void AppendShared(KvPool::Block block);
  // Names block `index`, which is full and the first without a name; one that has the name already takes its place.
  void NameBlock(int64_t index, std::string_view name);
  // Blocks that were shared or named: from the first on, without a gap.
  int64_t named() const { return named_; }
  // Forgets everything and gives all blocks back.
  void Clear();

  const KvLayout& layout() const { return pool_->layout(); }
  std::span<const KvPool::Block> blocks() const { return blocks_; }
  std::byte* data(int64_t block) { return pool_->data(blocks_[static_cast<size_t>(block)]); }

 private:
  std::unique_ptr<KvPool> own_pool_;
  KvPool* pool_;
  std::vector<KvPool::Block> blocks_;
  int64_t capacity_ = 0;
  int64_t length_ = 0;
  int64_t named_ = 0;
};

// One layer of a cache, as attention sees it: a pair of words, to be passed by value.
class LayerKv {
 public:
  LayerKv(KvCache& cache, int64_t layer) : cache_(&cache), layer_(layer) {}

  const KvLayout& layout() const { return cache_->layout(); }
  // The tile of one KV head in one block of the sequence.
  std::byte* tile(int64_t block, int64_t kv_head) const {
    return cache_->data(block) + layout().TileOffset(layer_, kv_head);
  }

 private:
  KvCache* cache_;
  int64_t layer_;
};

}  // namespace qamserve
