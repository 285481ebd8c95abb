// What AccessControl holds of a key. Internal to server/access.
#pragma once

#include <memory>

#include "server/access/access_control.h"

namespace qamserve {

// All of it is guarded by the mutex of the AccessControl that it belongs to. Calls that run keep the entry of a key
// that is deleted meanwhile.
struct KeyEntry {
  explicit KeyEntry(const KeyRecord& key)
      : record(key),
        requests(key.limits.requests_per_minute),
        tokens(key.limits.tokens_per_minute),
        use_written_ms(key.use.last_used_ms) {}

  KeyRecord record;
  MinuteBucket requests;
  MinuteBucket tokens;
  int32_t running = 0;
  int64_t use_written_ms;      // when record.use was last given to the journal
  bool use_unwritten = false;  // it has changed since
};

struct RunningPlace {
  RunningPlace(AccessControl& owner, std::shared_ptr<KeyEntry> key) : control(owner), entry(std::move(key)) {}
  RunningPlace(const RunningPlace&) = delete;
  RunningPlace& operator=(const RunningPlace&) = delete;
  ~RunningPlace() { control.GiveBack(*entry); }

  AccessControl& control;
  const std::shared_ptr<KeyEntry> entry;
};

}  // namespace qamserve
