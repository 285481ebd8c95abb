#include "server/access/access_journal.h"

#include <utility>

namespace qamserve {

AccessJournal::AccessJournal(JournalOptions options, MetadataStore& store)
    : options_(std::move(options)), store_(store), thread_([this] { Loop(); }) {}

AccessJournal::~AccessJournal() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void AccessJournal::Add(AuditRecord event) {
  absl::MutexLock lock(&mutex_);
  ++queued_;
  if (events_.size() >= options_.max_queued) {
    ++dropped_;
    return;
  }
  events_.push_back(std::move(event));
}

void AccessJournal::SetUse(const std::string& key, const KeyUse& use) {
  absl::MutexLock lock(&mutex_);
  ++queued_;
  uses_[key] = use;
}

void AccessJournal::Flush() {
  absl::MutexLock lock(&mutex_);
  const uint64_t target = queued_;
  const auto is_done = [this, target]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return written_ >= target; };
  mutex_.Await(absl::Condition(&is_done));
}

void AccessJournal::Loop() {
  while (true) {
    std::vector<AuditRecord> events;
    std::map<std::string, KeyUse> uses;
    int64_t dropped = 0;
    uint64_t upto = 0;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &AccessJournal::HasWork));
      events = std::exchange(events_, {});
      uses = std::exchange(uses_, {});
      dropped = std::exchange(dropped_, 0);
      upto = queued_;
      if (events.empty() && uses.empty() && dropped == 0) return;
    }
    Write(events, uses, dropped);
    absl::MutexLock lock(&mutex_);
    written_ = upto;
  }
}

void AccessJournal::Write(const std::vector<AuditRecord>& events, const std::map<std::string, KeyUse>& uses,
                          int64_t dropped) {
  if (!events.empty()) Tell(store_.AppendAuditEvents(events, options_.keep));
  for (const auto& [key, use] : uses) Tell(store_.SetKeyUse(key, use));
  if (dropped > 0) {
    Tell(ResourceExhausted("AUDIT_DROPPED", "{} audit events came faster than they could be written and are lost",
                           dropped));
  }
}

void AccessJournal::Tell(const absl::Status& status) const {
  if (!status.ok() && options_.on_error) options_.on_error(status);
}

}  // namespace qamserve
