#include "server/http/rest/stream_answer.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <grpcpp/alarm.h>

#include <utility>

#include "server/grpc/status_conversion.h"
#include "server/http/rest/errors.h"
#include "server/http/rest/json.h"

namespace qamserve::rest {
namespace {

using google::protobuf::Message;
using Clock = std::chrono::system_clock;  // what alarms have

// Alive through the read or the write that is under way. A ping may be on its way when a message or the end comes:
// these wait in `waiting_` then.
class StreamAnswer : public std::enable_shared_from_this<StreamAnswer> {
 public:
  StreamAnswer(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalStream> stream, const StreamFormat& format)
      : exchange_(std::move(exchange)), stream_(std::move(stream)), format_(format) {}

  void Start() {
    exchange_->OnGone([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Gone();
    });
    if (format_.events) SetAlarm(Clock::now() + format_.ping_interval);
    ReadNext();
  }

 private:
  enum class Then { kNothing, kRead, kEnd };
  struct Piece {
    std::string bytes;
    Then then = Then::kNothing;
  };

  void ReadNext() {
    stream_->Read([self = shared_from_this()](std::unique_ptr<Message> message, const grpc::Status& status) {
      self->Take(std::move(message), status);
    });
  }

  void Take(std::unique_ptr<Message> message, const grpc::Status& status) {
    if (message == nullptr) return End(status);
    const Message& shown =
        format_.field == nullptr ? *message : message->GetReflection()->GetMessage(*message, format_.field);
    const absl::StatusOr<std::string> json = ToJson(shown);
    if (!json.ok()) {
      stream_->Cancel();
      return End(ToGrpcStatus(json.status()));
    }
    Send({format_.events ? fmt::format("data: {}\n\n", *json) : fmt::format("{}\n", *json), Then::kRead});
  }

  void End(const grpc::Status& status) {
    Answer error;
    if (!status.ok()) error = ErrorAnswer(status);
    bool begun = false;
    {
      absl::MutexLock lock(&mutex_);
      if (gone_) return;
      ended_ = true;               // no ping any more
      begun = begun_ || writing_;  // a ping that is on its way begins the answer
    }
    if (!status.ok() && !begun) return exchange_->Respond(std::move(error.head), std::move(error.body));
    if (format_.events) {
      return Send({status.ok() ? "event: end\ndata: {}\n\n" : fmt::format("event: error\ndata: {}\n\n", error.body),
                   Then::kEnd});
    }
    if (!status.ok()) return Send({fmt::format("{}\n", error.body), Then::kEnd});
    Begin();
    exchange_->End();
  }

  void Send(Piece piece) {
    {
      absl::MutexLock lock(&mutex_);
      if (gone_) return;
      if (writing_) {
        waiting_ = std::move(piece);
        return;
      }
      writing_ = true;
    }
    Write(std::move(piece));
  }

  // `writing_` is true and its caller's.
  void Write(Piece piece) {
    Begin();
    exchange_->Write(std::move(piece.bytes),
                     [self = shared_from_this(), then = piece.then](bool ok) { self->Written(ok, then); });
  }

  void Written(bool ok, Then then) {
    if (!ok) return Gone();
    Piece waiting;
    {
      absl::MutexLock lock(&mutex_);
      last_sent_ = Clock::now();
      waiting = std::exchange(waiting_, {});
      writing_ = !waiting.bytes.empty();
    }
    if (!waiting.bytes.empty()) return Write(std::move(waiting));
    if (then == Then::kRead) ReadNext();
    if (then == Then::kEnd) exchange_->End();
  }

  void Begin() {
    {
      absl::MutexLock lock(&mutex_);
      if (std::exchange(begun_, true)) return;
    }
    HttpAnswerHead head;
    head.fields = {{"Content-Type", format_.events ? "text/event-stream" : "application/x-ndjson"},
                   {"Cache-Control", "no-store"},
                   {"X-Accel-Buffering", "no"},  // a proxy that gathers pieces would hold back single tokens
                   {"X-Content-Type-Options", "nosniff"}};
    exchange_->Begin(std::move(head), -1);
  }

  // A new alarm each time: one must not be set again by its own callback.
  void SetAlarm(Clock::time_point at) {
    alarm_ = std::make_unique<grpc::Alarm>();
    alarm_->Set(at, [weak = weak_from_this()](bool) {
      if (const auto self = weak.lock()) self->PingIfIdle();
    });
  }

  void PingIfIdle() {
    Clock::time_point next;
    bool ping = false;
    {
      absl::MutexLock lock(&mutex_);
      if (gone_ || ended_) return;
      const Clock::time_point now = Clock::now();
      ping = !writing_ && now >= last_sent_ + format_.ping_interval;
      next = (ping || writing_ ? now : last_sent_) + format_.ping_interval;
      writing_ = writing_ || ping;
    }
    SetAlarm(next);
    if (ping) Write({": ping\n\n", Then::kNothing});
  }

  void Gone() {
    {
      absl::MutexLock lock(&mutex_);
      gone_ = true;
      waiting_ = {};
    }
    stream_->Cancel();
  }

  const std::shared_ptr<HttpExchange> exchange_;
  const std::shared_ptr<LocalStream> stream_;
  const StreamFormat format_;
  std::unique_ptr<grpc::Alarm> alarm_;  // of Start, then of its own callback
  absl::Mutex mutex_;
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  Piece waiting_ ABSL_GUARDED_BY(mutex_);
  Clock::time_point last_sent_ ABSL_GUARDED_BY(mutex_) = Clock::now();
};

}  // namespace

void AnswerStream(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalStream> stream,
                  const StreamFormat& format) {
  std::make_shared<StreamAnswer>(std::move(exchange), std::move(stream), format)->Start();
}

}  // namespace qamserve::rest
