// What following a job shows, and how it ends.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "client/qamctl/text.h"
#include "client/qamctl/watch_view.h"
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

// What a terminal of 80 columns shows once it has obeyed `text`: cursor up, erase below, start of line, line end.
std::vector<std::string> ScreenAfter(const std::string& text) {
  std::vector<std::string> rows(1);
  size_t row = 0;
  size_t column = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.compare(i, 2, "\x1b[") == 0) {
      const size_t end = text.find_first_of("AJm", i);
      if (text[end] == 'A') row -= std::stoul(text.substr(i + 2, end - i - 2));
      if (text[end] == 'J') {
        rows.resize(row + 1);
        rows[row].resize(column);
      }
      i = end;
    } else if (text[i] == '\r') {
      column = 0;
    } else if (text[i] == '\n') {
      if (++row == rows.size()) rows.emplace_back();
      column = 0;
    } else {
      rows[row].resize(std::max(rows[row].size(), column + 1), ' ');
      rows[row][column++] = text[i];
    }
  }
  return rows;
}

TEST_F(QamctlTest, TheTableIsDrawnOverItself) {
  tty_ = true;
  std::vector<v1::Job>& watch = server_.state().watch;
  for (int i = 0; i < 8; ++i) {
    watch.push_back(Running(i % 4, "tensor" + std::to_string(i)));
    // A new stage is drawn at once.
    watch.back().mutable_progress()->set_stage("stage" + std::to_string(i));
  }
  watch.push_back(Succeeded());
  const Result result = Run({"watch", "jobs/1"});
  EXPECT_THAT(result.out, HasSubstr("tensor0"));
  const std::vector<std::string> screen = ScreenAfter(result.out);
  const auto shown = [&](const std::string& word) {
    return std::count_if(screen.begin(), screen.end(),
                         [&](const std::string& row) { return row.find(word) != std::string::npos; });
  };
  EXPECT_EQ(shown("jobs/1  quantize"), 1) << testing::PrintToString(screen);
  EXPECT_EQ(shown("last tensors"), 1);
  EXPECT_EQ(shown("tensor0"), 0) << "only the newest six";
  EXPECT_EQ(shown("tensor7"), 1);
  EXPECT_EQ(shown("done: artifacts/"), 1);
}

TEST_F(QamctlTest, TheTableFitsTheScreen) {
  tty_ = true;
  v1::Job running = Running(1, "model.layers.17." + std::string(300, 'x') + ".q_proj");
  running.set_display_name("\x1b]0;名前の長いモデル\a" + std::string(60, 'n'));
  server_.state().watch = {running};
  for (int i = 0; i < 5; ++i) server_.state().watch.push_back(running);
  v1::Job cancelled = running;
  cancelled.set_state(v1::JOB_STATE_CANCELLED);
  server_.state().watch.push_back(cancelled);
  for (const ScreenSize size : {ScreenSize{80, 24}, ScreenSize{200, 50}, ScreenSize{40, 24}, ScreenSize{40, 7},
                                ScreenSize{10, 5}, ScreenSize{1, 1}}) {
    screen_ = size;
    const std::string out = Run({"watch", "jobs/1"}).out;
    const std::vector<std::string> rows = ScreenAfter(out);
    // The last row is the cursor's own.
    EXPECT_LE(rows.size(), static_cast<size_t>(std::max(2, size.rows))) << size.columns;
    for (const std::string& row : rows) EXPECT_LT(Columns(row), std::max(2, size.columns)) << row;
    EXPECT_THAT(out, Not(HasSubstr("\x1b]"))) << "a name does not command the terminal";
    if (size.columns < 40 || size.rows < 24) continue;
    EXPECT_THAT(out, AllOf(HasSubstr("CANCELLED"), HasSubstr("model.l"), HasSubstr(".q_proj"), HasSubstr("5.500"),
                           HasSubstr("0.001250"), HasSubstr("tasks 1/4"), HasSubstr("elapsed")))
        << size.columns;
  }
}

TEST_F(QamctlTest, TheTableGoesOnWhileTheJobIsSilent) {
  std::istringstream in;
  std::ostringstream out;
  std::ostringstream err;
  double now = 100;
  Terminal terminal{.in = in, .out = out, .err = err, .interrupts = interrupts_, .now_seconds = [&] { return now; }};
  terminal.out_tty = true;
  Session session(terminal, {});
  WatchView view(session);
  view.Refresh();
  EXPECT_EQ(out.str(), "") << "nothing is known yet";
  ASSERT_TRUE(view.Update(Running(1, "a")).ok());
  EXPECT_THAT(out.str(), HasSubstr("elapsed 0.0 s"));
  now += 7;
  view.Refresh();
  EXPECT_THAT(testing::PrintToString(ScreenAfter(out.str())), AllOf(HasSubstr("7.0 s"), Not(HasSubstr("0.0 s"))));
}

TEST_F(QamctlTest, LinesThatANarrowerWindowWrappedAreDrawnOver) {
  std::ostringstream out;
  LiveLines lines(out);
  lines.Draw({std::string(70, 'a'), "b"}, {.columns = 80, .rows = 24});
  EXPECT_EQ(out.str(), "\r\x1b[J" + std::string(70, 'a') + "\nb\n");
  out.str("");
  lines.Draw({"c"}, {.columns = 30, .rows = 24});
  EXPECT_EQ(out.str(), "\r\x1b[4A\x1b[Jc\n") << "three rows of a and one of b";
  out.str("");
  lines.Keep();
  lines.Draw({"d"}, {.columns = 30, .rows = 24});
  EXPECT_EQ(out.str(), "\r\x1b[Jd\n");
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

TEST_F(QamctlTest, TheBarTakesASecondLineWhereItsFiguresWouldBeCut) {
  const std::string model = WriteFile("SmolLM2-135M-Instruct-and-more.Q4_1.gguf", std::string(100'000, 'w'));
  tty_ = true;
  const Result result = Run({"upload", model});
  EXPECT_THAT(result.err, AllOf(HasSubstr("sending SmolLM2-135M-Instruct-and-more.Q4_1.gguf  ["),
                                HasSubstr("100%\n97.7 KiB of 97.7 KiB"), HasSubstr("ETA")));
  const std::vector<std::string> rows = ScreenAfter(result.err);
  for (const std::string& row : rows) EXPECT_LT(row.size(), 80u) << row;
}

}  // namespace
}  // namespace qamserve::qamctl
