#include "core/engine/stop_matcher.h"

#include <gtest/gtest.h>

#include "core/base/rng.h"

namespace qamserve {
namespace {

TEST(StopMatcherTest, PassesTextWithoutStops) {
  StopMatcher matcher({});
  EXPECT_EQ(matcher.Add("abc"), "abc");
  EXPECT_EQ(matcher.Flush(), "");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, HoldsWhatCouldStartAStop) {
  StopMatcher matcher({"\nUser:"});
  EXPECT_EQ(matcher.Add("Hello\n"), "Hello");
  EXPECT_EQ(matcher.Add("Us"), "");
  EXPECT_EQ(matcher.Add("ual"), "\nUsual");
  EXPECT_EQ(matcher.Add(" end\nUse"), " end");
  EXPECT_EQ(matcher.Add("r: more"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.Add("more"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FlushGivesWhatWasHeld) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Add("the EN"), "the ");
  EXPECT_EQ(matcher.Flush(), "EN");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, OverlappingStarts) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.Add("aaa"), "a");
  EXPECT_EQ(matcher.Add("b"), "");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcherTest, FirstCompleteThenLongest) {
  StopMatcher first({"abc", "b"});
  EXPECT_EQ(first.Add("xabc"), "xa");
  StopMatcher longest({"c", "abc"});
  EXPECT_EQ(longest.Add("xabc"), "x");
}

// Random text over two letters meets every overlap; any cutting must send the same bytes.
TEST(StopMatcherTest, CutsDoNotMatter) {
  Rng rng(7);
  const std::vector<std::string> stops = {"abba", "bbabb", "aaaa"};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (int i = 0; i < 24; ++i) text += rng.NextUniform() < 0.5 ? 'a' : 'b';
    StopMatcher whole(stops);
    std::string expected = whole.Add(text);
    expected += whole.Flush();
    StopMatcher pieces(stops);
    std::string sent;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + static_cast<size_t>(rng.NextUniform() * 4);
      sent += pieces.Add(text.substr(at, n));
      for (const std::string& stop : stops) EXPECT_EQ(sent.find(stop), std::string::npos) << text;
      at += n;
    }
    sent += pieces.Flush();
    EXPECT_EQ(sent, expected) << text;
    EXPECT_EQ(pieces.stopped(), whole.stopped()) << text;
  }
}

}  // namespace
}  // namespace qamserve
