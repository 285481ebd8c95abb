#include "server/telemetry/job_signals.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "tests/server/telemetry/keeping_sink.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class JobSignalsTest : public testing::Test {
 protected:
  static JobRecord MakeJob(JobState state) {
    JobRecord job;
    job.id = "j1";
    job.kind = JobKind::kQuantize;
    job.state = state;
    job.pool = "cpu";
    job.project = "team";
    job.checkpoint = "c1";
    job.spec_json = JobSpecToJson({});
    job.trace_parent = kParent;
    job.created_ms = 1'000'000;
    job.started_ms = 1'002'000;
    job.ended_ms = 1'009'000;
    return job;
  }
  void Tell(JobNotice::Kind kind, const std::string& reason = "") {
    JobNotice notice;
    notice.kind = kind;
    notice.job = MakeJob(JobState::kRunning);
    notice.stage = TaskStage::kQuantize;
    notice.task_seconds = kind == JobNotice::Kind::kTaskDone ? 2 : 0;
    notice.weights = kind == JobNotice::Kind::kTaskDone ? 400 : 0;
    notice.task = 7;
    notice.task_name = "model.layers.0.mlp.up_proj";
    notice.worker = "w1";
    notice.reason = reason;
    signals_.Tell(notice);
  }
  void TellArtifact(const JobSpec& spec, double bpw, uint64_t size_bytes, double kl_mean) {
    QualityReport report;
    report.kl_mean = kl_mean;
    ArtifactRecord artifact;
    artifact.digest = "a1";
    artifact.bpw = bpw;
    artifact.size_bytes = size_bytes;
    artifact.quality_json = QualityReportToJson(report);
    JobNotice notice;
    notice.kind = JobNotice::Kind::kTaskDone;
    notice.job = MakeJob(JobState::kGating);
    notice.job.spec_json = JobSpecToJson(spec);
    notice.stage = TaskStage::kEvaluate;
    notice.artifact = std::make_shared<const ArtifactRecord>(artifact);
    signals_.Tell(notice);
  }
  void TellState(const JobRecord& job) {
    JobNotice notice;
    notice.job = job;
    signals_.Tell(notice);
  }
  std::vector<nlohmann::json> Lines() {
    std::vector<nlohmann::json> lines;
    std::istringstream in(out_.str());
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  static std::string TextOf(const SpanRecord& span, const std::string& key) {
    for (const auto& [name, value] : span.attributes) {
      if (name == key && std::holds_alternative<std::string>(value)) return std::get<std::string>(value);
    }
    return "";
  }

  std::ostringstream out_;
  std::shared_ptr<Log> log_ = Log::CreateOn(out_, "debug").value();
  Metrics metrics_;
  std::shared_ptr<KeepingSink> sink_ = std::make_shared<KeepingSink>();
  Tracer tracer_{1, sink_};
  JobSignals signals_{metrics_, *log_, tracer_};
};

TEST_F(JobSignalsTest, TasksAreCountedLoggedAndTraced) {
  Tell(JobNotice::Kind::kTaskDone);
  Tell(JobNotice::Kind::kTaskRetried, "FILE_IO");
  Tell(JobNotice::Kind::kLeaseExpired);
  Tell(JobNotice::Kind::kGateRefused, "GATE_QUALITY");
  Tell(JobNotice::Kind::kDuplicate);
  Tell(JobNotice::Kind::kNotDeterministic);
  Tell(JobNotice::Kind::kTaskFailed, "TENSOR_SHAPE");
  const std::string text = metrics_.Text();
  for (const char* line : {"qamserve_task_seconds_sum{stage=\"quantize\"} 2", "qamserve_quantized_weights_total 400",
                           "qamserve_task_retries_total{stage=\"quantize\"} 1", "qamserve_lease_expiries_total 1",
                           "qamserve_gate_results_total{gate=\"quality\",result=\"refused\"} 1",
                           "qamserve_duplicate_tasks_total 1", "qamserve_nondeterministic_tasks_total 1"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_EQ(lines.size(), 7u);
  const char* events[] = {"task_done",       "task_retried",           "lease_expired", "gate_refused",
                          "task_done_twice", "task_not_deterministic", "task_failed"};
  const char* levels[] = {"debug", "warning", "warning", "warning", "info", "error", "warning"};
  for (size_t i = 0; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["event"], events[i]);
    EXPECT_EQ(lines[i]["level"], levels[i]);
    EXPECT_EQ(lines[i]["job"], "j1");
    EXPECT_EQ(lines[i]["task"], 7);
    EXPECT_EQ(lines[i]["worker"], "w1");
    EXPECT_EQ(lines[i]["trace"], "0af7651916cd43dd8448eb211c80319c");
  }
  EXPECT_EQ(lines[1]["reason"], "FILE_IO");
  EXPECT_EQ(lines[6]["reason"], "TENSOR_SHAPE");

  ASSERT_EQ(sink_->spans.size(), 4u);
  const SpanRecord& done = sink_->spans[0];
  EXPECT_EQ(done.name, "task quantize");
  EXPECT_EQ(done.end - done.start, absl::Seconds(2));
  EXPECT_EQ(TextOf(done, "qamserve.task.name"), "model.layers.0.mlp.up_proj");
  EXPECT_EQ(done.error, "");
  EXPECT_EQ(sink_->spans[1].error, "FILE_IO");
  EXPECT_EQ(sink_->spans[2].error, "LEASE_LAPSED");
  EXPECT_EQ(sink_->spans[3].error, "TENSOR_SHAPE");
  for (const SpanRecord& span : sink_->spans) {
    EXPECT_EQ(HexOf(span.ids.trace_id), "0af7651916cd43dd8448eb211c80319c");
    EXPECT_EQ(span.ids.parent_id, tracer_.BeginNamed(kParent, "jobs/j1").span_id);
  }
}

// Whether or not the job names it, goes on behind it, or comes to a good end.
TEST_F(JobSignalsTest, EveryArtifactIsMeasured) {
  JobSpec ladder, target;
  ladder.ladder = {4.5, 3};
  target.target.kl = 0.3;
  TellArtifact(ladder, 4.5, 12'000, 0.015625);
  TellArtifact(ladder, 3, 300, 0.125);
  EXPECT_THAT(metrics_.Text(), HasSubstr("qamserve_gate_results_total{gate=\"target\",result=\"passed\"} 0\n"));
  TellArtifact(target, 2.5, 45, 0.25);
  // The end of a job adds nothing to what was counted.
  JobRecord job = MakeJob(JobState::kSucceeded);
  job.artifact = "a1";
  TellState(job);
  const std::string text = metrics_.Text();
  for (const char* line :
       {"qamserve_artifact_bytes_total 12345", "qamserve_artifact_kl_nats_sum 0.390625",
        "qamserve_artifact_kl_nats_count 3", "qamserve_artifact_kl_nats_bucket{le=\"0.01\"} 0",
        "qamserve_artifact_kl_nats_bucket{le=\"0.03\"} 1", "qamserve_artifact_bpw_sum 10",
        "qamserve_artifact_bpw_count 3", "qamserve_gate_results_total{gate=\"coverage\",result=\"passed\"} 3",
        "qamserve_gate_results_total{gate=\"reconstruction\",result=\"passed\"} 3",
        "qamserve_gate_results_total{gate=\"quality\",result=\"passed\"} 3",
        "qamserve_gate_results_total{gate=\"target\",result=\"passed\"} 1"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
  EXPECT_EQ(Lines().at(0)["artifact"], "a1");
}

TEST_F(JobSignalsTest, AJobThatSucceededIsCountedAndTraced) {
  TellState(MakeJob(JobState::kRunning));
  EXPECT_TRUE(sink_->spans.empty());
  JobRecord job = MakeJob(JobState::kSucceeded);
  job.artifact = "a1";
  TellState(job);
  EXPECT_THAT(metrics_.Text(), HasSubstr("qamserve_jobs_finished_total{kind=\"quantize\",state=\"succeeded\"} 1\n"));
  ASSERT_EQ(sink_->spans.size(), 1u);
  const SpanRecord& span = sink_->spans[0];
  EXPECT_EQ(span.name, "job quantize");
  EXPECT_EQ(span.start, absl::FromUnixMillis(1'000'000));
  EXPECT_EQ(span.end, absl::FromUnixMillis(1'009'000));
  EXPECT_EQ(HexOf(span.ids.parent_id), "b7ad6b7169203331");
  EXPECT_EQ(TextOf(span, "qamserve.artifact"), "a1");
  EXPECT_EQ(TextOf(span, "qamserve.project"), "team");
  ASSERT_EQ(span.events.size(), 1u);
  EXPECT_EQ(span.events[0].time, absl::FromUnixMillis(1'002'000));
}

TEST_F(JobSignalsTest, AJobThatFailedSaysWhy) {
  JobRecord job = MakeJob(JobState::kFailed);
  job.error = ErrorFromStatus(InvalidArgument("TENSOR_SHAPE", "a tensor is wrong"));
  TellState(job);
  EXPECT_THAT(metrics_.Text(), HasSubstr("qamserve_jobs_finished_total{kind=\"quantize\",state=\"failed\"} 1\n"));
  EXPECT_EQ(Lines().at(0)["reason"], "TENSOR_SHAPE");
  EXPECT_EQ(Lines().at(0)["message"], "a tensor is wrong");
  ASSERT_EQ(sink_->spans.size(), 1u);
  EXPECT_EQ(sink_->spans[0].error, "TENSOR_SHAPE");
}

// Tracing is on, but the call that made the job was not sampled.
TEST_F(JobSignalsTest, WhatIsNotSampledIsNotTraced) {
  JobRecord job = MakeJob(JobState::kSucceeded);
  job.trace_parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
  TellState(job);
  EXPECT_TRUE(sink_->spans.empty());
  EXPECT_FALSE(Lines().at(0).contains("trace"));
}

}  // namespace
}  // namespace qamserve
