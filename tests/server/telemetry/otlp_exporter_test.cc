#include "server/telemetry/otlp_exporter.h"

#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "tests/support/otlp_collector.h"

namespace qamserve {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

SpanRecord MakeSpan(Tracer& tracer, const std::string& name) {
  SpanRecord span;
  span.ids = tracer.Begin("");
  span.name = name;
  span.start = absl::FromUnixMillis(1'700'000'000'000);
  span.end = span.start + absl::Milliseconds(5);
  return span;
}

// What an exporter counts.
struct Counts {
  std::atomic<size_t> exported{0};
  std::atomic<size_t> dropped{0};
  std::atomic<int> errors{0};
};

OtlpOptions Options(const std::string& url, Counts& counts) {
  OtlpOptions options;
  options.endpoint = url;
  options.interval = absl::Milliseconds(10);
  options.first_pause = absl::Milliseconds(5);
  options.on_count = [&counts](size_t exported, size_t dropped) {
    counts.exported += exported;
    counts.dropped += dropped;
  };
  options.on_error = [&counts](const absl::Status&) { ++counts.errors; };
  return options;
}

TEST(OtlpJsonTest, FollowsTheProtocol) {
  SpanRecord span;
  span.ids.trace_id = {0x5b, 0x8e, 0xff, 0xf7, 0x98, 0x03, 0x81, 0x03, 0xd2, 0x69, 0xb6, 0x33, 0x81, 0x3f, 0xc6, 0x0c};
  span.ids.span_id = {0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x74};
  span.ids.parent_id = {0xee, 0xe1, 0x9b, 0x7e, 0xc3, 0xc1, 0xb1, 0x73};
  span.name = "a name with \xff in it";
  span.kind = SpanKind::kServer;
  span.start = absl::FromUnixNanos(1544712660000000001);
  span.end = absl::FromUnixNanos(1544712661000000002);
  span.attributes = {{"text", "x"}, {"integer", int64_t{1} << 60}, {"real", 0.5}, {"truth", true}};
  span.events = {{absl::FromUnixNanos(1544712660500000000), "half"}};
  span.error = "INTERNAL";
  const json body = json::parse(OtlpTraceJson({{"service.instance.id", "abc"}}, {span}));
  const json& resource = body["resourceSpans"][0]["resource"]["attributes"];
  EXPECT_EQ(resource[0], json::parse(R"({"key": "service.name", "value": {"stringValue": "qamserve"}})"));
  EXPECT_EQ(resource[2], json::parse(R"({"key": "service.instance.id", "value": {"stringValue": "abc"}})"));
  const json& told = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
  EXPECT_EQ(told["traceId"], "5b8efff798038103d269b633813fc60c");
  EXPECT_EQ(told["spanId"], "eee19b7ec3c1b174");
  EXPECT_EQ(told["parentSpanId"], "eee19b7ec3c1b173");
  EXPECT_EQ(told["kind"], 2);
  EXPECT_EQ(told["startTimeUnixNano"], "1544712660000000001");
  EXPECT_EQ(told["endTimeUnixNano"], "1544712661000000002");
  EXPECT_EQ(told["attributes"], json::parse(R"([{"key": "text", "value": {"stringValue": "x"}},
                                                {"key": "integer", "value": {"intValue": "1152921504606846976"}},
                                                {"key": "real", "value": {"doubleValue": 0.5}},
                                                {"key": "truth", "value": {"boolValue": true}}])"));
  EXPECT_EQ(told["events"], json::parse(R"([{"timeUnixNano": "1544712660500000000", "name": "half"}])"));
  EXPECT_EQ(told["status"], json::parse(R"({"code": 2, "message": "INTERNAL"})"));
  span.ids.parent_id = {};
  span.error = "";
  const json root = json::parse(OtlpTraceJson({}, {span}))["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
  EXPECT_FALSE(root.contains("parentSpanId"));
  EXPECT_FALSE(root.contains("status"));
}

TEST(OtlpExporterTest, EndpointsAreChecked) {
  for (const std::string url :
       {"", "collector:4318", "ftp://collector", "http://", "http:///v1", "http://user:secret@collector",
        "http://collector?x=1", "http://collector#x", "http://coll ector"}) {
    const absl::Status status = CheckOtlpEndpoint(url);
    EXPECT_EQ(ReasonOf(status), "OTLP_ENDPOINT") << url;
    EXPECT_THAT(MessageOf(status), Not(HasSubstr("secret")));
  }
  for (const std::string url :
       {"http://127.0.0.1:4318", "https://collector", "http://collector:4318/", "http://[::1]:4318/otlp"}) {
    EXPECT_TRUE(CheckOtlpEndpoint(url).ok()) << url;
  }
}

TEST(OtlpExporterTest, SpansArriveInBatches) {
  OtlpCollector collector;
  Counts counts;
  OtlpOptions options = Options(collector.url() + "/otlp/", counts);
  options.max_batch = 10;
  const auto exporter = OtlpExporter::Start(options);
  ASSERT_TRUE(exporter.ok()) << exporter.status();
  Tracer tracer(1, *exporter);
  for (int i = 0; i < 25; ++i) tracer.End(MakeSpan(tracer, "span " + std::to_string(i)));
  ASSERT_TRUE(collector.WaitForSpans(25));
  EXPECT_EQ(collector.spans()[24]["name"], "span 24");
  EXPECT_THAT(collector.heads()[0],
              AllOf(HasSubstr("POST /otlp/v1/traces HTTP/1.1\r\n"), HasSubstr("Content-Type: application/json\r\n")));
  for (int i = 0; i < 2000 && counts.exported < 25; ++i) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(counts.exported, 25u);
  EXPECT_EQ(counts.dropped, 0u);
  EXPECT_EQ(counts.errors, 0);
}

TEST(OtlpExporterTest, WhatMayPassIsTriedAgain) {
  OtlpCollector collector([](int number) { return number == 1 ? 503 : number == 2 ? 0 : number == 3 ? 429 : 200; });
  Counts counts;
  const auto exporter = OtlpExporter::Start(Options(collector.url(), counts));
  ASSERT_TRUE(exporter.ok());
  Tracer tracer(1, *exporter);
  tracer.End(MakeSpan(tracer, "once"));
  ASSERT_TRUE(collector.WaitForSpans(1));
  EXPECT_EQ(collector.heads().size(), 4u);
  EXPECT_EQ(collector.spans().size(), 1u);
}

TEST(OtlpExporterTest, WhatDoesNotPassIsDroppedAndToldOnce) {
  std::atomic<bool> well{false};
  OtlpCollector collector([&](int) { return well ? 200 : 400; });
  Counts counts;
  const auto exporter = OtlpExporter::Start(Options(collector.url(), counts));
  ASSERT_TRUE(exporter.ok());
  Tracer tracer(1, *exporter);
  for (size_t i = 1; i <= 3; ++i) {
    tracer.End(MakeSpan(tracer, "lost"));
    for (int j = 0; j < 4000 && counts.dropped < i; ++j) absl::SleepFor(absl::Milliseconds(5));
    ASSERT_EQ(counts.dropped, i);
  }
  EXPECT_EQ(counts.errors, 1);
  EXPECT_EQ(collector.heads().size(), 3u) << "a request that is wrong stays wrong";
  well = true;
  tracer.End(MakeSpan(tracer, "found"));
  ASSERT_TRUE(collector.WaitForSpans(1));
}

// Nobody waits for a collector that does not answer, and memory stays bounded.
TEST(OtlpExporterTest, AFullQueueDropsWithoutWaiting) {
  std::atomic<bool> hold{true};
  OtlpCollector collector([&](int) {
    while (hold) absl::SleepFor(absl::Milliseconds(1));
    return 200;
  });
  Counts counts;
  OtlpOptions options = Options(collector.url(), counts);
  options.max_queued = 8;
  options.max_batch = 4;
  {
    const auto exporter = OtlpExporter::Start(options);
    ASSERT_TRUE(exporter.ok());
    Tracer tracer(1, *exporter);
    const absl::Time start = absl::Now();
    for (int i = 0; i < 1000; ++i) tracer.End(MakeSpan(tracer, "x"));
    EXPECT_LT(absl::Now() - start, absl::Seconds(5));
    // At most a batch under way and a full queue are not lost.
    EXPECT_GE(counts.dropped, 1000u - 12u);
    hold = false;
  }
  EXPECT_EQ(counts.dropped + counts.exported, 1000u) << "each span is counted once";
}

TEST(OtlpExporterTest, TheEndSendsWhatIsLeftButDoesNotWaitForEver) {
  Counts counts;
  {
    OtlpCollector collector;
    OtlpOptions options = Options(collector.url(), counts);
    options.interval = absl::Seconds(60);
    {
      const auto exporter = OtlpExporter::Start(options);
      ASSERT_TRUE(exporter.ok());
      Tracer tracer(1, *exporter);
      tracer.End(MakeSpan(tracer, "last"));
    }
    EXPECT_EQ(collector.spans().size(), 1u);
    EXPECT_EQ(counts.exported, 1u);
  }
  std::atomic<bool> hold{true};
  OtlpCollector deaf([&](int) {
    while (hold) absl::SleepFor(absl::Milliseconds(1));
    return 200;
  });
  OtlpOptions options = Options(deaf.url(), counts);
  options.stop_limit = absl::Milliseconds(100);
  const absl::Time start = absl::Now();
  {
    const auto exporter = OtlpExporter::Start(options);
    ASSERT_TRUE(exporter.ok());
    Tracer tracer(1, *exporter);
    tracer.End(MakeSpan(tracer, "lost"));
  }
  EXPECT_LT(absl::Now() - start, absl::Seconds(8));
  EXPECT_EQ(counts.dropped, 1u);
  hold = false;
}

}  // namespace
}  // namespace qamserve
