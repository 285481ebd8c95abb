// The tokens of a vocabulary as bytes, in a tree of their beginnings: what a walk needs to find the tokens that a
// constraint allows. Built once for a tokenizer and shared. Const after Create.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tokenizer/tokenizer.h"

namespace qamserve {

class TokenTrie {
 public:
  // A byte after those of its parent. Nodes stand in the order of a walk: the first child follows its parent.
  struct Node {
    uint32_t end = 0;          // the first node behind those below this one
    uint32_t first_token = 0;  // in tokens_at
    uint16_t token_count = 0;  // tokens that end here; nearly always one at most
    uint16_t depth = 0;        // bytes up to here; at least 1
    uint8_t byte = 0;
  };

  // Special tokens, tokens without bytes and those that end a generation are no text and stay out; so do those of more
  // than kMaxTokenBytes.
  static constexpr size_t kMaxTokenBytes = 4096;
  static std::shared_ptr<const TokenTrie> Create(std::shared_ptr<const Tokenizer> tokenizer);

  std::span<const Node> nodes() const { return nodes_; }
  std::span<const uint32_t> tokens_at(const Node& node) const {
    return std::span(tokens_).subspan(node.first_token, node.token_count);
  }
  uint32_t max_depth() const { return max_depth_; }
  // The bytes of a token of the tree; empty for others.
  std::string_view bytes(int32_t token) const;
  // Ids of the tokenizer: a mask has as many bits.
  int32_t size() const { return tokenizer_->size(); }
  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  explicit TokenTrie(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}
  void AddToken(uint32_t token, std::vector<uint32_t>& path);

  const std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> tokens_;  // in the order of their bytes
  std::string text_;              // of all tokens, in the order of ids
  std::vector<uint32_t> begins_;  // in text_; one more than there are ids
  uint32_t max_depth_ = 0;
};

}  // namespace qamserve
