// A fixed set of threads that split index ranges. Start here for anything parallel in core.
// The caller works too, so a pool of 1 starts no thread. How a range is split depends on the pool; what is computed
// must not: each index writes its own result.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>

namespace qamserve {

class ThreadPool {
 public:
  // `threads` >= 1, the caller included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(begin, end) for consecutive ranges that cover [0, n), each of at most `grain` indices (>= 1), and
  // returns when all are done. Ranges are taken in order from a shared counter, so uneven work balances.
  // Thread-safe; concurrent calls run one after another. Do not call from inside `body`.
  // What `body` throws (a vector that finds no memory) ends the call: ranges that were not begun are left out, and once
  // no thread is in `body` any more the caller gets it.
  void ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qamserve
