// How a unary call is answered: on an executor, with its metrics, never on gRPC's own thread.
#pragma once

#include <absl/time/clock.h>
#include <grpcpp/grpcpp.h>

#include <string_view>
#include <utility>

#include "server/grpc/service_context.h"
#include "server/grpc/status_conversion.h"

namespace qamserve {

// Which call it is, in metrics and logs. Both views are of literals.
struct CallName {
  std::string_view service;
  std::string_view method;
};

// Counts and times one call from its construction to Finished, and logs those that failed by our own fault.
class CallTimer {
 public:
  CallTimer(ServiceContext& context, CallName name) : context_(context), name_(name), start_(absl::Now()) {}
  void Finished(const absl::Status& status);

 private:
  ServiceContext& context_;
  const CallName name_;
  const absl::Time start_;
};

// UNAVAILABLE (SHUTTING_DOWN) when the server drains, CANCELLED when nobody waits for the answer any more.
absl::Status ReadyToBegin(const ServiceContext& context, const grpc::CallbackServerContext& call);

// Runs `handler`, a callable that returns absl::Status and fills in the response, on `executor`. Request and response
// live until then. A call that was cancelled, or whose deadline passed, while it was queued is not begun.
template <typename Handler>
grpc::ServerUnaryReactor* AnswerOn(Executor& executor, ServiceContext& context, grpc::CallbackServerContext* call,
                                   CallName name, Handler handler) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  CallTimer timer(context, name);
  const absl::Status queued = executor.Run([call, reactor, timer, &context, handler = std::move(handler)]() mutable {
    absl::Status status = ReadyToBegin(context, *call);
    if (status.ok()) status = handler();
    timer.Finished(status);
    reactor->Finish(ToGrpcStatus(status));
  });
  if (!queued.ok()) {
    timer.Finished(queued);
    reactor->Finish(ToGrpcStatus(queued));
  }
  return reactor;
}

}  // namespace qamserve
