// Every metric of the server in one table: name, help, type, labels and the values a label may have. docs/metrics.md is
// printed from it. Names follow Prometheus' rules: prefix qamserve_, base units, _total for counters.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace qamserve {

enum class Metric {
  // Jobs.
  kJobQueueDepth,
  kJobQueueAgeSeconds,
  kJobs,
  kTasks,
  kJobsFinishedTotal,
  kTaskSeconds,
  kQuantizedWeightsTotal,
  kLeaseExpiriesTotal,
  kGateResultsTotal,
  kLastArtifactKlNats,
  kLastArtifactBitsPerWeight,
  // Stores.
  kUploadBytesTotal,
  kUploadsTotal,
  kDownloadBytesTotal,
  // Serving.
  kServedModels,
  kModelMemoryBytes,
  kModelMemoryLimitBytes,
  kRequestsRunning,
  kRequestsWaiting,
  kKvCacheUsageRatio,
  kKvCacheBlocks,
  kKvCacheBlocksUsed,
  kKvCacheBlocksCached,
  kPromptTokensTotal,
  kPrefixCacheHitTokensTotal,
  kPreemptionsTotal,
  kDraftTokensTotal,
  kAcceptedDraftTokensTotal,
  kGenerationTokensTotal,
  kTimeToFirstTokenSeconds,
  kInterTokenSeconds,
  kRequestSeconds,
  kRequestQueueSeconds,
  kRequestsTotal,
  // Process.
  kRpcTotal,
  kRpcSeconds,
  kHttpRequestsTotal,
  kHttpConnections,
  kBuildInfo,
  kResidentMemoryBytes,
};

enum class MetricType { kCounter, kGauge, kHistogram };

struct LabelSpec {
  std::string_view name;
  // What the label may say; any other value becomes "other". Empty: a served model's name, checked by Metrics against
  // the models that are served.
  std::span<const std::string_view> values;
};

struct MetricSpec {
  Metric id;
  std::string_view name;
  MetricType type;
  std::string_view help;
  std::span<const LabelSpec> labels;
  std::span<const double> buckets;  // upper bounds, seconds; histograms only
};

// In the order of the enum.
std::span<const MetricSpec> AllMetrics();
const MetricSpec& SpecOf(Metric metric);

// The text of docs/metrics.md.
std::string MetricsMarkdown();

}  // namespace qamserve
