// The merge step of byte pair encoding: a piece of text becomes characters (or bytes), and the adjacent pair whose
// merge ranks first is joined until none is left. Thread safety: const after Create.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/tokenizer/tokenizer_json.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {

struct BpeOptions {
  // Pieces are bytes written in the byte alphabet (GPT-2); otherwise characters of UTF-8.
  bool byte_level = false;
  // A tokenizer made from a GGUF file: merges that give the same token have one rank (the leftmost pair goes first),
  // and a byte that the vocabulary lacks keeps its neighbours apart, as llama.cpp does. Hugging Face ranks merges by
  // their place in the list and joins across missing bytes.
  bool gguf_rules = false;
};

class BpeModel {
 public:
  // From the "model" of tokenizer.json. Takes the tables out of `spec`.
  static absl::StatusOr<BpeModel> Create(TokenizerSpec& spec, const BpeOptions& options);

  // Appends the ids of one piece. In O(n log n) of its length; a byte-level piece is raw bytes.
  void Encode(std::string_view piece, std::vector<int32_t>& out) const;

  const absl::flat_hash_map<std::string, int32_t>& vocab() const { return vocab_; }
  std::optional<int32_t> Find(std::string_view token) const;
  bool byte_fallback() const { return byte_fallback_; }

 private:
  struct Merge {
    uint32_t rank = 0;
    int32_t id = 0;
  };
  struct Symbol {
    int32_t id = 0;
    int32_t previous = 0;
    int32_t next = 0;
  };

  BpeModel() = default;
  absl::Status ReadOptions(const Json& model);
  absl::Status AddVocab(TokenizerSpec& spec);
  absl::Status AddMerges(TokenizerSpec& spec);
  void FindByteTokens();
  // Ids of the characters before any merge; kBarrier for what has no token and must not be bridged.
  void Split(std::string_view piece, std::vector<int32_t>& ids) const;
  void SplitUnknown(std::string_view character, std::vector<int32_t>& ids, bool& fused) const;
  const Merge* FindMerge(int32_t left, int32_t right) const;
  void MergeShort(std::vector<int32_t>& ids) const;
  void MergeLong(std::vector<int32_t>& ids) const;

  BpeOptions options_;
  ByteAlphabet alphabet_;
  absl::flat_hash_map<std::string, int32_t> vocab_;
  absl::flat_hash_map<uint64_t, Merge> merges_;
  std::array<int32_t, 256> byte_tokens_{};  // byte-level characters, or <0x..> tokens; -1 where there is none
  std::optional<int32_t> unknown_;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
};

}  // namespace qamserve
