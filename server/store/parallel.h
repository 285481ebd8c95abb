// Transfers side by side. Internal to server/store.
#pragma once

#include <absl/functional/function_ref.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

// Runs `body(i)` for every i below `count` on `threads` threads, the caller's among them. The first error is returned;
// it sets `stopped`, which `body` may look at, and no further i is begun then.
inline absl::Status ForEachAtOnce(size_t threads, size_t count, std::atomic<bool>& stopped,
                                  absl::FunctionRef<absl::Status(size_t)> body) {
  std::mutex mutex;
  absl::Status first;
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < count && !stopped; i = next++) {
      const absl::Status status = body(i);
      if (status.ok()) continue;
      const std::lock_guard lock(mutex);
      if (first.ok()) first = status;
      stopped = true;
    }
  };
  const size_t helpers = std::min(threads, count);
  std::vector<std::thread> started;
  started.reserve(helpers);
  for (size_t t = 1; t < helpers; ++t) started.emplace_back(work);
  work();
  for (std::thread& thread : started) thread.join();
  return first;
}

}  // namespace qamserve
