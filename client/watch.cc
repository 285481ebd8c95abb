// Client::WatchJob.
#include <set>

#include "client/client.h"
#include "client/stubs.h"

namespace qamserve {
namespace {

// A new stream begins with every tensor so far: takes out those that were delivered by the one before it.
void DropSeenTensors(std::set<std::string>& seen, v1::Job& job) {
  auto* tensors = job.mutable_tensors();
  int kept = 0;
  for (int i = 0; i < tensors->size(); ++i) {
    if (!seen.insert(tensors->Get(i).name()).second) continue;
    if (i != kept) tensors->SwapElements(i, kept);
    ++kept;
  }
  tensors->DeleteSubrange(kept, tensors->size() - kept);
}

}  // namespace

absl::StatusOr<v1::Job> Client::WatchJob(const std::string& name, absl::FunctionRef<void(const v1::Job&)> on_change,
                                         absl::FunctionRef<void(const absl::Status&)> on_retry,
                                         Cancellation* cancellation) {
  v1::WatchJobRequest request;
  request.set_name(name);
  std::set<std::string> seen;
  RetryPauses backoff(options_, cancellation);
  while (true) {
    grpc::ClientContext context;
    PrepareCall(options_, CallKind::kStream, context);
    absl::Status status;
    {
      CancellableCall guard(cancellation, context);
      const auto reader = stubs_->jobs->WatchJob(&context, request);
      v1::Job job;
      while (reader->Read(&job)) {
        backoff.Reset();
        DropSeenTensors(seen, job);
        on_change(job);
        if (IsFinal(job.state())) {
          context.TryCancel();
          return job;
        }
      }
      status = FromGrpc(reader->Finish());
    }
    // A server that drains may end the stream politely; to a watcher that is the same as losing it.
    if (status.ok()) status = Unavailable(kServerUnreachable, "the server ended the watch of {}", name);
    if (!backoff.ShouldRetry(status)) return status;
    on_retry(status);
    if (!backoff.Pause()) return Cancelled("CANCELLED", "watch of {} stopped", name);
  }
}

}  // namespace qamserve
