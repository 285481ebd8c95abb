#include "client/qamctl/watch_view.h"

#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <algorithm>
#include <cctype>
#include <thread>

#include "client/qamctl/errors.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr double kLineSeconds = 5;
constexpr int kBarCells = 30;
constexpr int kColumnsForShapes = 60;
constexpr absl::Duration kRefreshEvery = absl::Seconds(1);
constexpr size_t kTensorsShown = 6;
// A rate over less time is noise.
constexpr double kMinRateSeconds = 0.5;

// "quantize 45%", "queued, position 2, waiting for a worker".
std::string StageText(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  if (job.state() == v1::JOB_STATE_QUEUED) {
    std::string text = fmt::format("queued, position {}", progress.queue_position());
    if (!progress.waiting_for().empty()) text += ", waiting for " + progress.waiting_for();
    return text;
  }
  if (progress.stage().empty() || IsFinal(job.state())) return "";
  return fmt::format("{} {:.0f}%", progress.stage(), 100 * progress.stage_fraction());
}

absl::Status StatusOfEnd(const v1::Job& job) {
  if (job.state() == v1::JOB_STATE_SUCCEEDED) return absl::OkStatus();
  const std::string reason = job.error().reason().empty() ? "JOB_" + StateName(job.state()) : job.error().reason();
  std::string state = StateName(job.state());
  std::transform(state.begin(), state.end(), state.begin(), [](unsigned char c) { return std::tolower(c); });
  std::string message = fmt::format("{} is {}", job.name(), state);
  if (!job.error().message().empty()) message += ": " + job.error().message();
  if (job.state() != v1::JOB_STATE_REJECTED) {
    message += fmt::format("; `qamctl jobs retry {}` goes on from the tasks that are done", job.name());
  }
  return MakeError(absl::StatusCode::kAborted, reason, std::move(message));
}

}  // namespace

std::string StateName(v1::JobState state) { return WithoutPrefix(v1::JobState_Name(state), "JOB_STATE_"); }

void WatchView::Learn(const v1::Job& job) {
  for (const auto& tensor : job.tensors()) {
    const double weights = static_cast<double>(tensor.rows()) * static_cast<double>(tensor.cols());
    bits_ += weights * tensor.bpw();
    weights_ += weights;
    ++tensors_done_;
    last_.push_back(tensor);
    if (last_.size() > kTensorsShown) last_.pop_front();
  }
  const double now = session_.terminal().now_seconds();
  if (rate_start_ < 0 || job.progress().weights_done() < rate_weights_) {
    rate_start_ = now;
    rate_weights_ = job.progress().weights_done();
    rate_end_weights_ = rate_weights_;
  }
  if (job.progress().weights_done() > rate_end_weights_) {
    // Stages before the first weight must not dilute the rate.
    if (rate_end_weights_ == rate_weights_ && rate_weights_ == 0 && rate_end_ < 0) rate_start_ = last_change_;
    rate_end_ = now;
    rate_end_weights_ = job.progress().weights_done();
  }
  last_change_ = now;
  job_ = job;
  job_.clear_tensors();
}

double WatchView::Fraction() const {
  const v1::JobProgress& progress = job_.progress();
  if (progress.tasks_total() <= 0) return 0;
  return static_cast<double>(progress.tasks_done()) / progress.tasks_total();
}

double WatchView::BpwSoFar() const { return weights_ > 0 ? bits_ / weights_ : 0; }

double WatchView::WeightsPerSecond() const {
  const double seconds = rate_end_ - rate_start_;
  return seconds >= kMinRateSeconds ? static_cast<double>(rate_end_weights_ - rate_weights_) / seconds : 0;
}

std::string WatchView::PlainLine() const {
  const v1::JobProgress& progress = job_.progress();
  std::string line = fmt::format("{:>6.1f}s  {}", session_.terminal().now_seconds() - start_, StateName(job_.state()));
  if (const std::string stage = StageText(job_); !stage.empty()) line += "  " + stage;
  if (progress.tasks_total() > 0) line += fmt::format("  tasks {}/{}", progress.tasks_done(), progress.tasks_total());
  if (tensors_done_ > 0) line += fmt::format("  tensors {}/{}", tensors_done_, job_.estimate().tensors());
  if (BpwSoFar() > 0) line += fmt::format("  {:.3f} bpw", BpwSoFar());
  if (WeightsPerSecond() > 0) line += fmt::format("  {} weights/s", HumanCount(WeightsPerSecond()));
  if (!IsFinal(job_.state()) && progress.eta_seconds() >= 0 && job_.state() != v1::JOB_STATE_QUEUED) {
    line += "  ETA " + HumanSeconds(progress.eta_seconds());
  }
  return line;
}

std::vector<std::string> WatchView::Lines(const ScreenSize& screen) const {
  const v1::JobProgress& progress = job_.progress();
  const int columns = screen.columns - 1;
  std::vector<std::string> lines;
  const auto add = [&](const std::vector<std::string>& parts) {
    for (std::string& line : Flow(parts, columns)) lines.push_back(std::move(line));
  };
  add({job_.name(), job_.kind(), Shown(job_.display_name()), StateName(job_.state()), StageText(job_)});
  std::vector<std::string> parts = {
      fmt::format("{} {:3.0f}%", Bar(Fraction(), std::clamp(columns / 2, 10, kBarCells)), 100 * Fraction()),
      fmt::format("tasks {}/{}", progress.tasks_done(), progress.tasks_total())};
  if (!IsFinal(job_.state())) parts.push_back("ETA " + HumanSeconds(progress.eta_seconds()));
  parts.push_back("elapsed " + HumanSeconds(session_.terminal().now_seconds() - start_));
  add(parts);
  parts = {fmt::format("tensors {}/{}", tensors_done_, std::max(tensors_done_, job_.estimate().tensors()))};
  if (BpwSoFar() > 0) parts.push_back(fmt::format("{:.3f} bpw", BpwSoFar()));
  if (WeightsPerSecond() > 0) parts.push_back(HumanCount(WeightsPerSecond()) + " weights/s");
  add(parts);
  AddTensors(screen, lines);
  return lines;
}

// The newest tensors below `lines`, as many as there is room for. On a narrow screen shapes are left out and names are
// cut in the middle, so that the figures stay.
void WatchView::AddTensors(const ScreenSize& screen, std::vector<std::string>& lines) const {
  const int room = screen.rows - 2 - static_cast<int>(lines.size());  // a row for the header and one for the cursor
  if (room < 1 || last_.empty()) return;
  const bool shapes = screen.columns >= kColumnsForShapes;
  std::vector<Table::Column> columns = {{"last tensors"}, {"bpw", Align::kRight}, {"distortion", Align::kRight}};
  if (shapes) columns.insert(columns.begin() + 1, Table::Column{"shape", Align::kRight});
  Table table(std::move(columns));
  // What "  5.500  0.001250" and its header take, and a shape of six digits each way.
  const int names = std::max(8, screen.columns - 1 - 19 - (shapes ? 15 : 0));
  const size_t first = last_.size() - std::min(last_.size(), static_cast<size_t>(room));
  for (size_t i = first; i < last_.size(); ++i) {
    const v1::TensorReport& tensor = last_[i];
    std::vector<std::string> row = {ClipMiddle(tensor.name(), names)};
    if (shapes) row.push_back(fmt::format("{}x{}", tensor.rows(), tensor.cols()));
    row.push_back(fmt::format("{:.3f}", tensor.bpw()));
    row.push_back(fmt::format("{:.6f}", tensor.distortion()));
    table.Add(row);
  }
  for (std::string& line : table.ToLines()) lines.push_back(std::move(line));
}

void WatchView::Redraw() {
  const ScreenSize screen = session_.terminal().screen();
  live_.Draw(Lines(screen), screen);
}

void WatchView::Refresh() {
  if (!session_.json() && session_.terminal().out_tty && !job_.name().empty()) Redraw();
}

absl::Status WatchView::Update(const v1::Job& job) {
  if (session_.json()) return session_.PrintJson(job);
  Learn(job);
  const Terminal& terminal = session_.terminal();
  const std::string stage = StateName(job_.state()) + job_.progress().stage();
  const bool new_stage = stage != last_stage_;
  const double pause = terminal.out_tty ? kRedrawSeconds : kLineSeconds;
  if (!new_stage && terminal.now_seconds() - last_drawn_ < pause) return absl::OkStatus();
  last_stage_ = stage;
  last_drawn_ = terminal.now_seconds();
  if (terminal.out_tty) {
    Redraw();
  } else {
    session_.Print(PlainLine());
  }
  return absl::OkStatus();
}

void WatchView::Retry(const absl::Status& status) {
  session_.Note(
      fmt::format("lost the server ({}); the job goes on when it is back, and so does this watch", MessageOf(status)));
  live_.Keep();
}

namespace {

std::string Origin(const std::string& text_source) {
  if (text_source == "text") return "from the text given";
  return (text_source == "own samples" ? "the model's " : "from the ") + text_source;
}

}  // namespace

void PrintQuality(Session& session, const v1::QualityReport& quality) {
  if (quality.scored_tokens() == 0) {
    session.Print("quality      not measured");
    return;
  }
  session.Print(fmt::format("measured on  {} windows of {} tokens, {} scored, {}{}{}", quality.windows(),
                            quality.window_tokens(), quality.scored_tokens(), Origin(quality.text_source()),
                            quality.chat_template() ? ", in its chat template" : "",
                            quality.kernels().empty() ? "" : ", " + quality.kernels() + " kernels"));
  // 1.96 standard errors: 95 % under a normal law.
  session.Print(fmt::format("perplexity   {:.4f} unquantized, {:.4f} quantized: {:+.3f} % ± {:.3f} % (95 %)",
                            quality.base_perplexity(), quality.quantized_perplexity(),
                            100 * quality.perplexity_change(), 196 * quality.perplexity_change_stderr()));
  session.Print(fmt::format("KL           mean {:.5f} nats a token, 95 % [{:.5f}, {:.5f}]", quality.kl_mean(),
                            quality.kl_ci95_low(), quality.kl_ci95_high()));
  session.Print(fmt::format("             p50 {:.5f}  p90 {:.5f}  p99 {:.5f}  p99.9 {:.5f}  max {:.5f}",
                            quality.kl_p50(), quality.kl_p90(), quality.kl_p99(), quality.kl_p999(), quality.kl_max()));
  session.Print(fmt::format("top-1        {:.2f} % the same token", 100 * quality.top1_agreement()));
}

void PrintCandidates(Session& session, const v1::Job& job) {
  if (session.json() || (job.candidates_size() < 2 && job.kind() != "study")) return;
  Table table({{"METHOD"},
               {"BPW", Align::kRight},
               {"SIZE", Align::kRight},
               {"KL", Align::kRight},
               {"95 %"},
               {"PPL", Align::kRight},
               {"TOP-1", Align::kRight},
               {"ARTIFACT"},
               {"NOTE"}});
  for (const v1::Candidate& c : job.candidates()) {
    const v1::QualityReport& quality = c.quality();
    table.Add({c.method(), fmt::format("{:.3f}", c.bpw()), HumanBytes(static_cast<double>(c.artifact_bytes())),
               fmt::format("{:.5f}", quality.kl_mean()),
               fmt::format("{:.5f}-{:.5f}", quality.kl_ci95_low(), quality.kl_ci95_high()),
               fmt::format("{:+.2f} %", 100 * quality.perplexity_change()),
               fmt::format("{:.2f} %", 100 * quality.top1_agreement()), ShortName(c.artifact()), c.note()});
  }
  session.terminal().out << table.ToString();
}

absl::Status PrintEstimate(Session& session, const v1::Job& job) {
  if (session.json()) return session.PrintJson(job);
  const v1::Estimate& estimate = job.estimate();
  session.Print("the request is good; nothing was started");
  session.Print(fmt::format("artifact     {} ({} bytes)", HumanBytes(static_cast<double>(estimate.artifact_bytes())),
                            estimate.artifact_bytes()));
  session.Print(fmt::format("tensors      {}, {:.3f} bpw with norms and scales", estimate.tensors(), estimate.bpw()));
  session.Print(fmt::format("memory       {} at most", HumanBytes(static_cast<double>(estimate.peak_memory_bytes()))));
  session.Print(fmt::format("disk         {}", HumanBytes(static_cast<double>(estimate.disk_bytes()))));
  session.Print(fmt::format(
      "time         {}", estimate.seconds() > 0 ? HumanSeconds(estimate.seconds()) : "not known yet on this machine"));
  return absl::OkStatus();
}

void PrintOutcome(Session& session, const v1::Job& job) {
  Terminal& terminal = session.terminal();
  PrintCandidates(session, job);
  if (job.kind() == "study" || job.spec().ladder_size() > 0) {
    if (job.state() == v1::JOB_STATE_SUCCEEDED) {
      session.Note(fmt::format("next: qamctl study table {} --format html -o study.html", job.name()));
    }
    return;
  }
  if (job.state() == v1::JOB_STATE_SUCCEEDED) {
    session.Print(fmt::format("{} {}", Green(terminal, "done:"), Bold(terminal, job.artifact())));
  }
  if (job.estimate().artifact_bytes() > 0 && !job.spec().has_target()) {
    session.Print(fmt::format("size         {}, {:.3f} bpw",
                              HumanBytes(static_cast<double>(job.estimate().artifact_bytes())), job.estimate().bpw()));
  }
  if (job.has_quality()) PrintQuality(session, job.quality());
  if (job.state() != v1::JOB_STATE_SUCCEEDED || job.artifact().empty()) return;
  const std::string name = ShortName(job.artifact());
  session.Note("next:");
  session.Note(fmt::format("  qamctl report {}", name));
  session.Note(fmt::format("  qamctl load {} --name NAME", name));
}

namespace {

// Refreshes a view now and then on a thread of its own. `mutex` guards the view.
class Refresher {
 public:
  Refresher(absl::Mutex& mutex, WatchView& view) : mutex_(mutex), view_(view), thread_([this] { Run(); }) {}
  ~Refresher() {
    {
      absl::MutexLock lock(&mutex_);
      over_ = true;
    }
    thread_.join();
  }
  Refresher(const Refresher&) = delete;
  Refresher& operator=(const Refresher&) = delete;

 private:
  void Run() {
    absl::MutexLock lock(&mutex_);
    while (!mutex_.AwaitWithTimeout(absl::Condition(&over_), kRefreshEvery)) view_.Refresh();
  }

  absl::Mutex& mutex_;
  WatchView& view_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace

absl::Status WatchToEnd(Session& session, const std::string& name) {
  // The table begins with it.
  if (!session.terminal().out_tty) session.Note(name);
  Interruptible interruptible(session.terminal().interrupts);
  WatchView view(session);
  absl::Mutex mutex;  // guards `view`, and with it the streams
  absl::Status printed;
  absl::StatusOr<v1::Job> job;
  {
    const Refresher refresher(mutex, view);
    job = session.client().WatchJob(
        name,
        [&](const v1::Job& change) {
          absl::MutexLock lock(&mutex);
          const absl::Status status = view.Update(change);
          if (printed.ok()) printed = status;
        },
        [&](const absl::Status& status) {
          absl::MutexLock lock(&mutex);
          view.Retry(status);
        },
        interruptible.cancellation());
  }
  if (!job.ok() && interruptible.interrupted()) {
    return Cancelled(kInterrupted,
                     "{} goes on without you: `qamctl watch {}` follows it again, `qamctl cancel {}` stops it", name,
                     name, name);
  }
  RETURN_IF_ERROR(job.status());
  RETURN_IF_ERROR(printed);
  view.Refresh();
  PrintOutcome(session, *job);
  return StatusOfEnd(*job);
}

}  // namespace qamserve::qamctl
