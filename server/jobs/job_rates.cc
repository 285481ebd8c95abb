// How long work takes: what was measured of each stage, and the workers that there are.
#include <algorithm>
#include <charconv>
#include <chrono>

#include "server/jobs/job_manager.h"

namespace qamserve {
namespace {

constexpr std::string_view kRatePrefix = "seconds_per_cost.";
// The weight of the newest task in the running mean of a stage's speed.
constexpr double kRateWeight = 0.3;
// The list of instances is read this often at most.
constexpr int64_t kInstancesMs = 2000;

bool Contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

// --- Workers ---

absl::StatusOr<std::shared_ptr<const std::vector<InstanceRecord>>> JobManager::Instances() {
  const int64_t now = Now();
  {
    std::lock_guard lock(mutex_);
    if (instances_ != nullptr && now >= instances_ms_ && now - instances_ms_ < kInstancesMs) return instances_;
  }
  ASSIGN_OR_RETURN(std::vector<InstanceRecord> read, store_.ListInstances());
  auto instances = std::make_shared<const std::vector<InstanceRecord>>(std::move(read));
  std::lock_guard lock(mutex_);
  instances_ = instances;
  instances_ms_ = now;
  return instances;
}

absl::StatusOr<JobManager::Capacity> JobManager::CapacityFor(const JobRecord& job) {
  if (!shared_) return Capacity{.workers = 1, .threads = options_.threads, .pool_known = true};
  ASSIGN_OR_RETURN(const auto instances, Instances());
  Capacity capacity;
  for (const InstanceRecord& instance : *instances) {
    if (!Contains(instance.roles, "worker") || !Contains(instance.pools, job.pool)) continue;
    if (instance.TakesNothingNew()) continue;
    capacity.pool_known = true;
    if (!job.codec_version.empty() && instance.codec_version != job.codec_version) {
      capacity.other_codecs.insert(instance.codec_version);
      continue;
    }
    ++capacity.workers;
    capacity.threads += std::max(1, instance.threads);
  }
  return capacity;
}

// --- Estimates ---

double JobManager::EstimateSeconds(const JobRecord& job, const std::vector<TaskRecord>& tasks, const Capacity& capacity,
                                   const std::map<int64_t, Running>& leases) const {
  std::map<TaskStage, int64_t> open;
  for (const TaskRecord& task : tasks) {
    if (task.state != TaskState::kDone) ++open[task.stage];
  }
  double sum = 0;
  for (const TaskRecord& task : tasks) {
    const auto it = task.state == TaskState::kLeased ? leases.find(task.lease_id) : leases.end();
    const double seconds = SecondsLeft(job.pool, task, it == leases.end() ? nullptr : &it->second);
    if (seconds < 0) return -1;
    // A worker has as many tensors at once as it has threads, of other tasks one.
    const int64_t lanes = task.stage == TaskStage::kQuantize ? capacity.threads : capacity.workers;
    const int64_t at_once = task.stage == TaskStage::kQuantize ? lanes : std::min(lanes, open[task.stage]);
    sum += seconds / static_cast<double>(std::max<int64_t>(1, at_once));
  }
  return sum;
}

void JobManager::LearnRate(const std::string& pool, TaskStage stage, double cost, double seconds) {
  if (cost <= 0) return;
  std::lock_guard lock(mutex_);
  const double rate = seconds / cost;
  const auto [it, is_new] = seconds_per_cost_.emplace(std::pair(pool, stage), rate);
  if (!is_new) it->second += kRateWeight * (rate - it->second);
}

double JobManager::SecondsFor(const std::string& pool, TaskStage stage, double cost) const {
  std::lock_guard lock(mutex_);
  if (const auto it = seconds_per_cost_.find({pool, stage}); it != seconds_per_cost_.end()) return it->second * cost;
  // Costs of all stages have the same unit, so the mean of what was measured is a fair guess for another stage.
  double sum = 0;
  int64_t count = 0;
  for (const auto& [other, rate] : seconds_per_cost_) {
    if (other.first != pool) continue;
    sum += rate;
    ++count;
  }
  return count == 0 ? -1 : sum / static_cast<double>(count) * cost;
}

double JobManager::SecondsLeft(const std::string& pool, const TaskRecord& task, const Running* running) const {
  if (task.state == TaskState::kDone) return 0;
  if (running == nullptr) {
    const double left = task.state == TaskState::kLeased ? 1 - std::clamp(task.progress, 0.0, 1.0) : 1;
    return SecondsFor(pool, task.stage, task.cost * left);
  }
  // Below that, start-up is most of what was measured.
  constexpr double kTellingFraction = 0.05;
  const double seconds = static_cast<double>(Now() - running->started_ms) / 1000;
  if (running->fraction < kTellingFraction || seconds <= 0) {
    return SecondsFor(pool, task.stage, task.cost * (1 - running->fraction));
  }
  return seconds * (1 - running->fraction) / running->fraction;
}

// --- What was measured ---

// Settings: "seconds_per_cost.{stage}" of options.pool, "seconds_per_cost.{pool}.{stage}" of others.
absl::Status JobManager::LoadRates() {
  ASSIGN_OR_RETURN(const auto settings, store_.ListSettings());
  std::map<std::string, TaskStage> stages;
  for (int i = 0; i <= static_cast<int>(TaskStage::kAllocate); ++i) {
    stages[TaskStageName(static_cast<TaskStage>(i))] = static_cast<TaskStage>(i);
  }
  std::lock_guard lock(mutex_);
  for (const auto& [key, value] : settings) {
    if (!key.starts_with(kRatePrefix)) continue;
    std::string name = key.substr(kRatePrefix.size());
    std::string pool = options_.pool;
    if (const size_t dot = name.find('.'); dot != std::string::npos) {
      pool = name.substr(0, dot);
      name = name.substr(dot + 1);
    }
    const auto stage = stages.find(name);
    double rate = 0;
    const auto [ptr, error] = std::from_chars(value.data(), value.data() + value.size(), rate);
    if (stage != stages.end() && error == std::errc() && rate >= 0) seconds_per_cost_[{pool, stage->second}] = rate;
  }
  return absl::OkStatus();
}

void JobManager::SaveRates() {
  std::map<std::pair<std::string, TaskStage>, double> rates;
  {
    std::lock_guard lock(mutex_);
    rates = seconds_per_cost_;
  }
  for (const auto& [of, rate] : rates) {
    const auto& [pool, stage] = of;
    const std::string name =
        pool == options_.pool ? TaskStageName(stage) : fmt::format("{}.{}", pool, TaskStageName(stage));
    // Estimates only: if it cannot be kept, it is measured again.
    (void)store_.PutSetting(std::string(kRatePrefix) + name, fmt::format("{}", rate));
  }
}

}  // namespace qamserve
