#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/tokenizer/normalizer.h"
#include "core/tokenizer/pre_tokenizer.h"
#include "core/tokenizer/regex.h"
#include "core/tokenizer/tokenizer.h"
#include "core/tokenizer/tokenizer_config.h"
#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> Matches(std::string_view pattern, const std::string& text) {
  const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status();
  std::vector<std::string> out;
  if (!regex.ok()) return out;
  for (const TextSpan& span : regex->FindAll(text)) out.push_back(text.substr(span.begin, span.end - span.begin));
  return out;
}

std::vector<std::string> Split(const Json& component, const std::string& text) {
  const absl::StatusOr<PreTokenizer> pre = PreTokenizer::Create(&component);
  EXPECT_TRUE(pre.ok()) << pre.status();
  std::vector<std::string> out;
  if (!pre.ok()) return out;
  const Pieces pieces = pre->Split(text, true);
  for (const std::string_view piece : pieces.views) out.emplace_back(piece);
  return out;
}

Json SplitOn(const char* kind, const char* pattern, const char* behavior, bool invert = false) {
  return {{"type", "Split"}, {"pattern", {{kind, pattern}}}, {"behavior", behavior}, {"invert", invert}};
}

TEST(RegexTest, WhiteSpaceIsThatOfTheReference) {
  EXPECT_THAT(Matches("\\s+", "a \u00a0\u3000b\u180ec\u0085"), ElementsAre(" \u00a0\u3000", "\u0085"));
  EXPECT_THAT(Matches("[^\\s]+", "a\u180eb c"), ElementsAre("a\u180eb", "c"));
  EXPECT_THAT(Matches("[\\S]+", "a\u180eb c"), ElementsAre("a\u180eb", "c"));
  EXPECT_THAT(Matches("\\S", "\u180e"), ElementsAre("\u180e"));
}

TEST(RegexTest, EscapesInClassesAreKept) {
  EXPECT_THAT(Matches(R"([\[\]\\]+)", R"(a[]\b)"), ElementsAre(R"([]\)"));
  EXPECT_THAT(Matches(R"([[:digit:]x]+)", "a1x2"), ElementsAre("1x2"));
  EXPECT_THAT(Matches(R"([\u3040-\u309f]+)", "aぁんz"), ElementsAre("ぁん"));
}

TEST(RegexTest, EmptyMatchesAreSkipped) { EXPECT_THAT(Matches("b*", "aéb"), ElementsAre("b")); }

TEST(RegexTest, SurrogatesAreSearchedAsReplacementCharacters) {
  EXPECT_THAT(Matches("[^a]+",
                      "a\xED\xA0\x80"
                      "a"),
              ElementsAre("\xED\xA0\x80"));
}

TEST(PreTokenizerTest, SplitBehaviors) {
  EXPECT_THAT(Split(SplitOn("String", "-", "Isolated"), "a--b"), ElementsAre("a", "-", "-", "b"));
  EXPECT_THAT(Split(SplitOn("String", "-", "Removed"), "a--b"), ElementsAre("a", "b"));
  EXPECT_THAT(Split(SplitOn("String", "-", "MergedWithPrevious"), "a--b"), ElementsAre("a-", "-", "b"));
  EXPECT_THAT(Split(SplitOn("String", "-", "MergedWithNext"), "a--b"), ElementsAre("a", "-", "-b"));
  EXPECT_THAT(Split(SplitOn("String", "-", "Contiguous"), "a--b"), ElementsAre("a", "--", "b"));
  EXPECT_THAT(Split(SplitOn("Regex", "[a-z]+", "Removed", true), "ab-c!"), ElementsAre("ab", "c"));
}

TEST(PreTokenizerTest, ByteLevelPrefixSpace) {
  const Json prefix = {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"use_regex", true}};
  EXPECT_THAT(Split(prefix, "a b's  c"), ElementsAre(" a", " b", "'s", " ", " c"));
  EXPECT_THAT(Split(prefix, " a"), ElementsAre(" a"));
}

TEST(NormalizerTest, Steps) {
  const Json json = {{"type", "Sequence"},
                     {"normalizers",
                      {{{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}},
                       {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", " "}},
                       {{"type", "NFKC"}},
                       {{"type", "Prepend"}, {"prepend", "_"}}}}};
  const auto normalizer = Normalizer::Create(&json);
  ASSERT_TRUE(normalizer.ok()) << normalizer.status();
  EXPECT_EQ(normalizer->Apply("\u3000 a   \u212bﬁ \n"), "_a \u00c5fi");
  EXPECT_EQ(normalizer->Apply(""), "");
}

TEST(Utf8Test, RepairKeepsValidTextAndSurrogates) {
  EXPECT_EQ(RepairUtf8("aé漢👍"), "aé漢👍");
  EXPECT_EQ(RepairUtf8("\xED\xA0\x80"), "\xED\xA0\x80");
  EXPECT_EQ(RepairUtf8("\x80"
                       "a\xC3(\xF4\x90\x80\x80"),
            "\uFFFDa\uFFFD(\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(RepairUtf8("\xE0\x80\xAF"), "/");
  EXPECT_FALSE(IsRepairedUtf8("\xE0\x80\xAF"));
  EXPECT_EQ(MaskSurrogates("\xED\xA0\x80x"), "\uFFFDx");
}

TEST(ByteAlphabetTest, RoundTripsEveryByte) {
  const ByteAlphabet alphabet;
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  EXPECT_EQ(alphabet.Decode(alphabet.Encode(all)), all);
  EXPECT_EQ(alphabet.Encode(" \n\xAD"), "ĠĊŃ");
  EXPECT_EQ(alphabet.Decode("漢"), std::nullopt);
}

TEST(TokenizerConfigTest, ChatTemplates) {
  EXPECT_EQ(ParseTokenizerConfig(R"({"chat_template": "a"})")->chat_template, "a");
  const char* list =
      R"({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})";
  EXPECT_EQ(ParseTokenizerConfig(list)->chat_template, "d");
  EXPECT_EQ(ParseTokenizerConfig(R"({"bos_token": {"content": "<s>"}, "eos_token": null})")->bos_token, "<s>");
  EXPECT_FALSE(ParseTokenizerConfig("nope").ok());
}

TEST(TokenizerFilesTest, ReadsADirectory) {
  const auto dir = std::filesystem::temp_directory_path() / fmt::format("tokenizer_files_{}", getpid());
  std::filesystem::create_directories(dir);
  std::ofstream(dir / "tokenizer.json") << "{}";
  std::ofstream(dir / "tokenizer_config.json") << R"({"chat_template": "from config"})";
  const auto read = [&] { return ReadTokenizerFiles(*FileSet::FromPath(dir.string())); };
  EXPECT_EQ(read()->chat_template, "from config");
  std::ofstream(dir / "chat_template.jinja") << "from file";
  EXPECT_EQ(read()->chat_template, "from file");
  std::filesystem::remove(dir / "tokenizer.json");
  EXPECT_EQ(ReasonOf(read().status()), "CHECKPOINT_FILE_MISSING");
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace qamserve
