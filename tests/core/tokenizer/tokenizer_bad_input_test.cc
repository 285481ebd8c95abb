#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/tokenizer/tokenizer.h"
#include "tests/core/tokenizer/small_tokenizers.h"

namespace qamserve {
namespace {

using ::testing::HasSubstr;

absl::Status StatusOf(const Json& json, const Json& config = Json::object()) { return Make(json, config).status(); }

absl::Status StatusOfText(const std::string& text) { return Tokenizer::Create({text, "", ""}, "file.json").status(); }

void ExpectInvalid(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_EQ(ReasonOf(status), "TOKENIZER_INVALID") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(part));
}

void ExpectUnsupported(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_EQ(ReasonOf(status), "TOKENIZER_UNSUPPORTED") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(part));
}

TEST(TokenizerBadInputTest, NotJson) {
  ExpectInvalid(StatusOfText(""), "file.json");
  ExpectInvalid(StatusOfText("hello"), "file.json");
  ExpectInvalid(StatusOfText("[]"), "not a JSON object");
  ExpectInvalid(StatusOfText(std::string("{\"model\": \"\xFF\"}")), "not JSON");
  ExpectInvalid(StatusOfText(std::string(1'000'000, '[')), "file.json");
  ExpectInvalid(StatusOfText("{\"model\":" + std::string(1'000'000, '[')), "nested deeper than");
}

TEST(TokenizerBadInputTest, EveryTruncationIsAnError) {
  const std::string text = ByteLevelJson({{"a", "b"}}).dump();
  for (size_t n = 0; n < text.size(); n += 7) EXPECT_FALSE(StatusOfText(text.substr(0, n)).ok()) << n;
}

TEST(TokenizerBadInputTest, FlippedBytesNeverCrash) {
  const std::string text = SentencePieceJson({"a", "b", "ab"}, {{"a", "b"}}).dump();
  for (size_t n = 0; n < text.size(); n += 3) {
    std::string damaged = text;
    damaged[n] = static_cast<char>(damaged[n] ^ (1 << (n % 8)));
    const auto tokenizer = Tokenizer::Create({damaged, "", ""}, "damaged");
    if (tokenizer.ok()) (*tokenizer)->Encode("ab é </s>", {true, true});
  }
}

TEST(TokenizerBadInputTest, Ids) {
  Json json = ByteLevelJson({});
  json["model"]["vocab"]["zz"] = -1;
  ExpectInvalid(StatusOf(json), "\"zz\"");
  json["model"]["vocab"]["zz"] = int64_t{1} << 40;
  ExpectInvalid(StatusOf(json), "\"zz\"");
  json["model"]["vocab"]["zz"] = "12";
  ExpectInvalid(StatusOf(json), "\"zz\"");
  json["model"]["vocab"]["zz"] = 5;
  ExpectInvalid(StatusOf(json), "share the id 5");
}

TEST(TokenizerBadInputTest, AddedTokens) {
  Json json = ByteLevelJson({});
  json["added_tokens"][0]["id"] = 7;
  ExpectInvalid(StatusOf(json), "<|end|>");
  json["added_tokens"][0]["id"] = int64_t{1} << 40;
  ExpectInvalid(StatusOf(json), "added_tokens");
  json["added_tokens"][0] = "text";
  ExpectInvalid(StatusOf(json), "added_tokens");
  json["added_tokens"] = 3;
  ExpectInvalid(StatusOf(json), "added_tokens");
}

TEST(TokenizerBadInputTest, Merges) {
  Json json = ByteLevelJson({{"a", "b"}});
  json["model"]["merges"] = {"a zz"};
  ExpectInvalid(StatusOf(json), "\"zz\"");
  json["model"]["merges"] = {"a c"};
  ExpectInvalid(StatusOf(json), "\"ac\"");
  for (const Json& bad : {Json("ab"), Json("a b c"), Json(1), Json({"a"}), Json({"a", "b", "c"}), Json({"a", 1})}) {
    json["model"]["merges"] = {bad};
    ExpectInvalid(StatusOf(json), "model.merges: entry 0");
  }
}

TEST(TokenizerBadInputTest, MissingParts) {
  Json json = ByteLevelJson({});
  json["model"].erase("vocab");
  ExpectInvalid(StatusOf(json), "model.vocab");
  json.erase("model");
  ExpectInvalid(StatusOf(json), "\"model\"");
}

TEST(TokenizerBadInputTest, UnsupportedPartsAreNamed) {
  const Json base = ByteLevelJson({});
  const auto with = [&](const char* field, Json value) {
    Json json = base;
    json[field] = std::move(value);
    return StatusOf(json);
  };
  ExpectUnsupported(with("normalizer", {{"type", "BertNormalizer"}}), "BertNormalizer");
  ExpectUnsupported(with("pre_tokenizer", {{"type", "UnicodeScripts"}}), "UnicodeScripts");
  ExpectUnsupported(with("post_processor", {{"type", "BertProcessing"}}), "BertProcessing");
  ExpectUnsupported(with("decoder", {{"type", "WordPiece"}}), "WordPiece");
  ExpectUnsupported(
      with("pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "[a&&[b]]"}}}, {"behavior", "Isolated"}}), "&&");
  Json json = base;
  json["model"]["type"] = "Unigram";
  ExpectUnsupported(StatusOf(json), "Unigram");
  json = base;
  json["model"]["end_of_word_suffix"] = "</w>";
  ExpectUnsupported(StatusOf(json), "end_of_word_suffix");
}

TEST(TokenizerBadInputTest, BadPatternsAndSequences) {
  Json json = ByteLevelJson({});
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(unclosed"}}}, {"behavior", "Isolated"}};
  ExpectInvalid(StatusOf(json), "(unclosed");
  json["pre_tokenizer"] = {{"type", "Sequence"}};
  ExpectInvalid(StatusOf(json), "pretokenizers");
  Json nested = {{"type", "ByteLevel"}};
  for (int i = 0; i < 20; ++i) nested = {{"type", "Sequence"}, {"pretokenizers", {nested}}};
  json["pre_tokenizer"] = nested;
  ExpectInvalid(StatusOf(json), "nested past");
}

TEST(TokenizerBadInputTest, ACatastrophicPatternEndsTheSplitNotTheThread) {
  Json json = ByteLevelJson({});
  json["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"}, {"pattern", {{"Regex", "(a+)+b|c"}}}, {"behavior", "Isolated"}},
                             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto tokenizer = Make(json);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->Encode(std::string(40, 'a'), {}).size(), 40u);
}

TEST(TokenizerBadInputTest, ConfigAndTemplateMustMatchTheVocabulary) {
  EXPECT_EQ(ReasonOf(StatusOf(ByteLevelJson({}), {{"bos_token", "<nope>"}})), "TOKENIZER_CONFIG_INVALID");
  EXPECT_EQ(ReasonOf(StatusOf(ByteLevelJson({}), {{"eos_token", {{"content", "<nope>"}}}})),
            "TOKENIZER_CONFIG_INVALID");
  EXPECT_EQ(ReasonOf(StatusOf(ByteLevelJson({}), Json::array())), "TOKENIZER_CONFIG_INVALID");
  Json json = SentencePieceJson({"a"}, {});
  json["post_processor"]["special_tokens"]["<s>"]["ids"] = {100000};
  ExpectInvalid(StatusOf(json), "100000");
}

}  // namespace
}  // namespace qamserve
