// What ConstraintMatcher allows, against reading each token by itself.
#include <algorithm>
#include <limits>
#include <thread>

#include "core/base/rng.h"
#include "core/constraint/constraint.h"
#include "core/constraint/machine.h"
#include "core/constraint/pattern.h"
#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

bool IsAllowed(float logit) { return logit != -std::numeric_limits<float>::infinity(); }

std::vector<int32_t> AllowedTokens(ConstraintMatcher& matcher, size_t vocab, bool ignore_eos = false) {
  std::vector<float> logits(vocab, 1.5f);
  const absl::StatusOr<bool> goes_on = matcher.Allow(logits, ignore_eos);
  EXPECT_TRUE(goes_on.ok()) << MessageOf(goes_on.status());
  std::vector<int32_t> allowed;
  for (size_t i = 0; i < vocab; ++i) {
    if (!IsAllowed(logits[i])) continue;
    EXPECT_EQ(logits[i], 1.5f);
    allowed.push_back(static_cast<int32_t>(i));
  }
  return allowed;
}

const struct {
  ConstraintKind kind;
  const char* text;
} kConstraints[] = {
    {ConstraintKind::kRegex, "[^x]*(the|a)*é{3,5}"},
    {ConstraintKind::kRegex, "a{5,200}b?"},
    {ConstraintKind::kRegex, "(ab|a){90,}c"},
    {ConstraintKind::kRegex, "([a-z]{1,30} ){2,50}\\d+"},
    {ConstraintKind::kRegex, "((a{1,40}b){1,40}c){1,40}"},
    {ConstraintKind::kRegex, "(x(a|b){3,120}){2,120}"},
    {ConstraintKind::kRegex, "日?本?😀*"},
    {ConstraintKind::kGrammar, "root ::= \"(\" root \")\" | \"[\" root? \"]\" | \"a\" root | \"\""},
    {ConstraintKind::kGrammar, "root ::= \"a\" root \"b\" | \"a\" root \"ab\" | \"a\""},
    {ConstraintKind::kGrammar,
     "root ::= item* \".\"\nitem ::= [a-c] | \"abc\" tail | \" \"\ntail ::= \"a\"{0,3} tail2?\ntail2 ::= \"12\" | "
     "\"1\" tail"},
    {ConstraintKind::kJsonObject, ""},
    {ConstraintKind::kJsonSchema,
     R"({"properties": {"name": {"type": "string"}, "the": {"type": "string", "maxLength": 150}}})"},
    {ConstraintKind::kJsonSchema,
     R"({"items": {"type": ["number", "string"], "minLength": 2, "maxLength": 4}, "maxItems": 300})"},
    {ConstraintKind::kJsonSchema, R"({"items": {"anyOf": [{"$ref": "#"}, {"type": "boolean"}]}, "minItems": 2})"},
    {ConstraintKind::kJsonSchema, R"({"properties": {"a": true}, "additionalProperties": {"type": "string"}})"},
    {ConstraintKind::kChoices, R"(["yes", "yes, 2", "no", "nothing", "é"])"},
};

// At every step of a random walk, each token is allowed if and only if it can be read from here.
TEST(MaskTest, AllowsExactlyWhatCanBeRead) {
  const auto trie = SmallTrie();
  const auto vocab = static_cast<size_t>(trie->size());
  const int32_t stop = trie->tokenizer().stop_ids().front();
  Rng rng(3);
  for (const auto& spec : kConstraints) {
    const auto constraint = CompileWith(spec.kind, spec.text, trie);
    ASSERT_TRUE(constraint.ok()) << spec.text << MessageOf(constraint.status());
    for (int walk = 0; walk < 6; ++walk) {
      ConstraintMatcher matcher(*constraint);
      std::vector<int32_t> said;
      std::string text;
      for (int step = 0; step < 40 && !matcher.IsOver(); ++step) {
        const std::vector<int32_t> allowed = AllowedTokens(matcher, vocab);
        std::vector<int32_t> expected;
        for (int32_t token = 0; token < trie->size(); ++token) {
          if (token == stop) {
            if (*(*constraint)->Matches(text)) expected.push_back(token);
            continue;
          }
          if (trie->bytes(token).empty()) continue;
          if (step % 5 != 0) break;  // to save time
          ConstraintMatcher other(*constraint);
          for (const int32_t earlier : said) ASSERT_TRUE(other.Accept(earlier).ok());
          if (other.Accept(token).ok()) expected.push_back(token);
        }
        if (step % 5 == 0) {
          ASSERT_EQ(allowed, expected) << spec.text << " after \"" << text << "\"";
        }
        EXPECT_EQ(matcher.IsComplete(), *(*constraint)->Matches(text)) << spec.text << " after \"" << text << "\"";
        ASSERT_FALSE(allowed.empty());
        int32_t chosen = allowed[rng.NextU64() % allowed.size()];
        // Ends early only where nothing else is possible.
        for (int tries = 0; chosen == stop && tries < 20; ++tries) chosen = allowed[rng.NextU64() % allowed.size()];
        if (chosen == stop) break;
        ASSERT_TRUE(matcher.Accept(chosen).ok());
        said.push_back(chosen);
        text += trie->bytes(chosen);
      }
    }
  }
}

TEST(MaskTest, StopTokensOnlyWhereTheAnswerIsComplete) {
  const auto trie = SmallTrie();
  const auto vocab = static_cast<size_t>(trie->size());
  const int32_t stop = trie->tokenizer().stop_ids().front();
  ASSERT_TRUE(trie->tokenizer().IsSpecial(stop));
  const auto constraint = CompileWith(ConstraintKind::kRegex, "ab?", trie);
  ASSERT_TRUE(constraint.ok());
  ConstraintMatcher matcher(*constraint);
  EXPECT_FALSE(matcher.IsComplete());
  EXPECT_EQ(AllowedTokens(matcher, vocab), (std::vector<int32_t>{'a', *trie->tokenizer().TokenToId("ab")}));
  EXPECT_EQ(ReasonOf(matcher.Accept('b')), "CONSTRAINT_TOKEN");
  ASSERT_TRUE(matcher.Accept('a').ok());
  EXPECT_TRUE(matcher.IsComplete());
  EXPECT_FALSE(matcher.IsOver());
  EXPECT_EQ(AllowedTokens(matcher, vocab), (std::vector<int32_t>{'b', stop}));
  EXPECT_EQ(AllowedTokens(matcher, vocab, /*ignore_eos=*/true), (std::vector<int32_t>{'b'}));
  EXPECT_TRUE(matcher.Accept(stop).ok());
  ASSERT_TRUE(matcher.Accept('b').ok());
  EXPECT_TRUE(matcher.IsOver());
  EXPECT_EQ(AllowedTokens(matcher, vocab), (std::vector<int32_t>{stop}));
  std::vector<float> logits(vocab, 0.0f);
  EXPECT_FALSE(*matcher.Allow(logits, /*ignore_eos=*/true));
}

// Rows that are longer than the vocabulary (padding) or shorter (special tokens past the model's end).
TEST(MaskTest, RowsOfOtherLengths) {
  const auto trie = SmallTrie();
  const auto constraint = CompileWith(ConstraintKind::kRegex, "a*", trie);
  ASSERT_TRUE(constraint.ok());
  ConstraintMatcher matcher(*constraint);
  std::vector<float> longer(static_cast<size_t>(trie->size()) + 100, 0.0f);
  ASSERT_TRUE(matcher.Allow(longer).ok());
  for (size_t i = static_cast<size_t>(trie->size()); i < longer.size(); ++i) EXPECT_FALSE(IsAllowed(longer[i]));
  std::vector<float> shorter(100, 0.0f);
  ASSERT_TRUE(matcher.Allow(shorter).ok());
  EXPECT_TRUE(IsAllowed(shorter['a']));
  EXPECT_FALSE(IsAllowed(shorter['b']));
}

TEST(MaskTest, ADeadEndIsTold) {
  // A vocabulary without byte tokens: only "a" and "b" and what lies around them.
  const std::string mark(kSpaceMark);
  nlohmann::json json = SentencePieceJson({}, {});
  nlohmann::json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"a", 3}, {"b", 4}, {mark, 5}};
  json["model"]["vocab"] = vocab;
  json["model"]["byte_fallback"] = false;
  const auto tokenizer = Make(json, {{"eos_token", "</s>"}});
  ASSERT_TRUE(tokenizer.ok()) << MessageOf(tokenizer.status());
  const auto trie = TokenTrie::Create(*tokenizer);
  const auto constraint = CompileWith(ConstraintKind::kRegex, "a(bc)?|b(bc)", trie);
  ASSERT_TRUE(constraint.ok());
  {
    ConstraintMatcher matcher(*constraint);
    ASSERT_TRUE(matcher.Accept(4).ok());
    ASSERT_TRUE(matcher.Accept(4).ok());
    std::vector<float> logits(6, 0.0f);
    const absl::Status status = matcher.Allow(logits).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_EQ(ReasonOf(status), "CONSTRAINT_DEAD_END");
  }
  ConstraintMatcher matcher(*constraint);
  ASSERT_TRUE(matcher.Accept(3).ok());
  EXPECT_EQ(AllowedTokens(matcher, 6), (std::vector<int32_t>{2, 4}));
}

// Stores are left behind while readers are under way, who find in the new one what they had.
TEST(MaskTest, ReadersOutliveStores) {
  using namespace constraint;  // NOLINT(google-build-using-namespace): the parts under test
  const auto trie = SmallTrie();
  Grammar grammar;
  const uint32_t root = grammar.AddRule("root");
  const auto body = AddPattern("([^x]{1,900}x|(a|é)[a-z]{2,300}){1,900}", grammar);
  ASSERT_TRUE(body.ok());
  grammar.SetRule(root, *body);
  const auto program = CompileProgram(grammar, root);
  ASSERT_TRUE(program.ok());
  Machine roomy(*program, *trie);
  Machine tight(*program, *trie, /*max_store_bytes=*/30000);
  Rng rng(8);
  std::vector<Reading> in_roomy, in_tight;
  for (int i = 0; i < 4; ++i) {
    in_roomy.push_back(*roomy.Start());
    in_tight.push_back(*tight.Start());
  }
  int moves = 0;
  for (int step = 0; step < 600; ++step) {
    const size_t i = rng.NextU64() % in_roomy.size();
    const auto allowed = roomy.Allowed(in_roomy[i]);
    const std::shared_ptr<StackStore> store = in_tight[i].store;
    const auto same = tight.Allowed(in_tight[i]);
    moves += in_tight[i].store != store ? 1 : 0;
    ASSERT_TRUE(allowed.ok() && same.ok());
    ASSERT_EQ((*allowed)->bits, (*same)->bits) << step;
    EXPECT_EQ(in_roomy[i].may_end(), in_tight[i].may_end());
    size_t token = rng.NextU64() % static_cast<size_t>(trie->size());
    while (((*allowed)->bits[token / 64] >> (token % 64) & 1) == 0)
      token = (token + 1) % static_cast<size_t>(trie->size());
    const std::string_view bytes = trie->bytes(static_cast<int32_t>(token));
    ASSERT_TRUE(*roomy.Read(in_roomy[i], bytes));
    ASSERT_TRUE(*tight.Read(in_tight[i], bytes));
  }
  EXPECT_GT(moves, 10);
}

TEST(MaskTest, ThreadsShareAConstraint) {
  const auto trie = SmallTrie();
  const auto vocab = static_cast<size_t>(trie->size());
  const auto constraint = CompileWith(ConstraintKind::kJsonObject, "", trie);
  ASSERT_TRUE(constraint.ok());
  const auto walk = [&](uint64_t seed) {
    Rng rng(seed);
    ConstraintMatcher matcher(*constraint);
    std::string text;
    for (int step = 0; step < 200 && !matcher.IsOver(); ++step) {
      std::vector<float> logits(vocab, 0.0f);
      if (!matcher.Allow(logits).ok()) return std::string("error");
      size_t token = rng.NextU64() % vocab;
      while (!IsAllowed(logits[token])) token = (token + 1) % vocab;
      if (!matcher.Accept(static_cast<int32_t>(token)).ok()) return std::string("error");
      text += trie->bytes(static_cast<int32_t>(token));
    }
    return text;
  };
  std::vector<std::string> alone, together(4);
  for (uint64_t seed = 0; seed < 4; ++seed) alone.push_back(walk(seed));
  std::vector<std::thread> threads;
  for (uint64_t seed = 0; seed < 4; ++seed) threads.emplace_back([&, seed] { together[seed] = walk(seed); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

}  // namespace
}  // namespace qamserve
