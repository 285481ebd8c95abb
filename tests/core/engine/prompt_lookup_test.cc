#include "core/engine/prompt_lookup.h"

#include <gtest/gtest.h>

#include <vector>

namespace qamserve {
namespace {

std::vector<int32_t> Draft(const std::vector<int32_t>& tokens, int64_t most) {
  const std::span<const int32_t> draft = LookUpDraft(tokens, most);
  return {draft.begin(), draft.end()};
}

using Tokens = std::vector<int32_t>;

TEST(PromptLookupTest, GivesWhatFollowedTheSameEnding) {
  EXPECT_EQ(Draft({1, 2, 3, 4, 5, 9, 2, 3}, 2), (Tokens{4, 5}));
  EXPECT_EQ(Draft({1, 2, 3, 4, 5, 9, 2, 3}, 10), (Tokens{4, 5, 9, 2, 3})) << "no further than the text goes";
}

TEST(PromptLookupTest, NothingWithoutAMatch) {
  EXPECT_EQ(Draft({}, 4), Tokens());
  EXPECT_EQ(Draft({1}, 4), Tokens());
  EXPECT_EQ(Draft({1, 1}, 4), Tokens()) << "a match begins before the ending does";
  EXPECT_EQ(Draft({1, 2, 3, 4, 9, 3}, 4), Tokens()) << "one token alone says little";
  EXPECT_EQ(Draft({1, 2, 1, 2}, 0), Tokens());
}

TEST(PromptLookupTest, TheLongestMatchCounts) {
  // "2 3" stands twice; "1 2 3" only at first.
  EXPECT_EQ(Draft({1, 2, 3, 7, 8, 2, 3, 6, 1, 2, 3}, 2), (Tokens{7, 8}));
  // Of matches that are equally long the last.
  EXPECT_EQ(Draft({5, 2, 3, 7, 6, 2, 3, 8, 4, 2, 3}, 1), (Tokens{8}));
}

TEST(PromptLookupTest, ARepetitionMayOverlapItself) {
  EXPECT_EQ(Draft({4, 4, 4, 4}, 3), (Tokens{4}));
  EXPECT_EQ(Draft({1, 2, 1, 2, 1, 2}, 4), (Tokens{1, 2}));
}

}  // namespace
}  // namespace qamserve
