// Texts that want much time, memory or stack: each is refused with a reason or compiled, and used, within bounds.
#include <ctime>
#include <functional>
#include <limits>

#include "core/base/rng.h"
#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

// Far above what anything here takes (tenths of a second), far below what a mistake would.
constexpr double kMostSeconds = 10;

double CpuSeconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

std::string Repeated(std::string_view text, size_t times) {
  std::string out;
  out.reserve(text.size() * times);
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

// Compiles, and if that works, walks: errors have to be one of the two.
void ExpectBounded(ConstraintKind kind, const std::string& text, int steps = 30) {
  const double start = CpuSeconds();
  const auto trie = SmallTrie();
  const auto constraint = CompileWith(kind, text, trie);
  const auto is_known = [](const absl::Status& status) {
    return ReasonOf(status) == "CONSTRAINT_INVALID" || ReasonOf(status) == "CONSTRAINT_SIZE";
  };
  if (constraint.ok()) {
    ConstraintMatcher matcher(*constraint);
    Rng rng(1);
    const auto vocab = static_cast<size_t>(trie->size());
    for (int step = 0; step < steps && !matcher.IsOver(); ++step) {
      std::vector<float> logits(vocab, 0.0f);
      const auto goes_on = matcher.Allow(logits);
      if (!goes_on.ok()) {
        EXPECT_TRUE(is_known(goes_on.status())) << MessageOf(goes_on.status());
        // It stays so.
        EXPECT_EQ(matcher.Allow(logits).status(), goes_on.status());
        break;
      }
      if (!*goes_on) break;
      size_t token = rng.NextU64() % vocab;
      while (logits[token] != 0) token = (token + 1) % vocab;
      const absl::Status accepted = matcher.Accept(static_cast<int32_t>(token));
      if (!accepted.ok()) {
        EXPECT_TRUE(is_known(accepted)) << MessageOf(accepted);
        break;
      }
    }
  } else {
    EXPECT_TRUE(is_known(constraint.status())) << MessageOf(constraint.status()) << text.substr(0, 80);
  }
  EXPECT_LT(CpuSeconds() - start, kMostSeconds) << text.substr(0, 80);
}

std::string ReasonFor(ConstraintKind kind, const std::string& text) { return ReasonOf(CompileError(kind, text)); }

TEST(HostileTest, TextsThatAreTooLong) {
  const std::string text(kMaxConstraintBytes + 1, ' ');
  for (const auto kind :
       {ConstraintKind::kJsonSchema, ConstraintKind::kRegex, ConstraintKind::kGrammar, ConstraintKind::kChoices}) {
    EXPECT_EQ(ReasonFor(kind, text), "CONSTRAINT_SIZE");
    EXPECT_EQ(ReasonFor(kind, "\xFF"), "CONSTRAINT_INVALID");
  }
}

TEST(HostileTest, Expressions) {
  const std::string cases[] = {
      Repeated("(", 60000),
      Repeated("(", 40) + "a" + Repeated(")", 40),
      Repeated("(a", 60000),
      Repeated("[", 100000),
      Repeated("(a|b)*", 20000),
      Repeated("a?", 60000) + Repeated("a", 5000),
      Repeated("(a?){1000000}", 9000),
      "((((((a{99}){99}){99}){99}){99}){99})",
      "((((((a{0,1000000}){0,1000000}){0,1000000}){0,1000000}))){1000000}",
      "((((((|)){0,1000000}){0,1000000}){0,1000000}){0,1000000}){0,1000000}",
      "(((((((||)|){0,1000000}a?){0,1000000}b?){0,1000000}))){1000000}",
      "(" + Repeated("a|", 60000) + "b)*",
      "(" + Repeated("a*|", 40000) + "b)*c",
      Repeated("[^a]", 30000),
      "(" + Repeated("\\S", 60000) + ")*",
      "(a|aa|aaa|aaaa)*(a|aa|aaa)*(a*)*b",
      "(.*a){90}",
      "(.*.*.*.*.*.*.*.*a){1,1000000}",
      "([a-z]{0,1000}){0,1000}([a-z]{0,1000}){0,1000}x",
      "(((a{1,500}b?){1,500}a?){1,500}b?){1,500}",
      Repeated("(x{1,99}y?){1,99}", 300),
      Repeated("|", 100000),
      Repeated("\\", 100001),
      Repeated("{1}", 40000),
      "a" + Repeated("{1}", 40000),
  };
  for (const std::string& text : cases) ExpectBounded(ConstraintKind::kRegex, text);
}

TEST(HostileTest, Grammars) {
  std::string chain = "root ::= a0\n", doubling = "root ::= a0\n", wide = "root ::= ", mutual = "root ::= a0 \"x\"\n";
  for (int i = 0; i < 3000; ++i) {
    chain += fmt::format("a{} ::= a{}\n", i, i + 1);
    doubling += fmt::format("a{} ::= a{} a{}\n", i, i + 1, i + 1);
    wide += fmt::format("a{} | ", i);
    mutual += fmt::format("a{} ::= a{} | \"y\"\n", i, (i + 1) % 3000);
  }
  chain += "a3000 ::= \"x\"";
  doubling += "a3000 ::= \"x\"?";
  wide += "\"x\"\n";
  for (int i = 0; i < 3000; ++i) wide += fmt::format("a{} ::= \"a\" root \"{}\"\n", i, i);
  const std::string cases[] = {
      chain,
      doubling,
      wide,
      mutual,
      "root ::= root root | \"a\" |",
      "root ::= \"a\" root root | \"a\"",
      "root ::= \"a\" root root? root? root? | \"a\"",
      "root ::= (\"a\" root \"b\")* | (\"a\" root \"c\")* | \"\"",
      "root ::= ((((\"\")*)*)*)*",
      "root ::= (((\"a\"*)*)*)* \"b\"",
      "root ::= " + Repeated("(", 60000),
      "root ::= " + Repeated("\"a\"?", 20000),
      "root ::= \"" + Repeated("a", 120000) + "\"",
      "root ::= [" + Repeated("\\u0100", 20000) + "]",
      "root ::= [" + Repeated("a", 120000) + "]*",
      "root ::= \"a\"" + Repeated("*", 60000),
      "root ::= \"a\"" + Repeated("{9}", 30000),
      "root ::= x{1000000} \nx ::= y{0,1000000} \ny ::= \"\" | z{2} \nz ::= \"\"",
      Repeated("# comment\n", 12000),
      Repeated("r ", 60000),
      Repeated("root ::= \"a\"\n", 5000),
  };
  for (const std::string& text : cases) ExpectBounded(ConstraintKind::kGrammar, text);
  EXPECT_EQ(ReasonFor(ConstraintKind::kGrammar, mutual), "CONSTRAINT_INVALID");
}

TEST(HostileTest, Schemas) {
  std::string properties = R"({"properties": {)", optional = properties, required, values = R"({"enum": [)",
              refs = R"({"$ref": "#/$defs/a0", "$defs": {)";
  std::string crossed = R"({"$ref": "#/$defs/a0", "$defs": {)";
  for (int i = 0; i < 1500; ++i) {
    properties += fmt::format(R"("p{}": {{"type": "integer"}},)", i);
    required += fmt::format(R"("p{}",)", i);
    values += fmt::format("\"value {}\",", i * 7919 % 1500);
    refs += fmt::format(R"("a{}": {{"allOf": [{{"$ref": "#/$defs/a{}"}}]}},)", i, i + 1);
  }
  for (int i = 0; i < 60; ++i) {
    crossed += fmt::format(R"("a{}": {{"allOf": [)", i);
    for (int k = 0; k < 20; ++k)
      crossed += fmt::format(R"({{"properties": {{"x{}": {{"$ref": "#/$defs/a{}"}}}}}},)", k % 4, (i * 7 + k * 3) % 60);
    crossed += R"(true], "type": "object"},)";
  }
  const std::string open = properties.substr(0, properties.size() - 1) + "}";
  const std::string cases[] = {
      open + "}",
      open + ", \"required\": [" + required.substr(0, required.size() - 1) + "]}",
      open + ", \"additionalProperties\": true}",
      values + "0]}",
      refs + R"("a1500": {"type": "null"}}})",
      refs + R"("a1500": {"$ref": "#/$defs/a0"}}})",
      crossed + R"("end": true}})",
      Repeated("[", 100000),
      Repeated(R"({"items":)", 14000),
      Repeated(R"({"items":)", 60) + "true" + Repeated("}", 60),
      Repeated(R"({"anyOf":[{},)", 30) + "{}" + Repeated("]}", 30),
      R"({"type": "array", "items": {"type": "array", "items": {"type": "string", "maxLength": 1000000}, "maxItems": 1000000}, "maxItems": 1000000})",
      R"({"type": "string", "pattern": "(.*a){30}(.*b){30}"})",
      R"({"type": "string", "pattern": ")" + Repeated("(a|b?)", 15000) + "\"}",
      R"({"anyOf": [{"$ref": "#/anyOf/1"}, {"$ref": "#/anyOf/0"}]})",
      R"({"allOf": [{"$ref": "#"}, {"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#/allOf/1"}]}}}]})",
      R"({"properties": {")" + Repeated("n", 100000) + R"(": true}, "additionalProperties": true})",
      R"({"properties": {")" + Repeated("n", 255) + R"(": true}, "additionalProperties": true})",
      R"({"const": ")" + Repeated("é", 50000) + "\"}",
      R"({"prefixItems": [)" + Repeated("true,", 2000) + R"(true], "minItems": 0})",
      R"({"prefixItems": [)" + Repeated("true,", 20000) + "true]}",
      R"({"$ref": "#/)" + Repeated("a/", 50000) + "\"}",
      R"({"minimum": -1e308, "maximum": 1e308})",
      R"({"type": "integer", "minimum": -9223372036854775808, "maximum": 18446744073709551615})",
  };
  for (const std::string& text : cases) ExpectBounded(ConstraintKind::kJsonSchema, text);
}

TEST(HostileTest, Choices) {
  std::string many = "[", nested = "[";
  for (int i = 0; i < 12000; ++i) many += fmt::format("\"{}\",", i * 7919);
  for (int i = 1; i < 450; ++i) nested += "\"" + std::string(static_cast<size_t>(i), 'a') + "\",";
  ExpectBounded(ConstraintKind::kChoices, many + "\"x\"]");
  ExpectBounded(ConstraintKind::kChoices, nested + "\"x\"]");
  ExpectBounded(ConstraintKind::kChoices, "[\"" + Repeated("a", 120000) + "\"]");
  ExpectBounded(ConstraintKind::kChoices, Repeated("[", 100000));
}

// They end up in headers of HTTP.
TEST(HostileTest, MessagesAreShort) {
  const std::string name = Repeated("日本", 15000);
  const std::pair<ConstraintKind, std::string> kCases[] = {
      {ConstraintKind::kGrammar, "root ::= " + Repeated("a", 100000)},
      {ConstraintKind::kGrammar, Repeated("a", 100000) + " ::= \"x\""},
      {ConstraintKind::kJsonSchema, "{\"$ref\": \"#/" + name + "\"}"},
      {ConstraintKind::kJsonSchema, "{\"type\": \"" + name + "\"}"},
      {ConstraintKind::kJsonSchema, "{\"format\": \"" + name + "\"}"},
      {ConstraintKind::kJsonSchema, "{\"properties\": {\"" + name + "\": {\"not\": {}}}}"},
  };
  for (const auto& [kind, text] : kCases) {
    const std::string message = MessageOf(CompileError(kind, text));
    EXPECT_GT(message.size(), 20u);
    EXPECT_LT(message.size(), 600u);
    EXPECT_TRUE(IsRepairedUtf8(message));
  }
  EXPECT_THAT(MessageOf(CompileError(kCases[5].first, kCases[5].second)),
              testing::AllOf(testing::StartsWith("#/properties/日"),
                             testing::EndsWith("the keyword \"not\" is not supported")));
}

// Small changes of texts that are right, and texts made of their pieces.
TEST(HostileTest, ChangedTexts) {
  const std::pair<ConstraintKind, std::string> kSeeds[] = {
      {ConstraintKind::kRegex, "^(a|[^b-d\\d]{2,30}|\\u00e9+?)*(x{3,}y?)?$"},
      {ConstraintKind::kGrammar,
       "root ::= \"a\\n\" [^a-z]{2,9} (item | \"b\")* # c\nitem ::= \"(\" root? \")\" | [0-9]+ ."},
      {ConstraintKind::kJsonSchema,
       R"({"$defs":{"a":{"type":"array","items":{"$ref":"#"},"maxItems":3}},"type":"object","properties":{"x":{"$ref":"#/$defs/a"},"y":{"enum":[1,"b",null]},"z":{"type":"number","minimum":-1.5,"exclusiveMaximum":20}},"required":["y"],"additionalProperties":{"type":"string","pattern":"^a+|b$"}})"},
      {ConstraintKind::kChoices, R"(["yes","no","y\u00e9s"])"},
  };
  Rng rng(6);
  for (const auto& [kind, seed] : kSeeds) {
    for (int i = 0; i < 400; ++i) {
      std::string text = seed;
      const uint64_t changes = 1 + rng.NextU64() % 4;
      for (uint64_t k = 0; k < changes && !text.empty(); ++k) {
        const size_t at = rng.NextU64() % text.size();
        const size_t from = rng.NextU64() % text.size();
        switch (rng.NextU64() % 4) {
          case 0:
            text.erase(at, 1 + rng.NextU64() % 3);
            break;
          case 1:
            text[at] = static_cast<char>(rng.NextU64() % 128);
            break;
          case 2:
            text.insert(at, text.substr(from, 1 + rng.NextU64() % 12));
            break;
          default:
            text[at] = text[from];
            break;
        }
      }
      ExpectBounded(kind, text, 6);
    }
  }
}

}  // namespace
}  // namespace qamserve
