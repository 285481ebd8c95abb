// What the server tells the outside of itself: metrics, log and health.
#include <absl/strings/ascii.h>

#include <array>
#include <map>
#include <string>

#include "server/server.h"

namespace qamserve {
namespace {

std::string Lower(std::string_view text) {
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  return lower;
}

// GATE_COVERAGE -> coverage.
std::string GateLabel(const std::string& reason) {
  constexpr std::string_view kPrefix = "GATE_";
  return reason.starts_with(kPrefix) ? Lower(std::string_view(reason).substr(kPrefix.size())) : Lower(reason);
}

constexpr std::array<std::string_view, 3> kGates = {"coverage", "reconstruction", "quality"};
constexpr std::array<TaskState, 4> kTaskStates = {TaskState::kReady, TaskState::kLeased, TaskState::kDone,
                                                  TaskState::kFailed};
constexpr std::array<JobState, 3> kActiveStates = {JobState::kQueued, JobState::kRunning, JobState::kGating};
constexpr std::array<ServedModelState, 4> kModelStates = {ServedModelState::kLoading, ServedModelState::kReady,
                                                          ServedModelState::kDraining, ServedModelState::kFailed};

}  // namespace

void Server::OnJobNotice(const JobNotice& notice) {
  Log::Fields fields = {{"job", notice.job.id}, {"kind", JobKindName(notice.job.kind)}};
  switch (notice.kind) {
    case JobNotice::Kind::kTaskDone:
      metrics_.Observe(Metric::kTaskSeconds, {TaskStageName(notice.stage)}, notice.task_seconds);
      metrics_.Add(Metric::kQuantizedWeightsTotal, {}, static_cast<double>(notice.weights));
      return;
    case JobNotice::Kind::kLeaseExpired:
      metrics_.Add(Metric::kLeaseExpiriesTotal);
      log_->Warning("lease_expired", fields);
      return;
    case JobNotice::Kind::kTaskRetried:
      fields["stage"] = TaskStageName(notice.stage);
      fields["reason"] = notice.reason;
      log_->Warning("task_retried", fields);
      return;
    case JobNotice::Kind::kGateRefused:
      metrics_.Add(Metric::kGateResultsTotal, {GateLabel(notice.reason), "refused"});
      fields["reason"] = notice.reason;
      log_->Warning("gate_refused", fields);
      return;
    case JobNotice::Kind::kJobState:
      break;
  }
  const JobRecord& job = notice.job;
  fields["state"] = JobStateName(job.state);
  if (!job.error.ok()) fields["reason"] = job.error.reason;
  log_->Info("job_state", fields);
  if (!IsFinal(job.state)) return;
  metrics_.Add(Metric::kJobsFinishedTotal, {JobKindName(job.kind), Lower(JobStateName(job.state))});
  if (job.state != JobState::kSucceeded || job.kind != JobKind::kQuantize) return;
  for (const std::string_view gate : kGates) metrics_.Add(Metric::kGateResultsTotal, {gate, "passed"});
  const absl::StatusOr<JobSpec> spec = JobSpecFromJson(job.spec_json);
  if (spec.ok() && spec->target.any()) metrics_.Add(Metric::kGateResultsTotal, {"target", "passed"});
  if (!job.load_as.empty()) LoadLater(job.load_as, ResourceName("artifacts", job.artifact));
}

void Server::LoadLater(const std::string& name, const std::string& source) {
  const absl::Status queued = slow_->Run([this, name, source] {
    const absl::Status loaded = models_->Load({name, source, 0, ""}).status();
    if (!loaded.ok()) {
      log_->Warning("load_failed", {{"model", name}, {"source", source}, {"message", MessageOf(loaded)}});
    }
  });
  if (!queued.ok()) log_->Warning("load_failed", {{"model", name}, {"message", MessageOf(queued)}});
}

void Server::OnModelChange(const ServedModelView& model) {
  Log::Fields fields = {{"model", model.name}, {"source", model.source}, {"state", ServedModelStateName(model.state)}};
  if (!model.error.ok()) fields["message"] = MessageOf(model.error);
  log_->Info("model_state", fields);
  if (model.state == ServedModelState::kReady && !model.chat_error.ok()) {
    log_->Warning("chat_not_offered", {{"model", model.name},
                                       {"reason", ReasonOf(model.chat_error)},
                                       {"message", MessageOf(model.chat_error)}});
  }
  if (rpc_ != nullptr) rpc_->SetModelHealth(model.name, model.state == ServedModelState::kReady);
}

void Server::WriteJobGauges(Metrics::GaugeWriter& writer) {
  const absl::StatusOr<JobManager::QueueStats> stats = jobs_->Stats();
  if (stats.ok()) {
    writer.Set(Metric::kJobQueueDepth, {}, static_cast<double>(stats->queued_jobs));
    writer.Set(Metric::kJobQueueAgeSeconds, {}, stats->oldest_queued_seconds);
  }
  const absl::StatusOr<std::vector<JobRecord>> jobs = store_->ListUnfinishedJobs();
  if (!jobs.ok()) return;
  std::map<JobState, int64_t> by_state;
  std::map<TaskState, int64_t> tasks_by_state;
  for (const JobRecord& job : *jobs) {
    ++by_state[job.state];
    const absl::StatusOr<std::vector<TaskRecord>> tasks = store_->ListTasks(job.id);
    if (!tasks.ok()) continue;
    for (const TaskRecord& task : *tasks) ++tasks_by_state[task.state];
  }
  for (const JobState state : kActiveStates) {
    writer.Set(Metric::kJobs, {Lower(JobStateName(state))}, static_cast<double>(by_state[state]));
  }
  for (const TaskState state : kTaskStates) {
    writer.Set(Metric::kTasks, {Lower(TaskStateName(state))}, static_cast<double>(tasks_by_state[state]));
  }
  const absl::StatusOr<Page<ArtifactRecord>> newest = store_->ListArtifacts({1, ""}, "");
  if (!newest.ok() || newest->items.empty()) return;
  const ArtifactRecord& artifact = newest->items.front();
  writer.Set(Metric::kLastArtifactBitsPerWeight, {}, artifact.bpw);
  if (const auto quality = QualityReportFromJson(artifact.quality_json); quality.ok()) {
    writer.Set(Metric::kLastArtifactKlNats, {}, quality->kl_mean);
  }
}

void Server::WriteModelGauges(Metrics::GaugeWriter& writer) {
  writer.Set(Metric::kModelMemoryLimitBytes, {}, static_cast<double>(models_->memory_limit_bytes()));
  std::map<ServedModelState, int64_t> by_state;
  for (const ServedModelView& model : models_->List()) {
    ++by_state[model.state];
    writer.Set(Metric::kModelMemoryBytes, {model.name}, static_cast<double>(model.memory_bytes));
    writer.Set(Metric::kRequestsRunning, {model.name}, model.running);
    writer.Set(Metric::kRequestsWaiting, {model.name}, model.waiting);
    writer.Set(Metric::kKvCacheUsageRatio, {model.name}, model.kv_used_ratio);
    writer.Set(Metric::kKvCacheBlocks, {model.name}, static_cast<double>(model.kv_blocks_total));
    writer.Set(Metric::kKvCacheBlocksUsed, {model.name}, static_cast<double>(model.kv_blocks_used));
    writer.Set(Metric::kKvCacheBlocksCached, {model.name}, static_cast<double>(model.kv_blocks_cached));
  }
  for (const ServedModelState state : kModelStates) {
    writer.Set(Metric::kServedModels, {Lower(ServedModelStateName(state))}, static_cast<double>(by_state[state]));
  }
}

}  // namespace qamserve
