#include "server/grpc/rpc_server.h"

#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <type_traits>
#include <utility>

#include "server/grpc/access_service.h"
#include "server/grpc/admin_service.h"
#include "server/grpc/artifact_service.h"
#include "server/grpc/checkpoint_service.h"
#include "server/grpc/forwarding_inference_service.h"
#include "server/grpc/in_process_channel.h"
#include "server/grpc/inference_service.h"
#include "server/grpc/job_service.h"
#include "server/grpc/open_inference_service.h"
#include "server/grpc/serving_service.h"
#include "server/grpc/system_service.h"
#include "server/grpc/tls_credentials.h"

namespace qamserve {
namespace {

// One connection cannot hold the server's memory with idle streams.
constexpr int kMaxStreamsPerConnection = 1024;
constexpr int kMinPingMs = 5'000;

std::string ModelHealthName(const std::string& model) { return "servedModels/" + model; }

}  // namespace

absl::StatusOr<std::unique_ptr<RpcServer>> RpcServer::Start(const RpcServerOptions& options, ServiceContext& context) {
  auto rpc = std::unique_ptr<RpcServer>(new RpcServer());
  const auto add = [&]<typename Api, typename Impl>(std::type_identity<Api>, std::type_identity<Impl>) {
    rpc->services_.push_back(std::make_unique<Impl>(context));
    rpc->service_names_.emplace_back(Api::service_full_name());
  };
  if (options.store_services) {
    add(std::type_identity<v1::CheckpointService>(), std::type_identity<CheckpointServiceImpl>());
    add(std::type_identity<v1::JobService>(), std::type_identity<JobServiceImpl>());
    add(std::type_identity<v1::ArtifactService>(), std::type_identity<ArtifactServiceImpl>());
    add(std::type_identity<v1::AdminService>(), std::type_identity<AdminServiceImpl>());
  }
  if (options.serving_services) add(std::type_identity<v1::ServingService>(), std::type_identity<ServingServiceImpl>());
  if (options.inference_service && context.fleet == nullptr) {
    add(std::type_identity<v1::InferenceService>(), std::type_identity<InferenceServiceImpl>());
  } else if (options.inference_service) {
    rpc->services_.push_back(std::make_unique<ForwardingInferenceService>(
        context, [server = rpc.get()] { return server->InProcessChannel(); }));
    rpc->service_names_.emplace_back(v1::InferenceService::service_full_name());
  }
  if (options.serving_services && options.inference_service) {
    OpenInferenceOptions open_inference{.channel = [server = rpc.get()] { return server->InProcessChannel(); },
                                        .ready = [&context] { return !context.drain.raised(); },
                                        .version = context.system.version};
    rpc->services_.push_back(std::make_unique<OpenInferenceService>(std::move(open_inference)));
    rpc->service_names_.emplace_back(inference::GRPCInferenceService::service_full_name());
  }
  if (options.access_service) add(std::type_identity<v1::AccessService>(), std::type_identity<AccessServiceImpl>());
  add(std::type_identity<v1::SystemService>(), std::type_identity<SystemServiceImpl>());

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  // Otherwise a second server could listen on the same port and take half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Other processes of a fleet ask now and then whether this one is still there (instance_channels.cc).
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinPingMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  rpc->credentials_ = options.tls == nullptr ? grpc::InsecureServerCredentials() : TlsCredentials(*options.tls);
  builder.AddListeningPort(options.listen, rpc->credentials_, &rpc->port_);
  for (const auto& service : rpc->services_) builder.RegisterService(service.get());
  rpc->server_ = builder.BuildAndStart();
  if (rpc->server_ == nullptr || rpc->port_ == 0) {
    return Unavailable("LISTEN", "cannot listen on {} (--listen); is the port in use?", options.listen);
  }
  ASSIGN_OR_RETURN(rpc->in_process_channel_, ConnectInProcess(*rpc->server_));
  for (const std::string& name : rpc->service_names_) {
    rpc->server_->GetHealthCheckService()->SetServingStatus(name, true);
  }
  return rpc;
}

absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> RpcServer::InProcessChannels(size_t count) {
  std::vector<std::shared_ptr<grpc::Channel>> channels(count);
  for (std::shared_ptr<grpc::Channel>& channel : channels) {
    ASSIGN_OR_RETURN(channel, ConnectInProcess(*server_));
    in_process_channels_.push_back(channel);
  }
  return channels;
}

RpcServer::~RpcServer() {
  Shutdown(absl::InfinitePast());
  in_process_channels_.push_back(std::move(in_process_channel_));
  ReleaseInProcess(std::move(in_process_channels_));
}

void RpcServer::SetModelHealth(const std::string& model, bool serving) {
  server_->GetHealthCheckService()->SetServingStatus(ModelHealthName(model), serving);
}

void RpcServer::SetNotServing() { server_->GetHealthCheckService()->Shutdown(); }

void RpcServer::Shutdown(absl::Time deadline) {
  if (server_ == nullptr) return;  // it never listened
  SetNotServing();
  server_->Shutdown(absl::ToChronoTime(std::max(deadline, absl::UnixEpoch())));
  server_->Wait();
}

}  // namespace qamserve
