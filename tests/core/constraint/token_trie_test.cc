#include "core/constraint/token_trie.h"

#include <algorithm>
#include <map>

#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

// What a walk from the root finds: the bytes of every token.
std::map<uint32_t, std::string> Walked(const TokenTrie& trie) {
  std::map<uint32_t, std::string> found;
  std::string path;
  const auto nodes = trie.nodes();
  for (size_t i = 0; i < nodes.size(); ++i) {
    EXPECT_GT(nodes[i].end, i);
    EXPECT_LE(nodes[i].end, nodes.size());
    path.resize(nodes[i].depth - 1u);
    path += static_cast<char>(nodes[i].byte);
    for (const uint32_t token : trie.tokens_at(nodes[i])) EXPECT_TRUE(found.emplace(token, path).second);
  }
  return found;
}

void ExpectHoldsVocabulary(const std::shared_ptr<const Tokenizer>& tokenizer) {
  const auto trie = TokenTrie::Create(tokenizer);
  const auto found = Walked(*trie);
  const std::vector<int32_t>& stops = tokenizer->stop_ids();
  size_t texts = 0;
  for (int32_t id = 0; id < tokenizer->size(); ++id) {
    const bool is_stop = std::find(stops.begin(), stops.end(), id) != stops.end();
    const std::string bytes = tokenizer->IsSpecial(id) || is_stop ? "" : tokenizer->TokenBytes(id);
    EXPECT_EQ(trie->bytes(id), bytes);
    if (bytes.empty()) continue;
    ++texts;
    ASSERT_EQ(found.at(static_cast<uint32_t>(id)), bytes);
  }
  EXPECT_EQ(found.size(), texts);
  EXPECT_EQ(trie->size(), tokenizer->size());
  EXPECT_EQ(trie->bytes(-1), "");
  EXPECT_EQ(trie->bytes(tokenizer->size()), "");
}

TEST(TokenTrieTest, HoldsAByteLevelVocabulary) { ExpectHoldsVocabulary(SmallTokenizer()); }

// Bytes as tokens of their own beside pieces that look the same: two tokens with the bytes "a".
TEST(TokenTrieTest, HoldsASentencePieceVocabulary) {
  const std::string mark(kSpaceMark);
  auto tokenizer = Make(SentencePieceJson({"a", mark + "a", mark, "b", "ab", "é"}, {{"a", "b"}}));
  ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
  ExpectHoldsVocabulary(*tokenizer);
  const auto trie = TokenTrie::Create(*tokenizer);
  EXPECT_EQ(trie->bytes(*(*tokenizer)->TokenToId(mark + "a")), " a");
  EXPECT_EQ(trie->bytes(*(*tokenizer)->TokenToId("<0x61>")), "a");
  EXPECT_EQ(trie->bytes(*(*tokenizer)->TokenToId("a")), "a");
}

TEST(TokenTrieTest, HoldsSmolLm) {
  const auto tokenizer = SmolLmTokenizer();
  if (tokenizer == nullptr) GTEST_SKIP() << "QAMSERVE_SMOLLM2 is not set";
  ExpectHoldsVocabulary(tokenizer);
}

}  // namespace
}  // namespace qamserve
