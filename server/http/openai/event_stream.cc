#include "server/http/openai/event_stream.h"

#include <absl/time/clock.h>

#include <utility>

namespace qamserve::openai {

std::shared_ptr<EventStream> EventStream::Begin(std::shared_ptr<HttpExchange> exchange, HttpAnswerHead head,
                                                absl::Duration ping_interval) {
  head.fields.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
  head.fields.emplace_back("Cache-Control", "no-cache");
  head.fields.emplace_back("X-Accel-Buffering", "no");  // nginx would hold events back
  exchange->Begin(std::move(head), -1);
  const auto stream = std::shared_ptr<EventStream>(new EventStream(std::move(exchange), ping_interval));
  absl::MutexLock lock(&stream->mutex_);
  stream->SetAlarm();
  return stream;
}

void EventStream::Send(std::string_view data) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    queue_ += "data: ";
    queue_ += data;  // JSON on one line
    queue_ += "\n\n";
    quiet_ = false;
  }
  Pump();
}

void EventStream::WhenDrained(std::function<void()> drained) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    waiting_.push_back(std::move(drained));
  }
  Pump();
}

void EventStream::End() {
  {
    absl::MutexLock lock(&mutex_);
    ending_ = true;
  }
  Pump();
}

// Does what is next, if nothing is under way. Callbacks are called without the lock.
void EventStream::Pump() {
  std::string piece;
  std::vector<std::function<void()>> waiting;
  bool end = false;
  std::unique_ptr<grpc::Alarm> alarm;
  {
    absl::MutexLock lock(&mutex_);
    if (writing_ || closed_) return;
    if (!queue_.empty()) {
      piece.swap(queue_);
      writing_ = true;
    } else if (ending_) {
      end = closed_ = true;
      alarm = std::move(alarm_);
      waiting.swap(waiting_);  // freed without the lock: they hold what waits
    } else {
      waiting.swap(waiting_);
    }
  }
  if (end) return exchange_->End();
  if (!piece.empty()) {
    return exchange_->Write(std::move(piece), [self = shared_from_this()](bool written) { self->OnWritten(written); });
  }
  for (const std::function<void()>& drained : waiting) drained();
}

void EventStream::OnWritten(bool written) {
  std::vector<std::function<void()>> dropped;
  std::unique_ptr<grpc::Alarm> alarm;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!written) {
      closed_ = true;
      dropped.swap(waiting_);  // freed without the lock: they hold what waits
      alarm = std::move(alarm_);
      queue_.clear();
    }
  }
  if (written) Pump();
}

// A new alarm each time: one may not be set again from its own callback.
void EventStream::SetAlarm() {
  quiet_ = true;
  alarm_ = std::make_unique<grpc::Alarm>();
  alarm_->Set(absl::ToChronoTime(absl::Now() + ping_interval_), [weak = weak_from_this()](bool expired) {
    const std::shared_ptr<EventStream> self = expired ? weak.lock() : nullptr;
    if (self != nullptr) self->OnAlarm();
  });
}

void EventStream::OnAlarm() {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_ || ending_) return;
    // A client that does not read gets no more to read.
    if (quiet_ && !writing_) queue_ += ": ping\n\n";
    SetAlarm();
  }
  Pump();
}

}  // namespace qamserve::openai
