// Who is told of what: watchers and subscribers of changes, this process of what other processes did.
#include <algorithm>
#include <chrono>

#include "server/jobs/job_decision.h"
#include "server/jobs/job_teller.h"

namespace qamserve {
namespace {

using Clock = std::chrono::steady_clock;

// Events about one job are looked into this often at most: a job of small tensors changes hundreds of times a second.
constexpr std::chrono::milliseconds kRefreshTime(200);
// How often the speeds that other processes measured are read.
constexpr std::chrono::minutes kRatesTime(1);

}  // namespace

// --- Watching ---

uint64_t JobManager::ChangeOf(const std::string& job) const {
  std::lock_guard lock(mutex_);
  return ChangeOfLocked(job);
}

uint64_t JobManager::ChangeOfLocked(const std::string& job) const {
  const auto it = change_of_.find(job);
  return it == change_of_.end() ? forgotten_change_ : it->second;
}

// Of jobs that nobody here watches or works on. Whoever comes back to one of them with a change from before finds
// another, since changes only grow: it looks once in vain at worst, and never waits for what has happened.
void JobManager::ForgetChangesLocked() {
  std::set<std::string> kept = WatchedLocked();
  for (const auto& [lease_id, running] : running_) kept.insert(running.lease.job);
  std::erase_if(change_of_, [&](const auto& entry) {
    if (kept.contains(entry.first)) return false;
    forgotten_change_ = std::max(forgotten_change_, entry.second);
    return true;
  });
  // Twice what is needed, so that looking through all of them is rare.
  forget_at_ = std::max(kForgetAt, 2 * change_of_.size());
}

absl::StatusOr<JobView> JobManager::WaitForChange(const std::string& id, uint64_t seen, size_t tensors_from,
                                                  int64_t timeout_ms) {
  {
    std::unique_lock lock(mutex_);
    ++waiting_[id];
    changes_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                      [&] { return stopped_ || ChangeOfLocked(id) != seen; });
    if (const auto waiting = waiting_.find(id); --waiting->second == 0) waiting_.erase(waiting);
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
  if (change_of_.size() >= forget_at_) ForgetChangesLocked();
  changed_.insert(job);
  changes_.notify_all();
}

void JobManager::WakeWorkers() {
  std::lock_guard lock(mutex_);
  ++work_version_;
  work_.notify_all();
}

void JobManager::WakeBackground() {
  std::lock_guard lock(mutex_);
  due_changed_ = true;
  due_.notify_all();
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

// --- What other processes did ---

// On a thread of the store: notes it and returns.
void JobManager::OnStoreEvent(const StoreEvent& event) {
  std::lock_guard lock(mutex_);
  switch (event.kind) {
    case StoreEvent::Kind::kJob:
      if (!IsKnownLocked(event.id) || !stale_.insert(event.id).second) return;
      break;
    case StoreEvent::Kind::kWork:
      ++work_version_;
      work_.notify_all();
      return;
    case StoreEvent::Kind::kMissed:
      missed_ = true;
      break;
    case StoreEvent::Kind::kServing:
    case StoreEvent::Kind::kAccess:
      return;
  }
  events_.notify_all();
}

// Whether anything here happened to the job not long ago, or anybody watches it or works on it.
bool JobManager::IsKnownLocked(const std::string& job) const {
  return change_of_.contains(job) || listeners_.contains(job) || waiting_.contains(job) ||
         std::any_of(running_.begin(), running_.end(),
                     [&](const auto& entry) { return entry.second.lease.job == job; });
}

std::set<std::string> JobManager::WatchedLocked() const {
  std::set<std::string> watched;
  for (const auto& [job, callers] : waiting_) watched.insert(job);
  for (const auto& [job, listener] : listeners_) {
    if (!listener.expired()) watched.insert(job);
  }
  return watched;
}

std::vector<TaskLease> JobManager::RunningOf(const std::string& job) const {
  std::vector<TaskLease> leases;
  std::lock_guard lock(mutex_);
  for (const auto& [lease_id, running] : running_) {
    if (running.lease.job == job) leases.push_back(running.lease);
  }
  return leases;
}

void JobManager::StopLeasesIfEnded(const std::string& id) {
  const std::vector<TaskLease> leases = RunningOf(id);
  if (leases.empty()) return;
  const auto job = store_.GetJob(id);
  if (!absl::IsNotFound(job.status()) && !(job.ok() && IsFinal(job->state))) return;
  for (const TaskLease& lease : leases) {
    StopLease(lease.lease_id);
    // Whoever ended the job took its leases, but for one that was taken at the same moment. If that cannot be given
    // back now, it lapses.
    (void)EndLease(lease, Cancelled("JOB_ENDED", "the job has ended"), LeaseEnd::kGivenBack);
  }
}

namespace {

// What a watcher would see of a job, in short.
std::string Summary(MetadataStore& store, const std::string& id) {
  const auto job = store.GetJob(id);
  const auto tasks = store.ListTasks(id);
  if (absl::IsNotFound(job.status())) return "deleted";
  if (!job.ok() || !tasks.ok()) return "";
  int64_t versions = 0;
  double progress = 0;
  for (const TaskRecord& task : *tasks) {
    versions += task.version;
    progress += task.progress;
  }
  return fmt::format("{} {} {} {}", job->version, tasks->size(), versions, progress);
}

}  // namespace

// Looks into the jobs that events were about; now and then, and after events may have been lost, into all that anybody
// here watches or works on.
void JobManager::RefreshLoop() {
  const std::chrono::milliseconds poll_time(options_.poll_ms);
  std::map<std::string, Clock::time_point> refreshed;
  std::map<std::string, std::string> summaries;  // of watched jobs, as of the last look
  Clock::time_point polled = Clock::now(), rates_read = polled;
  for (;;) {
    std::set<std::string> due, watched, worked_on;
    bool poll = false;
    {
      std::unique_lock lock(mutex_);
      if (stopped_) return;
      const Clock::time_point now = Clock::now();
      std::erase_if(refreshed, [&](const auto& entry) { return now - entry.second >= kRefreshTime; });
      Clock::time_point wake = polled + poll_time;
      for (auto it = stale_.begin(); it != stale_.end();) {
        const auto recent = refreshed.find(*it);
        if (recent != refreshed.end()) {
          wake = std::min(wake, recent->second + kRefreshTime);
          ++it;
        } else {
          due.insert(*it);
          it = stale_.erase(it);
        }
      }
      poll = now >= polled + poll_time || missed_;
      if (!poll && due.empty()) {
        const size_t stale = stale_.size();
        events_.wait_until(lock, wake, [&] { return stopped_ || missed_ || stale_.size() != stale; });
        continue;
      }
      if (poll) {
        polled = now;
        missed_ = false;
        watched = WatchedLocked();
        for (const auto& [lease_id, running] : running_) worked_on.insert(running.lease.job);
        ++work_version_;
        work_.notify_all();
      }
      for (const std::string& job : due) refreshed[job] = now;
    }
    worked_on.insert(due.begin(), due.end());
    for (const std::string& job : worked_on) StopLeasesIfEnded(job);
    Teller teller(*this);
    std::erase_if(summaries, [&](const auto& entry) { return poll && !watched.contains(entry.first); });
    for (const std::string& job : watched) {
      std::string summary = Summary(store_, job);
      if (!summary.empty() && std::exchange(summaries[job], summary) != summary) due.insert(job);
    }
    for (const std::string& job : due) Changed(job);
    if (poll && Clock::now() - rates_read >= kRatesTime) {
      rates_read = Clock::now();
      // Estimates only: if they cannot be read, they are read a minute later.
      (void)LoadRates();
    }
  }
}

}  // namespace qamserve
