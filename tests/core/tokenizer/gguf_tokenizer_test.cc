#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/base/file.h"
#include "core/tokenizer/gguf_pre_tokenizers.h"
#include "core/tokenizer/tokenizer.h"
#include "tests/core/tokenizer/small_tokenizers.h"

namespace qamserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Just enough of GGUF version 3 to write metadata without tensors.
class GgufBuilder {
 public:
  void Text(const std::string& key, const std::string& value) { Key(key, 8), Str(value); }
  void Bool(const std::string& key, bool value) { Key(key, 7), body_ += static_cast<char>(value); }
  void Uint(const std::string& key, uint32_t value) { Key(key, 4), Put(value); }
  void Texts(const std::string& key, const std::vector<std::string>& values) {
    Array(key, 8, values.size());
    for (const std::string& v : values) Str(v);
  }
  void Ints(const std::string& key, const std::vector<int32_t>& values) {
    Array(key, 5, values.size());
    for (const int32_t v : values) Put(v);
  }
  void Floats(const std::string& key, const std::vector<float>& values) {
    Array(key, 6, values.size());
    for (const float v : values) Put(v);
  }

  absl::StatusOr<TokenizerFiles> Convert() const {
    const auto path = std::filesystem::temp_directory_path() / fmt::format("gguf_tokenizer_{}.gguf", getpid());
    std::string file = "GGUF";
    Append(file, uint32_t{3});
    Append(file, uint64_t{0});
    Append(file, count_);
    file += body_;
    file.resize((file.size() + 31) / 32 * 32);
    RETURN_IF_ERROR(WriteFileAtomically(path.string(), file));
    const auto gguf = GgufReader::Open({"test.gguf", path.string(), file.size()});
    std::filesystem::remove(path);
    RETURN_IF_ERROR(gguf.status());
    return TokenizerFilesFromGguf(**gguf);
  }

 private:
  template <typename T>
  static void Append(std::string& out, T value) {
    char bytes[sizeof(T)];
    std::memcpy(bytes, &value, sizeof(T));
    out.append(bytes, sizeof(T));
  }
  template <typename T>
  void Put(T value) {
    Append(body_, value);
  }
  void Str(const std::string& s) { Put(uint64_t{s.size()}), body_ += s; }
  void Key(const std::string& key, uint32_t type) { ++count_, Str(key), Put(type); }
  void Array(const std::string& key, uint32_t type, uint64_t n) { Key(key, 9), Put(type), Put(n); }

  uint64_t count_ = 0;
  std::string body_;
};

const std::string kMark = "\xE2\x96\x81";

GgufBuilder ByteLevelGguf(const std::string& pre, const std::string& merge = "a b") {
  const ByteAlphabet alphabet;
  std::vector<std::string> tokens;
  tokens.reserve(259);
  for (int i = 0; i < 256; ++i) tokens.push_back(alphabet.CharOf(static_cast<uint8_t>(i)));
  tokens.insert(tokens.end(), {"ab", "<|im_end|>", "<tool>"});
  std::vector<int32_t> types(tokens.size(), 1);
  types[258] = 4;  // "<|im_end|>" keeps the type of a normal token
  GgufBuilder gguf;
  gguf.Text("tokenizer.ggml.model", "gpt2");
  gguf.Text("tokenizer.ggml.pre", pre);
  gguf.Texts("tokenizer.ggml.tokens", tokens);
  gguf.Ints("tokenizer.ggml.token_type", types);
  gguf.Texts("tokenizer.ggml.merges", {merge});
  gguf.Uint("tokenizer.ggml.eos_token_id", 257);
  gguf.Text("tokenizer.chat_template", "{{ messages }}");
  return gguf;
}

GgufBuilder SentencePieceGguf(const std::vector<std::string>& pieces, const std::vector<float>& scores) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  std::vector<float> all_scores(259, 0.0f);
  for (int i = 0; i < 256; ++i) tokens.push_back(fmt::format("<0x{:02X}>", i)), types.push_back(6);
  tokens.insert(tokens.end(), pieces.begin(), pieces.end());
  types.resize(tokens.size(), 1);
  all_scores.insert(all_scores.end(), scores.begin(), scores.end());
  GgufBuilder gguf;
  gguf.Text("tokenizer.ggml.model", "llama");
  gguf.Texts("tokenizer.ggml.tokens", tokens);
  gguf.Ints("tokenizer.ggml.token_type", types);
  gguf.Floats("tokenizer.ggml.scores", all_scores);
  return gguf;
}

std::shared_ptr<const Tokenizer> MustMake(const GgufBuilder& gguf) {
  const auto files = gguf.Convert();
  EXPECT_TRUE(files.ok()) << files.status();
  if (!files.ok()) return nullptr;
  auto tokenizer = Tokenizer::Create(*files, "test.gguf");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *tokenizer : nullptr;
}

TEST(GgufTokenizerTest, ByteLevel) {
  const GgufBuilder gguf = ByteLevelGguf("smollm");
  EXPECT_EQ(gguf.Convert()->chat_template, "{{ messages }}");
  const auto t = MustMake(gguf);
  ASSERT_NE(t, nullptr);
  EXPECT_THAT(Ids(*t, "ab12<|im_end|><tool>", {.parse_special = true}), ElementsAre(256, '1', '2', 257, 258));
  // User-defined tokens are found even where special ones are text.
  EXPECT_THAT(Ids(*t, "<tool>"), ElementsAre(258));
  EXPECT_TRUE(t->IsSpecial(257));
  EXPECT_FALSE(t->IsSpecial(258));
  EXPECT_THAT(t->stop_ids(), ElementsAre(257));
}

TEST(GgufTokenizerTest, SentencePieceFollowsScores) {
  // "bc" scores better than "ab", so "abc" is a + bc; "abc" itself scores worst but can be made of them.
  const auto t = MustMake(SentencePieceGguf({kMark, "a", "b", "c", "ab", "bc", "abc"}, {-1, -2, -3, -4, -6, -5, -7}));
  ASSERT_NE(t, nullptr);
  EXPECT_THAT(Ids(*t, "abc"), ElementsAre(259, 265));
  EXPECT_THAT(Ids(*t, "ab</s>a", {.add_special = true, .parse_special = true}), ElementsAre(1, 259, 263, 2, 259, 260));
  EXPECT_THAT(Ids(*t, "\xC3("), ElementsAre(259, 3 + 0xC3, 3 + '('));
  EXPECT_EQ(t->Decode(Ids(*t, "abc ab"), true), "abc ab");
  EXPECT_EQ(t->bos_id(), 1);
}

TEST(GgufTokenizerTest, RunsAreJoinedFromTheLeft) {
  // aaaaa -> aa aa a -> aa aaa: "aaa" can be cut in two ways, and only aa+a is there to be joined.
  const auto t = MustMake(SentencePieceGguf({"a", "aa", "aaa"}, {-3, -1, -2}));
  ASSERT_NE(t, nullptr);
  EXPECT_THAT(Ids(*t, "aaaaa"), ElementsAre(3 + 0xE2, 3 + 0x96, 3 + 0x81, 260, 261));
}

TEST(GgufTokenizerTest, SpacePrefixKey) {
  GgufBuilder gguf = SentencePieceGguf({kMark, "a"}, {-1, -2});
  gguf.Bool("tokenizer.ggml.add_space_prefix", false);
  gguf.Bool("tokenizer.ggml.add_bos_token", false);
  const auto t = MustMake(gguf);
  ASSERT_NE(t, nullptr);
  EXPECT_THAT(Ids(*t, "a a", {.add_special = true}), ElementsAre(260, 259, 260));
}

TEST(GgufTokenizerTest, UnknownNamesAreNamed) {
  const auto pre = ByteLevelGguf("no-such-pre").Convert();
  EXPECT_EQ(ReasonOf(pre.status()), "TOKENIZER_UNSUPPORTED");
  EXPECT_THAT(MessageOf(pre.status()), HasSubstr("no-such-pre"));
  GgufBuilder bert;
  bert.Text("tokenizer.ggml.model", "bert");
  EXPECT_THAT(MessageOf(bert.Convert().status()), HasSubstr("bert"));
}

TEST(GgufTokenizerTest, InconsistentFilesAreRefused) {
  EXPECT_EQ(ReasonOf(ByteLevelGguf("smollm", "a zz").Convert().status()), "TOKENIZER_INVALID");
  EXPECT_EQ(ReasonOf(ByteLevelGguf("smollm", "").Convert().status()), "TOKENIZER_INVALID");
  EXPECT_EQ(ReasonOf(SentencePieceGguf({"a", "b"}, {-1}).Convert().status()), "TOKENIZER_INVALID");
  EXPECT_EQ(ReasonOf(SentencePieceGguf({"a", "a"}, {-1, -2}).Convert().status()), "TOKENIZER_INVALID");
  EXPECT_EQ(ReasonOf(SentencePieceGguf({"a\xFF"}, {-1}).Convert().status()), "TOKENIZER_INVALID");
  EXPECT_EQ(ReasonOf(SentencePieceGguf({"a"}, {NAN}).Convert().status()), "TOKENIZER_INVALID");
  GgufBuilder bos = SentencePieceGguf({"a"}, {-1});
  bos.Uint("tokenizer.ggml.bos_token_id", 5000);
  EXPECT_THAT(MessageOf(bos.Convert().status()), HasSubstr("bos_token_id"));
}

TEST(GgufPreTokenizersTest, EveryKnownPatternCompiles) {
  for (const char* name : {"smollm", "gpt-2", "llama-bpe", "dbrx", "glm4", "qwen2", "qwen35", "tekken", "default",
                           "falcon", "deepseek-coder", "deepseek-v3"}) {
    const auto pre = FindGgufPreTokenizer(name);
    ASSERT_TRUE(pre.ok()) << pre.status();
    EXPECT_FALSE(pre->patterns.empty());
    EXPECT_TRUE(MustMake(ByteLevelGguf(
                    name == std::string("llama-bpe") || name == std::string("tekken") ? "glm4" : name)) != nullptr);
  }
  EXPECT_FALSE(FindGgufPreTokenizer("").ok());
}

}  // namespace
}  // namespace qamserve
