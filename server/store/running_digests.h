// Digests of blobs that are read piece by piece and kept nowhere: each begins with the first byte and waits, between
// two pieces, for whoever reads on where it stands. Internal to server/store. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "core/base/digest.h"

namespace qamserve {

class RunningDigests {
 public:
  // The digest of the first `offset` bytes, taken out; none if nobody has read so far.
  std::optional<Sha256> Take(const std::string& blob, uint64_t offset) {
    absl::MutexLock lock(&mutex_);
    const auto found = waiting_.find({blob, offset});
    if (found == waiting_.end()) return std::nullopt;
    std::optional<Sha256> sha256(std::move(found->second.sha256));
    waiting_.erase(found);
    return sha256;
  }

  void Put(const std::string& blob, uint64_t offset, Sha256 sha256) {
    absl::MutexLock lock(&mutex_);
    if (waiting_.size() >= kMaxWaiting) {
      waiting_.erase(std::min_element(waiting_.begin(), waiting_.end(),
                                      [](const auto& a, const auto& b) { return a.second.order < b.second.order; }));
    }
    waiting_.emplace(std::pair(blob, offset), Waiting{.sha256 = std::move(sha256), .order = ++order_});
  }

 private:
  // More readers than that at once cost each other a second reading, and no memory to speak of.
  static constexpr size_t kMaxWaiting = 1024;
  struct Waiting {
    Sha256 sha256;
    int64_t order = 0;
  };

  absl::Mutex mutex_;
  std::multimap<std::pair<std::string, uint64_t>, Waiting> waiting_ ABSL_GUARDED_BY(mutex_);  // by blob and offset
  int64_t order_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qamserve
