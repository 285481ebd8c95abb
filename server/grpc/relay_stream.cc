#include "server/grpc/relay_stream.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <memory>
#include <utility>
#include <vector>

#include "server/grpc/converters.h"

namespace qamserve {
namespace {

// gRPC keeps it alive (until OnDone) through self_, the executor's task through a copy. Of all reads and writes only
// one is under way at any moment, and the end of the outer call waits for that of the inner one; so no lock is needed
// but for cancelling. Ended tries are kept to the end, since gRPC may still be busy with the one that has just ended.
// Routing looks at memory only and runs on gRPC's own threads: executors may be held up by a store that is away.
class RelayStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                          public std::enable_shared_from_this<RelayStream> {
 public:
  RelayStream(ServiceContext& context, grpc::CallbackServerContext& call, CallName name, std::string_view requested,
              RelayAttempts attempts, StartInner start)
      : context_(context),
        call_(call),
        guard_(context, call, name),
        requested_(requested),
        attempts_(std::move(attempts)),
        start_(std::move(start)) {}

  void Start() {
    self_ = shared_from_this();
    if (!guard_.admitted().ok()) return Refuse(guard_.admitted());
    Try();
  }

  // --- The outer call ---
  void OnWriteDone(bool ok) override {
    if (!ok) OnCancel();
    inners_.back()->Next();
  }
  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    if (running_ != nullptr) running_->Cancel();
  }
  void OnDone() override { const std::shared_ptr<RelayStream> self = std::move(self_); }

 private:
  // One try.
  class Inner final : public grpc::ClientReadReactor<v1::GenerateResponse> {
   public:
    Inner(RelayStream& stream, Route route, std::unique_ptr<v1::InferenceService::Stub> stub)
        : stream_(stream), route_(std::move(route)), stub_(std::move(stub)) {
      ForwardTo(stream_.call_, stream_.guard_, context_);
    }
    void Start(const StartInner& start) {
      start(ResourceName(kServedModels, route_.model()), *stub_, &context_, this);
      // Reads go on from outside: until the last one, which fails, the call must not be done.
      AddHold();
      StartRead(&message_);
      StartCall();
    }
    void Cancel() { context_.TryCancel(); }
    void Next() { StartRead(&message_); }
    void OnReadDone(bool ok) override {
      if (!ok) return RemoveHold();  // OnDone follows
      stream_.Pass(message_);
    }
    void OnDone(const grpc::Status& status) override { stream_.InnerDone(*this, status); }
    const Route& route() const { return route_; }
    void GiveUpPlace() { route_ = Route(); }

   private:
    RelayStream& stream_;
    Route route_;
    const std::unique_ptr<v1::InferenceService::Stub> stub_;
    grpc::ClientContext context_;
    v1::GenerateResponse message_;  // the outer write's until OnWriteDone
  };

  void Try() {
    const absl::Status ready = ReadyToBegin(context_, call_);
    absl::StatusOr<Route> route = ready.ok() ? attempts_.Next(RouteNameOf(requested_)) : ready;
    if (!route.ok()) {
      if (ready.ok() && attempts_.MayWaitForNews()) return TryAfterNews();
      return GiveUp(route.status());
    }
    auto stub = v1::InferenceService::NewStub(attempts_.ChannelTo(*route));
    Inner& inner = *inners_.emplace_back(std::make_unique<Inner>(*this, *std::move(route), std::move(stub)));
    {
      absl::MutexLock lock(&mutex_);
      running_ = &inner;
      if (cancelled_) running_->Cancel();
    }
    inner.Start(start_);
  }

  void TryAfterNews() {
    const absl::Status queued = context_.quick.Run([self = shared_from_this()] {
      self->attempts_.WaitForNews();
      self->Try();
    });
    if (!queued.ok()) GiveUp(queued);
  }

  void Pass(const v1::GenerateResponse& message) {
    answered_ = true;
    completion_tokens_ += message.tokens_size();
    if (message.has_usage()) prompt_tokens_ = message.usage().prompt_tokens();
    StartWrite(&message);
  }

  void InnerDone(Inner& inner, const grpc::Status& status) {
    const std::shared_ptr<RelayStream> self = shared_from_this();
    bool cancelled;
    {
      absl::MutexLock lock(&mutex_);
      running_ = nullptr;
      cancelled = cancelled_;
    }
    const bool again = !status.ok() && !cancelled && attempts_.Again(inner.route(), status) && !answered_;
    last_ = status;
    last_model_ = inner.route().model();
    inner.GiveUpPlace();
    if (again) return Try();
    guard_.CountTokens(prompt_tokens_ + completion_tokens_);
    EndAsLast(cancelled);
  }

  // No replica can be asked, for the reason `why`. If one was before, what came of that is what there is to tell; that
  // no further one is left is not.
  void GiveUp(const absl::Status& why) {
    if (last_.ok()) return Refuse(why);
    bool cancelled;
    {
      absl::MutexLock lock(&mutex_);
      cancelled = cancelled_;
    }
    EndAsLast(cancelled);
  }

  // As the last try has ended.
  void EndAsLast(bool cancelled) {
    // The replica has counted the request, unless it is gone.
    if (IsLost(last_) && !cancelled) context_.metrics.Add(Metric::kRequestsTotal, {last_model_, "error"});
    End(cancelled ? ToGrpcStatus(Cancelled("CANCELLED", "the call was cancelled")) : ToCaller(last_, last_model_));
  }

  // Before any replica was asked.
  void Refuse(const absl::Status& status) {
    context_.metrics.Add(Metric::kRequestsTotal, {WithoutCollection(kServedModels, requested_), "refused"});
    End(ToGrpcStatus(status));
  }
  void End(const grpc::Status& status) {
    guard_.Finished(FromGrpcStatus(status));
    Finish(status);
  }

  ServiceContext& context_;
  grpc::CallbackServerContext& call_;
  CallGuard guard_;
  const std::string requested_;
  RelayAttempts attempts_;
  const StartInner start_;
  grpc::Status last_;       // of the last try that has ended
  std::string last_model_;  // that it asked for
  bool answered_ = false;
  int64_t prompt_tokens_ = 0;
  int64_t completion_tokens_ = 0;
  std::vector<std::unique_ptr<Inner>> inners_;
  std::shared_ptr<RelayStream> self_;
  absl::Mutex mutex_;
  Inner* running_ ABSL_GUARDED_BY(mutex_) = nullptr;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StartRelayStream(ServiceContext& context,
                                                                 grpc::CallbackServerContext& call, CallName name,
                                                                 std::string_view requested, RelayAttempts attempts,
                                                                 StartInner start) {
  const auto stream =
      std::make_shared<RelayStream>(context, call, name, requested, std::move(attempts), std::move(start));
  stream->Start();
  return stream.get();
}

}  // namespace qamserve
