// What client.cc, upload.cc and download.cc share: the stubs, deadlines and the pauses between attempts. Not for users
// of the library.
#pragma once

#include <grpcpp/client_context.h>

#include <memory>

#include "client/client.h"
#include "client/rpc_status.h"
#include "qamserve/v1/access.grpc.pb.h"
#include "qamserve/v1/admin.grpc.pb.h"
#include "qamserve/v1/artifact.grpc.pb.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/job.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "qamserve/v1/system.grpc.pb.h"

namespace qamserve {

struct Client::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel);
  std::unique_ptr<v1::CheckpointService::Stub> checkpoints;
  std::unique_ptr<v1::JobService::Stub> jobs;
  std::unique_ptr<v1::ArtifactService::Stub> artifacts;
  std::unique_ptr<v1::ServingService::Stub> serving;
  std::unique_ptr<v1::InferenceService::Stub> inference;
  std::unique_ptr<v1::AccessService::Stub> access;
  std::unique_ptr<v1::SystemService::Stub> system;
  std::unique_ptr<v1::AdminService::Stub> admin;
};

enum class CallKind { kQuick, kSlow, kStream };

// Sets the deadline of a call of this kind (options.timeout_ms overrides the kind's own) and adds the API key.
void PrepareCall(const ClientOptions& options, CallKind kind, grpc::ClientContext& context);

// One unary call.
template <typename Stub, typename Request, typename Response>
absl::Status CallOnce(const ClientOptions& options, CallKind kind, Stub& stub,
                      grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                      const Request& request, Response& response, Cancellation* cancellation = nullptr) {
  grpc::ClientContext context;
  PrepareCall(options, kind, context);
  CancellableCall guard(cancellation, context);
  return FromGrpc((stub.*method)(&context, request, &response));
}

// Counts attempts in a row without progress and pauses between them. Not thread-safe.
class RetryPauses {
 public:
  RetryPauses(const ClientOptions& options, Cancellation* cancellation)
      : options_(options), cancellation_(cancellation) {}
  // After progress the count starts again.
  void Reset() { attempts_ = 0; }
  // Whether another attempt after `error` makes sense: it will pass by itself (UNAVAILABLE, or a reason that says
  // busy), and neither limit nor cancellation is reached.
  bool ShouldRetry(const absl::Status& error) const;
  int64_t NextPauseMs() const;
  // False if cancelled meanwhile.
  bool Pause();

 private:
  const ClientOptions& options_;
  Cancellation* cancellation_;
  int attempts_ = 0;
};

}  // namespace qamserve
