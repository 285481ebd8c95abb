#include "core/tokenizer/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>
#include <utility>

#include "core/tokenizer/tokenizer_json.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

// An added token is a word or two; anything of this size is hostile and would make the trie as large.
constexpr size_t kMaxContentBytes = 4096;

bool IsWordChar(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

bool StartsWithWord(std::string_view text) {
  if (text.empty()) return false;
  const auto c = DecodeUtf8(text);
  return c && IsWordChar(c->code_point);
}

bool EndsWithWord(std::string_view text) {
  if (text.empty()) return false;
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return StartsWithWord(text.substr(begin));
}

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

absl::StatusOr<std::vector<AddedToken>> ReadAddedTokens(const Json* list) {
  std::vector<AddedToken> tokens;
  if (list == nullptr) return tokens;
  if (!list->is_array()) return InvalidArgument("TOKENIZER_INVALID", "\"added_tokens\" is not an array");
  for (const Json& item : *list) {
    AddedToken token;
    ASSIGN_OR_RETURN(token.content, StringField(item, "content", ""));
    ASSIGN_OR_RETURN(const int64_t id, IntField(item, "id", -1));
    if (id < 0 || id >= kMaxTokens || token.content.empty() || token.content.size() > kMaxContentBytes) {
      return InvalidArgument(
          "TOKENIZER_INVALID",
          "added_tokens: entry {} (\"{:.60}\", id {}) needs an id in [0, {}) and 1 to {} bytes of content",
          tokens.size(), token.content, id, kMaxTokens, kMaxContentBytes);
    }
    token.id = static_cast<int32_t>(id);
    ASSIGN_OR_RETURN(token.special, BoolField(item, "special", false));
    ASSIGN_OR_RETURN(token.normalized, BoolField(item, "normalized", !token.special));
    ASSIGN_OR_RETURN(token.strip_left, BoolField(item, "lstrip", false));
    ASSIGN_OR_RETURN(token.strip_right, BoolField(item, "rstrip", false));
    ASSIGN_OR_RETURN(token.single_word, BoolField(item, "single_word", false));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    if (!tokens_[i].content.empty()) Insert(tokens_[i].content, static_cast<int32_t>(i));
  }
}

void AddedTokenMatcher::Insert(const std::string& content, int32_t token) {
  uint32_t node = 0;
  for (char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    auto& children = nodes_[node].children;
    auto at = std::lower_bound(children.begin(), children.end(), std::pair<unsigned char, uint32_t>(byte, 0));
    if (at == children.end() || at->first != byte) {
      const auto fresh = static_cast<uint32_t>(nodes_.size());
      children.insert(at, {byte, fresh});
      nodes_.emplace_back();
      node = fresh;
    } else {
      node = at->second;
    }
  }
  nodes_[node].token = token;
}

const AddedToken* AddedTokenMatcher::Longest(std::string_view text, size_t at, bool parse_special) const {
  const AddedToken* best = nullptr;
  uint32_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const auto& children = nodes_[node].children;
    const auto child = std::lower_bound(children.begin(), children.end(), std::pair<unsigned char, uint32_t>(byte, 0));
    if (child == children.end() || child->first != byte) break;
    node = child->second;
    if (nodes_[node].token < 0) continue;
    const AddedToken& token = tokens_[static_cast<size_t>(nodes_[node].token)];
    if (token.special && !parse_special) continue;
    if (token.single_word && (EndsWithWord(text.substr(0, at)) || StartsWithWord(text.substr(i + 1)))) continue;
    best = &token;
  }
  return best;
}

std::vector<Section> AddedTokenMatcher::Split(std::string_view text, bool parse_special) const {
  std::vector<Section> out;
  size_t begin = 0;  // of the text not yet in a section
  for (size_t i = 0; i < text.size();) {
    const AddedToken* token = Longest(text, i, parse_special);
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t left = i;
    size_t right = i + token->content.size();
    while (token->strip_left && left > begin && IsSpace(text[left - 1])) --left;
    while (token->strip_right && right < text.size() && IsSpace(text[right])) ++right;
    if (left > begin) out.push_back({text.substr(begin, left - begin), -1});
    out.push_back({text.substr(left, right - left), token->id});
    begin = i = right;
  }
  if (begin < text.size()) out.push_back({text.substr(begin), -1});
  return out;
}

}  // namespace qamserve
