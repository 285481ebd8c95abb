#include "server/telemetry/metrics.h"

#include <absl/strings/numbers.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "core/base/file.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(MetricsTest, NamesFollowTheRules) {
  std::set<std::string_view> names;
  for (const MetricSpec& spec : AllMetrics()) {
    EXPECT_TRUE(spec.name.starts_with("qamserve_")) << spec.name;
    EXPECT_EQ(spec.name.ends_with("_total"), spec.type == MetricType::kCounter) << spec.name;
    EXPECT_TRUE(names.insert(spec.name).second) << spec.name << " stands twice";
    EXPECT_TRUE(spec.help.ends_with(".")) << spec.name;
    EXPECT_EQ(spec.buckets.empty(), spec.type != MetricType::kHistogram) << spec.name;
    for (const std::string_view unit : {"_ms", "_mib", "_percent", "_minutes"}) {
      EXPECT_FALSE(spec.name.ends_with(unit)) << spec.name;
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
  metrics.Add(Metric::kPromptTokensTotal, {"another"}, 2);
  metrics.Add(Metric::kRpcTotal, {"JobService", "DropTables", "OK"});
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("qamserve_prompt_tokens_total{model=\"smol\"} 3"));
  EXPECT_THAT(text, HasSubstr("qamserve_prompt_tokens_total{model=\"other\"} 4"));
  EXPECT_THAT(text, Not(HasSubstr("evil")));
  EXPECT_THAT(text, Not(HasSubstr("another")));
  EXPECT_THAT(text, HasSubstr("method=\"other\""));
}

TEST(MetricsTest, GaugesAreAskedForAtScrapeTime) {
  Metrics metrics;
  double depth = 1;
  metrics.AddGaugeSource([&depth](Metrics::GaugeWriter& writer) {
    writer.Set(Metric::kJobQueueDepth, {}, depth);
    // Two unknown models make one series, not the same series twice.
    writer.Set(Metric::kRequestsRunning, {"x"}, 2);
    writer.Set(Metric::kRequestsRunning, {"y"}, 3);
    writer.Set(Metric::kRequestsTotal, {"x", "stop"}, 3);  // not a gauge: ignored
  });
  EXPECT_THAT(metrics.Text(), HasSubstr("qamserve_job_queue_depth 1"));
  depth = 4;
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("qamserve_job_queue_depth 4"));
  EXPECT_THAT(text, HasSubstr("qamserve_requests_running{model=\"other\"} 5"));
  EXPECT_THAT(text, HasSubstr("qamserve_build_info{version="));
  metrics.ClearSources();
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("qamserve_job_queue_depth 4")));
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
