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

// A worker waits for a new call. It looks for some 20 to 100 us before it sleeps: a decode step calls the pool several
// hundred times, microseconds apart, and a futex wake costs more than most of those calls.
constexpr int kSpins = 2000;

// A gate tells which call is on, whether workers may still join it, and how many are in it. A caller that finds no more
// ranges closes the gate and waits only for those inside: a worker that the system does not run just now misses the call
// instead of holding it up.
constexpr uint64_t kInsideMask = 0xffff;
constexpr uint64_t kClosed = 0x10000;
constexpr uint64_t kNextCall = 0x20000;
constexpr uint64_t CallOf(uint64_t gate) { return gate / kNextCall; }

struct ThreadPool::State {
  std::mutex call_mutex;  // one ParallelFor at a time
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<uint64_t> gate{kClosed};
  std::atomic<bool> stop{false};
  std::atomic<int64_t> next{0};
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

  // False if the call is over for those who are not in it.
  bool Join() {
    uint64_t seen = gate.load(std::memory_order_acquire);
    while ((seen & kClosed) == 0) {
      if (gate.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) return true;
    }
    return false;
  }

  void Loop() {
    uint64_t call = 0;
    auto none = [&] { return CallOf(gate.load(std::memory_order_acquire)) == call; };
    for (;;) {
      for (int i = 0; i < kSpins && none(); ++i) _mm_pause();
      if (none()) {
        std::unique_lock lock(mutex);
        ++sleepers;
        wake.wait(lock, [&] { return !none(); });
        --sleepers;
      }
      call = CallOf(gate.load(std::memory_order_acquire));
      if (stop.load(std::memory_order_acquire)) return;
      if (!Join()) continue;
      Work();
      gate.fetch_sub(1, std::memory_order_acq_rel);
    }
  }

  // Opens the gate for a new call. REQUIRES: it is closed and nobody is inside.
  void Open() {
    bool asleep = false;
    {
      std::lock_guard lock(mutex);
      gate.store((CallOf(gate.load(std::memory_order_relaxed)) + 1) * kNextCall, std::memory_order_release);
      asleep = sleepers > 0;
    }
    if (asleep) wake.notify_all();
  }

  void CloseAndWait() {
    gate.fetch_or(kClosed, std::memory_order_acq_rel);
    for (int i = 0; (gate.load(std::memory_order_acquire) & kInsideMask) != 0; ++i) {
      if (i < kSpins) {
        _mm_pause();
      } else {
        std::this_thread::yield();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  for (int i = 1; i < threads; ++i) state_->threads.emplace_back([s = state_.get()] { s->Loop(); });
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->Open();
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
  s.Open();
  s.Work();
  s.CloseAndWait();
  if (s.failure != nullptr) std::rethrow_exception(std::exchange(s.failure, nullptr));
}

}  // namespace qamserve
