#include "core/tokenizer/gguf_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "tests/core/tokenizer/small_tokenizers.h"

namespace qamserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kMark = "\xE2\x96\x81";

absl::StatusOr<GgufVocabulary> Convert(const Json& json, int64_t vocab_size, const Json& config = Json::object()) {
  return GgufVocabularyOf({json.dump(), config.dump(), "{{ x }}"}, vocab_size, "test");
}

// Complete: every way to cut a piece in two pieces is a merge.
Json CompleteSentencePiece() {
  return SentencePieceJson({kMark, "a", "b", "c", "bc", "ab", "abc", kMark + "a"},
                           {{"b", "c"}, {"a", "b"}, {"ab", "c"}, {"a", "bc"}, {kMark, "a"}});
}

TEST(GgufVocabularyTest, EveryKnownPreTokenizerIsFoundByHowItCuts) {
  for (const std::string_view name : GgufPreTokenizerNames()) {
    Json json = ByteLevelJson({{"a", "b"}});
    const GgufPreTokenizer pre = *FindGgufPreTokenizer(name);
    json["pre_tokenizer"] = PreTokenizerJson(pre);
    json["model"]["ignore_merges"] = pre.ignore_merges;
    const auto vocabulary = Convert(json, 258);
    ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
    // Names that stand for the same cuts and merges are as good as each other.
    const GgufPreTokenizer found = *FindGgufPreTokenizer(vocabulary->pre);
    EXPECT_EQ(found.patterns, pre.patterns) << name << " " << vocabulary->pre;
    EXPECT_EQ(found.ignore_merges, pre.ignore_merges) << name;
  }
}

TEST(GgufVocabularyTest, PublishedFormsOfPreTokenizers) {
  Json gpt2 = ByteLevelJson({{"a", "b"}});
  EXPECT_EQ(Convert(gpt2, 258)->pre, "gpt-2");
  Json smollm = gpt2;
  smollm["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers", {{{"type", "Digits"}, {"individual_digits", true}}, gpt2["pre_tokenizer"]}}};
  EXPECT_EQ(Convert(smollm, 258)->pre, "smollm");
  Json qwen = gpt2;
  qwen["normalizer"] = {{"type", "NFC"}};
  qwen["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern",
          {{"Regex",
            R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}}}}};
  EXPECT_EQ(Convert(qwen, 258)->pre, "qwen2");
  qwen["normalizer"] = {{"type", "Strip"}};
  EXPECT_EQ(Convert(qwen, 258)->pre, "qwen2");  // the probe has no white space at its ends
  qwen["normalizer"] = {{"type", "NFD"}};
  EXPECT_THAT(MessageOf(Convert(qwen, 258).status()), HasSubstr("normalizer"));
}

TEST(GgufVocabularyTest, ByteLevelTokensTypesAndMerges) {
  Json json = ByteLevelJson({{"a", "b"}});
  json["added_tokens"].push_back({{"id", 258}, {"content", "<tool>"}, {"special", false}, {"normalized", false}});
  const auto v = Convert(json, 261, {{"eos_token", "<|end|>"}});
  ASSERT_TRUE(v.ok()) << v.status();
  EXPECT_EQ(v->model, "gpt2");
  EXPECT_THAT(v->merges, ElementsAre("a b"));
  ASSERT_EQ(v->tokens.size(), 261u);
  EXPECT_EQ(v->tokens[256], "ab");
  EXPECT_EQ(v->tokens[260], "[PAD260]");
  EXPECT_THAT(std::vector<int32_t>(v->types.begin() + 255, v->types.end()),
              ElementsAre(kGgufNormal, kGgufNormal, kGgufControl, kGgufUserDefined, kGgufUnused, kGgufUnused));
  EXPECT_EQ(v->eos, 257);
  EXPECT_FALSE(v->bos.has_value());
  EXPECT_EQ(v->chat_template, "{{ x }}");
}

TEST(GgufVocabularyTest, MoreTokensThanRowsAreRefused) {
  const auto v = Convert(ByteLevelJson({{"a", "b"}}), 257);
  EXPECT_THAT(MessageOf(v.status()), HasSubstr("\"<|end|>\" has the id 257"));
}

TEST(GgufVocabularyTest, ScoresFollowTheOrderOfMerges) {
  const auto v = Convert(CompleteSentencePiece(), 267, {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
  ASSERT_TRUE(v.ok()) << v.status();
  EXPECT_EQ(v->model, "llama");
  EXPECT_TRUE(v->add_space_prefix);
  EXPECT_TRUE(v->add_bos);
  EXPECT_FALSE(v->add_eos);
  EXPECT_EQ(v->bos, 1);
  EXPECT_EQ(v->eos, 2);
  EXPECT_EQ(v->unknown, 0);
  EXPECT_EQ(v->types[0], kGgufUnknown);
  EXPECT_EQ(v->types[1], kGgufControl);
  EXPECT_EQ(v->types[3], kGgufByte);
  EXPECT_EQ(v->types[259], kGgufNormal);
  // bc, ab, abc, _a in this order; then what no merge makes.
  EXPECT_GT(v->scores[263], v->scores[264]);
  EXPECT_GT(v->scores[264], v->scores[265]);
  EXPECT_GT(v->scores[265], v->scores[266]);
  EXPECT_GT(v->scores[266], v->scores[259]);
}

TEST(GgufVocabularyTest, NewerFormsOfTheSpaceMark) {
  Json json = CompleteSentencePiece();
  json["normalizer"] = nullptr;
  for (const auto& [scheme, prefix] : {std::pair{"first", true}, {"never", false}}) {
    json["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", kMark}, {"prepend_scheme", scheme}, {"split", false}};
    const auto v = Convert(json, 267);
    ASSERT_TRUE(v.ok()) << v.status();
    EXPECT_EQ(v->add_space_prefix, prefix);
  }
  json["pre_tokenizer"] = nullptr;
  EXPECT_EQ(ReasonOf(Convert(json, 267).status()), "TOKENIZER_UNSUPPORTED");
}

TEST(GgufVocabularyTest, MergesThatScoresCannotSayAreRefused) {
  const Json json = SentencePieceJson({kMark, "a", "b", "c", "bc", "ab", "abc"},
                                      {{"b", "c"}, {"a", "b"}, {"ab", "c"}});  // not a + bc
  const absl::Status status = Convert(json, 266).status();
  EXPECT_EQ(ReasonOf(status), "TOKENIZER_UNSUPPORTED");
  EXPECT_THAT(MessageOf(status), HasSubstr("\"a bc\" is not a merge"));
  Json no_bytes = CompleteSentencePiece();
  no_bytes["model"]["byte_fallback"] = false;
  EXPECT_THAT(MessageOf(Convert(no_bytes, 267).status()), HasSubstr("byte_fallback"));
}

TEST(GgufVocabularyTest, UserDefinedRunsOfSpaces) {
  const std::string two = kMark + kMark;
  for (const bool normalized : {false, true}) {
    Json json = SentencePieceJson({kMark, "a", two}, {{kMark, kMark}});
    json["added_tokens"].push_back({{"id", 261}, {"content", two}, {"special", false}, {"normalized", normalized}});
    const auto v = Convert(json, 262);
    ASSERT_TRUE(v.ok()) << v.status();
    EXPECT_EQ(v->types[261], normalized ? kGgufUserDefined : kGgufNormal);
    EXPECT_EQ(v->tokens[261], normalized ? "  " : two);
  }
}

TEST(GgufVocabularyTest, AFrameOfOtherTokensIsRefused) {
  const absl::Status status = Convert(CompleteSentencePiece(), 267, {{"bos_token", "</s>"}}).status();
  EXPECT_EQ(ReasonOf(status), "TOKENIZER_UNSUPPORTED");
  EXPECT_THAT(MessageOf(status), HasSubstr("post_processor"));
}

TEST(GgufVocabularyTest, ADifferenceIsFoundAndShown) {
  const auto a = *Make(ByteLevelJson({{"l", "l"}})), b = *Make(ByteLevelJson({{"e", "l"}}));
  EXPECT_EQ(CheckSameIds(*a, *a), absl::OkStatus());
  const absl::Status status = CheckSameIds(*a, *b);
  EXPECT_EQ(ReasonOf(status), "TOKENIZER_UNSUPPORTED");
  EXPECT_THAT(MessageOf(status), HasSubstr("after \"H\""));
}

}  // namespace
}  // namespace qamserve
