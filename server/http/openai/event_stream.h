// An answer of server-sent events, as OpenAI sends them: "data: {json}" and a blank line each, "data: [DONE]" last, and
// a comment now and then while there is nothing to say, so that nobody between takes the connection for dead.
// Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>
#include <grpcpp/alarm.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/http/exchange.h"

namespace qamserve::openai {

class EventStream : public std::enable_shared_from_this<EventStream> {
 public:
  // Sends the head, which must say what else the answer's headers are.
  static std::shared_ptr<EventStream> Begin(std::shared_ptr<HttpExchange> exchange, HttpAnswerHead head,
                                            absl::Duration ping_interval);

  // Queues; small texts leave together.
  void Send(std::string_view data);
  // Calls `drained` once all that was sent has left, or never if the client is gone. Not from inside.
  void WhenDrained(std::function<void()> drained);
  // After what was sent. Nothing is sent afterwards.
  void End();

 private:
  EventStream(std::shared_ptr<HttpExchange> exchange, absl::Duration ping_interval)
      : exchange_(std::move(exchange)), ping_interval_(ping_interval) {}
  void Pump();
  void OnWritten(bool written);
  void SetAlarm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnAlarm();

  const std::shared_ptr<HttpExchange> exchange_;
  const absl::Duration ping_interval_;
  absl::Mutex mutex_;
  std::string queue_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;  // ended, or the client is gone
  bool quiet_ ABSL_GUARDED_BY(mutex_) = true;    // since the alarm was set
  std::vector<std::function<void()>> waiting_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve::openai
