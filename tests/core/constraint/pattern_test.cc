#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/constraint/pattern.h"

#include <pcre2.h>

#include <functional>

#include "core/base/rng.h"
#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

// Whether all of `text` matches, by PCRE2.
class Reference {
 public:
  explicit Reference(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE where = 0;
    // $ only at the end, not before a last line end.
    code_ =
        pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      PCRE2_UTF | PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_DOLLAR_ENDONLY, &error, &where, nullptr);
    EXPECT_NE(code_, nullptr) << pattern << " at " << where;
  }
  ~Reference() { pcre2_code_free(code_); }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  bool Matches(const std::string& text) const {
    pcre2_match_data* data = pcre2_match_data_create_from_pattern(code_, nullptr);
    const int rc = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), 0, 0, data, nullptr);
    pcre2_match_data_free(data);
    return rc >= 0;
  }

 private:
  pcre2_code* code_ = nullptr;
};

const char* const kPatterns[] = {
    "abc",
    "a|bc|",
    "(a|b)*c",
    "a+b?c*",
    "[a-c]{2,4}",
    "(ab){3}",
    "(a|bb){2,3}c",
    "(a?){3}b",
    "(a*)*b",
    "(a|b?)+",
    "a{0}b",
    "a{2,}b",
    "(a{1,2}){2}",
    "[^a]b",
    "[^ab\\n]*",
    "\\d{3}-\\d{2}",
    "\\w+\\s\\w+",
    "[\\d_-]+",
    "[a-]b",
    "\\.\\*\\[\\]",
    "(?:a|b)c(?<n>d)",
    "a.c",
    "é+ü?",
    "[à-ü]{2}",
    "[^\\x00-\\x7F]",
    "日本?",
    "[\\x{1F600}-\\x{1F64F}]a",
    "\\x41\\x{e9}",
    "(a|ab)(c|bcd)",
    "((a|b)(c|d)){1,3}",
    "x{90,110}",
    "(xy){40,60}",
    "^ab|cd$",
    "a*?b+?c??d{1,2}?",
    "{a}",
    "(0|[1-9][0-9]{0,4})(\\.[0-9]+)?",
    "(([ab]c){2,3}d){2}",
};

// Texts that are near the pattern's own: made of its characters.
TEST(PatternTest, AgreesWithPcreOnTexts) {
  Rng rng(5);
  for (const char* pattern : kPatterns) {
    const Reference reference(pattern);
    const Compiled compiled(ConstraintKind::kRegex, pattern);
    std::vector<std::string> pieces = {"a", "b", "c",  "d",  "x", "xy", "ab", "bb", "1", "23",  "-", " ", "é",
                                       "à", "ü", "日", "本", "😀", ".",  "*",  "[",  "]", "{a}", "A", "_", "\n"};
    int matched = 0;
    for (int i = 0; i < 1500; ++i) {
      std::string text;
      const uint64_t size = rng.NextU64() % 8;
      // Few different pieces, so that long runs occur.
      const size_t from = rng.NextU64() % pieces.size();
      for (uint64_t k = 0; k < size; ++k) text += pieces[(from + rng.NextU64() % 3) % pieces.size()];
      const bool expected = reference.Matches(text);
      matched += expected ? 1 : 0;
      ASSERT_EQ(compiled.Matches(text), expected) << pattern << " on \"" << text << "\"";
    }
    for (const int n : {0, 1, 39, 40, 41, 60, 61, 89, 90, 100, 110, 111}) {
      for (const char* piece : {"x", "xy", "a", "ab"}) {
        std::string text;
        for (int k = 0; k < n; ++k) text += piece;
        ASSERT_EQ(compiled.Matches(text), reference.Matches(text)) << pattern << " on " << n << " " << piece;
      }
    }
  }
}

// All texts over {a, b} of up to 7 characters against small patterns made at random.
TEST(PatternTest, AgreesWithPcreOnRandomPatterns) {
  Rng rng(9);
  std::vector<std::string> texts = {""};
  for (size_t i = 0; texts[i].size() < 7; ++i) {
    texts.push_back(texts[i] + "a");
    texts.push_back(texts[i] + "b");
  }
  const std::function<std::string(int)> make = [&](int depth) -> std::string {
    const uint64_t kind = depth == 0 ? rng.NextU64() % 3 : rng.NextU64() % 8;
    switch (kind) {
      case 0:
        return "a";
      case 1:
        return "b";
      case 2:
        return "[ab]";
      case 3:
        return make(depth - 1) + make(depth - 1);
      case 4:
        return "(" + make(depth - 1) + "|" + make(depth - 1) + ")";
      case 5:
        return "(" + make(depth - 1) + ")*";
      case 6:
        return "(" + make(depth - 1) + "|)";
      default: {
        const uint64_t low = rng.NextU64() % 3;
        return fmt::format("({}){{{},{}}}", make(depth - 1), low, low + rng.NextU64() % 3);
      }
    }
  };
  for (int i = 0; i < 150; ++i) {
    const std::string pattern = make(4);
    const Reference reference(pattern);
    const Compiled compiled(ConstraintKind::kRegex, pattern);
    for (const std::string& text : texts) {
      ASSERT_EQ(compiled.Matches(text), reference.Matches(text)) << pattern << " on \"" << text << "\"";
    }
  }
}

TEST(PatternTest, NeverMatchesWhatIsNotUtf8) {
  const Compiled compiled(ConstraintKind::kRegex, "[^a]*");
  EXPECT_TRUE(compiled.Matches("b\xC3\xA9\xF0\x9F\x98\x80\xEF\xBF\xBF"));
  for (const char* text :
       {"\xC3", "\xA9", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE0\x80\x80", "\xFF", "\xC3\xA9\x80"}) {
    EXPECT_FALSE(compiled.Matches(text)) << testing::PrintToString(text);
  }
}

// Every code point, against its own range and the ranges beside it.
TEST(PatternTest, RangesHoldTheirCodePoints) {
  const struct {
    const char* pattern;
    uint32_t first, last;
  } kRanges[] = {{"[\\x{0}-\\x{10FFFF}]", 0, 0x10FFFF},     {"[\\x{7F}-\\x{80}]", 0x7F, 0x80},
                 {"[\\x{7FF}-\\x{800}]", 0x7FF, 0x800},     {"[\\x{FFFF}-\\x{10000}]", 0xFFFF, 0x10000},
                 {"[\\x{123}-\\x{4567}]", 0x123, 0x4567},   {"[\\x{1000}-\\x{1FFF}]", 0x1000, 0x1FFF},
                 {"[\\x{D7FF}-\\x{E000}]", 0xD7FF, 0xE000}, {"[\\x{1F5FF}-\\x{2F801}]", 0x1F5FF, 0x2F801}};
  for (const auto& range : kRanges) {
    const Compiled compiled(ConstraintKind::kRegex, range.pattern);
    uint64_t wrong = 0;
    for (uint32_t code = 0; code <= 0x10FFFF; code += code < 0x11000 ? 1 : 97) {
      if (code >= 0xD800 && code < 0xE000) continue;
      std::string text;
      AppendUtf8(code, text);
      const bool expected = code >= range.first && code <= range.last;
      if (*compiled.constraint()->Matches(text) != expected) ++wrong;
    }
    EXPECT_EQ(wrong, 0u) << range.pattern;
  }
}

TEST(PatternTest, RefusesByNameAndPlace) {
  const std::pair<const char*, const char*> kCases[] = {
      {"(?=a)", "lookahead"},
      {"(?<!a)", "negative lookbehind"},
      {"(a)\\1", "backreferences"},
      {"\\bword", "word boundary"},
      {"(?i)a", "flags"},
      {"\\p{L}", "Unicode properties"},
      {"a++", "possessive"},
      {"(?>a)", "atomic"},
      {"a^b", "'^'"},
      {"(a$)", "'$'"},
      {"(a", "'(' without ')'"},
      {"a)", "')' without '('"},
      {"[a", "'[' without ']'"},
      {"[]", "\\]"},
      {"*a", "nothing to repeat"},
      {"a**", "needs a group"},
      {"a{3,1}", "minimum 3"},
      {"[z-a]", "wrong way"},
      {"[[:alpha:]]", "POSIX"},
      {"\\", "at the end"},
      {"\\q", "\\q"},
      {"\\uD800", "half of a character"},
      {"{3}", "nothing to repeat"},
      {"\\x{110000}", "number of a character"},
      {"(?P<a", "no end"},
  };
  for (const auto& [pattern, words] : kCases) {
    const absl::Status status = CompileError(ConstraintKind::kRegex, pattern);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_EQ(ReasonOf(status), "CONSTRAINT_INVALID") << pattern;
    EXPECT_THAT(MessageOf(status), HasSubstr(words)) << pattern;
    EXPECT_THAT(MessageOf(status), HasSubstr("byte ")) << pattern;
  }
  EXPECT_EQ(ReasonOf(CompileError(ConstraintKind::kRegex, "[^\\x{0}-\\x{10FFFF}]")), "CONSTRAINT_INVALID");
}

TEST(PatternTest, CountsWithinLimits) {
  EXPECT_EQ(ReasonOf(CompileError(ConstraintKind::kRegex, "a{2000000}")), "CONSTRAINT_SIZE");
  EXPECT_EQ(ReasonOf(CompileError(ConstraintKind::kRegex, "a{1,99999999999999999999}")), "CONSTRAINT_SIZE");
  const Compiled many(ConstraintKind::kRegex, "(abc){1000,1000000}");
  std::string text;
  for (int i = 0; i < 999; ++i) text += "abc";
  EXPECT_FALSE(many.Matches(text));
  EXPECT_TRUE(many.Matches(text + "abc"));
  EXPECT_FALSE(many.Matches(text + "abca"));
}

}  // namespace
}  // namespace qamserve
