// One I/O thread, and what runs on it. Asio is named in the server's own files only.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_set>
#include <utility>

namespace qamserve {

namespace asio = boost::asio;

class HttpConnection;

class HttpLoop {
 public:
  HttpLoop() : context_(1), work_(asio::make_work_guard(context_)), thread_([this] { context_.run(); }) {}
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  asio::io_context& context() { return context_; }

  // Runs `task` on the thread, after what was posted before it. False: the loop has stopped, `task` is dropped.
  // Thread-safe.
  bool Post(std::function<void()> task) {
    absl::MutexLock lock(&mutex_);
    if (stopped_) return false;
    asio::post(context_, std::move(task));
    return true;
  }
  // Runs what was posted and ends the thread. Nothing that waits for the outside (a socket, a timer) may be left. Not
  // from the thread itself.
  void Stop() {
    {
      absl::MutexLock lock(&mutex_);
      stopped_ = true;
    }
    work_.reset();
    if (thread_.joinable()) thread_.join();
  }

  // Those that are open; of the loop's thread.
  std::unordered_set<std::shared_ptr<HttpConnection>> connections;

 private:
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  absl::Mutex mutex_;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: it runs the context
};

}  // namespace qamserve
