#include "server/jobs/job.h"

#include <gtest/gtest.h>

#include <map>
#include <utility>

#include "core/base/digest.h"
#include "server/jobs/job_spec.h"

namespace qamserve {
namespace {

// The drawing in job.h, again: every pair that is not here must be refused.
std::map<std::pair<JobState, JobEvent>, JobState> JobArrows() {
  using S = JobState;
  using E = JobEvent;
  return {{{S::kQueued, E::kStart}, S::kRunning},       {{S::kRunning, E::kGate}, S::kGating},
          {{S::kRunning, E::kLoseWorkers}, S::kQueued}, {{S::kGating, E::kSucceed}, S::kSucceeded},
          {{S::kGating, E::kReject}, S::kRejected},     {{S::kQueued, E::kFail}, S::kFailed},
          {{S::kRunning, E::kFail}, S::kFailed},        {{S::kGating, E::kFail}, S::kFailed},
          {{S::kQueued, E::kCancel}, S::kCancelled},    {{S::kRunning, E::kCancel}, S::kCancelled},
          {{S::kGating, E::kCancel}, S::kCancelled},    {{S::kFailed, E::kRetry}, S::kQueued},
          {{S::kCancelled, E::kRetry}, S::kQueued}};
}

TEST(JobMachineTest, FollowsTheDrawingAndNothingElse) {
  const auto arrows = JobArrows();
  for (int s = 1; s <= 7; ++s) {
    for (int e = 0; e <= static_cast<int>(JobEvent::kRetry); ++e) {
      const auto state = static_cast<JobState>(s);
      const auto event = static_cast<JobEvent>(e);
      JobRecord job;
      job.id = "j";
      job.state = state;
      const absl::Status status = JobMachine(job).Apply(event, 77, Internal("WHY", "because"));
      const auto arrow = arrows.find({state, event});
      if (arrow == arrows.end()) {
        EXPECT_EQ(ReasonOf(status), "JOB_STATE") << JobStateName(state) << " " << JobEventName(event);
        EXPECT_EQ(job.state, state);
        EXPECT_EQ(job.ended_ms, 0);
      } else {
        EXPECT_TRUE(status.ok()) << status;
        EXPECT_EQ(job.state, arrow->second);
        EXPECT_EQ(job.ended_ms, IsFinal(job.state) ? 77 : 0);
      }
    }
  }
}

TEST(JobMachineTest, KeepsErrorsAndTimes) {
  JobRecord job;
  ASSERT_TRUE(JobMachine(job).Apply(JobEvent::kStart, 5).ok());
  EXPECT_EQ(job.started_ms, 5);
  ASSERT_TRUE(JobMachine(job).Apply(JobEvent::kFail, 6, DataLoss("BAD", "tensor x")).ok());
  EXPECT_EQ(job.error.reason, "BAD");
  EXPECT_EQ(StatusFromError(job.error), DataLoss("BAD", "tensor x"));
  ASSERT_TRUE(JobMachine(job).Apply(JobEvent::kRetry, 7).ok());
  EXPECT_TRUE(job.error.ok());
  EXPECT_EQ(job.ended_ms, 0);
  ASSERT_TRUE(JobMachine(job).Apply(JobEvent::kStart, 8).ok());
  EXPECT_EQ(job.started_ms, 5) << "the first start counts";
}

TEST(TaskMachineTest, FollowsTheDrawingAndNothingElse) {
  using S = TaskState;
  using E = TaskEvent;
  const std::map<std::pair<S, E>, S> arrows = {
      {{S::kReady, E::kLease}, S::kLeased},   {{S::kLeased, E::kComplete}, S::kDone},
      {{S::kLeased, E::kRelease}, S::kReady}, {{S::kLeased, E::kGiveUp}, S::kFailed},
      {{S::kFailed, E::kReset}, S::kReady},   {{S::kDone, E::kReset}, S::kReady}};
  for (int s = 1; s <= 4; ++s) {
    for (int e = 0; e <= static_cast<int>(E::kReset); ++e) {
      TaskRecord task;
      task.state = static_cast<S>(s);
      task.lease_id = 9;
      task.blobs = {"b"};
      const absl::Status status = TaskMachine(task).Apply(static_cast<E>(e), Internal("WHY", "because"));
      const auto arrow = arrows.find({static_cast<S>(s), static_cast<E>(e)});
      if (arrow == arrows.end()) {
        EXPECT_EQ(ReasonOf(status), "TASK_STATE");
        EXPECT_EQ(task.state, static_cast<S>(s));
        continue;
      }
      EXPECT_TRUE(status.ok());
      EXPECT_EQ(task.state, arrow->second);
      EXPECT_EQ(task.lease_id != 0, task.state == S::kLeased || task.state == S::kDone);
      EXPECT_EQ(task.blobs.empty(), static_cast<E>(e) == E::kReset);
    }
  }
}

TEST(TaskMachineTest, OnlyAResetForgetsWhatWentWrong) {
  TaskRecord task;
  task.state = TaskState::kLeased;
  task.attempts = 3;
  task.lapses = 2;
  task.progress = 0.5;
  ASSERT_TRUE(TaskMachine(task).Apply(TaskEvent::kGiveUp, Internal("WHY", "because")).ok());
  EXPECT_EQ(task.attempts, 3);
  EXPECT_EQ(task.lapses, 2);
  EXPECT_EQ(task.progress, 0);
  ASSERT_TRUE(TaskMachine(task).Apply(TaskEvent::kReset).ok());
  EXPECT_EQ(task.attempts, 0);
  EXPECT_EQ(task.lapses, 0);
}

TEST(TaskBackoffTest, BridgesMinutesWhereSomethingElseIsDown) {
  const absl::Status away = Unavailable("STORE_UNAVAILABLE", "the store is away");
  EXPECT_EQ(MaxTaskAttempts(ResourceExhausted("DISK_FULL", "full")), kMaxTaskAttempts);
  int64_t rested_ms = 0;
  for (int32_t attempt = 1; attempt < MaxTaskAttempts(away); ++attempt) rested_ms += TaskBackoffMs(attempt);
  EXPECT_GE(rested_ms, int64_t{5} * 60 * 1000);
}

// With the codes that the store gives them.
TEST(StoreFaultTest, IsTheStoresStateAndNotWhatWasAskedOfIt) {
  EXPECT_FALSE(IsStoreFault(absl::OkStatus()));
  EXPECT_TRUE(IsStoreFault(Unavailable("STORE_UNAVAILABLE", "it does not answer")));
  for (const char* reason :
       {"STORE_READ_ONLY", "STORE_CREDENTIALS", "STORE_MISSING", "STORE_ENCODING", "STORE_VERSION"}) {
    const absl::Status error = FailedPrecondition(reason, "the server is not as it should be");
    EXPECT_TRUE(IsStoreFault(error)) << reason;
    EXPECT_TRUE(IsStoreFault(Annotate(error, "task 3"))) << reason;
    EXPECT_FALSE(IsRetryable(error)) << reason << ": only a store that is waited for is tried again";
  }
  for (const absl::Status& error :
       {DataLoss("STORE_CORRUPT", "a row cannot be read"), InvalidArgument("STORE_VALUE", "a zero byte"),
        AlreadyExists("STORE_CONSTRAINT", "there is one"), Aborted("STORE_CONFLICT", "another was faster"),
        Aborted("LEASE_LOST", "another has it"), ResourceExhausted("DISK_FULL", "whose disk is not said"),
        Unavailable("S3_UNAVAILABLE", "the object store"), FailedPrecondition("GATE_QUALITY", "too far off")}) {
    EXPECT_FALSE(IsStoreFault(error)) << error;
  }
}

TEST(TaskBackoffTest, Doubles) {
  EXPECT_EQ(TaskBackoffMs(1), 1000);
  EXPECT_EQ(TaskBackoffMs(2), 2000);
  EXPECT_EQ(TaskBackoffMs(4), 8000);
  EXPECT_EQ(TaskBackoffMs(7), kMaxTaskBackoffMs);
  EXPECT_EQ(TaskBackoffMs(1000), kMaxTaskBackoffMs);
}

TEST(JobSpecTest, NormalizesAndComesBackFromJson) {
  JobSpec spec;
  spec.checkpoint = std::string(64, 'a');
  spec.max_kl = 0.5;
  spec.quantize.bpw = 4;
  spec.calibration.text = Sha256Hex("t");
  const auto normal = NormalizeJobSpec(spec, 512);
  ASSERT_TRUE(normal.ok()) << normal.status();
  EXPECT_EQ(normal->calibration.windows, kDefaultWindows);
  EXPECT_EQ(normal->calibration.window_tokens, 512) << "bounded by the context";
  EXPECT_EQ(normal->quantize.window_tokens, 512);
  const std::string json = JobSpecToJson(*normal);
  const auto back = JobSpecFromJson(json);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(JobSpecToJson(*back), json);
  EXPECT_EQ(JobKey(*back), JobKey(*normal));
  // Asking for the defaults by number is the same job.
  spec.calibration.windows = kDefaultWindows;
  spec.evaluation.window_tokens = 512;
  EXPECT_EQ(JobKey(*NormalizeJobSpec(spec, 512)), JobKey(*normal));
  spec.quantize.seed = 2;
  EXPECT_NE(JobKey(*NormalizeJobSpec(spec, 512)), JobKey(*normal));
}

TEST(JobSpecTest, ErrorFeedbackIsCalibratedOnMoreTextUnlessToldOtherwise) {
  JobSpec spec;
  spec.checkpoint = std::string(64, 'a');
  spec.quantize.codec = Codec::kTrellis;
  spec.quantize.bpw = 4;
  spec.quantize.channel_scale = false;
  spec.quantize.error_feedback = true;
  const auto normal = NormalizeJobSpec(spec, 512);
  ASSERT_TRUE(normal.ok()) << normal.status();
  EXPECT_EQ(normal->calibration.windows, kDefaultFeedbackWindows);
  const auto back = JobSpecFromJson(JobSpecToJson(*normal));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->quantize.codec, Codec::kTrellis);
  EXPECT_TRUE(back->quantize.error_feedback);
  spec.calibration.windows = 3;
  EXPECT_EQ(NormalizeJobSpec(spec, 512)->calibration.windows, 3);
  spec.quantize.bpw = 6;
  EXPECT_EQ(ReasonOf(NormalizeJobSpec(spec, 512).status()), "BPW_RANGE") << "the trellis ends at 5.5";
}

TEST(JobSpecTest, APlainTextHasTheKeyOfVersionsWithoutTemplates) {
  JobSpec spec;
  spec.checkpoint = std::string(64, 'a');
  const JobSpec normal = *NormalizeJobSpec(spec, 512);
  JobSpec plain = normal, shaped = normal;
  plain.calibration.chat_template = false;
  shaped.calibration.chat_template = true;
  EXPECT_EQ(JobSpecToJson(normal).find("chat_template"), std::string::npos);
  EXPECT_EQ(JobKey(plain), JobKey(normal));
  EXPECT_NE(JobKey(shaped), JobKey(normal));
  EXPECT_EQ(JobSpecFromJson(JobSpecToJson(shaped))->calibration.chat_template, true);
  EXPECT_EQ(JobSpecFromJson(JobSpecToJson(shaped))->evaluation.chat_template, false) << "a job of an earlier version";
}

TEST(JobSpecTest, FullPrecisionHasNothingToSearch) {
  JobSpec spec;
  spec.checkpoint = std::string(64, 'a');
  spec.quantize = {.codec = Codec::kFull, .bpw = 16, .channel_scale = false, .rotation = RotationKind::kNone};
  EXPECT_TRUE(NormalizeJobSpec(spec, 512).ok()) << NormalizeJobSpec(spec, 512).status();
  JobSpec target = spec, ladder = spec;
  target.target.kl = 0.1;
  ladder.ladder = {16};
  for (const auto& [field, job] : {std::pair("target", target), std::pair("ladder", ladder)}) {
    const absl::Status status = NormalizeJobSpec(job, 512).status();
    EXPECT_EQ(ReasonOf(status), "CODEC_OPTION") << field;
    EXPECT_TRUE(MessageOf(status).starts_with(field)) << status;
  }
}

TEST(JobSpecTest, NamesFieldAndLimit) {
  auto reason = [](auto change) {
    JobSpec spec;
    change(spec);
    return ReasonOf(NormalizeJobSpec(spec, 512).status());
  };
  EXPECT_EQ(reason([](JobSpec& s) { s.evaluation.windows = -1; }), "WINDOWS_RANGE");
  EXPECT_EQ(reason([](JobSpec& s) { s.calibration.windows = kMaxWindows + 1; }), "WINDOWS_RANGE");
  EXPECT_EQ(reason([](JobSpec& s) { s.evaluation.window_tokens = 513; }), "WINDOW_TOKENS_RANGE");
  EXPECT_EQ(reason([](JobSpec& s) { s.evaluation.window_tokens = 1; }), "WINDOW_TOKENS_RANGE");
  EXPECT_EQ(reason([](JobSpec& s) { s.evaluation.text = "abc"; }), "RESOURCE_NAME");
  EXPECT_EQ(reason([](JobSpec& s) { s.max_kl = -0.1; }), "MAX_KL_RANGE");
  EXPECT_EQ(ReasonOf(JobSpecFromJson("{").status()), "STORE_CORRUPT");
  EXPECT_EQ(ReasonOf(JobSpecFromJson("{}").status()), "STORE_CORRUPT");
}

}  // namespace
}  // namespace qamserve
