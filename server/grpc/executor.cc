#include "server/grpc/executor.h"

#include <utility>

namespace qamserve {

Executor::Executor(int threads, size_t max_queued) : max_queued_(max_queued) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
}

Executor::~Executor() { Stop(); }

absl::Status Executor::Run(std::function<void()> task) { return Queue(std::move(task), true); }
absl::Status Executor::RunNext(std::function<void()> task) { return Queue(std::move(task), false); }

absl::Status Executor::Queue(std::function<void()> task, bool limited) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  if (limited && tasks_.size() >= max_queued_) {
    return ResourceExhausted("SERVER_BUSY", "{} calls are waiting, which is the limit; try again later", tasks_.size());
  }
  tasks_.push_back(std::move(task));
  return absl::OkStatus();
}

void Executor::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Executor::Loop() {
  while (true) {
    std::function<void()> task;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &Executor::Wake));
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace qamserve
