#include "core/constraint/token_trie.h"

#include <algorithm>

namespace qamserve {

std::shared_ptr<const TokenTrie> TokenTrie::Create(std::shared_ptr<const Tokenizer> tokenizer) {
  const std::shared_ptr<TokenTrie> trie(new TokenTrie(std::move(tokenizer)));
  const Tokenizer& source = *trie->tokenizer_;
  const std::vector<int32_t>& stops = source.stop_ids();
  std::vector<uint32_t> order;
  trie->begins_.assign(1, 0);
  for (int32_t id = 0; id < source.size(); ++id) {
    const bool is_text = !source.IsSpecial(id) && std::find(stops.begin(), stops.end(), id) == stops.end();
    const std::string bytes = is_text ? source.TokenBytes(id) : "";
    if (!bytes.empty() && bytes.size() <= kMaxTokenBytes) {
      trie->text_ += bytes;
      order.push_back(static_cast<uint32_t>(id));
    }
    trie->begins_.push_back(static_cast<uint32_t>(trie->text_.size()));
  }
  const auto bytes_of = [&](uint32_t id) { return trie->bytes(static_cast<int32_t>(id)); };
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return bytes_of(a) != bytes_of(b) ? bytes_of(a) < bytes_of(b) : a < b; });
  std::vector<uint32_t> path;  // nodes from the root to the last one
  for (const uint32_t id : order) trie->AddToken(id, path);
  for (const uint32_t node : path) trie->nodes_[node].end = static_cast<uint32_t>(trie->nodes_.size());
  return trie;
}

// Tokens come in the order of their bytes, so that only nodes at the end grow.
void TokenTrie::AddToken(uint32_t token, std::vector<uint32_t>& path) {
  const std::string_view text = bytes(static_cast<int32_t>(token));
  size_t same = 0;
  while (same < path.size() && same < text.size() && nodes_[path[same]].byte == static_cast<uint8_t>(text[same])) {
    ++same;
  }
  const auto next = static_cast<uint32_t>(nodes_.size());
  for (size_t i = same; i < path.size(); ++i) nodes_[path[i]].end = next;
  path.resize(same);
  for (size_t i = same; i < text.size(); ++i) {
    path.push_back(static_cast<uint32_t>(nodes_.size()));
    nodes_.push_back({.first_token = static_cast<uint32_t>(tokens_.size()),
                      .depth = static_cast<uint16_t>(i + 1),
                      .byte = static_cast<uint8_t>(text[i])});
  }
  Node& node = nodes_[path.back()];
  // Of more tokens that look alike than a count can hold, the rest cannot be told apart by anybody.
  if (node.token_count == UINT16_MAX) return;
  ++node.token_count;
  tokens_.push_back(token);
  max_depth_ = std::max(max_depth_, static_cast<uint32_t>(text.size()));
}

std::string_view TokenTrie::bytes(int32_t token) const {
  if (token < 0 || token >= size()) return {};
  const auto id = static_cast<size_t>(token);
  return std::string_view(text_).substr(begins_[id], begins_[id + 1] - begins_[id]);
}

}  // namespace qamserve
