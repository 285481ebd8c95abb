// A replica that does what a test says: a gRPC server with InferenceService, and the rows that make an api process take
// it for one of its fleet.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "qamserve/v1/inference.grpc.pb.h"
#include "server/store/metadata_store.h"

namespace qamserve {

class ScriptedReplica final : public v1::InferenceService::Service {
 public:
  using Writer = grpc::ServerWriter<v1::GenerateResponse>;
  using Script = std::function<grpc::Status(grpc::ServerContext&, const v1::GenerateRequest&, Writer&)>;

  ScriptedReplica(std::string id, MetadataStore& store, Script script)
      : id_(std::move(id)), store_(store), script_(std::move(script)) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    InstanceRecord instance;
    instance.id = id_;
    instance.host = "host-" + id_;
    instance.address = "127.0.0.1:" + std::to_string(port);
    instance.roles = {"inference"};
    EXPECT_TRUE(store_.PutInstance(instance).ok());
  }
  ~ScriptedReplica() override { Die(); }

  // Serves `model`, whose row is there.
  void Serve(const std::string& model, int32_t running = 0) {
    EXPECT_TRUE(store_.ClaimReplica(model, id_).value_or(false));
    ReplicaRecord replica;
    replica.model = model;
    replica.instance = id_;
    replica.state = ReplicaState::kReady;
    replica.running = running;
    replica.context_tokens = 128;
    replica.updated_ms = 1;
    EXPECT_TRUE(store_.PutReplica(replica).ok());
  }
  // Connections break; rows stay.
  void Die() {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now());
    server_->Wait();
    server_ = nullptr;
  }
  int calls() const { return calls_; }
  std::multimap<std::string, std::string> metadata() {
    const std::lock_guard lock(mutex_);
    return metadata_;
  }

  grpc::Status Generate(grpc::ServerContext* context, const v1::GenerateRequest* request, Writer* writer) override {
    Note(*context);
    return script_(*context, *request, *writer);
  }
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    Note(*context);
    if (!refusal.ok()) return refusal;
    response->set_model(request->model());
    context->AddTrailingMetadata("x-qamserve-tokens", "7");
    return grpc::Status::OK;
  }
  grpc::Status Compare(grpc::ServerContext* context, const v1::CompareRequest* request,
                       v1::CompareResponse* response) override {
    Note(*context);
    response->set_base(request->base());
    response->set_other(request->other());
    return grpc::Status::OK;
  }

  grpc::Status refusal;  // of Score

 private:
  void Note(const grpc::ServerContext& context) {
    ++calls_;
    const std::lock_guard lock(mutex_);
    metadata_.clear();
    for (const auto& [name, value] : context.client_metadata()) {
      metadata_.emplace(std::string(name.data(), name.size()), std::string(value.data(), value.size()));
    }
  }

  const std::string id_;
  MetadataStore& store_;
  const Script script_;
  std::atomic<int> calls_{0};
  std::mutex mutex_;
  std::multimap<std::string, std::string> metadata_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace qamserve
