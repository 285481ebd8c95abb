// Whole servers in this process that share their stores, and so are a fleet: api processes and inference processes,
// with fake weights, on free ports.
#pragma once

#include <absl/time/clock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/store/sqlite_metadata_store.h"
#include "tests/server/grpc/server_fixture.h"

namespace qamserve {

class ServerFleetTest : public testing::Test {
 protected:
  // One process.
  struct Process {
    std::shared_ptr<FakeState> state = std::make_shared<FakeState>();
    FakeLoader loader{state};
    IdleRunner runner;
    std::unique_ptr<Server> server;
    std::shared_ptr<grpc::Channel> channel;
    std::unique_ptr<v1::ServingService::Stub> serving;
    std::unique_ptr<v1::InferenceService::Stub> inference;
  };

  void SetUp() override {
    std::filesystem::create_directories(dir_ / "blobs");
    blobs_ = DirectoryBlobStore::Open({.root = dir_ / "blobs", .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(dir_ / "meta").value();
    const BlobInfo blob = blobs_->CommitBytes("weights").value();
    CheckpointRecord record;
    record.digest = blob.digest;
    record.files = {{.name = "model.gguf", .sha256 = blob.digest, .size_bytes = blob.size}};
    ASSERT_TRUE(store_->PutCheckpoint(record).ok());
    source_ = ResourceName("checkpoints", blob.digest);
  }
  void TearDown() override {
    for (const auto& process : processes_) {
      process->state->Set([&] { process->state->hold = false; });
    }
  }

  Process& Add(std::vector<std::string> roles, const std::function<void(ServerOptions&)>& change = nullptr) {
    auto process = std::make_unique<Process>();
    ServerOptions options;
    options.data_dir = dir_ / fmt::format("data{}", processes_.size());
    options.listen = "127.0.0.1:0";
    options.http_listen = "off";
    options.metrics_listen = "off";
    options.roles = std::move(roles);
    options.threads = 1;
    options.memory_limit_mib = 64;
    options.disk_reserve_mib = 0;
    options.drain_seconds = 5;
    if (change) change(options);
    ServerParts parts;
    parts.loader = &process->loader;
    parts.runner = &process->runner;
    parts.limits = limits_;
    parts.store = store_;
    parts.blobs = blobs_;
    auto server = Server::Start(options, Log::Silent(), parts);
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) {
      process->server = *std::move(server);
      process->channel = grpc::CreateChannel(process->server->address(), credentials_);
      process->serving = v1::ServingService::NewStub(process->channel);
      process->inference = v1::InferenceService::NewStub(process->channel);
    }
    return *processes_.emplace_back(std::move(process));
  }

  static bool Eventually(const std::function<bool()>& condition) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!condition()) {
      if (absl::Now() > deadline) return false;
      absl::SleepFor(absl::Milliseconds(5));
    }
    return true;
  }

  grpc::Status Load(Process& api, const std::string& name, int replicas, v1::ServedModel* model) {
    v1::LoadModelRequest request;
    request.set_name(name);
    request.set_source(source_);
    request.set_replicas(replicas);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return api.serving->LoadModel(&context, request, model);
  }
  // Loaded, and READY on all of them.
  void LoadAll(Process& api, const std::string& name, int replicas) {
    v1::ServedModel model;
    const grpc::Status status = Load(api, name, replicas, &model);
    ASSERT_TRUE(status.ok()) << status.error_message();
    ASSERT_TRUE(Eventually([&] { return Get(api, name).ready_replicas() == replicas; }));
  }
  static v1::ServedModel Get(Process& api, const std::string& name) {
    v1::GetServedModelRequest request;
    request.set_name("servedModels/" + name);
    v1::ServedModel model;
    grpc::ClientContext context;
    api.serving->GetServedModel(&context, request, &model);
    return model;
  }

  static v1::GenerateRequest Prompt(const std::string& model, int max_tokens = 3) {
    v1::GenerateRequest request;
    request.set_model(model);
    request.set_prompt("hello");
    request.mutable_params()->set_max_tokens(max_tokens);
    return request;
  }
  struct Answer {
    grpc::Status status;
    std::string text;
    v1::GenerateResponse last;
  };
  static Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader) {
    Answer answer;
    v1::GenerateResponse response;
    while (reader.Read(&response)) {
      answer.text += response.text();
      answer.last = response;
    }
    answer.status = reader.Finish();
    return answer;
  }
  static Answer Generate(Process& process, const std::string& model, int max_tokens = 3) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    return ReadAll(*process.inference->Generate(&context, Prompt(model, max_tokens)));
  }

  // Ends a process without a word to the others, as far as a server in this process can: its port is closed, its row
  // and those of its replicas stay.
  static int Running(Process& process) {
    const std::lock_guard lock(process.state->mutex);
    return process.state->running;
  }

  TempFolder dir_;
  RpcLimits limits_;
  std::shared_ptr<grpc::ChannelCredentials> credentials_ = grpc::InsecureChannelCredentials();
  std::shared_ptr<BlobStore> blobs_;
  std::shared_ptr<MetadataStore> store_;
  std::string source_;
  std::vector<std::unique_ptr<Process>> processes_;
};

}  // namespace qamserve
