#include "server/telemetry/metric_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <iterator>

namespace qamserve {
namespace {

using std::string_view;

constexpr string_view kActiveStates[] = {"queued", "running", "gating"};
constexpr string_view kFinalStates[] = {"succeeded", "rejected", "failed", "cancelled"};
constexpr string_view kJobKinds[] = {"quantize", "evaluate", "study"};
constexpr string_view kTaskStates[] = {"ready", "leased", "done", "failed"};
constexpr string_view kStages[] = {"prepare", "calibrate", "quantize", "assemble", "evaluate", "probe", "allocate"};
constexpr string_view kGates[] = {"coverage", "reconstruction", "quality", "target"};
constexpr string_view kGateResults[] = {"passed", "refused"};
constexpr string_view kUploadKinds[] = {"checkpoint", "text"};
constexpr string_view kUploadResults[] = {"completed", "refused"};
constexpr string_view kModelStates[] = {"loading", "ready", "draining", "unloaded", "failed"};
constexpr string_view kOutcomes[] = {"stop", "length", "cancelled", "deadline", "error", "refused", "slow_reader"};
constexpr string_view kServices[] = {"CheckpointService", "JobService", "ArtifactService", "ServingService",
                                     "InferenceService",  "AccessService", "SystemService"};
constexpr string_view kMethods[] = {
    "CreateUpload",     "UploadFile",      "QueryUpload",       "CompleteUpload", "CancelUpload",   "ImportCheckpoint",
    "GetCheckpoint",    "ListCheckpoints", "DeleteCheckpoint",  "CreateQuantizeJob", "CreateEvaluateJob", "GetJob",
    "ListJobs",         "WatchJob",        "CancelJob",         "RetryJob",       "DeleteJob",      "GetArtifact",
    "ListArtifacts",    "DownloadFile",    "GetReport",         "DeleteArtifact", "LoadModel",      "UnloadModel",
    "GetServedModel",   "ListServedModels", "Generate",         "Chat",           "Score",          "Tokenize",
    "Detokenize",       "CreateStudyJob",  "GetStudy",          "UpdateAlias",    "GetAlias",       "ListAliases",
    "DeleteAlias",      "Compare",         "Embed",             "CreateKey",      "GetKey",         "ListKeys",
    "RotateKey",        "RevokeKey",       "DeleteKey",         "GetCaller",      "ListAuditEvents", "GetSystem"};
constexpr string_view kCodes[] = {"OK",           "CANCELLED",         "UNKNOWN",        "INVALID_ARGUMENT",
                                  "DEADLINE_EXCEEDED", "NOT_FOUND",    "ALREADY_EXISTS", "PERMISSION_DENIED",
                                  "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
                                  "UNIMPLEMENTED", "INTERNAL",         "UNAVAILABLE",    "DATA_LOSS",
                                  "UNAUTHENTICATED"};
constexpr string_view kHttpParts[] = {"status", "rest", "openai", "open_inference", "console", "none"};
constexpr string_view kHttpCodes[] = {"2xx", "3xx", "4xx", "5xx"};
constexpr string_view kVersions[] = {QAMSERVE_VERSION};

constexpr LabelSpec kByState[] = {{"state", kActiveStates}};
constexpr LabelSpec kByKindAndState[] = {{"kind", kJobKinds}, {"state", kFinalStates}};
constexpr LabelSpec kByTaskState[] = {{"state", kTaskStates}};
constexpr LabelSpec kByStage[] = {{"stage", kStages}};
constexpr LabelSpec kByGate[] = {{"gate", kGates}, {"result", kGateResults}};
constexpr LabelSpec kByUpload[] = {{"kind", kUploadKinds}, {"result", kUploadResults}};
constexpr LabelSpec kByModelState[] = {{"state", kModelStates}};
constexpr LabelSpec kByModel[] = {{"model", {}}};
constexpr LabelSpec kByOutcome[] = {{"model", {}}, {"outcome", kOutcomes}};
constexpr LabelSpec kByRpc[] = {{"service", kServices}, {"method", kMethods}, {"code", kCodes}};
constexpr LabelSpec kByMethod[] = {{"service", kServices}, {"method", kMethods}};
constexpr LabelSpec kByHttp[] = {{"part", kHttpParts}, {"code", kHttpCodes}};
constexpr LabelSpec kByVersion[] = {{"version", kVersions}};

// A task of a small model takes a fraction of a second, one of a large model an hour.
constexpr double kTaskBuckets[] = {0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000};
// From a token of a small model on a good CPU (a millisecond) to a long prompt of a large one (minutes).
constexpr double kTokenBuckets[] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5};
constexpr double kRequestBuckets[] = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250};

constexpr MetricSpec kTable[] = {
    {Metric::kJobQueueDepth, "qamserve_job_queue_depth", MetricType::kGauge, "Jobs that wait for a worker.", {}, {}},
    {Metric::kJobQueueAgeSeconds, "qamserve_job_queue_age_seconds", MetricType::kGauge,
     "How long the oldest waiting job has waited; 0 when none waits.", {}, {}},
    {Metric::kJobs, "qamserve_jobs", MetricType::kGauge, "Jobs that have not ended, by state.", kByState, {}},
    {Metric::kTasks, "qamserve_tasks", MetricType::kGauge, "Tasks of jobs that have not ended, by state.", kByTaskState, {}},
    {Metric::kJobsFinishedTotal, "qamserve_jobs_finished_total", MetricType::kCounter,
     "Jobs that reached a final state.", kByKindAndState, {}},
    {Metric::kTaskSeconds, "qamserve_task_seconds", MetricType::kHistogram, "Time of one task, by its stage.", kByStage,
     kTaskBuckets},
    {Metric::kQuantizedWeightsTotal, "qamserve_quantized_weights_total", MetricType::kCounter, "Weights quantized.", {},
     {}},
    {Metric::kLeaseExpiriesTotal, "qamserve_lease_expiries_total", MetricType::kCounter,
     "Tasks taken back because their worker stopped renewing the lease.", {}, {}},
    {Metric::kGateResultsTotal, "qamserve_gate_results_total", MetricType::kCounter, "Answers of the gates.", kByGate,
     {}},
    {Metric::kLastArtifactKlNats, "qamserve_last_artifact_kl_nats", MetricType::kGauge,
     "Mean KL divergence a token of the artifact measured last, in nats.", {}, {}},
    {Metric::kLastArtifactBitsPerWeight, "qamserve_last_artifact_bits_per_weight", MetricType::kGauge,
     "Stored bits a weight of the artifact made last, norms and scales included.", {}, {}},
    {Metric::kUploadBytesTotal, "qamserve_upload_bytes_total", MetricType::kCounter, "Bytes received by UploadFile.",
     {}, {}},
    {Metric::kUploadsTotal, "qamserve_uploads_total", MetricType::kCounter, "Uploads and imports that ended.",
     kByUpload, {}},
    {Metric::kDownloadBytesTotal, "qamserve_download_bytes_total", MetricType::kCounter, "Bytes sent by DownloadFile.",
     {}, {}},
    {Metric::kServedModels, "qamserve_served_models", MetricType::kGauge, "Models under a name, by state.",
     kByModelState, {}},
    {Metric::kModelMemoryBytes, "qamserve_model_memory_bytes", MetricType::kGauge,
     "Memory admitted for a served model: weights, KV cache and scratch.", kByModel, {}},
    {Metric::kModelMemoryLimitBytes, "qamserve_model_memory_limit_bytes", MetricType::kGauge,
     "Memory that all served models together may take.", {}, {}},
    {Metric::kRequestsRunning, "qamserve_requests_running", MetricType::kGauge, "Sequences in the batch.", kByModel,
     {}},
    {Metric::kRequestsWaiting, "qamserve_requests_waiting", MetricType::kGauge, "Requests that wait for the batch.",
     kByModel, {}},
    {Metric::kKvCacheUsageRatio, "qamserve_kv_cache_usage_ratio", MetricType::kGauge,
     "Part of the KV cache that is taken, 0 to 1.", kByModel, {}},
    {Metric::kKvCacheBlocks, "qamserve_kv_cache_blocks", MetricType::kGauge, "Blocks of the KV cache.", kByModel, {}},
    {Metric::kKvCacheBlocksUsed, "qamserve_kv_cache_blocks_used", MetricType::kGauge,
     "Blocks of the KV cache that requests have.", kByModel, {}},
    {Metric::kKvCacheBlocksCached, "qamserve_kv_cache_blocks_cached", MetricType::kGauge,
     "Blocks that no request has but prompts that begin alike would find.", kByModel, {}},
    {Metric::kPromptTokensTotal, "qamserve_prompt_tokens_total", MetricType::kCounter, "Prompt tokens of ended requests.",
     kByModel, {}},
    {Metric::kPrefixCacheHitTokensTotal, "qamserve_prefix_cache_hit_tokens_total", MetricType::kCounter,
     "Prompt tokens of ended requests that the prefix cache had.", kByModel, {}},
    {Metric::kPreemptionsTotal, "qamserve_preemptions_total", MetricType::kCounter,
     "Times that the memory of an ended request was taken for others, to be computed again.", kByModel, {}},
    {Metric::kDraftTokensTotal, "qamserve_draft_tokens_total", MetricType::kCounter,
     "Tokens of ended requests that were guessed and checked.", kByModel, {}},
    {Metric::kAcceptedDraftTokensTotal, "qamserve_accepted_draft_tokens_total", MetricType::kCounter,
     "Guessed tokens that were right.", kByModel, {}},
    {Metric::kGenerationTokensTotal, "qamserve_generation_tokens_total", MetricType::kCounter, "Tokens generated.",
     kByModel, {}},
    {Metric::kTimeToFirstTokenSeconds, "qamserve_time_to_first_token_seconds", MetricType::kHistogram,
     "From the request to its first token.", kByModel, kRequestBuckets},
    {Metric::kInterTokenSeconds, "qamserve_inter_token_seconds", MetricType::kHistogram,
     "From one token of a request to the next.", kByModel, kTokenBuckets},
    {Metric::kRequestSeconds, "qamserve_request_seconds", MetricType::kHistogram,
     "From the request to its last token.", kByModel, kRequestBuckets},
    {Metric::kRequestQueueSeconds, "qamserve_request_queue_seconds", MetricType::kHistogram,
     "From the request to its place in the batch.", kByModel, kRequestBuckets},
    {Metric::kRequestsTotal, "qamserve_requests_total", MetricType::kCounter,
     "Generate and Chat requests by how they ended.", kByOutcome, {}},
    {Metric::kRpcTotal, "qamserve_rpc_total", MetricType::kCounter, "Calls answered.", kByRpc, {}},
    {Metric::kRpcSeconds, "qamserve_rpc_seconds", MetricType::kHistogram, "Time to answer a call.", kByMethod,
     kRequestBuckets},
    {Metric::kHttpRequestsTotal, "qamserve_http_requests_total", MetricType::kCounter,
     "Requests answered on --http-listen, by what served them (none: nothing did) and the class of the status.", kByHttp,
     {}},
    {Metric::kHttpConnections, "qamserve_http_connections", MetricType::kGauge,
     "Open connections of --http-listen.", {}, {}},
    {Metric::kBuildInfo, "qamserve_build_info", MetricType::kGauge, "1; the label says which build runs.", kByVersion,
     {}},
    {Metric::kResidentMemoryBytes, "qamserve_resident_memory_bytes", MetricType::kGauge,
     "Resident memory of the process, mapped weights included.", {}, {}},
};

constexpr bool TableFollowsEnum() {
  for (size_t i = 0; i < std::size(kTable); ++i) {
    if (kTable[i].id != static_cast<Metric>(i)) return false;
  }
  return std::size(kTable) == static_cast<size_t>(Metric::kResidentMemoryBytes) + 1;
}
static_assert(TableFollowsEnum());

string_view TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter: return "counter";
    case MetricType::kGauge: return "gauge";
    case MetricType::kHistogram: return "histogram";
  }
  return "";
}

std::string LabelsText(std::span<const LabelSpec> labels) {
  std::string text;
  for (const LabelSpec& label : labels) {
    if (!text.empty()) text += ", ";
    text += fmt::format("`{}`", label.name);
  }
  return text;
}

bool IsKnownElsewhere(const LabelSpec& label) {
  return label.values.data() == kServices || label.values.data() == kMethods || label.values.data() == kCodes ||
         label.values.data() == kVersions;
}

}  // namespace

std::span<const MetricSpec> AllMetrics() { return kTable; }

const MetricSpec& SpecOf(Metric metric) { return kTable[static_cast<size_t>(metric)]; }

std::string MetricsMarkdown() {
  std::string text =
      "# Metrics\n\n"
      "Served in the Prometheus text format at `/metrics` of `--metrics-listen`. A label holds only values that the\n"
      "server knows; anything else, such as the name of a model that is not served, becomes `other`. Requests\n"
      "to an alias count under the served model that they were routed to.\n\n"
      "| name | type | labels | meaning |\n|---|---|---|---|\n";
  for (const MetricSpec& spec : kTable) {
    text += fmt::format("| `{}` | {} | {} | {} |\n", spec.name, TypeName(spec.type), LabelsText(spec.labels), spec.help);
  }
  text +=
      "\n## Values of labels\n\n"
      "`model` is a served model, `version` that of the program; `service`, `method` and `code` are those of the API\n"
      "and of gRPC.\n\n"
      "| name | label | values |\n|---|---|---|\n";
  for (const MetricSpec& spec : kTable) {
    for (const LabelSpec& label : spec.labels) {
      if (label.values.empty() || IsKnownElsewhere(label)) continue;
      text += fmt::format("| `{}` | `{}` | {} |\n", spec.name, label.name, fmt::join(label.values, ", "));
    }
  }
  return text;
}

}  // namespace qamserve
