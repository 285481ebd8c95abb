#include "core/model/kv_pool.h"

#include <cassert>

namespace qamserve {
namespace {

// Blocks begin where a cache line does.
constexpr int64_t kAlignment = 64;

int64_t TileBytes(const ModelConfig& config, const KvFormat& format) {
  const int64_t elements = 2 * config.head_dim * format.block_tokens;
  const auto size = static_cast<int64_t>(sizeof(float));
  const int64_t bytes = format.type == KvType::kF32 ? elements * size : elements + 2 * format.block_tokens * size;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

const char* KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kInt8:
      return "int8";
  }
  return "";
}

KvLayout::KvLayout(const ModelConfig& config, int64_t layers, const KvFormat& format)
    : type_(format.type),
      block_tokens_(format.block_tokens),
      layers_(layers),
      kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      tile_bytes_(TileBytes(config, format)) {}

KvPool::KvPool(const KvLayout& layout, int64_t blocks, KvMemory memory)
    : layout_(layout),
      memory_(memory),
      available_(blocks),
      users_(static_cast<size_t>(blocks), 0),
      name_(static_cast<size_t>(blocks)),
      in_oldest_(static_cast<size_t>(blocks), oldest_.end()),
      data_(static_cast<size_t>(blocks)) {}

// One without users that lost its name, if it had one; its memory is there.
KvPool::Block KvPool::FreeBlock() {
  if (!unnamed_.empty()) {
    const Block block = unnamed_.back();
    unnamed_.pop_back();
    return block;
  }
  if (next_unused_ < total()) {
    if (memory_ == KvMemory::kElsewhere) return next_unused_++;
    const auto index = static_cast<size_t>(next_unused_);
    const auto bytes = static_cast<size_t>((layout_.block_bytes() + kAlignment - 1) / kAlignment * kAlignment);
    data_[index].reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes)));
    if (data_[index] != nullptr) return next_unused_++;
  }
  if (oldest_.empty()) return kNone;
  const Block block = oldest_.front();
  oldest_.pop_front();
  names_.erase(name_[static_cast<size_t>(block)]);
  name_[static_cast<size_t>(block)].clear();
  return block;
}

KvPool::Block KvPool::Take() {
  const Block block = FreeBlock();
  if (block == kNone) return kNone;
  users_[static_cast<size_t>(block)] = 1;
  --available_;
  return block;
}

void KvPool::Share(Block block) {
  const auto index = static_cast<size_t>(block);
  if (users_[index]++ > 0) return;
  // Only blocks with a name can be shared when nobody uses them.
  assert(!name_[index].empty());
  oldest_.erase(in_oldest_[index]);
  --available_;
}

void KvPool::Release(Block block) {
  const auto index = static_cast<size_t>(block);
  assert(users_[index] > 0);
  if (--users_[index] > 0) return;
  ++available_;
  if (name_[index].empty()) {
    unnamed_.push_back(block);
  } else {
    in_oldest_[index] = oldest_.insert(oldest_.end(), block);
  }
}

KvPool::Block KvPool::Name(Block block, std::string_view name) {
  const auto [it, is_new] = names_.emplace(name, block);
  if (is_new) name_[static_cast<size_t>(block)] = name;
  return it->second;
}

KvPool::Block KvPool::Find(std::string_view name) {
  const auto it = names_.find(std::string(name));
  if (it == names_.end()) return kNone;
  Share(it->second);
  return it->second;
}

}  // namespace qamserve
