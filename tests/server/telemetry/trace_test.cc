#include "server/telemetry/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <set>

#include "tests/server/telemetry/keeping_sink.h"

namespace qamserve {
namespace {

using testing::StartsWith;

// The cases of the recommendation's own text.
TEST(TraceParentTest, IsReadAndWritten) {
  const std::optional<TraceParent> parent = ParseTraceParent(kParent);
  ASSERT_TRUE(parent.has_value());
  EXPECT_EQ(HexOf(parent->trace_id), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(HexOf(parent->span_id), "b7ad6b7169203331");
  EXPECT_TRUE(parent->sampled);
  EXPECT_EQ(FormatTraceParent(*parent), kParent);
  const std::string unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  EXPECT_FALSE(ParseTraceParent(unsampled)->sampled);
  EXPECT_EQ(FormatTraceParent(*ParseTraceParent(unsampled)), unsampled);
  // Other flags are not ours; later versions may have more behind.
  EXPECT_TRUE(ParseTraceParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff")->sampled);
  EXPECT_TRUE(
      ParseTraceParent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-has").has_value());
}

TEST(TraceParentTest, MalformedOnesAreNone) {
  for (const std::string text : {"", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
                                 "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
                                 "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                                 "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                                 "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                                 "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                 "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                 "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.x",
                                 "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
                                 "0x-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}) {
    EXPECT_FALSE(ParseTraceParent(text).has_value()) << text;
  }
  EXPECT_FALSE(ParseTraceParent(std::string(55, '\0')).has_value());
  EXPECT_FALSE(ParseTraceParent(std::string(100'000, '-')).has_value());
}

TEST(TracerTest, OffItMakesNothingAndPassesOnWhatCame) {
  Tracer tracer;
  EXPECT_FALSE(tracer.enabled());
  const SpanIds ids = tracer.Begin(kParent);
  EXPECT_FALSE(ids.sampled);
  EXPECT_EQ(tracer.ParentFor(ids, kParent), kParent);
  EXPECT_EQ(tracer.ParentFor(ids, ""), "");
  EXPECT_EQ(tracer.ParentFor(ids, "nonsense\r\nX: y"), "");
  SpanRecord record;
  record.ids.sampled = true;
  tracer.End(record);  // nowhere to go
}

TEST(TracerTest, SpansOfATraceHangTogether) {
  const auto sink = std::make_shared<KeepingSink>();
  Tracer tracer(0, sink);  // what comes from outside decides itself
  const SpanIds call = tracer.Begin(kParent);
  EXPECT_TRUE(call.sampled);
  EXPECT_EQ(HexOf(call.trace_id), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(HexOf(call.parent_id), "b7ad6b7169203331");
  const SpanIds inner = tracer.Begin(tracer.ParentFor(call, kParent));
  EXPECT_EQ(inner.trace_id, call.trace_id);
  EXPECT_EQ(inner.parent_id, call.span_id);
  EXPECT_NE(inner.span_id, call.span_id);
  tracer.End({.ids = inner, .name = "inner"});
  ASSERT_EQ(sink->spans.size(), 1u);
  EXPECT_EQ(sink->spans[0].name, "inner");
}

TEST(TracerTest, WhatIsNotSampledIsNotToldButStaysOneTrace) {
  const auto sink = std::make_shared<KeepingSink>();
  Tracer tracer(0, sink);
  const SpanIds root = tracer.Begin("");
  EXPECT_FALSE(root.sampled);
  tracer.End({.ids = root, .name = "root"});
  EXPECT_TRUE(sink->spans.empty());
  // Those behind do not begin a trace of their own.
  const std::string next = tracer.ParentFor(root, "");
  ASSERT_TRUE(ParseTraceParent(next).has_value());
  EXPECT_FALSE(ParseTraceParent(next)->sampled);
  const std::string unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  EXPECT_EQ(tracer.ParentFor(tracer.Begin(unsampled), unsampled), unsampled);
}

// Binomial(4000, 0.25) lies within 7 standard deviations (27 each) of its mean but for one try in 10^11.
TEST(TracerTest, TheRatioIsKept) {
  const auto sink = std::make_shared<KeepingSink>();
  Tracer tracer(0.25, sink);
  int sampled = 0;
  std::set<TraceId> ids;
  for (int i = 0; i < 4000; ++i) {
    const SpanIds root = tracer.Begin("");
    sampled += root.sampled ? 1 : 0;
    ids.insert(root.trace_id);
  }
  EXPECT_NEAR(sampled, 1000, 7 * 27);
  EXPECT_EQ(ids.size(), 4000u);
  Tracer all(1, sink);
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(all.Begin("").sampled);
}

TEST(TracerTest, NamedSpansAreTheSameForEveryTracer) {
  Tracer one(1, std::make_shared<KeepingSink>());
  Tracer other(1, std::make_shared<KeepingSink>());
  const SpanIds a = one.BeginNamed("", "jobs/1");
  const SpanIds b = other.BeginNamed("", "jobs/1");
  EXPECT_EQ(a.span_id, b.span_id);
  EXPECT_EQ(a.trace_id, b.trace_id);
  EXPECT_NE(a.span_id, one.BeginNamed("", "jobs/2").span_id);
  EXPECT_EQ(one.BeginNamed(kParent, "jobs/1").span_id, a.span_id);
  EXPECT_EQ(HexOf(one.BeginNamed(kParent, "jobs/1").parent_id), "b7ad6b7169203331");
  EXPECT_THAT(one.ParentFor(a, ""), StartsWith("00-" + HexOf(a.trace_id) + "-" + HexOf(a.span_id)));
}

}  // namespace
}  // namespace qamserve
