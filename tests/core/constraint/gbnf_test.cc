#include "core/constraint/gbnf.h"

#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

TEST(GbnfTest, ReadsTheNotation) {
  const Compiled grammar(ConstraintKind::kGrammar, R"g(# sums
root  ::= sum "\n"   # ends the line
sum   ::= term (ws ("+" | "-") ws term)*
term  ::= number | "(" ws sum ws ")"
number ::= [0-9]+ ("." [0-9]{1,2})?
ws ::= " "?
)g");
  for (const char* text : {"1\n", "1 + 2\n", "(1+2) - 3.25\n", "((7))\n", "( 1 )\n"})
    EXPECT_TRUE(grammar.Matches(text)) << text;
  for (const char* text : {"", "1", "1 +\n", "(1\n", "1.234\n", "1  + 2\n", "()\n", "1\n\n"}) {
    EXPECT_FALSE(grammar.Matches(text)) << text;
  }
}

TEST(GbnfTest, ReadsEscapesClassesAndCharacters) {
  const Compiled grammar(ConstraintKind::kGrammar,
                         R"g(root ::= "\"\\\t\x41\u00e9\U0001F600" [^a-z\]\-\^\n] . [a-]{2} "é"{,2} "x"{2,})g");
  const std::string start = "\"\\\tA\xC3\xA9\xF0\x9F\x98\x80";
  EXPECT_TRUE(grammar.Matches(start + "A日a-éxx"));
  EXPECT_TRUE(grammar.Matches(start + "é\naaééxxx"));
  EXPECT_FALSE(grammar.Matches(start + "]日a-xx"));
  EXPECT_FALSE(grammar.Matches(start + "A日a-éééxx"));
  EXPECT_FALSE(grammar.Matches(start + "A日a-x"));
}

TEST(GbnfTest, RulesSpanLinesAndStandInAnyOrder) {
  const Compiled grammar(ConstraintKind::kGrammar,
                         "item ::=\n  \"a\"\n  | \"b\"\nroot ::= item\n  item  # two\nrest-1_x ::= item");
  EXPECT_TRUE(grammar.Matches("ab"));
  EXPECT_FALSE(grammar.Matches("a"));
}

TEST(GbnfTest, RecursionNests) {
  const Compiled grammar(ConstraintKind::kGrammar, R"g(root ::= "(" root ")" | "[" root? "]" | "x" root | "")g");
  EXPECT_TRUE(grammar.Matches("(([x[]]))"));
  EXPECT_TRUE(grammar.Matches(""));
  EXPECT_FALSE(grammar.Matches("(([x[]))"));
  std::string deep(2000, '(');
  EXPECT_TRUE(grammar.Matches(deep + std::string(2000, ')')));
  EXPECT_FALSE(grammar.Matches(deep + std::string(1999, ')')));
  // A list of any length needs no deeper stack.
  EXPECT_TRUE(grammar.Matches(std::string(100000, 'x')));
  // Nesting has a limit, which is told.
  EXPECT_EQ(ReasonOf(grammar.constraint()->Matches(std::string(10000, '(')).status()), "CONSTRAINT_SIZE");
}

// After a^n there are 2^n ways to go on, which share their stacks.
TEST(GbnfTest, AmbiguityDoesNotMultiply) {
  const Compiled grammar(ConstraintKind::kGrammar, R"g(root ::= "a" root "b" | "a" root "c" | "d")g");
  const std::string as(300, 'a');
  std::string ends;
  for (int i = 0; i < 300; ++i) ends += i % 3 == 0 ? 'b' : 'c';
  EXPECT_TRUE(grammar.Matches(as + "d" + ends));
  EXPECT_FALSE(grammar.Matches(as + "d" + ends + "b"));
  const Compiled twice(ConstraintKind::kGrammar, R"g(root ::= (x x)* "."
x ::= "a" | "aa" | "")g");
  EXPECT_TRUE(twice.Matches(std::string(301, 'a') + "."));
}

TEST(GbnfTest, EmptyRulesWithinRules) {
  const Compiled grammar(ConstraintKind::kGrammar, R"g(root ::= a b a "!"
a ::= b | "x" a
b ::= c c
c ::= "y"? d
d ::= "")g");
  for (const char* text : {"!", "y!", "yyyyyy!", "xxyyyyxyy!", "x!", "yx!"}) EXPECT_TRUE(grammar.Matches(text)) << text;
  for (const char* text : {"", "yyyyyyy!", "xyyxyyxyyx!", "y"}) EXPECT_FALSE(grammar.Matches(text)) << text;
}

TEST(GbnfTest, RefusesByNameAndPlace) {
  const std::pair<const char*, const char*> kCases[] = {
      {"root ::= root \"a\" | \"b\"", "rule \"root\" begins with itself (left recursion)"},
      {"root ::= x\nx ::= \"\" y\ny ::= \"a\"? x \"b\" | \"c\"", "left recursion"},
      {"root ::= (\"\" | \"a\") root | \"b\"", "left recursion"},
      {"root ::= missing", "rule \"missing\" is not defined"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1 of the grammar: rule \"root\" is defined twice"},
      {"start ::= \"a\"", "no rule \"root\""},
      {"root ::= \"a", "line 1, column 10 of the grammar: a literal has no end"},
      {"root ::= [a", "a class has no end"},
      {"root ::= [z-a]", "wrong way round"},
      {"root ::= (\"a\"", "'(' without ')'"},
      {"root ::= \"a\")", "')' without '('"},
      {"root ::= \"\\q\"", "\\q"},
      {"root ::= \"\\uD800\"", "\\u"},
      {"root ::= \"a\"{3,2}", "minimum 3"},
      {"root ::= \"a\"{}", "needs a number"},
      {"root = \"a\"", "must begin with its name"},
      {"root ::= @", "'@'"},
      {"", "no rule \"root\""},
      {"root ::= \"a\" root", "no text at all"},
  };
  for (const auto& [text, words] : kCases) {
    const absl::Status status = CompileError(ConstraintKind::kGrammar, text);
    EXPECT_EQ(ReasonOf(status), "CONSTRAINT_INVALID") << text;
    EXPECT_THAT(MessageOf(status), HasSubstr(words)) << text;
  }
}

}  // namespace
}  // namespace qamserve
