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
  kStrandedJobs,
  kJobsFinishedTotal,
  kTaskSeconds,
  kTaskRetriesTotal,
  kLeaseExpiriesTotal,
  kDuplicateTasksTotal,
  kNondeterministicTasksTotal,
  kQuantizedWeightsTotal,
  kGateResultsTotal,
  kArtifactKlNats,
  kArtifactBitsPerWeight,
  kArtifactBytesTotal,
  kLastArtifactKlNats,
  kLastArtifactBitsPerWeight,
  // Uploads and downloads.
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
  kDecodeStepsTotal,
  kDecodeStepSecondsTotal,
  kDecodeWeightBytesTotal,
  kGraphsRefusedTotal,
  kGpuMemoryBytes,
  kGpuMemoryUsedBytes,
  // Fleet.
  kInstances,
  kInstancesDraining,
  kInstanceHeartbeatAgeSeconds,
  kInstancesGoneTotal,
  kReplicasWanted,
  kReplicas,
  // Stores.
  kStoreTransactionsTotal,
  kStoreTransactionSeconds,
  kStoreRetriesTotal,
  kStoreReconnectsTotal,
  kBlobRequestsTotal,
  kBlobRequestSeconds,
  kBlobRequestRetriesTotal,
  kBlobBytesTotal,
  kBlobCacheLookupsTotal,
  kBlobCacheEvictionsTotal,
  kBlobCacheEvictedBytesTotal,
  kBlobCacheBytes,
  kBlobCacheLimitBytes,
  kCorruptBlobsTotal,
  kMissingBlobsTotal,
  // Process.
  kRpcTotal,
  kRpcSeconds,
  kHttpRequestsTotal,
  kHttpConnections,
  kTraceSpansTotal,
  kBuildInfo,
  kStartTimeSeconds,
  kCpuSecondsTotal,
  kResidentMemoryBytes,
  kOpenFds,
  kMaxFds,
  kDataDiskBytes,
  kDataDiskFreeBytes,
};

// A kScrapedCounter is counted elsewhere (by the engine, by the system): a gauge source tells what it stands at.
enum class MetricType { kCounter, kScrapedCounter, kGauge, kHistogram };

// Where the values of a label come from. Whatever is not among them becomes "other".
enum class LabelSource {
  kFixed,    // LabelSpec::values
  kModel,    // names of served models, checked by Metrics
  kPool,     // pools of the workers that are there; only in gauges, whose source knows them
  kService,  // services and methods of the API, as server/access/method_table.h has them
  kMethod,
};

struct LabelSpec {
  std::string_view name;
  LabelSource source = LabelSource::kFixed;
  std::span<const std::string_view> values;
};

struct MetricSpec {
  Metric id;
  std::string_view name;
  MetricType type;
  std::string_view help;  // a sentence that tells the unit, where there is one
  std::span<const LabelSpec> labels;
  std::span<const double> buckets;  // upper bounds, in the metric's unit; histograms only
};

// In the order of the enum.
std::span<const MetricSpec> AllMetrics();
const MetricSpec& SpecOf(Metric metric);

// The text of docs/metrics.md.
std::string MetricsMarkdown();

}  // namespace qamserve
