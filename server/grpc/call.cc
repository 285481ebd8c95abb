#include "server/grpc/call.h"

namespace qamserve {
namespace {

bool IsOurFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kUnavailable;
}

}  // namespace

absl::Status ReadyToBegin(const ServiceContext& context, const grpc::CallbackServerContext& call) {
  if (context.drain.raised()) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  if (call.IsCancelled()) return Cancelled("CANCELLED", "the call was cancelled or its deadline passed");
  return absl::OkStatus();
}

void CallTimer::Finished(const absl::Status& status) {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start_);
  context_.metrics.Add(Metric::kRpcTotal,
                       {name_.service, name_.method, StatusCodeLabel(static_cast<grpc::StatusCode>(status.code()))});
  context_.metrics.Observe(Metric::kRpcSeconds, {name_.service, name_.method}, seconds);
  if (IsOurFault(status.code())) {
    context_.log.Warning("rpc_failed", {{"method", std::string(name_.method)},
                                        {"reason", ReasonOf(status)},
                                        {"message", MessageOf(status)},
                                        {"seconds", seconds}});
  }
}

}  // namespace qamserve
