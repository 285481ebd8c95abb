#include "core/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "core/base/digest.h"
#include "tests/core/tokenizer/small_tokenizers.h"

namespace qamserve {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr const char* kMark = "\xE2\x96\x81";

std::shared_ptr<const Tokenizer> MustMake(const Json& json, const Json& config = Json::object()) {
  auto tokenizer = Make(json, config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

Json WithPieces(const Json& json, const char* piece, Json value) {
  Json changed = json;
  changed[piece] = std::move(value);
  return changed;
}

TEST(ByteLevelTest, MergesByRankWithinWords) {
  // 256 "he", 257 "ll", 258 "hell", 259 " w"
  const auto t = MustMake(ByteLevelJson({{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"Ġ", "w"}}));
  EXPECT_THAT(Ids(*t, "hello whe"), ElementsAre(258, 'o', 259, 256));
  // The pattern keeps "l" and " l" apart, so no merge crosses words.
  EXPECT_THAT(Ids(*t, "l l"), ElementsAre('l', ' ', 'l'));
  EXPECT_EQ(t->Decode(Ids(*t, "hello whe"), true), "hello whe");
}

TEST(ByteLevelTest, EveryByteSequenceComesBackExceptInvalidUtf8) {
  const auto t = MustMake(ByteLevelJson({}));
  const std::string text = "a\tb\r\n 漢👍\x01 \xED\xA0\x80";  // the last is a surrogate, which byte tokens carry
  EXPECT_EQ(t->Decode(Ids(*t, text), true), text);
  EXPECT_EQ(t->Decode(Ids(*t, "x\xFFy"), true), "x\xEF\xBF\xBDy");
  EXPECT_EQ(t->Decode(Ids(*t, "\xC0\x80"), true), std::string(1, '\0'));  // overlong forms become short
}

TEST(ByteLevelTest, Gpt2PatternAndMongolianVowelSeparator) {
  // U+180E is no white space to the reference, so "!" and it stay one piece and may merge.
  const auto t = MustMake(ByteLevelJson({{"!", "á"}}));
  EXPECT_THAT(Ids(*t, "!\u180e"), ElementsAre(256, 0xA0, 0x8E));
}

TEST(ByteLevelTest, DigitsAndSplitSteps) {
  const Json base = ByteLevelJson({{"1", "2"}, {"12", "3"}});
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  EXPECT_THAT(Ids(*MustMake(base), "123"), ElementsAre(257));
  const Json digits = {{"type", "Sequence"},
                       {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, bytes}}};
  EXPECT_THAT(Ids(*MustMake(WithPieces(base, "pre_tokenizer", digits)), "123"), ElementsAre('1', '2', '3'));
  const Json split = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "\\p{N}{1,2}"}}}, {"behavior", "Isolated"}, {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  EXPECT_THAT(Ids(*MustMake(WithPieces(base, "pre_tokenizer", split)), "123"), ElementsAre(256, '3'));
}

TEST(ByteLevelTest, IgnoreMergesTakesWholeWords) {
  Json json = ByteLevelJson({{"a", "b"}});
  json["model"]["vocab"]["abc"] = 300;
  EXPECT_THAT(Ids(*MustMake(json), "abc"), ElementsAre(256, 'c'));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(Ids(*MustMake(json), "abc"), ElementsAre(300));
}

TEST(ByteLevelTest, MissingBytes) {
  Json json = ByteLevelJson({{"a", "b"}});
  json["model"]["vocab"].erase("x");
  // Hugging Face joins across a byte that has no token; tokenizers from GGUF files follow llama.cpp and do not.
  EXPECT_THAT(Ids(*MustMake(json), "axb"), ElementsAre(256));
  EXPECT_THAT(Ids(*MustMake(json, {{"qamserve_merge_rules", "gguf"}}), "axb"), ElementsAre('a', 'b'));
}

TEST(ByteLevelTest, NfcNormalizer) {
  const Json json = WithPieces(ByteLevelJson({}), "normalizer", {{"type", "NFC"}});
  EXPECT_THAT(Ids(*MustMake(json), "e\u0301"), ElementsAre(0xC3, 0xA9));
}

TEST(SpecialTokensTest, FoundOnlyWhenAskedFor) {
  const auto t = MustMake(ByteLevelJson({}), {{"eos_token", "<|end|>"}});
  EXPECT_THAT(Ids(*t, "a<|end|>b", {.parse_special = true}), ElementsAre('a', 256, 'b'));
  EXPECT_EQ(Ids(*t, "<|end|>").size(), 7u);
  EXPECT_TRUE(t->IsSpecial(256));
  EXPECT_FALSE(t->IsSpecial('a'));
  EXPECT_THAT(t->stop_ids(), ElementsAre(256));
  EXPECT_EQ(t->Decode(std::vector<int32_t>{'a', 256}, true), "a");
  EXPECT_EQ(t->Decode(std::vector<int32_t>{'a', 256}, false), "a<|end|>");
  EXPECT_EQ(t->TokenToId("<|end|>"), 256);
}

TEST(SpecialTokensTest, LongestWinsAndFlagsAreKept) {
  Json json = ByteLevelJson({});
  json["added_tokens"] = {
      {{"id", 256}, {"content", "<a>"}, {"special", false}, {"normalized", false}},
      {{"id", 257}, {"content", "<a><b>"}, {"special", false}, {"normalized", false}},
      {{"id", 258}, {"content", "[M]"}, {"special", false}, {"normalized", false}, {"lstrip", true}, {"rstrip", true}},
      {{"id", 259}, {"content", "word"}, {"special", false}, {"normalized", false}, {"single_word", true}}};
  const auto t = MustMake(json);
  EXPECT_THAT(Ids(*t, "<a><b><a>"), ElementsAre(257, 256));
  EXPECT_THAT(Ids(*t, "x  [M] \ny"), ElementsAre('x', 258, 'y'));
  EXPECT_THAT(Ids(*t, "word"), ElementsAre(259));
  EXPECT_EQ(Ids(*t, "words").size(), 5u);
}

TEST(SentencePieceTest, PrefixMergesAndByteFallback) {
  const std::string ab = std::string(kMark) + "ab";
  const auto t =
      MustMake(SentencePieceJson({kMark, "a", "b", "ab", ab}, {{"a", "b"}, {kMark, "ab"}}), {{"bos_token", "<s>"}});
  EXPECT_THAT(Ids(*t, "ab ab"), ElementsAre(263, 263));
  EXPECT_THAT(Ids(*t, "é"), ElementsAre(259, 3 + 0xC3, 3 + 0xA9));
  EXPECT_THAT(Ids(*t, "a\xFF"), ElementsAre(259, 260, 3 + 0xFF));
  EXPECT_THAT(Ids(*t, ""), IsEmpty());
  EXPECT_THAT(Ids(*t, "ab", {.add_special = true}), ElementsAre(1, 263));
  EXPECT_EQ(t->bos_id(), 1);
  EXPECT_EQ(t->Decode(Ids(*t, "ab é ab"), true), "ab é ab");
  EXPECT_EQ(t->TokenBytes(263), " ab");
  EXPECT_EQ(t->TokenBytes(3 + 0xC3), "\xC3");
}

TEST(SentencePieceTest, UnknownCharactersFuse) {
  Json json = SentencePieceJson({kMark, "a"}, {});
  json["model"]["byte_fallback"] = false;
  EXPECT_THAT(Ids(*MustMake(json), "a漢字a"), ElementsAre(259, 260, 0, 260));
}

TEST(SentencePieceTest, MetaspaceSchemes) {
  const std::string a = std::string(kMark) + "a";
  Json json = SentencePieceJson({kMark, "a", a}, {{kMark, "a"}});
  json["normalizer"] = nullptr;
  json["decoder"] = {{"type", "Metaspace"}, {"replacement", kMark}, {"prepend_scheme", "first"}};
  const auto with = [&](const char* scheme) {
    json["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", kMark}, {"prepend_scheme", scheme}, {"split", true}};
    return MustMake(json);
  };
  EXPECT_THAT(Ids(*with("always"), "a</s>a", {.parse_special = true}), ElementsAre(261, 2, 261));
  EXPECT_THAT(Ids(*with("first"), "a</s>a", {.parse_special = true}), ElementsAre(261, 2, 260));
  EXPECT_THAT(Ids(*with("never"), "a a"), ElementsAre(260, 261));
  EXPECT_EQ(with("first")->Decode(std::vector<int32_t>{261, 261}, true), "a a");
}

TEST(SentencePieceTest, LongTextsTakeLinearithmicTime) {
  const auto t = MustMake(SentencePieceJson({kMark, "a", "aa", "aaaa"}, {{"a", "a"}, {"aa", "aa"}}));
  const auto start = std::chrono::steady_clock::now();
  // A single piece; an algorithm that rescans it after every merge would take hours.
  EXPECT_EQ(Ids(*t, std::string(1 << 20, 'a')).size(), (1u << 18) + 1);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

// Short and long pieces take different roads; they must agree.
TEST(BpeTest, ShortAndLongPiecesAgree) {
  const auto t =
      MustMake(ByteLevelJson({{"a", "b"}, {"b", "a"}, {"ab", "a"}, {"a", "a"}, {"ba", "ab"}, {"aba", "ba"}}));
  uint32_t state = 1;
  for (int round = 0; round < 200; ++round) {
    std::string head;
    for (int i = 0; i < 30; ++i) {
      state = state * 1664525u + 1013904223u;
      head += (state >> 30) < 2 ? 'a' : 'b';
    }
    const auto alone = Ids(*t, head);
    // 'z' merges with nothing, so what stands before it is merged as if it were alone.
    auto joined = Ids(*t, head + std::string(60, 'z'));
    joined.resize(joined.size() - 60);
    EXPECT_EQ(alone, joined) << head;
  }
}

TEST(StreamDecoderTest, HoldsBackUnfinishedCharacters) {
  const auto t = MustMake(ByteLevelJson({}));
  StreamDecoder stream(*t);
  EXPECT_EQ(stream.Add(0xF0), "");
  EXPECT_EQ(stream.Add(0x9F), "");
  EXPECT_EQ(stream.Add(0x91), "");
  EXPECT_EQ(stream.Add(0x8D), "👍");
  EXPECT_EQ(stream.Add(256), "");  // special
  EXPECT_EQ(stream.Add(0xE2), "");
  EXPECT_EQ(stream.Add('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(stream.Add(0xC3), "");
  EXPECT_EQ(stream.Flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(stream.Flush(), "");
}

TEST(TokenizerTest, DigestIsThatOfTokenizerJson) {
  const Json json = ByteLevelJson({});
  EXPECT_EQ(MustMake(json)->digest(), Sha256Hex(json.dump()));
}

TEST(TokenizerTest, IdsOutOfRangeAreHarmless) {
  const auto t = MustMake(ByteLevelJson({}));
  EXPECT_EQ(t->size(), 257);
  EXPECT_EQ(t->TokenBytes(-1), "");
  EXPECT_EQ(t->TokenBytes(257), "");
  EXPECT_FALSE(t->IsSpecial(1 << 30));
  EXPECT_EQ(t->Decode(std::vector<int32_t>{-5, 'a', 99999}, true), "a");
}

}  // namespace
}  // namespace qamserve
