#include "server/telemetry/metric_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <iterator>

namespace qamserve {
namespace {

using std::string_view;
using Labels = std::span<const LabelSpec>;
using Buckets = std::span<const double>;

constexpr string_view kActiveStates[] = {"queued", "running", "gating"};
constexpr string_view kFinalStates[] = {"succeeded", "rejected", "failed", "cancelled"};
constexpr string_view kJobKinds[] = {"quantize", "evaluate", "study"};
constexpr string_view kTaskStates[] = {"ready", "leased", "done", "failed"};
constexpr string_view kStages[] = {"prepare", "calibrate", "quantize", "assemble", "evaluate", "probe", "allocate"};
constexpr string_view kStrandedReasons[] = {"pool", "codec"};
constexpr string_view kGates[] = {"coverage", "reconstruction", "quality", "target"};
constexpr string_view kGateResults[] = {"passed", "refused"};
constexpr string_view kUploadKinds[] = {"checkpoint", "text"};
constexpr string_view kUploadResults[] = {"completed", "refused"};
constexpr string_view kModelStates[] = {"loading", "ready", "draining", "unloaded", "failed"};
constexpr string_view kReplicaStates[] = {"loading", "ready", "draining", "failed"};
constexpr string_view kOutcomes[] = {"stop", "length", "cancelled", "deadline", "error", "refused", "slow_reader"};
constexpr string_view kRoles[] = {"api", "worker", "inference"};
constexpr string_view kDevices[] = {"cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:4", "cuda:5", "cuda:6", "cuda:7"};
constexpr string_view kTransactionKinds[] = {"read", "write", "exclusive"};
constexpr string_view kBlobOperations[] = {"get",
                                           "head",
                                           "put",
                                           "delete",
                                           "list",
                                           "copy",
                                           "create_multipart",
                                           "upload_part",
                                           "complete_multipart",
                                           "abort_multipart",
                                           "list_parts",
                                           "list_multipart"};
constexpr string_view kDirections[] = {"sent", "received"};
constexpr string_view kCacheResults[] = {"hit", "miss"};
constexpr string_view kSpanResults[] = {"exported", "dropped"};
constexpr string_view kCodes[] = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};
constexpr string_view kHttpParts[] = {"status", "rest", "openai", "open_inference", "console", "none"};
constexpr string_view kHttpCodes[] = {"2xx", "3xx", "4xx", "5xx"};
constexpr string_view kVersions[] = {QAMSERVE_VERSION};

constexpr LabelSpec Fixed(string_view name, std::span<const string_view> values) {
  return {name, LabelSource::kFixed, values};
}
constexpr LabelSpec kModel = {"model", LabelSource::kModel, {}};
constexpr LabelSpec kPool = {"pool", LabelSource::kPool, {}};
constexpr LabelSpec kService = {"service", LabelSource::kService, {}};
constexpr LabelSpec kMethod = {"method", LabelSource::kMethod, {}};
constexpr LabelSpec kCode = Fixed("code", kCodes);

constexpr LabelSpec kByPool[] = {kPool};
constexpr LabelSpec kByPoolAndJobState[] = {kPool, Fixed("state", kActiveStates)};
constexpr LabelSpec kByPoolAndTaskState[] = {kPool, Fixed("state", kTaskStates)};
constexpr LabelSpec kByStrandedReason[] = {Fixed("reason", kStrandedReasons)};
constexpr LabelSpec kByKindAndState[] = {Fixed("kind", kJobKinds), Fixed("state", kFinalStates)};
constexpr LabelSpec kByStage[] = {Fixed("stage", kStages)};
constexpr LabelSpec kByGate[] = {Fixed("gate", kGates), Fixed("result", kGateResults)};
constexpr LabelSpec kByUpload[] = {Fixed("kind", kUploadKinds), Fixed("result", kUploadResults)};
constexpr LabelSpec kByModelState[] = {Fixed("state", kModelStates)};
constexpr LabelSpec kByModel[] = {kModel};
constexpr LabelSpec kByOutcome[] = {kModel, Fixed("outcome", kOutcomes)};
constexpr LabelSpec kByDevice[] = {Fixed("device", kDevices)};
constexpr LabelSpec kByRole[] = {Fixed("role", kRoles)};
constexpr LabelSpec kByModelAndReplicaState[] = {kModel, Fixed("state", kReplicaStates)};
constexpr LabelSpec kByTransactionKind[] = {Fixed("kind", kTransactionKinds)};
constexpr LabelSpec kByTransaction[] = {Fixed("kind", kTransactionKinds), kCode};
constexpr LabelSpec kByOperation[] = {Fixed("operation", kBlobOperations)};
constexpr LabelSpec kByBlobRequest[] = {Fixed("operation", kBlobOperations), kCode};
constexpr LabelSpec kByDirection[] = {Fixed("direction", kDirections)};
constexpr LabelSpec kByCacheResult[] = {Fixed("result", kCacheResults)};
constexpr LabelSpec kByRpc[] = {kService, kMethod, kCode};
constexpr LabelSpec kByMethod[] = {kService, kMethod};
constexpr LabelSpec kByHttp[] = {Fixed("part", kHttpParts), Fixed("code", kHttpCodes)};
constexpr LabelSpec kBySpanResult[] = {Fixed("result", kSpanResults)};
constexpr LabelSpec kByVersion[] = {Fixed("version", kVersions)};

// A task of a small model takes a fraction of a second, one of a large model an hour.
constexpr double kTaskBuckets[] = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000};
// From a token of a small model on a good CPU (a millisecond) to a long prompt of a large one (minutes).
constexpr double kTokenBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};
constexpr double kRequestBuckets[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250};
// From a lookup in a local file to the half minute that a store which is away is waited for.
constexpr double kStoreBuckets[] = {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30};
// From 8 bits a weight (a ten-thousandth of a nat) to an artifact that is of no use.
constexpr double kKlBuckets[] = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3};
constexpr double kBitsBuckets[] = {2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 12};

constexpr MetricSpec Counter(Metric id, string_view name, string_view help, Labels labels = {}) {
  return {id, name, MetricType::kCounter, help, labels, {}};
}
constexpr MetricSpec Scraped(Metric id, string_view name, string_view help, Labels labels = {}) {
  return {id, name, MetricType::kScrapedCounter, help, labels, {}};
}
constexpr MetricSpec Gauge(Metric id, string_view name, string_view help, Labels labels = {}) {
  return {id, name, MetricType::kGauge, help, labels, {}};
}
constexpr MetricSpec Histogram(Metric id, string_view name, string_view help, Labels labels, Buckets buckets) {
  return {id, name, MetricType::kHistogram, help, labels, buckets};
}

constexpr MetricSpec kTable[] = {
    Gauge(Metric::kJobQueueDepth, "qamserve_job_queue_depth", "Jobs that wait for a worker.", kByPool),
    Gauge(
        Metric::kJobQueueAgeSeconds, "qamserve_job_queue_age_seconds",
        "Time since the oldest of the jobs that wait for a worker was created, in seconds; 0 when none waits. Also of "
        "one that ran before, and waits again since its workers were lost or it was retried.",
        kByPool),
    Gauge(Metric::kJobs, "qamserve_jobs", "Jobs that have not ended, by state.", kByPoolAndJobState),
    Gauge(Metric::kTasks, "qamserve_tasks", "Tasks of jobs that have not ended, by state.", kByPoolAndTaskState),
    Gauge(Metric::kStrandedJobs, "qamserve_stranded_jobs",
          "Jobs that have not ended and that no worker takes as they are now: none is of their pool, or none of those "
          "has "
          "their codec version.",
          kByStrandedReason),
    Counter(Metric::kJobsFinishedTotal, "qamserve_jobs_finished_total", "Jobs that reached a final state.",
            kByKindAndState),
    Histogram(Metric::kTaskSeconds, "qamserve_task_seconds",
              "Time of one task that was done, in seconds, by its stage.", kByStage, kTaskBuckets),
    Counter(Metric::kTaskRetriesTotal, "qamserve_task_retries_total",
            "Tasks that failed or were given back, and are tried again.", kByStage),
    Counter(Metric::kLeaseExpiriesTotal, "qamserve_lease_expiries_total",
            "Tasks taken back because their worker stopped renewing the lease."),
    Counter(Metric::kDuplicateTasksTotal, "qamserve_duplicate_tasks_total",
            "Tasks that a worker finished after another one had, with the same bytes."),
    Counter(Metric::kNondeterministicTasksTotal, "qamserve_nondeterministic_tasks_total",
            "Tasks that two workers finished with different bytes, which must never happen."),
    Counter(Metric::kQuantizedWeightsTotal, "qamserve_quantized_weights_total", "Weights quantized."),
    Counter(Metric::kGateResultsTotal, "qamserve_gate_results_total",
            "Answers of the gates: passed for each artifact that is kept, refused for each job that was rejected.",
            kByGate),
    Histogram(Metric::kArtifactKlNats, "qamserve_artifact_kl_nats",
              "Mean KL divergence a token of artifacts that jobs finished and kept, in nats.", {}, kKlBuckets),
    Histogram(Metric::kArtifactBitsPerWeight, "qamserve_artifact_bpw",
              "Stored bits a weight of artifacts that jobs finished and kept, norms and scales included.", {},
              kBitsBuckets),
    Counter(Metric::kArtifactBytesTotal, "qamserve_artifact_bytes_total",
            "Bytes of artifacts that jobs finished and kept."),
    Gauge(Metric::kLastArtifactKlNats, "qamserve_last_artifact_kl_nats",
          "Mean KL divergence a token of the artifact measured last, in nats."),
    Gauge(Metric::kLastArtifactBitsPerWeight, "qamserve_last_artifact_bpw",
          "Stored bits a weight of the artifact made last, norms and scales included."),
    Counter(Metric::kUploadBytesTotal, "qamserve_upload_bytes_total", "Bytes received by UploadFile."),
    Counter(Metric::kUploadsTotal, "qamserve_uploads_total", "Uploads and imports that ended.", kByUpload),
    Counter(Metric::kDownloadBytesTotal, "qamserve_download_bytes_total", "Bytes sent by DownloadFile."),
    Gauge(Metric::kServedModels, "qamserve_served_models", "Models under a name in this process, by state.",
          kByModelState),
    Gauge(Metric::kModelMemoryBytes, "qamserve_model_memory_bytes",
          "Memory admitted for a served model, in bytes: weights, KV cache and scratch.", kByModel),
    Gauge(Metric::kModelMemoryLimitBytes, "qamserve_model_memory_limit_bytes",
          "Memory that all served models together may take, in bytes."),
    Gauge(Metric::kRequestsRunning, "qamserve_requests_running", "Sequences in the batch.", kByModel),
    Gauge(Metric::kRequestsWaiting, "qamserve_requests_waiting", "Requests that wait for the batch.", kByModel),
    Gauge(Metric::kKvCacheUsageRatio, "qamserve_kv_cache_usage_ratio", "Part of the KV cache that is taken, 0 to 1.",
          kByModel),
    Gauge(Metric::kKvCacheBlocks, "qamserve_kv_cache_blocks", "Blocks of the KV cache.", kByModel),
    Gauge(Metric::kKvCacheBlocksUsed, "qamserve_kv_cache_blocks_used", "Blocks of the KV cache that requests have.",
          kByModel),
    Gauge(Metric::kKvCacheBlocksCached, "qamserve_kv_cache_blocks_cached",
          "Blocks that no request has but prompts that begin alike would find.", kByModel),
    Counter(Metric::kPromptTokensTotal, "qamserve_prompt_tokens_total", "Prompt tokens of ended requests.", kByModel),
    Counter(Metric::kPrefixCacheHitTokensTotal, "qamserve_prefix_cache_hit_tokens_total",
            "Prompt tokens of ended requests that the prefix cache had.", kByModel),
    Counter(Metric::kPreemptionsTotal, "qamserve_preemptions_total",
            "Times that the memory of an ended request was taken for others, to be computed again.", kByModel),
    Counter(Metric::kDraftTokensTotal, "qamserve_draft_tokens_total",
            "Tokens of ended requests that were guessed and checked.", kByModel),
    Counter(Metric::kAcceptedDraftTokensTotal, "qamserve_accepted_draft_tokens_total",
            "Guessed tokens that were right.", kByModel),
    Counter(Metric::kGenerationTokensTotal, "qamserve_generation_tokens_total", "Tokens generated.", kByModel),
    Histogram(Metric::kTimeToFirstTokenSeconds, "qamserve_time_to_first_token_seconds",
              "From the request to its first token, in seconds.", kByModel, kRequestBuckets),
    Histogram(Metric::kInterTokenSeconds, "qamserve_inter_token_seconds",
              "From one token of a request to the next, in seconds.", kByModel, kTokenBuckets),
    Histogram(Metric::kRequestSeconds, "qamserve_request_seconds", "From the request to its last token, in seconds.",
              kByModel, kRequestBuckets),
    Histogram(Metric::kRequestQueueSeconds, "qamserve_request_queue_seconds",
              "From the request to its place in the batch, in seconds.", kByModel, kRequestBuckets),
    Counter(Metric::kRequestsTotal, "qamserve_requests_total", "Generate and Chat requests by how they ended.",
            kByOutcome),
    Scraped(Metric::kDecodeStepsTotal, "qamserve_decode_steps_total",
            "Steps of the engine that only generated, without any part of a prompt.", kByModel),
    Scraped(Metric::kDecodeStepSecondsTotal, "qamserve_decode_step_seconds_total",
            "Time of those steps in the model, in seconds.", kByModel),
    Scraped(Metric::kDecodeWeightBytesTotal, "qamserve_decode_weight_bytes_total",
            "Bytes of weights read by those steps; over their seconds, what the kernels read of memory a second.",
            kByModel),
    Scraped(Metric::kGraphsRefusedTotal, "qamserve_graphs_refused_total",
            "Times that a GPU could not keep a step that comes again as a graph, for want of memory most likely. The "
            "step is queued kernel by kernel then: slower, with the same results.",
            kByModel),
    Gauge(Metric::kGpuMemoryBytes, "qamserve_gpu_memory_bytes", "Memory of a GPU that this process uses, in bytes.",
          kByDevice),
    Gauge(Metric::kGpuMemoryUsedBytes, "qamserve_gpu_memory_used_bytes",
          "Memory of the GPU that is taken, by whomever, in bytes.", kByDevice),
    Gauge(Metric::kInstances, "qamserve_instances", "Processes that are registered, by role; one may have several.",
          kByRole),
    Gauge(Metric::kInstancesDraining, "qamserve_instances_draining", "Of these, those that take nothing new.", kByRole),
    Gauge(Metric::kInstanceHeartbeatAgeSeconds, "qamserve_instance_heartbeat_age_seconds",
          "How long ago the instance that has been silent longest gave a sign of life, in seconds.", kByRole),
    Counter(Metric::kInstancesGoneTotal, "qamserve_instances_gone_total",
            "Instances that this process removed because they gave no sign of life; those that end in order are not "
            "among them."),
    Gauge(Metric::kReplicasWanted, "qamserve_replicas_wanted", "Instances that a served model is wanted on.", kByModel),
    Gauge(Metric::kReplicas, "qamserve_replicas", "Instances that have a served model, by state.",
          kByModelAndReplicaState),
    Counter(Metric::kStoreTransactionsTotal, "qamserve_store_transactions_total",
            "Transactions of the metadata store, by how they ended.", kByTransaction),
    Histogram(Metric::kStoreTransactionSeconds, "qamserve_store_transaction_seconds",
              "Time of a transaction, repeats and pauses included, in seconds.", kByTransactionKind, kStoreBuckets),
    Counter(Metric::kStoreRetriesTotal, "qamserve_store_retries_total",
            "Times that a transaction began again after a conflict or a lost connection.", kByTransactionKind),
    Counter(Metric::kStoreReconnectsTotal, "qamserve_store_reconnects_total",
            "Times that the one connection over which this process hears of changes in the metadata store was lost and "
            "made again. Those for transactions and locks, up to 40 more, are not counted here: see "
            "qamserve_store_retries_total."),
    Counter(Metric::kBlobRequestsTotal, "qamserve_blob_requests_total",
            "Requests to the object store, by how they ended after all attempts.", kByBlobRequest),
    Histogram(Metric::kBlobRequestSeconds, "qamserve_blob_request_seconds",
              "Time of a request to the object store, repeats and pauses included, in seconds.", kByOperation,
              kStoreBuckets),
    Counter(Metric::kBlobRequestRetriesTotal, "qamserve_blob_request_retries_total",
            "Attempts of requests to the object store after the first one.", kByOperation),
    Counter(Metric::kBlobBytesTotal, "qamserve_blob_bytes_total", "Bytes sent to and received from the object store.",
            kByDirection),
    Counter(Metric::kBlobCacheLookupsTotal, "qamserve_blob_cache_lookups_total",
            "Blobs that were asked of the cache on this machine.", kByCacheResult),
    Counter(Metric::kBlobCacheEvictionsTotal, "qamserve_blob_cache_evictions_total",
            "Blobs thrown out of the cache to make room."),
    Counter(Metric::kBlobCacheEvictedBytesTotal, "qamserve_blob_cache_evicted_bytes_total", "Bytes of those."),
    Gauge(Metric::kBlobCacheBytes, "qamserve_blob_cache_bytes", "Bytes of blobs in the cache."),
    Gauge(Metric::kBlobCacheLimitBytes, "qamserve_blob_cache_limit_bytes", "Bytes that the cache may take; 0 = any."),
    Counter(Metric::kCorruptBlobsTotal, "qamserve_corrupt_blobs_total",
            "Blobs whose bytes, in the object store or in the cache, were not those of their name."),
    Counter(Metric::kMissingBlobsTotal, "qamserve_missing_blobs_total",
            "Times that a row named a blob which the store does not have."),
    Counter(Metric::kRpcTotal, "qamserve_rpc_total", "Calls answered.", kByRpc),
    Histogram(Metric::kRpcSeconds, "qamserve_rpc_seconds", "Time to answer a call, in seconds.", kByMethod,
              kRequestBuckets),
    Counter(Metric::kHttpRequestsTotal, "qamserve_http_requests_total",
            "Requests answered on --http-listen, by what served them (none: nothing did) and the class of the status.",
            kByHttp),
    Gauge(Metric::kHttpConnections, "qamserve_http_connections", "Open connections of --http-listen."),
    Counter(Metric::kTraceSpansTotal, "qamserve_trace_spans_total",
            "Spans that were sent to --otlp-endpoint, or dropped because it was slow or away.", kBySpanResult),
    Gauge(Metric::kBuildInfo, "qamserve_build_info", "1; the label says which build runs.", kByVersion),
    Gauge(Metric::kStartTimeSeconds, "qamserve_start_time_seconds", "When the process began, in seconds since 1970."),
    Scraped(Metric::kCpuSecondsTotal, "qamserve_cpu_seconds_total",
            "Time that the process was on processors, in seconds."),
    Gauge(Metric::kResidentMemoryBytes, "qamserve_resident_memory_bytes",
          "Resident memory of the process in bytes, mapped weights included."),
    Gauge(Metric::kOpenFds, "qamserve_open_fds", "Open files and sockets of the process."),
    Gauge(Metric::kMaxFds, "qamserve_max_fds", "Files and sockets that it may have open."),
    Gauge(Metric::kDataDiskBytes, "qamserve_data_disk_bytes", "Size of the disk of --data-dir, in bytes."),
    Gauge(Metric::kDataDiskFreeBytes, "qamserve_data_disk_free_bytes", "Bytes free there."),
};

constexpr bool TableFollowsEnum() {
  for (size_t i = 0; i < std::size(kTable); ++i) {
    if (kTable[i].id != static_cast<Metric>(i)) return false;
  }
  return std::size(kTable) == static_cast<size_t>(Metric::kDataDiskFreeBytes) + 1;
}
static_assert(TableFollowsEnum());

string_view TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
    case MetricType::kScrapedCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "";
}

std::string LabelsText(Labels labels) {
  std::string text;
  for (const LabelSpec& label : labels) {
    if (!text.empty()) text += ", ";
    text += fmt::format("`{}`", label.name);
  }
  return text;
}

// Told in words, once for all metrics.
bool IsToldInWords(const LabelSpec& label) {
  return label.source != LabelSource::kFixed || label.values.data() == kCodes || label.values.data() == kVersions;
}

}  // namespace

std::span<const MetricSpec> AllMetrics() { return kTable; }

const MetricSpec& SpecOf(Metric metric) { return kTable[static_cast<size_t>(metric)]; }

std::string MetricsMarkdown() {
  std::string text =
      "# Metrics\n\n"
      "Served in the Prometheus text format at `/metrics` of `--metrics-listen`, and at that of `--http-listen` to "
      "keys\n"
      "that may read. This page is printed from the table in `server/telemetry/metric_table.cc`.\n\n"
      "A label holds only values that the server knows; anything else, such as the name of a model that is not "
      "served,\n"
      "becomes `other`. Requests to an alias count under the served model that they were routed to.\n\n"
      "Every process tells what it did itself: sum over processes. What is in the metadata store is told by each "
      "process\n"
      "with the role api, in the same words: take the largest. These are `qamserve_job_queue_*`, `qamserve_jobs`,\n"
      "`qamserve_tasks`, `qamserve_stranded_jobs`, `qamserve_last_artifact_*`, `qamserve_instances`,\n"
      "`qamserve_instances_draining`, `qamserve_instance_heartbeat_age_seconds` and `qamserve_replicas*`.\n\n"
      "| name | type | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricSpec& spec : kTable) {
    text +=
        fmt::format("| `{}` | {} | {} | {} |\n", spec.name, TypeName(spec.type), LabelsText(spec.labels), spec.help);
  }
  text +=
      "\n## Values of labels\n\n"
      "`model` is a served model; `pool` one that some worker takes tasks of; `version` that of the program; "
      "`service`,\n"
      "`method` and `code` are those of the API and of gRPC.\n\n"
      "| name | label | values |\n|---|---|---|\n";
  for (const MetricSpec& spec : kTable) {
    for (const LabelSpec& label : spec.labels) {
      if (IsToldInWords(label)) continue;
      text += fmt::format("| `{}` | `{}` | {} |\n", spec.name, label.name, fmt::join(label.values, ", "));
    }
  }
  return text;
}

}  // namespace qamserve
