// The memory of KV caches in blocks of equal size, counted by reference: sequences that begin alike share blocks, and a
// sequence takes memory as it grows instead of all that it might need.
//
// A block holds all layers of `block_tokens` consecutive tokens of one sequence. Within it, for each layer and each KV
// head, lies a tile: keys [block_tokens][head_dim], then values [head_dim][block_tokens], so that both products of
// attention run along contiguous memory. Tiles of 8-bit caches hold int8 in the same order, then a float scale for each
// token's key and one for each token's value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/model/config.h"

namespace qamserve {

enum class KvType { kF32, kInt8 };
const char* KvTypeName(KvType type);  // "f32", "int8"

struct KvFormat {
  KvType type = KvType::kF32;
  int64_t block_tokens = 32;  // a multiple of 8
};

// Whether a pool has the memory of its blocks, or only keeps the books of blocks that lie elsewhere: on a device.
enum class KvMemory { kOwn, kElsewhere };

// Where things are in a block. Pure arithmetic.
class KvLayout {
 public:
  // `layers` of `config`; less than all for those who run a model a block at a time.
  KvLayout(const ModelConfig& config, int64_t layers, const KvFormat& format);

  KvType type() const { return type_; }
  int64_t block_tokens() const { return block_tokens_; }
  int64_t head_dim() const { return head_dim_; }
  int64_t block_bytes() const { return layers_ * kv_heads_ * tile_bytes_; }
  int64_t BlocksFor(int64_t tokens) const { return (tokens + block_tokens_ - 1) / block_tokens_; }
  // Offset of a tile in its block.
  int64_t TileOffset(int64_t layer, int64_t kv_head) const { return (layer * kv_heads_ + kv_head) * tile_bytes_; }
  // Elements, floats or int8, of a tile's keys; its values follow and are as many.
  int64_t half_elements() const { return head_dim_ * block_tokens_; }

 private:
  KvType type_;
  int64_t block_tokens_;
  int64_t layers_;
  int64_t kv_heads_;
  int64_t head_dim_;
  int64_t tile_bytes_;
};

// Not thread-safe; what lies in blocks may be read and written by any threads that keep out of each other's way.
//
// A block that is full may be given a name, and found by it as long as its memory is not wanted for something else: a
// block without users keeps its name and contents until no other is free, the one longest without users going first.
class KvPool {
 public:
  using Block = int32_t;
  static constexpr Block kNone = -1;

  // Memory of a block is taken from the system when the block is first used, and kept.
  KvPool(const KvLayout& layout, int64_t blocks, KvMemory memory = KvMemory::kOwn);
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  const KvLayout& layout() const { return layout_; }
  int64_t total() const { return static_cast<int64_t>(users_.size()); }
  // Without users: Take can give so many.
  int64_t available() const { return available_; }
  int64_t used() const { return total() - available_; }
  // Without users, but still to be found by name.
  int64_t cached() const { return static_cast<int64_t>(oldest_.size()); }

  // A block with one user and undefined contents; kNone if all have users or the system has no memory.
  Block Take();
  // One user more.
  void Share(Block block);
  // One user less; the last one frees the block.
  void Release(Block block);

  // Names a block that has users and whose contents stay as they are from now on. If another block has the name, that
  // one keeps it and is returned; else `block`.
  Block Name(Block block, std::string_view name);
  // The block of this name with one user more, or kNone.
  Block Find(std::string_view name);
  // The same without taking it; true also if it has users.
  bool Knows(std::string_view name) const { return names_.find(std::string(name)) != names_.end(); }

  // Null if the memory lies elsewhere.
  std::byte* data(Block block) { return data_[static_cast<size_t>(block)].get(); }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  Block FreeBlock();

  const KvLayout layout_;
  const KvMemory memory_;
  int64_t available_;
  Block next_unused_ = 0;       // blocks from here on never had a user
  std::vector<Block> unnamed_;  // free, without a name, with memory
  std::list<Block> oldest_;     // free and named, longest without users first
  std::unordered_map<std::string, Block> names_;
  // By block.
  std::vector<int32_t> users_;
  std::vector<std::string> name_;                      // empty without one
  std::vector<std::list<Block>::iterator> in_oldest_;  // valid while free and named
  std::vector<std::unique_ptr<std::byte, Free>> data_;
};

}  // namespace qamserve
