#include "server/telemetry/job_signals.h"

#include <absl/strings/ascii.h>
#include <absl/time/clock.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>

namespace qamserve {
namespace {

// That every artifact has passed; "target" only where one was given.
constexpr std::array<std::string_view, 3> kGates = {"coverage", "reconstruction", "quality"};

std::string Lower(std::string_view text) {
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  return lower;
}

// GATE_COVERAGE -> coverage.
std::string GateLabel(std::string_view reason) {
  constexpr std::string_view kPrefix = "GATE_";
  return Lower(reason.starts_with(kPrefix) ? reason.substr(kPrefix.size()) : reason);
}

SpanIds JobSpan(Tracer& tracer, const JobRecord& job) {
  return tracer.BeginNamed(job.trace_parent, fmt::format("jobs/{}", job.id));
}

}  // namespace

void JobSignals::Tell(const JobNotice& notice) {
  Log::Fields fields = {{"job", notice.job.id}, {"kind", JobKindName(notice.job.kind)}};
  const SpanIds span = JobSpan(tracer_, notice.job);
  if (span.sampled) fields["trace"] = HexOf(span.trace_id);
  if (notice.kind == JobNotice::Kind::kJobState) return TellJobState(notice.job, std::move(fields));
  fields["stage"] = TaskStageName(notice.stage);
  if (notice.task >= 0) fields["task"] = notice.task;
  if (!notice.worker.empty()) fields["worker"] = notice.worker;
  if (!notice.reason.empty()) fields["reason"] = notice.reason;
  TellTask(notice, std::move(fields));
}

void JobSignals::TellTask(const JobNotice& notice, Log::Fields fields) {
  const std::string_view stage = TaskStageName(notice.stage);
  switch (notice.kind) {
    case JobNotice::Kind::kTaskDone:
      metrics_.Observe(Metric::kTaskSeconds, {stage}, notice.task_seconds);
      metrics_.Add(Metric::kQuantizedWeightsTotal, {}, static_cast<double>(notice.weights));
      if (notice.artifact != nullptr) {
        CountArtifact(notice.job, *notice.artifact);
        fields["artifact"] = notice.artifact->digest;
      }
      fields["seconds"] = notice.task_seconds;
      log_.Debug("task_done", fields);
      return TraceTask(notice);
    case JobNotice::Kind::kLeaseExpired:
      metrics_.Add(Metric::kLeaseExpiriesTotal);
      log_.Warning("lease_expired", fields);
      return TraceTask(notice);
    case JobNotice::Kind::kTaskRetried:
      metrics_.Add(Metric::kTaskRetriesTotal, {stage});
      log_.Warning("task_retried", fields);
      return TraceTask(notice);
    case JobNotice::Kind::kTaskFailed:
      log_.Warning("task_failed", fields);
      return TraceTask(notice);
    case JobNotice::Kind::kGateRefused:
      metrics_.Add(Metric::kGateResultsTotal, {GateLabel(notice.reason), "refused"});
      return log_.Warning("gate_refused", fields);
    case JobNotice::Kind::kDuplicate:
      metrics_.Add(Metric::kDuplicateTasksTotal);
      return log_.Info("task_done_twice", fields);
    case JobNotice::Kind::kNotDeterministic:
      metrics_.Add(Metric::kNondeterministicTasksTotal);
      return log_.Error("task_not_deterministic", fields);
    case JobNotice::Kind::kJobState:
      break;
  }
}

void JobSignals::TellJobState(const JobRecord& job, Log::Fields fields) {
  fields["state"] = JobStateName(job.state);
  if (!job.error.ok()) {
    fields["reason"] = job.error.reason;
    fields["message"] = job.error.message;
  }
  log_.Info("job_state", fields);
  if (!IsFinal(job.state)) return;
  metrics_.Add(Metric::kJobsFinishedTotal, {JobKindName(job.kind), Lower(JobStateName(job.state))});
  TraceJob(job);
}

void JobSignals::CountArtifact(const JobRecord& job, const ArtifactRecord& artifact) {
  for (const std::string_view gate : kGates) metrics_.Add(Metric::kGateResultsTotal, {gate, "passed"});
  const absl::StatusOr<JobSpec> spec = JobSpecFromJson(job.spec_json);
  if (spec.ok() && spec->target.any()) metrics_.Add(Metric::kGateResultsTotal, {"target", "passed"});
  metrics_.Add(Metric::kArtifactBytesTotal, {}, static_cast<double>(artifact.size_bytes));
  metrics_.Observe(Metric::kArtifactBitsPerWeight, {}, artifact.bpw);
  const absl::StatusOr<QualityReport> quality = QualityReportFromJson(artifact.quality_json);
  if (quality.ok()) metrics_.Observe(Metric::kArtifactKlNats, {}, quality->kl_mean);
}

void JobSignals::TraceJob(const JobRecord& job) {
  SpanRecord span;
  span.ids = JobSpan(tracer_, job);
  if (!span.ids.sampled) return;
  span.name = fmt::format("job {}", JobKindName(job.kind));
  span.start = absl::FromUnixMillis(job.created_ms);
  span.end = absl::FromUnixMillis(job.ended_ms);
  span.attributes = {{"qamserve.job", job.id},
                     {"qamserve.job.state", std::string(JobStateName(job.state))},
                     {"qamserve.pool", job.pool},
                     {"qamserve.checkpoint", job.checkpoint}};
  if (!job.artifact.empty()) span.attributes.emplace_back("qamserve.artifact", job.artifact);
  if (!job.project.empty()) span.attributes.emplace_back("qamserve.project", job.project);
  if (job.started_ms > 0) span.events.push_back({absl::FromUnixMillis(job.started_ms), "started"});
  if (!job.error.ok()) span.error = job.error.reason;
  tracer_.End(std::move(span));
}

// An attempt that was not completed has no length: its worker knows when it began, and may be gone.
void JobSignals::TraceTask(const JobNotice& notice) {
  const SpanIds job = JobSpan(tracer_, notice.job);
  if (!job.sampled) return;
  SpanRecord span;
  span.ids = tracer_.Begin(FormatTraceParent({.trace_id = job.trace_id, .span_id = job.span_id, .sampled = true}));
  span.name = fmt::format("task {}", TaskStageName(notice.stage));
  span.end = absl::Now();
  span.start = span.end - absl::Seconds(notice.task_seconds);
  span.attributes = {{"qamserve.job", notice.job.id}, {"qamserve.task", static_cast<int64_t>(notice.task)}};
  if (!notice.task_name.empty()) span.attributes.emplace_back("qamserve.task.name", notice.task_name);
  if (!notice.worker.empty()) span.attributes.emplace_back("qamserve.worker", notice.worker);
  if (notice.weights > 0) span.attributes.emplace_back("qamserve.weights", notice.weights);
  if (notice.kind != JobNotice::Kind::kTaskDone) {
    span.error = notice.reason.empty() ? "LEASE_LAPSED" : notice.reason;
  }
  tracer_.End(std::move(span));
}

}  // namespace qamserve
