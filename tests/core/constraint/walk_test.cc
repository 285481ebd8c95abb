// Answers made at random under a constraint: tokens drawn evenly among those that are allowed, then the shortest way to
// the end. All of them must be what was asked for, and from every token that is allowed some way must lead to the end.
#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <regex>

#include "core/base/rng.h"
#include "core/constraint/constraint.h"
#include "core/constraint/json_schema.h"
#include "core/constraint/pattern.h"
#include "core/constraint/stack_store.h"
#include "tests/core/constraint/constraint_testing.h"
#include "tests/core/constraint/schema_validator.h"
#include "tests/core/constraint/walk_schemas.h"

namespace qamserve {
namespace {

// Finds the shortest way to the end of an answer, byte by byte, without looking at tokens.
class Completer {
 public:
  Completer(ConstraintKind kind, std::string_view text) {
    constraint::Grammar grammar;
    uint32_t root = 0;
    if (kind == ConstraintKind::kJsonSchema) {
      root = constraint::AddJsonSchema(text, grammar).value();
    } else {
      root = grammar.AddRule("root");
      grammar.SetRule(root, constraint::AddPattern(text, grammar).value());
    }
    auto program = constraint::CompileProgram(grammar, root);
    EXPECT_TRUE(program.ok());
    program_ = std::move(*program);
    store_ = std::make_unique<constraint::StackStore>(program_);
  }

  // What may follow `text`; nothing if there is no end, or none near.
  std::optional<std::string> AfterText(std::string_view text) {
    constexpr size_t kMostTried = 200000;
    store_->ResetWork();
    uint32_t at = store_->Start();
    for (const char c : text) at = store_->Next(at, static_cast<uint8_t>(c));
    EXPECT_NE(at, constraint::kDead) << text;
    std::map<uint32_t, std::pair<uint32_t, char>> from = {{at, {at, '\0'}}};
    std::deque<uint32_t> waiting = {at};
    while (!waiting.empty() && from.size() < kMostTried) {
      at = waiting.front();
      waiting.pop_front();
      if (store_->may_end(at)) return Back(from, at);
      store_->ResetWork();
      for (int byte = 0; byte < 256; ++byte) {
        const uint32_t next = store_->Next(at, static_cast<uint8_t>(byte));
        if (next != constraint::kDead && from.try_emplace(next, at, static_cast<char>(byte)).second)
          waiting.push_back(next);
      }
    }
    return std::nullopt;
  }

 private:
  static std::string Back(const std::map<uint32_t, std::pair<uint32_t, char>>& from, uint32_t at) {
    std::string text;
    for (auto step = from.at(at); step.first != at; at = step.first, step = from.at(at)) text += step.second;
    std::reverse(text.begin(), text.end());
    return text;
  }

  constraint::Program program_;
  std::unique_ptr<constraint::StackStore> store_;
};

class Walker {
 public:
  Walker(std::shared_ptr<const Constraint> constraint, uint64_t seed)
      : constraint_(std::move(constraint)), matcher_(constraint_), rng_(seed) {}

  // Draws tokens; those that close something are as likely as all others together, so that answers end.
  void Walk(int steps) {
    const TokenTrie& trie = constraint_->vocabulary();
    for (int step = 0; step < steps && !matcher_.IsOver() && !stopped_; ++step) {
      const std::vector<int32_t> allowed = Allowed();
      if (allowed.empty()) return;
      std::vector<int32_t> closing;
      for (const int32_t token : allowed) {
        const std::string_view bytes = trie.bytes(token);
        if (bytes.empty() || bytes.find_first_of("\"]},") != std::string_view::npos) closing.push_back(token);
      }
      const std::vector<int32_t>& from = !closing.empty() && rng_.NextU64() % 3 == 0 ? closing : allowed;
      Take(from[rng_.NextU64() % from.size()]);
    }
  }

  // By single bytes. False if no way is found.
  bool Finish(Completer& completer) {
    if (matcher_.IsComplete()) return true;
    const std::optional<std::string> rest = completer.AfterText(text_);
    if (!rest) return false;
    for (const char c : *rest) {
      const std::vector<int32_t> allowed = Allowed();
      const auto token = std::ranges::find_if(
          allowed, [&](int32_t id) { return constraint_->vocabulary().bytes(id) == std::string_view(&c, 1); });
      if (token == allowed.end()) return false;
      Take(*token);
    }
    return matcher_.IsComplete();
  }

  void Take(int32_t token) {
    const std::vector<int32_t>& stops = constraint_->vocabulary().tokenizer().stop_ids();
    stopped_ = std::find(stops.begin(), stops.end(), token) != stops.end();
    if (stopped_) {
      EXPECT_TRUE(matcher_.IsComplete());
      return;
    }
    ASSERT_TRUE(matcher_.Accept(token).ok());
    text_ += constraint_->vocabulary().bytes(token);
  }
  std::vector<int32_t> Allowed() {
    std::vector<float> logits(vocab(), 0.0f);
    const auto goes_on = matcher_.Allow(logits);
    EXPECT_TRUE(goes_on.ok()) << MessageOf(goes_on.status());
    std::vector<int32_t> allowed;
    for (size_t i = 0; i < logits.size(); ++i) {
      if (logits[i] == 0) allowed.push_back(static_cast<int32_t>(i));
    }
    return allowed;
  }
  const std::string& text() const { return text_; }
  bool complete() const { return matcher_.IsComplete(); }

 private:
  size_t vocab() const { return static_cast<size_t>(constraint_->vocabulary().size()); }

  const std::shared_ptr<const Constraint> constraint_;
  ConstraintMatcher matcher_;
  Rng rng_;
  std::string text_;
  bool stopped_ = false;
};

// Checks one schema with walks of several lengths; the number of answers.
int ExpectWalksSatisfy(const char* schema, const std::shared_ptr<const TokenTrie>& trie, int walks) {
  const auto constraint = CompileWith(ConstraintKind::kJsonSchema, schema, trie);
  EXPECT_TRUE(constraint.ok()) << schema << ": " << MessageOf(constraint.status());
  if (!constraint.ok()) return 0;
  const SchemaValidator validator(schema);
  Completer completer(ConstraintKind::kJsonSchema, schema);
  int answers = 0;
  for (int i = 0; i < walks; ++i) {
    Walker walker(*constraint, static_cast<uint64_t>(i));
    walker.Walk(2 << (i % 7));
    const bool finished = walker.Finish(completer);
    EXPECT_TRUE(finished) << schema << " after " << walker.text();
    if (!finished) continue;
    const auto value = nlohmann::ordered_json::parse(walker.text(), nullptr, /*allow_exceptions=*/false);
    EXPECT_FALSE(value.is_discarded()) << schema << " gave " << walker.text();
    EXPECT_TRUE(validator.Accepts(value)) << schema << " gave " << walker.text();
    ++answers;
    if (testing::Test::HasFailure()) return answers;
  }
  return answers;
}

TEST(WalkTest, AnswersSatisfyTheirSchemas) {
  const auto trie = SmallTrie();
  for (const char* schema : kWalkSchemas) {
    EXPECT_GT(ExpectWalksSatisfy(schema, trie, 28), 0) << schema;
    if (HasFailure()) return;
  }
}

TEST(WalkTest, AnswersOfSmolLmSatisfyTheirSchemas) {
  const auto tokenizer = SmolLmTokenizer();
  if (tokenizer == nullptr) GTEST_SKIP() << "QAMSERVE_SMOLLM2 is not set";
  const auto trie = TokenTrie::Create(tokenizer);
  for (const char* schema : kWalkSchemas) {
    EXPECT_GT(ExpectWalksSatisfy(schema, trie, 7), 0) << schema;
    if (HasFailure()) return;
  }
}

// After every token that is allowed, the answer can still end.
TEST(WalkTest, EveryAllowedTokenCanBePartOfAnAnswer) {
  const auto trie = SmallTrie();
  Rng rng(4);
  for (const char* schema : kWalkSchemas) {
    Completer completer(ConstraintKind::kJsonSchema, schema);
    const auto constraint = CompileWith(ConstraintKind::kJsonSchema, schema, trie);
    ASSERT_TRUE(constraint.ok());
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const int steps = 1 + static_cast<int>(rng.NextU64() % 12);
      Walker first(*constraint, seed);
      first.Walk(steps);
      std::vector<int32_t> allowed = first.Allowed();
      if (first.complete()) continue;
      for (int i = 0; i < 6; ++i) {
        Walker walker(*constraint, seed);
        walker.Walk(steps);
        ASSERT_EQ(walker.text(), first.text());
        walker.Take(allowed[rng.NextU64() % allowed.size()]);
        ASSERT_TRUE(walker.Finish(completer)) << schema << " after " << walker.text();
      }
    }
  }
}

TEST(WalkTest, AnswersMatchTheirExpressions) {
  const auto trie = SmallTrie();
  for (const char* pattern :
       {"[a-z]+@[a-z]+\\.(com|org)", "(\\d{1,3}\\.){3}\\d{1,3}", "(the|a|name)( (the|a|name)){2,5}",
        "[A-F0-9]{8}(-[A-F0-9]{4}){3}", "(yes|no), because [a-z ]{10,40}\\."}) {
    const auto constraint = CompileWith(ConstraintKind::kRegex, pattern, trie);
    Completer completer(ConstraintKind::kRegex, pattern);
    ASSERT_TRUE(constraint.ok());
    for (uint64_t seed = 0; seed < 40; ++seed) {
      Walker walker(*constraint, seed);
      walker.Walk(static_cast<int>(seed));
      ASSERT_TRUE(walker.Finish(completer)) << pattern << " after " << walker.text();
      EXPECT_TRUE(std::regex_match(walker.text(), std::regex(pattern))) << pattern << " gave " << walker.text();
    }
  }
}

}  // namespace
}  // namespace qamserve
