#include "server/telemetry/metrics.h"

#include <absl/strings/numbers.h>
#include <absl/synchronization/notification.h>
#include <absl/time/clock.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "core/base/file.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using testing::Not;

size_t CountOf(const std::string& text, std::string_view what) {
  size_t count = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++count;
  return count;
}

TEST(MetricsTest, NamesFollowTheRules) {
  std::set<std::string_view> names;
  for (const MetricSpec& spec : AllMetrics()) {
    EXPECT_TRUE(spec.name.starts_with("qamserve_")) << spec.name;
    const bool counter = spec.type == MetricType::kCounter || spec.type == MetricType::kScrapedCounter;
    EXPECT_EQ(spec.name.ends_with("_total"), counter) << spec.name;
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name << " stands twice";
    EXPECT_TRUE(spec.help.ends_with(".")) << spec.name;
    EXPECT_EQ(spec.buckets.empty(), spec.type != MetricType::kHistogram) << spec.name;
    EXPECT_TRUE(std::is_sorted(spec.buckets.begin(), spec.buckets.end())) << spec.name;
    for (const std::string_view unit : {"_ms", "_mib", "_percent", "_minutes"}) {
      EXPECT_FALSE(spec.name.ends_with(unit)) << spec.name;
    }
    for (const LabelSpec& label : spec.labels) {
      EXPECT_EQ(label.values.empty(), label.source != LabelSource::kFixed) << spec.name;
      // Series of gauges go with what they are about; those of others would stay for ever.
      EXPECT_TRUE(label.source != LabelSource::kPool || spec.type == MetricType::kGauge) << spec.name;
    }
  }
}

TEST(MetricsTest, TheDocumentShowsTheTable) {
  const std::string path = std::string(QAMSERVE_SOURCE_DIR) + "/docs/metrics.md";
  if (getenv("QAMSERVE_UPDATE_DOCS") != nullptr) {
    ASSERT_TRUE(WriteFileAtomically(path, MetricsMarkdown()).ok());
  }
  const absl::StatusOr<std::string> text = ReadFile(path, 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, MetricsMarkdown()) << "run this test with QAMSERVE_UPDATE_DOCS=1";
}

TEST(MetricsTest, LabelsComeFromKnownSets) {
  Metrics metrics;
  metrics.SetKnownModels([](std::string_view name) { return name == "smol"; });
  metrics.Add(Metric::kPromptTokensTotal, {"smol"}, 3);
  metrics.Add(Metric::kPromptTokensTotal, {"evil\"} 1\nx"}, 2);
  metrics.Add(Metric::kPromptTokensTotal, {"not-served"}, 2);
  metrics.Add(Metric::kRpcTotal, {"JobService", "DropTables", "OK"});
  metrics.Add(Metric::kRpcTotal, {"JobService", "GetJob", "OK"});
  metrics.Add(Metric::kRpcTotal, {"Robert", "GetJob", "420"});
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("qamserve_prompt_tokens_total{model=\"smol\"} 3"));
  EXPECT_THAT(text, HasSubstr("qamserve_prompt_tokens_total{model=\"other\"} 4"));
  EXPECT_THAT(text, Not(HasSubstr("evil")));
  EXPECT_THAT(text, Not(HasSubstr("not-served")));
  EXPECT_THAT(text, HasSubstr("qamserve_rpc_total{code=\"OK\",method=\"other\",service=\"JobService\"} 1"));
  EXPECT_THAT(text, HasSubstr("qamserve_rpc_total{code=\"OK\",method=\"GetJob\",service=\"JobService\"} 1"));
  EXPECT_THAT(text, HasSubstr("qamserve_rpc_total{code=\"other\",method=\"GetJob\",service=\"other\"} 1"));
}

TEST(MetricsTest, ModelsThatComeAndGoDoNotFillTheMemory) {
  Metrics metrics;
  metrics.SetKnownModels([](std::string_view) { return true; });
  for (size_t i = 0; i < 10'000; ++i) metrics.Add(Metric::kPromptTokensTotal, {"model-" + std::to_string(i)});
  const std::string text = metrics.Text();
  EXPECT_EQ(CountOf(text, "\nqamserve_prompt_tokens_total{"), Metrics::kMaxModels + 1);
  EXPECT_THAT(text, HasSubstr("qamserve_prompt_tokens_total{model=\"model-0\"} 1"));
  EXPECT_THAT(
      text, HasSubstr("qamserve_prompt_tokens_total{model=\"other\"} " + std::to_string(10'000 - Metrics::kMaxModels)));
}

// Of a series that begins at 1, Prometheus sees no increase.
TEST(MetricsTest, WhatNeverHappenedReadsZero) {
  const std::string text = Metrics().Text();
  for (const char* series :
       {"qamserve_corrupt_blobs_total 0", "qamserve_missing_blobs_total 0", "qamserve_instances_gone_total 0",
        "qamserve_jobs_finished_total{kind=\"quantize\",state=\"failed\"} 0",
        "qamserve_store_transactions_total{code=\"UNAVAILABLE\",kind=\"write\"} 0",
        "qamserve_task_seconds_count{stage=\"quantize\"} 0", "qamserve_artifact_kl_nats_bucket{le=\"+Inf\"} 0"}) {
    EXPECT_THAT(text, HasSubstr(series));
  }
  EXPECT_THAT(text, Not(HasSubstr("qamserve_rpc_total{"))) << "hundreds of calls that nobody makes";
  EXPECT_LT(CountOf(text, "\n"), 600u);
}

TEST(MetricsTest, GaugesAreAskedForAtScrapeTime) {
  Metrics metrics;
  double depth = 1;
  metrics.AddGaugeSource([&depth](Metrics::GaugeWriter& writer) {
    writer.Set(Metric::kJobQueueDepth, {"cpu"}, depth);
    writer.Set(Metric::kJobQueueDepth, {"No pool!"}, 7);
    writer.Set(Metric::kDecodeStepsTotal, {"x"}, 11);
    // Two unknown models make one series, not the same series twice.
    writer.Set(Metric::kRequestsRunning, {"x"}, 2);
    writer.Set(Metric::kRequestsRunning, {"y"}, 3);
    writer.Set(Metric::kRequestsTotal, {"x", "stop"}, 3);  // not a gauge: ignored
  });
  EXPECT_THAT(metrics.Text(), HasSubstr("qamserve_job_queue_depth{pool=\"cpu\"} 1"));
  depth = 4;
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("qamserve_job_queue_depth{pool=\"cpu\"} 4"));
  EXPECT_THAT(text, HasSubstr("qamserve_job_queue_depth{pool=\"other\"} 7"));
  EXPECT_THAT(text,
              HasSubstr("# TYPE qamserve_decode_steps_total counter\nqamserve_decode_steps_total{model=\"other\"} 11"));
  EXPECT_THAT(text, HasSubstr("qamserve_requests_running{model=\"other\"} 5"));
  EXPECT_THAT(text, HasSubstr("qamserve_build_info{version="));
  metrics.ClearSources();
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("qamserve_job_queue_depth")));
}

// A source that waits for a store must not hold up those who count.
TEST(MetricsTest, CountingDoesNotWaitForAScrape) {
  Metrics metrics;
  metrics.SetKnownModels([](std::string_view) { return true; });
  absl::Notification scraping, counted;
  metrics.AddGaugeSource([&](Metrics::GaugeWriter&) {
    scraping.Notify();
    EXPECT_TRUE(counted.WaitForNotificationWithTimeout(absl::Seconds(20)));
  });
  std::thread scrape([&] { metrics.Text(); });
  scraping.WaitForNotification();
  metrics.Add(Metric::kPromptTokensTotal, {"new"});
  metrics.SetKnownModels(nullptr);
  counted.Notify();
  scrape.join();
}

TEST(MetricsTest, TheProcessIsTold) {
  Metrics metrics;
  std::istringstream lines(metrics.Text());
  std::map<std::string, double> values;
  for (std::string line; std::getline(lines, line);) {
    double value = 0;
    if (absl::SimpleAtod(line.substr(line.rfind(' ') + 1), &value)) values[line.substr(0, line.rfind(' '))] = value;
  }
  EXPECT_GT(values["qamserve_resident_memory_bytes"], 1e6);
  EXPECT_GE(values["qamserve_open_fds"], 3);
  EXPECT_GE(values["qamserve_max_fds"], values["qamserve_open_fds"]);
  const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
  EXPECT_LE(values["qamserve_start_time_seconds"], now + 2);
  EXPECT_GT(values["qamserve_start_time_seconds"], now - 600);
}

// Every line is a comment or "name{labels} number", and every sample belongs to a family of the table.
TEST(MetricsTest, TheTextParses) {
  Metrics metrics;
  metrics.Observe(Metric::kTaskSeconds, {"quantize"}, 2);
  metrics.Add(Metric::kUploadBytesTotal, {}, 1e12);
  std::istringstream lines(metrics.Text());
  std::string line;
  int samples = 0;
  while (std::getline(lines, line)) {
    if (line.starts_with("#")) continue;
    ++samples;
    const size_t space = line.rfind(' ');
    ASSERT_NE(space, std::string::npos) << line;
    double value = 0;
    EXPECT_TRUE(absl::SimpleAtod(line.substr(space + 1), &value)) << line;
    const std::string name = line.substr(0, line.find_first_of("{ "));
    const bool known = std::any_of(AllMetrics().begin(), AllMetrics().end(), [&name](const MetricSpec& spec) {
      const std::string base(spec.name);
      return name == base || name == base + "_bucket" || name == base + "_sum" || name == base + "_count";
    });
    EXPECT_TRUE(known) << line;
  }
  EXPECT_GT(samples, 10);
}

}  // namespace
}  // namespace qamserve
