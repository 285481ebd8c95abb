#include <algorithm>
#include <charconv>
#include <chrono>

#include "server/jobs/job_manager.h"
#include "server/jobs/job_teller.h"

namespace qamserve {
namespace {

constexpr std::string_view kRatePrefix = "seconds_per_cost.";
// The weight of the newest task in the running mean of a stage's speed.
constexpr double kRateWeight = 0.3;

// Preparing the texts is no stage of its own to those who watch.
std::string ShownStage(JobKind kind, TaskStage stage) {
  if (stage != TaskStage::kPrepare) return TaskStageName(stage);
  return kind == JobKind::kEvaluate ? "evaluate" : "calibrate";
}

}  // namespace

// --- Views ---

absl::StatusOr<JobView> JobManager::ViewOf(JobRecord job, std::optional<size_t> tensors_from) {
  JobView view;
  view.change = ChangeOf(job.id);
  ASSIGN_OR_RETURN(view.spec, JobSpecFromJson(job.spec_json));
  ASSIGN_OR_RETURN(view.estimate, JobEstimateFromJson(job.estimate_json));
  if (!job.quality_json.empty()) {
    ASSIGN_OR_RETURN(view.quality, QualityReportFromJson(job.quality_json));
  }
  ASSIGN_OR_RETURN(std::vector<TaskRecord> tasks, store_.ListTasks(job.id));
  view.job = std::move(job);
  RETURN_IF_ERROR(FillProgress(tasks, view));
  ASSIGN_OR_RETURN(view.candidates, CandidatesOf(tasks));
  // A search may accept a candidate that was measured before its last one.
  for (JobCandidate& candidate : view.candidates) {
    const bool accepted = QualityReportToJson(candidate.measured.quality) == view.job.quality_json;
    if (view.spec.target.any() && accepted) candidate.artifact = view.job.artifact;
  }
  if (!tensors_from) return view;
  std::erase_if(tasks,
                [](const TaskRecord& t) { return t.stage != TaskStage::kQuantize || t.state != TaskState::kDone; });
  std::sort(tasks.begin(), tasks.end(),
            [](const TaskRecord& a, const TaskRecord& b) { return a.done_sequence < b.done_sequence; });
  for (size_t i = *tensors_from; i < tasks.size(); ++i) {
    ASSIGN_OR_RETURN(TaskOutcome outcome, DecodeOutcome(tasks[i]));
    if (outcome.tensor) view.tensors.push_back(*std::move(outcome.tensor));
  }
  return view;
}

absl::Status JobManager::FillProgress(const std::vector<TaskRecord>& tasks, JobView& view) {
  JobProgress& progress = view.progress;
  const JobRecord& job = view.job;
  std::map<int64_t, Running> leases;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [lease_id, running] : running_) {
      if (running.lease.job == job.id) leases[lease_id] = running;
    }
  }
  auto running_of = [&](const TaskRecord& task) -> const Running* {
    const auto it = leases.find(task.lease_id);
    return task.state == TaskState::kLeased && it != leases.end() ? &it->second : nullptr;
  };
  progress.tasks_total = static_cast<int32_t>(tasks.size());
  const TaskRecord* first_open = nullptr;
  const TaskRecord* resting = nullptr;
  bool leased = false;
  for (const TaskRecord& task : tasks) {
    progress.weights_total += task.weights;
    leased = leased || task.state == TaskState::kLeased;
    if (task.state == TaskState::kDone) {
      ++progress.tasks_done;
      progress.weights_done += task.weights;
    } else if (first_open == nullptr ||
               std::pair(task.round, task.stage) < std::pair(first_open->round, first_open->stage)) {
      first_open = &task;
    }
    if (task.state == TaskState::kReady && task.not_before_ms > options_.now_ms()) resting = &task;
  }
  if (first_open == nullptr || IsFinal(job.state)) {
    progress.stage =
        first_open == nullptr ? ShownStage(job.kind, TaskStage::kEvaluate) : ShownStage(job.kind, first_open->stage);
    progress.stage_fraction = first_open == nullptr ? 1 : 0;
    progress.eta_seconds = 0;
    return absl::OkStatus();
  }
  progress.stage = ShownStage(job.kind, first_open->stage);
  double stage_cost = 0, stage_done = 0;
  progress.eta_seconds = 0;
  for (const TaskRecord& task : tasks) {
    const Running* running = running_of(task);
    const double fraction = task.state == TaskState::kDone ? 1.0 : running != nullptr ? running->fraction : 0.0;
    if (task.round == first_open->round && ShownStage(job.kind, task.stage) == progress.stage) {
      stage_cost += task.cost;
      stage_done += task.cost * fraction;
    }
    const double seconds = SecondsLeft(task, running);
    progress.eta_seconds = seconds < 0 ? -1 : progress.eta_seconds + seconds;
    if (seconds < 0) break;
  }
  progress.stage_fraction = stage_cost > 0 ? stage_done / stage_cost : 0;
  if (!leased) progress.waiting_for = fmt::format("a worker of pool {}", job.pool);
  if (!leased && resting != nullptr) {
    progress.waiting_for = fmt::format("the next attempt at {}: {}", resting->name, resting->error.message);
  }
  if (job.state != JobState::kQueued) return absl::OkStatus();
  ASSIGN_OR_RETURN(progress.queue_position, QueuePosition(job));
  return absl::OkStatus();
}

absl::StatusOr<int32_t> JobManager::QueuePosition(const JobRecord& job) {
  ASSIGN_OR_RETURN(const auto jobs, store_.ListUnfinishedJobs());
  int32_t position = 0;
  for (const JobRecord& other : jobs) {
    if (other.state == JobState::kQueued && other.pool == job.pool) ++position;
    if (other.id == job.id) break;
  }
  return position;
}

// --- Watching ---

uint64_t JobManager::ChangeOf(const std::string& job) const {
  std::lock_guard lock(mutex_);
  const auto it = change_of_.find(job);
  return it == change_of_.end() ? 1 : it->second;
}

absl::StatusOr<JobView> JobManager::WaitForChange(const std::string& id, uint64_t seen, size_t tensors_from,
                                                  int64_t timeout_ms) {
  {
    std::unique_lock lock(mutex_);
    changes_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] {
      const auto it = change_of_.find(id);
      return stopped_ || (it == change_of_.end() ? 1 : it->second) != seen;
    });
    if (stopped_) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  }
  ASSIGN_OR_RETURN(JobRecord job, store_.GetJob(id));
  return ViewOf(std::move(job), tensors_from);
}

struct JobManager::Listener {
  std::mutex mutex;  // held during a call
  std::function<void()> on_change;
};

std::shared_ptr<void> JobManager::Subscribe(const std::string& id, std::function<void()> on_change) {
  auto listener = std::make_shared<Listener>();
  listener->on_change = std::move(on_change);
  std::lock_guard lock(mutex_);
  std::erase_if(listeners_, [](const auto& entry) { return entry.second.expired(); });
  listeners_.emplace(id, listener);
  // The handle's end, not that of a Listener some thread is calling, is what the caller waits for.
  return std::shared_ptr<void>(listener.get(), [listener](void*) mutable {
    std::lock_guard lock(listener->mutex);
    listener->on_change = nullptr;
  });
}

void JobManager::Changed(const std::string& job) {
  std::lock_guard lock(mutex_);
  change_of_[job] = next_change_++;
  changed_.insert(job);
  changes_.notify_all();
}

void JobManager::WakeWorkers() {
  std::lock_guard lock(mutex_);
  ++work_version_;
  work_.notify_all();
}

void JobManager::Notice(JobNotice notice) {
  std::lock_guard lock(mutex_);
  notices_.push_back(std::move(notice));
}

// One thread tells at a time, so that notices keep their order; it also tells what others add meanwhile.
void JobManager::Tell() {
  std::unique_lock lock(mutex_);
  if (std::exchange(telling_, true)) return;
  while (!notices_.empty() || !changed_.empty()) {
    std::vector<std::shared_ptr<Listener>> listeners;
    for (const std::string& job : changed_) {
      const auto [begin, end] = listeners_.equal_range(job);
      for (auto it = begin; it != end; ++it) {
        if (auto listener = it->second.lock()) listeners.push_back(std::move(listener));
      }
    }
    changed_.clear();
    const std::deque<JobNotice> notices = std::exchange(notices_, {});
    lock.unlock();
    for (const JobNotice& notice : notices) {
      if (options_.on_notice) options_.on_notice(notice);
    }
    for (const auto& listener : listeners) {
      std::lock_guard call(listener->mutex);
      if (listener->on_change) listener->on_change();
    }
    lock.lock();
  }
  telling_ = false;
}

// --- Speed of this machine ---

void JobManager::LearnRate(TaskStage stage, double cost, double seconds) {
  if (cost <= 0) return;
  std::lock_guard lock(mutex_);
  const double rate = seconds / cost;
  const auto [it, is_new] = seconds_per_cost_.emplace(stage, rate);
  if (!is_new) it->second += kRateWeight * (rate - it->second);
}

double JobManager::SecondsFor(TaskStage stage, double cost) const {
  std::lock_guard lock(mutex_);
  if (seconds_per_cost_.empty()) return -1;
  const double lanes = stage == TaskStage::kQuantize ? options_.threads : 1;
  if (const auto it = seconds_per_cost_.find(stage); it != seconds_per_cost_.end()) return it->second * cost / lanes;
  // Costs of all stages have the same unit, so the mean of what was measured is a fair guess for another stage.
  double sum = 0;
  for (const auto& [other, rate] : seconds_per_cost_) sum += rate;
  return sum / static_cast<double>(seconds_per_cost_.size()) * cost / lanes;
}

double JobManager::SecondsLeft(const TaskRecord& task, const Running* running) const {
  if (task.state == TaskState::kDone) return 0;
  if (running == nullptr) return SecondsFor(task.stage, task.cost);
  // Below that, start-up is most of what was measured.
  constexpr double kTellingFraction = 0.05;
  const double seconds = static_cast<double>(options_.now_ms() - running->started_ms) / 1000;
  if (running->fraction < kTellingFraction || seconds <= 0) {
    return SecondsFor(task.stage, task.cost * (1 - running->fraction));
  }
  const double lanes = task.stage == TaskStage::kQuantize ? options_.threads : 1;
  return seconds * (1 - running->fraction) / running->fraction / lanes;
}

absl::Status JobManager::LoadRates() {
  ASSIGN_OR_RETURN(const auto settings, store_.ListSettings());
  std::lock_guard lock(mutex_);
  for (int i = 0; i <= static_cast<int>(TaskStage::kAllocate); ++i) {
    const TaskStage stage = static_cast<TaskStage>(i);
    const auto it = settings.find(std::string(kRatePrefix) + TaskStageName(stage));
    if (it == settings.end()) continue;
    double rate = 0;
    const auto [ptr, error] = std::from_chars(it->second.data(), it->second.data() + it->second.size(), rate);
    if (error == std::errc() && rate >= 0) seconds_per_cost_[stage] = rate;
  }
  return absl::OkStatus();
}

void JobManager::SaveRates() {
  std::map<TaskStage, double> rates;
  {
    std::lock_guard lock(mutex_);
    rates = seconds_per_cost_;
  }
  for (const auto& [stage, rate] : rates) {
    // Estimates only: if it cannot be kept, it is measured again.
    (void)store_.PutSetting(std::string(kRatePrefix) + TaskStageName(stage), fmt::format("{}", rate));
  }
}

}  // namespace qamserve
