// What following a job shows, and how it ends.
#include <atomic>
#include <chrono>
#include <thread>

#include "tests/client/qamctl_fixture.h"

namespace qamserve::qamctl {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

v1::Job Running(int tasks_done, const std::string& tensor) {
  v1::Job job;
  job.set_name("jobs/1");
  job.set_kind("quantize");
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_estimate()->set_tensors(3);
  v1::JobProgress& progress = *job.mutable_progress();
  progress.set_stage("quantize");
  progress.set_tasks_done(tasks_done);
  progress.set_tasks_total(4);
  progress.set_weights_done(tasks_done * 1'000'000);
  progress.set_stage_fraction(tasks_done / 4.0);
  progress.set_eta_seconds(12);
  v1::TensorReport& report = *job.add_tensors();
  report.set_name(tensor);
  report.set_rows(10);
  report.set_cols(20);
  report.set_bpw(5.5);
  report.set_distortion(0.00125);
  return job;
}

v1::Job Succeeded() {
  v1::Job job = Running(4, "c");
  job.set_state(v1::JOB_STATE_SUCCEEDED);
  job.set_artifact("artifacts/" + std::string(64, 'a'));
  job.mutable_quality()->set_scored_tokens(100);
  job.mutable_quality()->set_kl_mean(0.0142);
  return job;
}

TEST_F(QamctlTest, WatchOnAPipePrintsPlainLinesAndWhatToTypeNext) {
  server_.state().watch = {Running(1, "a"), Running(2, "b"), Succeeded()};
  const Result result = Run({"quantize", "large", "--watch"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("RUNNING  quantize 25%  tasks 1/4  tensors 1/3  5.500 bpw"),
                                HasSubstr("done: artifacts/aaaa"), HasSubstr("mean 0.01420"), Not(HasSubstr("\x1b"))));
  EXPECT_THAT(result.err, AllOf(HasSubstr("qamctl load artifacts/aaaaaaaaaaaa --name"), Not(HasSubstr("\x1b"))));
}

TEST_F(QamctlTest, WatchOnATtyRedrawsATableOfTensors) {
  tty_ = true;
  server_.state().watch = {Running(1, "model.layers.0.q"), Running(2, "model.layers.0.k"), Succeeded()};
  const Result result = Run({"watch", "jobs/1"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("last tensors"), HasSubstr("model.layers.0.q"), HasSubstr("0.001250"),
                                HasSubstr("\x1b["), HasSubstr("100%")));
  std::istringstream lines(result.out);
  for (std::string line; std::getline(lines, line) && !line.starts_with("done:");) EXPECT_LE(line.size(), 100u) << line;
}

TEST_F(QamctlTest, ARejectedJobFailsWithItsReason) {
  v1::Job rejected = Running(4, "c");
  rejected.set_state(v1::JOB_STATE_REJECTED);
  rejected.mutable_error()->set_reason("QUALITY_GATE");
  rejected.mutable_error()->set_message("mean KL 0.7 is above 0.5");
  server_.state().watch = {rejected};
  const Result result = Run({"watch", "jobs/1"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, AllOf(HasSubstr("jobs/1 is rejected: mean KL 0.7 is above 0.5"), HasSubstr("QUALITY_GATE"),
                                Not(HasSubstr("retry"))));
}

TEST_F(QamctlTest, CtrlCLeavesTheJobRunningAndSaysSo) {
  server_.state().watch = {Running(1, "a")};
  server_.state().watch_hangs = true;
  // Fires until the watch has armed itself and is stopped by it.
  std::atomic<bool> over = false;
  std::thread ctrl_c([&] {
    while (!over) {
      interrupts_.Fire();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  const Result result = Run({"watch", "jobs/1"});
  over = true;
  ctrl_c.join();
  EXPECT_EQ(result.code, kExitInterrupted);
  EXPECT_THAT(result.err, AllOf(HasSubstr("goes on without you"), HasSubstr("qamctl watch jobs/1"),
                                HasSubstr("qamctl cancel jobs/1")));
}

TEST_F(QamctlTest, CtrlCWithNothingArmedIsForTheProgram) { EXPECT_FALSE(interrupts_.Fire()); }

TEST_F(QamctlTest, UploadShowsABarOnATtyOnly) {
  const std::string model = WriteFile("m.gguf", std::string(100'000, 'w'));
  EXPECT_THAT(Run({"upload", model}).err, Not(HasSubstr("[")));
  server_.state().received.clear();
  tty_ = true;
  EXPECT_THAT(Run({"upload", model}).err, AllOf(HasSubstr("\r"), HasSubstr("sending m.gguf"), HasSubstr("100%")));
}

}  // namespace
}  // namespace qamserve::qamctl
