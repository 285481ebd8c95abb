#include "server/grpc/watch_stream.h"

#include <grpcpp/alarm.h>

#include <chrono>
#include <memory>
#include <utility>

#include "server/grpc/call.h"
#include "server/grpc/converters.h"

namespace qamserve {
namespace {

// A job of small tensors changes hundreds of times a second; nobody reads that fast.
constexpr std::chrono::milliseconds kBetweenMessages(100);

// Kept alive by gRPC (until OnDone) through self_, and by tasks on the executor. Whatever happens asks for a Pump on
// the executor; `busy_` says that one is queued or that a message is on its way or was just sent, `again_` that
// something happened meanwhile.
class WatchStream final : public grpc::ServerWriteReactor<v1::Job>, public std::enable_shared_from_this<WatchStream> {
 public:
  WatchStream(ServiceContext& context, const grpc::CallbackServerContext& call)
      : context_(context), guard_(context, call, {"JobService", "WatchJob"}) {}

  void Start(const std::string& name) {
    self_ = shared_from_this();
    if (!guard_.admitted().ok()) return End(guard_.admitted());
    const absl::StatusOr<std::string> id = ParseResourceName("jobs", name);
    if (!id.ok()) return End(id.status());
    id_ = *id;
    const std::weak_ptr<WatchStream> weak = self_;
    const auto happened = [weak] {
      if (const auto stream = weak.lock()) stream->RequestPump();
    };
    subscription_ = context_.jobs.Subscribe(id_, happened);
    drain_id_ = context_.drain.Subscribe(happened);
    RequestPump();
  }

  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      broken_ = broken_ || !ok;
    }
    if (final_sent_ || !ok) return Rest();
    // Until then changes only ask for another Pump, and are told together.
    rest_.Set(std::chrono::system_clock::now() + kBetweenMessages, [self = shared_from_this()](bool) { self->Rest(); });
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mutex_);
      broken_ = true;
    }
    RequestPump();
  }

  void OnDone() override {
    // Both wait for a call that is running, so that none keeps this alive afterwards.
    subscription_ = nullptr;
    context_.drain.Unsubscribe(drain_id_);
    const std::shared_ptr<WatchStream> self = std::move(self_);
  }

 private:
  void RequestPump() {
    absl::Status queued;
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      if (busy_) {
        again_ = true;
        return;
      }
      busy_ = true;
      queued = context_.quick.RunNext([self = shared_from_this()] { self->Pump(); });
    }
    if (!queued.ok()) End(queued);
  }

  // Sends what is new or ends. Only one runs at a time.
  void Pump() {
    bool broken;
    {
      absl::MutexLock lock(&mutex_);
      again_ = false;
      broken = broken_;
    }
    if (broken) return End(Cancelled("CANCELLED", "the watcher is gone"));
    if (context_.drain.raised()) return End(Unavailable("SHUTTING_DOWN", "the server is shutting down"));
    if (final_sent_) return End(absl::OkStatus());
    const absl::StatusOr<JobView> view = context_.jobs.WaitForChange(id_, seen_, tensors_sent_, 0);
    if (!view.ok()) return End(view.status());
    if (seen_ != 0 && view->change == seen_) return Idle();
    seen_ = view->change;
    tensors_sent_ += view->tensors.size();
    final_sent_ = IsFinal(view->job.state);
    message_ = ToProto(*view);
    StartWrite(&message_);
  }

  // The time after a message is over.
  void Rest() {
    {
      absl::MutexLock lock(&mutex_);
      busy_ = false;
    }
    RequestPump();
  }

  void Idle() {
    bool again;
    {
      absl::MutexLock lock(&mutex_);
      busy_ = false;
      again = again_;
    }
    if (again) RequestPump();
  }

  void End(const absl::Status& status) {
    {
      absl::MutexLock lock(&mutex_);
      if (ended_) return;
      ended_ = true;
    }
    guard_.Finished(status);
    Finish(ToGrpcStatus(status));
  }

  ServiceContext& context_;
  CallGuard guard_;
  grpc::Alarm rest_;
  std::shared_ptr<WatchStream> self_;
  std::string id_;
  std::shared_ptr<void> subscription_;
  uint64_t drain_id_ = 0;

  // Of the one Pump at a time.
  v1::Job message_;
  uint64_t seen_ = 0;
  size_t tensors_sent_ = 0;
  bool final_sent_ = false;

  absl::Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool again_ ABSL_GUARDED_BY(mutex_) = false;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::Job>* StartWatchStream(ServiceContext& context, const grpc::CallbackServerContext& call,
                                                   const std::string& name) {
  const auto stream = std::make_shared<WatchStream>(context, call);
  stream->Start(name);
  return stream.get();
}

}  // namespace qamserve
