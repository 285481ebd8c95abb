#include "core/base/thread_pool.h"

#include <immintrin.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace qamserve {

// A worker waits for `generation` to change. It looks for about 20 us before it sleeps: a decode step calls the pool
// several hundred times, microseconds apart, and a futex wake costs more than most of those calls.
constexpr int kSpins = 2000;

struct ThreadPool::State {
  std::mutex call_mutex;  // one ParallelFor at a time
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> generation{0};
  std::atomic<bool> stop{false};
  std::atomic<int64_t> next{0};
  std::atomic<int> busy{0};
  int sleepers = 0;
  int64_t n = 0;
  int64_t grain = 1;
  const absl::FunctionRef<void(int64_t, int64_t)>* body = nullptr;
  std::exception_ptr failure;  // the first of a call
  std::vector<std::thread> threads;

  void Work() {
    for (;;) {
      const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
      if (begin >= n) return;
      try {
        (*body)(begin, std::min(n, begin + grain));
      } catch (...) {
        Fail(std::current_exception());
      }
    }
  }

  // The ranges that nobody has begun are left out.
  void Fail(std::exception_ptr thrown) {
    std::lock_guard lock(mutex);
    if (failure == nullptr) failure = std::move(thrown);
    next.store(n, std::memory_order_relaxed);
  }

  void Loop() {
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && generation.load(std::memory_order_acquire) == seen; ++i) _mm_pause();
      if (generation.load(std::memory_order_acquire) == seen) {
        std::unique_lock lock(mutex);
        ++sleepers;
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
        --sleepers;
      }
      seen = generation.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;
      Work();
      busy.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  void Publish() {
    bool asleep = false;
    {
      std::lock_guard lock(mutex);
      generation.fetch_add(1, std::memory_order_acq_rel);
      asleep = sleepers > 0;
    }
    if (asleep) wake.notify_all();
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  for (int i = 1; i < threads; ++i) state_->threads.emplace_back([s = state_.get()] { s->Loop(); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->Publish();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> body) {
  if (n <= 0) return;
  State& s = *state_;
  grain = std::max<int64_t>(grain, 1);
  if (s.threads.empty() || n <= grain) {
    for (int64_t begin = 0; begin < n; begin += grain) body(begin, std::min(n, begin + grain));
    return;
  }
  std::lock_guard call(s.call_mutex);
  s.body = &body;
  s.n = n;
  s.grain = grain;
  s.next.store(0, std::memory_order_relaxed);
  s.busy.store(static_cast<int>(s.threads.size()), std::memory_order_relaxed);
  s.Publish();
  s.Work();
  for (int i = 0; s.busy.load(std::memory_order_acquire) != 0; ++i) {
    if (i < kSpins) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (s.failure != nullptr) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

}  // namespace qamserve
