#include "core/model/kv_cache.h"

#include <new>
#include <utility>

namespace qamserve {

KvCache::KvCache(const ModelConfig& config, int64_t capacity_tokens, const KvFormat& format)
    : KvCache(config, config.num_layers, capacity_tokens, format) {}

KvCache::KvCache(const ModelConfig& config, int64_t layers, int64_t capacity_tokens, const KvFormat& format) {
  const KvLayout layout(config, layers, format);
  own_pool_ = std::make_unique<KvPool>(layout, layout.BlocksFor(capacity_tokens));
  pool_ = own_pool_.get();
  if (!Reserve(capacity_tokens)) throw std::bad_alloc();
  capacity_ = capacity_tokens;
}

KvCache::KvCache(KvCache&& other) noexcept
    : own_pool_(std::move(other.own_pool_)),
      pool_(other.pool_),
      blocks_(std::exchange(other.blocks_, {})),
      capacity_(std::exchange(other.capacity_, 0)),
      length_(std::exchange(other.length_, 0)),
      named_(std::exchange(other.named_, 0)) {}

KvCache::~KvCache() { Clear(); }

int64_t KvCache::BytesFor(const ModelConfig& config, int64_t capacity_tokens, const KvFormat& format) {
  const KvLayout layout(config, config.num_layers, format);
  return layout.BlocksFor(capacity_tokens) * layout.block_bytes();
}

int64_t KvCache::MissingBlocks(int64_t tokens) const {
  const int64_t missing = layout().BlocksFor(tokens) - static_cast<int64_t>(blocks_.size());
  return missing > 0 ? missing : 0;
}

bool KvCache::Reserve(int64_t tokens) {
  const size_t before = blocks_.size();
  if (MissingBlocks(tokens) > pool_->available()) return false;
  for (int64_t missing = MissingBlocks(tokens); missing > 0; --missing) {
    const KvPool::Block block = pool_->Take();
    if (block == KvPool::kNone) {  // the system has no memory
      for (; blocks_.size() > before; blocks_.pop_back()) pool_->Release(blocks_.back());
      return false;
    }
    blocks_.push_back(block);
  }
  capacity_ = static_cast<int64_t>(blocks_.size()) * layout().block_tokens();
  return true;
}

void KvCache::AppendShared(KvPool::Block block) {
  blocks_.push_back(block);
  capacity_ += layout().block_tokens();
  length_ = capacity_;
  ++named_;
}

void KvCache::NameBlock(int64_t index, std::string_view name) {
  KvPool::Block& block = blocks_[static_cast<size_t>(index)];
  const KvPool::Block named = pool_->Name(block, name);
  ++named_;
  if (named == block) return;
  pool_->Share(named);
  pool_->Release(block);
  block = named;
}

// The last block first: of a sequence that nobody needs the end is forgotten before what others may begin with.
void KvCache::Clear() {
  for (; !blocks_.empty(); blocks_.pop_back()) pool_->Release(blocks_.back());
  capacity_ = 0;
  length_ = 0;
  named_ = 0;
}

}  // namespace qamserve
