#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/http/rest/conditions.h"

namespace qamserve::rest {
namespace {

TEST(RangeTest, FollowsRfc9110) {
  struct Case {
    const char* header;
    uint64_t size;
    RangeKind kind;
    uint64_t begin;
    uint64_t end;
  };
  constexpr RangeKind kWhole = RangeKind::kWhole;
  constexpr RangeKind kPart = RangeKind::kPart;
  constexpr RangeKind kNone = RangeKind::kUnsatisfiable;
  for (const Case& c : {
           Case{"bytes=0-0", 10, kPart, 0, 1},
           Case{"bytes=2-5", 10, kPart, 2, 6},
           Case{"bytes=2-", 10, kPart, 2, 10},
           Case{"bytes=9-9", 10, kPart, 9, 10},
           Case{"bytes=2-99", 10, kPart, 2, 10},
           Case{"bytes=-3", 10, kPart, 7, 10},
           Case{"bytes=-30", 10, kPart, 0, 10},
           Case{"BYTES=2-5", 10, kPart, 2, 6},
           Case{" bytes= 2-5 ", 10, kPart, 2, 6},
           Case{"bytes=0-99999999999999999999999", 10, kPart, 0, 10},
           Case{"bytes=10-", 10, kNone, 0, 0},
           Case{"bytes=10-20", 10, kNone, 0, 0},
           Case{"bytes=-0", 10, kNone, 0, 0},
           Case{"bytes=0-", 0, kNone, 0, 0},
           Case{"bytes=-5", 0, kNone, 0, 0},
           Case{"bytes=99999999999999999999999-", 10, kNone, 0, 0},
           Case{"", 10, kWhole, 0, 0},
           Case{"bytes", 10, kWhole, 0, 0},
           Case{"bytes=", 10, kWhole, 0, 0},
           Case{"bytes=-", 10, kWhole, 0, 0},
           Case{"bytes=5-2", 10, kWhole, 0, 0},
           Case{"bytes=a-b", 10, kWhole, 0, 0},
           Case{"bytes=2-5x", 10, kWhole, 0, 0},
           Case{"bytes=+2-5", 10, kWhole, 0, 0},
           Case{"bytes=0-1,3-4", 10, kWhole, 0, 0},
           Case{"lines=0-1", 10, kWhole, 0, 0},
       }) {
    ByteRange range;
    EXPECT_EQ(ParseRange(c.header, c.size, &range), c.kind) << c.header;
    if (c.kind != kPart) continue;
    EXPECT_EQ(range.begin, c.begin) << c.header;
    EXPECT_EQ(range.end, c.end) << c.header;
  }
}

TEST(RangeTest, ReadsContentRanges) {
  absl::StatusOr<ContentRange> range = ParseContentRange("bytes 2-5/10");
  ASSERT_TRUE(range.ok());
  EXPECT_EQ(range->begin, 2u);
  EXPECT_EQ(range->end, 6u);
  EXPECT_EQ(range->total, 10u);
  range = ParseContentRange("bytes 0-0/*");
  ASSERT_TRUE(range.ok());
  EXPECT_FALSE(range->total.has_value());
  for (const char* bad : {"", "bytes", "bytes */10", "bytes 5-2/10", "bytes 2-10/10", "bytes 2-5", "bytes=2-5/10",
                          "2-5/10", "bytes a-5/10", "bytes 2-5/x", "bytes 2-99999999999999999999/*", "bytes 2/5-10"}) {
    EXPECT_EQ(ReasonOf(ParseContentRange(bad).status()), "CONTENT_RANGE") << bad;
  }
}

TEST(ETagTest, ComparesTags) {
  const std::string etag = ETagOfBytes("x");
  EXPECT_EQ(etag.size(), 34u);
  EXPECT_EQ(etag, ETagOfBytes("x"));
  EXPECT_NE(etag, ETagOfBytes("y"));
  EXPECT_TRUE(NamesETag("*", etag));
  EXPECT_TRUE(NamesETag(etag, etag));
  EXPECT_TRUE(NamesETag("\"a\", W/" + etag + " ,\"b\"", etag));
  EXPECT_FALSE(NamesETag("", etag));
  EXPECT_FALSE(NamesETag("\"a\",,", etag));
  EXPECT_EQ(ETagOfValue("3f-A"), "\"3f-A\"");
  EXPECT_EQ(ETagOfValue("a\"b"), ETagOfBytes("a\"b"));
  EXPECT_TRUE(RangeStands("", etag));
  EXPECT_TRUE(RangeStands(etag, etag));
  EXPECT_FALSE(RangeStands("W/" + etag, etag));
  EXPECT_FALSE(RangeStands("Wed, 21 Oct 2015 07:28:00 GMT", etag));
}

}  // namespace
}  // namespace qamserve::rest
