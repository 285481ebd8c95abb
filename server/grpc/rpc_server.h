// The gRPC server: the services of a process's roles, grpc.health.v1 and reflection on one port. Thread-safe.
// SystemService is there in every role. Health and reflection ask nobody for a key.
// Health knows "" (the process), each service by its full name and each served model as "servedModels/{name}".
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "server/access/tls_files.h"
#include "server/grpc/service_context.h"

namespace qamserve {

// A message may have 4 MiB; UploadFile's chunks and DownloadFile's pieces are smaller by design.
inline constexpr int kMaxMessageBytes = 4 << 20;

struct RpcServerOptions {
  std::string listen;      // HOST:PORT; port 0 = any free one
  bool store_services = true;      // CheckpointService, JobService, ArtifactService
  bool serving_services = true;    // ServingService, GRPCInferenceService
  bool inference_service = true;   // InferenceService: forwards where ServiceContext::fleet is set
  bool access_service = true;      // AccessService
  const TlsFiles* tls = nullptr;   // outlives the server; null = nothing is encrypted
};

class RpcServer {
 public:
  // `context` must outlive the server. UNAVAILABLE (LISTEN) if the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<RpcServer>> Start(const RpcServerOptions& options, ServiceContext& context);
  // As Shutdown with no time.
  ~RpcServer();

  int port() const { return port_; }
  // Full names ("qamserve.v1.JobService") of the services, without health and reflection.
  const std::vector<std::string>& service_names() const { return service_names_; }
  // To the same services, for this process alone (in_process_channel.h). After Shutdown its calls are UNAVAILABLE.
  const std::shared_ptr<grpc::Channel>& InProcessChannel() const { return in_process_channel_; }
  // As many of its own, each with the limit of streams of a connection; to be let go of before the server is destroyed.
  // Not thread-safe. UNAVAILABLE (IN_PROCESS_CHANNEL).
  absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> InProcessChannels(size_t count);
  void SetModelHealth(const std::string& model, bool serving);
  // Everything is NOT_SERVING for good.
  void SetNotServing();
  // Refuses new calls, cancels those that run at `deadline`, returns when none is left. Idempotent.
  void Shutdown(absl::Time deadline);

 private:
  RpcServer() = default;

  int port_ = 0;
  std::vector<std::string> service_names_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> in_process_channel_;
  std::vector<std::shared_ptr<grpc::Channel>> in_process_channels_;  // that others were given
};

}  // namespace qamserve
