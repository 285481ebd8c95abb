// What access has to remember, written behind the calls by a thread of its own: audit events, and when keys were used.
// A crash may lose the events of its last moments. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "core/base/status.h"
#include "server/store/metadata_store.h"

namespace qamserve {

struct JournalOptions {
  int64_t keep = 100'000;      // audit events; older ones go
  size_t max_queued = 10'000;  // events that wait to be written; more are dropped and their number is told to on_error
  // Called from the journal's thread.
  std::function<void(const absl::Status&)> on_error;
};

class AccessJournal {
 public:
  // `store` must outlive the journal.
  AccessJournal(JournalOptions options, MetadataStore& store);
  // Writes what is queued.
  ~AccessJournal();

  void Add(AuditRecord event);
  void SetUse(const std::string& key, const KeyUse& use);
  // Returns when everything that was queued before has been written, or could not be.
  void Flush();

 private:
  void Loop();
  void Write(const std::vector<AuditRecord>& events, const std::map<std::string, KeyUse>& uses, int64_t dropped);
  void Tell(const absl::Status& status) const;
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !events_.empty() || !uses_.empty() || dropped_ > 0;
  }

  const JournalOptions options_;
  MetadataStore& store_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<AuditRecord> events_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, KeyUse> uses_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t queued_ ABSL_GUARDED_BY(mutex_) = 0;   // additions so far
  uint64_t written_ ABSL_GUARDED_BY(mutex_) = 0;  // of which these are done with
  std::thread thread_;
};

}  // namespace qamserve
