// Keeps the API keys of an AccessControl as other processes have made them: reads them again after each change that the
// store tells, and every few seconds in case that was lost. Thread-safe.
#pragma once

#include <functional>
#include <memory>

#include "server/access/access_control.h"
#include "server/fleet/ticker.h"
#include "server/store/metadata_store.h"

namespace qamserve {

class AccessRefresher {
 public:
  // `access` and `store` must outlive this. `on_error` is told each error once as long as it stays the same.
  AccessRefresher(AccessControl& access, MetadataStore& store, absl::Duration interval,
                  std::function<void(const absl::Status&)> on_error);
  ~AccessRefresher();

 private:
  void Refresh();

  AccessControl& access_;
  const std::function<void(const absl::Status&)> on_error_;
  absl::Status last_;  // of the ticker's thread
  Ticker ticker_;
  std::shared_ptr<void> listening_;
};

}  // namespace qamserve
