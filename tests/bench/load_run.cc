#include "tests/bench/load_run.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <utility>

#include "core/base/rng.h"

namespace qamserve {
namespace {

// Ids from here on are text in the models that are measured; those before are special.
constexpr int kFirstId = 64;
constexpr size_t kMaxErrors = 5;
// Against a server that answers everything at once with next to nothing.
constexpr int64_t kMaxRequests = 1'000'000;
constexpr absl::Duration kTick = absl::Seconds(1);

// Resident bytes of a process; 0 if it is gone.
int64_t ResidentBytes(pid_t pid) {
  std::ifstream statm(fmt::format("/proc/{}/statm", pid));
  int64_t total = 0, resident = 0;
  return statm >> total >> resident ? resident * sysconf(_SC_PAGESIZE) : 0;
}

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The smallest value that so many of `values` do not pass; null without values.
nlohmann::json Percentile(const std::vector<float>& sorted, double part) {
  if (sorted.empty()) return nullptr;
  const auto rank = static_cast<size_t>(std::ceil(part * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

nlohmann::json Percentiles(std::vector<float> values) {
  std::sort(values.begin(), values.end());
  return {{"p50", Percentile(values, 0.5)}, {"p99", Percentile(values, 0.99)}, {"count", values.size()}};
}

struct Sample {
  absl::Time time;
  int64_t bytes = 0;
};

class LoadRun {
 public:
  LoadRun(const LoadOptions& options, LoadTarget& target) : options_(options), target_(target), rng_(options.seed) {}

  nlohmann::json Run();

 private:
  class Stream;

  bool holds() const { return options_.seconds > 0; }
  void Start(int32_t answer_tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void Watch();
  void CancelRest();
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_ == 0; }

  // --- From streams ---
  void Tokens(Stream& stream, int64_t tokens);
  void Ended(const Stream& stream, const absl::Status& status);
  absl::Status Judge(const Stream& stream, const absl::Status& status) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  nlohmann::json Result();
  nlohmann::json Memory() const;

  const LoadOptions options_;
  LoadTarget& target_;
  absl::Time start_;                          // of the run; this and the next two are set before any stream
  absl::Time begin_;                          // of the window
  absl::Time stop_ = absl::InfiniteFuture();  // no stream is replaced from then on
  std::vector<Sample> samples_;               // this and the next two are of the thread that watches
  double cpu_at_begin_ = 0;
  double client_cpu_ = 0;  // cores

  mutable absl::Mutex mutex_;
  Rng rng_ ABSL_GUARDED_BY(mutex_);
  absl::Time end_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // of the window
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t started_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t lost_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t short_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_ ABSL_GUARDED_BY(mutex_) = 0;
  int answering_ ABSL_GUARDED_BY(mutex_) = 0;
  int answering_max_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_in_window_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<float> ttft_ms_ ABSL_GUARDED_BY(mutex_);
  std::vector<float> inter_token_ms_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> errors_ ABSL_GUARDED_BY(mutex_);
};

// Its fields are used by one call of the target at a time, as the calls come.
class LoadRun::Stream final : public LoadSink {
 public:
  Stream(LoadRun& run, int32_t asked) : asked(asked), run_(run) {}
  void OnTokens(int64_t count) override { run_.Tokens(*this, count); }
  void OnEnd(const absl::Status& status) override { run_.Ended(*this, status); }

  const int32_t asked;
  const absl::Time started = absl::Now();
  absl::Time last;  // message
  int64_t tokens = 0;

 private:
  LoadRun& run_;
};

void LoadRun::Start(int32_t answer_tokens) {
  LoadRequest request{.max_tokens = answer_tokens};
  request.prompt.reserve(static_cast<size_t>(options_.prompt_tokens));
  {
    absl::MutexLock lock(&mutex_);
    ++started_;
    ++running_;
    const auto ids = static_cast<uint64_t>(options_.vocab_tokens - kFirstId);
    for (int i = 0; i < options_.prompt_tokens; ++i) {
      request.prompt.push_back(kFirstId + static_cast<int32_t>(rng_.NextU64() % ids));
    }
  }
  target_.Start(std::move(request), std::make_shared<Stream>(*this, answer_tokens));
}

void LoadRun::Tokens(Stream& stream, int64_t tokens) {
  const absl::Time now = absl::Now();
  const bool first = stream.tokens == 0;
  const auto since = static_cast<float>(absl::ToDoubleMilliseconds(now - (first ? stream.started : stream.last)));
  stream.tokens += tokens;
  stream.last = now;
  absl::MutexLock lock(&mutex_);
  tokens_ += tokens;
  if (now >= begin_ && now <= end_) tokens_in_window_ += tokens;
  if (first) {
    answering_max_ = std::max(answering_max_, ++answering_);
    // Also those that come after the window: to leave them out would leave out the slow ones.
    if (stream.started >= begin_) ttft_ms_.push_back(since);
  } else if (now >= begin_ && now <= end_) {
    inter_token_ms_.push_back(since);
  }
}

absl::Status LoadRun::Judge(const Stream& stream, const absl::Status& status) const {
  if (cancelled_ && !status.ok()) {
    return MakeError(absl::StatusCode::kDeadlineExceeded, "LOAD_TIME",
                     fmt::format("{} of {} tokens came until {} s after the last request", stream.tokens, stream.asked,
                                 options_.finish_seconds));
  }
  if (status.ok() && stream.tokens == 0) return Internal("NO_TOKENS", "the answer has no tokens");
  return status;
}

void LoadRun::Ended(const Stream& stream, const absl::Status& status) {
  const absl::Time now = absl::Now();
  {
    absl::MutexLock lock(&mutex_);
    const absl::Status end = Judge(stream, status);
    if (stream.tokens > 0) --answering_;
    if (end.ok()) {
      ++finished_;
      if (stream.tokens < stream.asked) ++short_;
    } else {
      ++lost_;
      if (errors_.size() < kMaxErrors) errors_.push_back(fmt::format("{}: {}", ReasonOf(end), MessageOf(end)));
    }
    if (!end.ok() || !holds() || now >= stop_ || started_ >= kMaxRequests) {
      end_ = std::min(end_, now);
      --running_;
      return;
    }
  }
  Start(options_.answer_tokens);
  // Only now, so that the run is not idle in between.
  absl::MutexLock lock(&mutex_);
  --running_;
}

// Looks at the server's memory once a tick until no stream is left.
void LoadRun::Watch() {
  const absl::Time last = holds() ? stop_ : begin_;
  const absl::Time give_up = last + absl::Seconds(options_.finish_seconds);
  for (absl::Time tick = start_;; tick += kTick) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithDeadline(absl::Condition(this, &LoadRun::Idle), std::min(tick, give_up))) return;
    }
    if (absl::Now() >= give_up) return CancelRest();
    if (tick > stop_) continue;
    if (options_.pid > 0) samples_.push_back({tick, ResidentBytes(options_.pid)});
    if (tick <= begin_) cpu_at_begin_ = CpuSeconds();
    if (tick > begin_) client_cpu_ = (CpuSeconds() - cpu_at_begin_) / absl::ToDoubleSeconds(tick - begin_);
  }
}

void LoadRun::CancelRest() {
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
  }
  target_.CancelAll();
  // Soon, whatever the server does: breaking off is this side's work alone.
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &LoadRun::Idle));
}

nlohmann::json LoadRun::Memory() const {
  std::vector<Sample> in_window;
  for (const Sample& sample : samples_) {
    if (sample.time >= begin_ && sample.bytes > 0) in_window.push_back(sample);
  }
  if (in_window.empty()) return nullptr;
  const absl::Time fifth = begin_ + absl::Seconds(0.2 * options_.seconds);
  const auto at = std::find_if(in_window.begin(), in_window.end(), [&](const Sample& s) { return s.time >= fifth; });
  const int64_t at_fifth = at != in_window.end() ? at->bytes : in_window.back().bytes;
  const auto largest = std::max_element(in_window.begin(), in_window.end(),
                                        [](const Sample& a, const Sample& b) { return a.bytes < b.bytes; });
  return {{"first", in_window.front().bytes},
          {"at_20_percent", at_fifth},
          {"last", in_window.back().bytes},
          {"max", largest->bytes}};
}

nlohmann::json LoadRun::Result() {
  absl::MutexLock lock(&mutex_);
  const double window = std::max(0.0, absl::ToDoubleSeconds(end_ - begin_));
  nlohmann::json result = {
      {"streams", options_.streams},
      {"prompt_tokens", options_.prompt_tokens},
      {"answer_tokens", options_.answer_tokens},
      {"requests", {{"started", started_}, {"finished", finished_}, {"lost", lost_}, {"short", short_}}},
      {"answering_max", answering_max_},
      {"tokens", tokens_},
      {"window_seconds", window},
      {"tokens_per_second", window > 0 ? static_cast<double>(tokens_in_window_) / window : 0},
      {"ttft_ms", Percentiles(ttft_ms_)},
      {"inter_token_ms", Percentiles(inter_token_ms_)},
      {"client_cpu", client_cpu_},
      {"errors", errors_}};
  if (nlohmann::json memory = Memory(); !memory.is_null()) {
    result["rss_growth"] = memory["last"].get<double>() / memory["at_20_percent"].get<double>() - 1;
    result["rss_bytes"] = std::move(memory);
  }
  return result;
}

nlohmann::json LoadRun::Run() {
  start_ = absl::Now();
  begin_ = holds() ? start_ + absl::Seconds(options_.warm_up_seconds) : start_;
  if (holds()) {
    stop_ = begin_ + absl::Seconds(options_.seconds);
    absl::MutexLock lock(&mutex_);
    end_ = stop_;
  }
  for (int i = 0; i < options_.streams; ++i) {
    const int64_t cut = (int64_t{options_.answer_tokens} * (i + 1) + options_.streams - 1) / options_.streams;
    Start(holds() ? static_cast<int32_t>(cut) : options_.answer_tokens);
  }
  Watch();
  return Result();
}

}  // namespace

nlohmann::json RunLoad(const LoadOptions& options, LoadTarget& target) { return LoadRun(options, target).Run(); }

}  // namespace qamserve
