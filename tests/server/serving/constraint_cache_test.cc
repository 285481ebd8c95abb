#include "server/serving/constraint_cache.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "tests/support/tiny_tokenizer.h"

namespace qamserve {
namespace {

std::shared_ptr<const Tokenizer> Tiny() {
  return *Tokenizer::Create({TinyTokenizerJson(MakeTinyVocabulary(300)), TinyTokenizerConfigJson(), ""}, "tiny");
}

ConstraintSpec Expression(size_t n) { return {ConstraintKind::kRegex, fmt::format("a{{{}}}", n)}; }

TEST(ConstraintCacheTest, KeepsThoseUsedLast) {
  ConstraintCache cache(Tiny());
  std::vector<std::shared_ptr<const Constraint>> first;
  for (size_t i = 0; i < kMaxKeptConstraints; ++i) first.push_back(*cache.Get(Expression(i)));
  for (size_t i = 0; i < kMaxKeptConstraints; ++i) EXPECT_EQ(*cache.Get(Expression(i)), first[i]);
  // The first one is used again, so that the second is the one that goes.
  EXPECT_EQ(*cache.Get(Expression(0)), first[0]);
  ASSERT_TRUE(cache.Get(Expression(100)).ok());
  EXPECT_EQ(*cache.Get(Expression(0)), first[0]);
  EXPECT_NE(*cache.Get(Expression(1)), first[1]);
  // Whoever has it can use it.
  EXPECT_TRUE(*first[1]->Matches("a"));
  // The same text of another kind is another constraint.
  EXPECT_FALSE(cache.Get({ConstraintKind::kGrammar, "a{3}"}).ok());
}

TEST(ConstraintCacheTest, ThreadsGetTheSame) {
  ConstraintCache cache(Tiny());
  std::vector<std::shared_ptr<const Constraint>> got(8);
  std::vector<std::thread> threads;
  threads.reserve(got.size());
  for (size_t i = 0; i < got.size(); ++i) threads.emplace_back([&, i] { got[i] = *cache.Get(Expression(i % 2)); });
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], got[i % 2]);
}

}  // namespace
}  // namespace qamserve
