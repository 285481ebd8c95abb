// Servers of every role that share their stores, with fake weights: loading, scaling, unloading, draining, and what
// each role answers.
#include <gmock/gmock.h>

#include <thread>

#include "core/kernels/kernels.h"
#include "qamserve/v1/access.grpc.pb.h"
#include "qamserve/v1/admin.grpc.pb.h"
#include "qamserve/v1/system.grpc.pb.h"
#include "tests/server/fleet/server_fleet_fixture.h"
#include "tests/support/test_certificates.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class FleetServingTest : public ServerFleetTest {
 protected:
  int Loads() {
    int loads = 0;
    for (const auto& process : processes_) {
      const std::lock_guard lock(process->state->mutex);
      loads += process->state->loads;
    }
    return loads;
  }
  static grpc::Status Tokenize(Process& process) {
    v1::TokenizeRequest request;
    request.set_model("m");
    request.set_text("hello");
    v1::TokenizeResponse tokens;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    const grpc::Status status = process.inference->Tokenize(&context, request, &tokens);
    EXPECT_TRUE(!status.ok() || tokens.tokens_size() > 0);
    return status;
  }
  static void Hold(Process& process, bool hold) {
    process.state->Set([&] { process.state->hold = hold; });
  }
};

TEST_F(FleetServingTest, LoadsSpreadAndRequestsFollow) {
  Process& api = Add({"api"});
  Process& a = Add({"inference"});
  Process& b = Add({"inference"});
  LoadAll(api, "m", 2);
  EXPECT_EQ(Loads(), 2);
  const v1::ServedModel model = Get(api, "m");
  EXPECT_EQ(model.state(), v1::SERVED_MODEL_STATE_READY);
  EXPECT_EQ(model.replicas(), 2);
  EXPECT_TRUE(model.chat());
  // Requests at the same time go to both.
  Hold(a, true);
  Hold(b, true);
  std::vector<std::thread> threads;
  threads.reserve(6);
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&] {
      const Answer answer = Generate(api, "m");
      EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
      EXPECT_EQ(answer.text, "aaa");
      EXPECT_EQ(answer.last.model(), "servedModels/m");
      EXPECT_EQ(answer.last.usage().completion_tokens(), 3);
    });
  }
  EXPECT_TRUE(Eventually([&] { return Running(a) == 3 && Running(b) == 3; })) << Running(a) << " " << Running(b);
  EXPECT_TRUE(Eventually([&] { return Get(api, "m").running() == 6; })) << "sums over replicas";
  Hold(a, false);
  Hold(b, false);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(FleetServingTest, AllRolesInOneProcessAreOneOfTheReplicas) {
  Process& one = Add({"api", "worker", "inference"});
  Process& two = Add({"api", "inference"});
  LoadAll(one, "m", 2);
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(Generate(one, "m").status.ok());
    EXPECT_TRUE(Generate(two, "m").status.ok());
  }
  EXPECT_TRUE(Tokenize(one).ok());
  EXPECT_TRUE(Tokenize(two).ok());
}

TEST_F(FleetServingTest, ARequestThatAProcessForwardsToItselfCountsOnce) {
  Process& api = Add({"api", "inference"});
  LoadAll(api, "m", 1);
  const auto access = v1::AccessService::NewStub(api.channel);
  const auto create = [&](v1::Scope scope, int requests, int concurrent, const std::string& by) {
    v1::CreateKeyRequest request;
    request.set_display_name("k");
    request.add_scopes(scope);
    request.mutable_limits()->set_requests_per_minute(requests);
    request.mutable_limits()->set_concurrent_requests(concurrent);
    v1::NewKey key;
    grpc::ClientContext context;
    if (!by.empty()) context.AddMetadata("authorization", "Bearer " + by);
    EXPECT_TRUE(access->CreateKey(&context, request, &key).ok());
    return key.secret();
  };
  const std::string admin = create(v1::SCOPE_ADMIN, 0, 0, "");
  const std::string key = create(v1::SCOPE_INFER, 3, 1, admin);
  const auto ask = [&](const std::string& secret) {
    grpc::ClientContext context;
    if (!secret.empty()) context.AddMetadata("authorization", "Bearer " + secret);
    return ReadAll(*api.inference->Generate(&context, Prompt("m"))).status;
  };
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(ask(key).ok()) << i;
  EXPECT_EQ(ReasonOf(ask(key)), "KEY_LIMIT");
  EXPECT_EQ(ReasonOf(ask("")), "KEY_MISSING");
}

TEST_F(FleetServingTest, AReplicaChecksTheKeyForItself) {
  Process& api = Add({"api"});
  Process& replica = Add({"inference"});
  LoadAll(api, "m", 1);
  const auto access = v1::AccessService::NewStub(api.channel);
  v1::CreateKeyRequest request;
  request.set_display_name("admin");
  request.add_scopes(v1::SCOPE_ADMIN);
  v1::NewKey key;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(access->CreateKey(&context, request, &key).ok());
  }
  // The other process learns of it.
  EXPECT_TRUE(Eventually([&] { return ReasonOf(Generate(replica, "m").status) == "KEY_MISSING"; }));
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + key.secret());
  EXPECT_TRUE(ReadAll(*api.inference->Generate(&context, Prompt("m"))).status.ok());
}

TEST_F(FleetServingTest, EachRoleAnswersWhatIsItsOwn) {
  Process& api = Add({"api"});
  Process& worker = Add({"worker"});
  Process& inference = Add({"inference"});
  v1::ServedModel model;
  EXPECT_EQ(Load(worker, "m", 1, &model).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Load(inference, "m", 1, &model).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Generate(worker, "m").status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(ReasonOf(Generate(inference, "m").status), "MODEL_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Generate(api, "m").status), "MODEL_NOT_FOUND");
  const auto system = [](Process& process) {
    v1::System answer;
    grpc::ClientContext context;
    EXPECT_TRUE(v1::SystemService::NewStub(process.channel)->GetSystem(&context, {}, &answer).ok());
    return answer;
  };
  EXPECT_TRUE(Eventually([&] { return system(api).instances() == 3; }));
  LoadAll(api, "m", 1);
  EXPECT_EQ(system(api).models_ready(), 1);
  EXPECT_EQ(system(api).memory_limit_bytes(), int64_t{64} << 20);
  EXPECT_EQ(system(api).memory_used_bytes(), 1110);
  EXPECT_EQ(system(worker).roles(0), "worker");
}

TEST_F(FleetServingTest, InstancesTellWhatTheyMayUse) {
  Process& api = Add({"api"});
  Add({"worker"});
  Add({"worker", "inference"});
  v1::ListInstancesResponse list;
  grpc::ClientContext context;
  ASSERT_TRUE(v1::AdminService::NewStub(api.channel)->ListInstances(&context, {}, &list).ok());
  ASSERT_EQ(list.instances_size(), 3);
  for (const v1::Instance& instance : list.instances()) {
    const std::vector<std::string> roles(instance.roles().begin(), instance.roles().end());
    const bool serves = roles.back() == "inference";
    EXPECT_EQ(instance.memory_bytes(), serves ? int64_t{64} << 20 : MachineMemoryBytes()) << roles.front();
    EXPECT_EQ(instance.kernels(), BestKernels().name);
    EXPECT_EQ(instance.device(), "cpu");
    EXPECT_EQ(instance.threads(), 1);
  }
}

TEST_F(FleetServingTest, AnInstanceThatGoesInOrderLosesNoRequest) {
  Process& api = Add({"api"});
  Process& a = Add({"inference"});
  Process& b = Add({"inference"});
  LoadAll(api, "m", 2);
  Hold(a, true);
  Hold(b, true);
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>>> readers;
  for (int i = 0; i < 4; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(api.inference->Generate(contexts.back().get(), Prompt("m")));
  }
  ASSERT_TRUE(Eventually([&] { return Running(a) == 2 && Running(b) == 2; }));
  Hold(b, false);
  std::thread drain([&] { a.server->Drain(); });
  ASSERT_TRUE(Eventually([&] { return Get(api, "m").ready_replicas() == 1; }));
  for (int i = 0; i < 20; ++i) {
    const Answer answer = Generate(api, "m");
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  }
  Hold(a, false);
  drain.join();
  for (const auto& reader : readers) EXPECT_TRUE(ReadAll(*reader).status.ok());
  a.server = nullptr;
  EXPECT_EQ(store_->ListInstances()->size(), 2u);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Generate(api, "m").status.ok());
  EXPECT_EQ(b.state->loads, 1);
}

TEST_F(FleetServingTest, AnInstanceIsDrainedByCallAndTakesUpItsWorkAgain) {
  Process& api = Add({"api"});
  Process& a = Add({"inference"});
  LoadAll(api, "m", 1);
  const auto admin = v1::AdminService::NewStub(api.channel);
  const auto instance_with_model = [&] {
    v1::ListInstancesResponse list;
    grpc::ClientContext context;
    EXPECT_TRUE(admin->ListInstances(&context, {}, &list).ok());
    v1::Instance found;
    for (const v1::Instance& instance : list.instances()) {
      if (instance.replicas_size() == 1) found = instance;
    }
    return found;
  };
  const auto drain = [&](const std::string& name, bool undo) {
    v1::DrainInstanceRequest request;
    request.set_name(name);
    request.set_undo(undo);
    v1::Instance instance;
    grpc::ClientContext context;
    const grpc::Status status = admin->DrainInstance(&context, request, &instance);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(instance.drain_requested(), !undo);
    EXPECT_EQ(instance.draining(), !undo);
    return instance;
  };
  const v1::Instance first = instance_with_model();
  EXPECT_EQ(drain(first.name(), false).replicas_size(), 1);
  EXPECT_TRUE(Generate(api, "m").status.ok()) << "there is nobody else";
  Hold(a, true);
  std::thread running([&] {
    const Answer answer = Generate(api, "m");
    EXPECT_EQ(answer.text, "aaa") << answer.status.error_message();
  });
  ASSERT_TRUE(Eventually([&] { return Running(a) == 1; }));
  Add({"inference"});
  ASSERT_TRUE(Eventually([&] { return Loads() == 2; }));
  ASSERT_TRUE(Eventually([&] { return !Tokenize(a).ok(); })) << "it takes nothing new";
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Generate(api, "m").status.error_message(), "") << "a would hold it";
  Hold(a, false);
  running.join();
  ASSERT_TRUE(Eventually([&] { return instance_with_model().name() != first.name(); }));
  drain(first.name(), true);
  const v1::Instance second = instance_with_model();
  drain(second.name(), false);
  EXPECT_TRUE(Eventually([&] { return instance_with_model().name() == first.name(); }));
  EXPECT_TRUE(Generate(api, "m").status.ok());
}

TEST_F(FleetServingTest, AnApiProcessThatGoesLetsItsStreamsEnd) {
  Process& api = Add({"api"});
  Process& a = Add({"inference"});
  LoadAll(api, "m", 1);
  Hold(a, true);
  grpc::ClientContext context;
  const auto reader = api.inference->Generate(&context, Prompt("m"));
  ASSERT_TRUE(Eventually([&] { return Running(a) == 1; }));
  std::thread drain([&] { api.server->Drain(); });
  // Not by a generation, which would be held up, too.
  EXPECT_TRUE(Eventually([&] { return Tokenize(api).error_code() == grpc::StatusCode::UNAVAILABLE; }));
  absl::SleepFor(absl::Seconds(3));  // longer than the moment that other calls get
  Hold(a, false);
  const Answer answer = ReadAll(*reader);
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  drain.join();
}

TEST_F(FleetServingTest, WhatOneApiProcessChangesTheOtherOneKnows) {
  Process& one = Add({"api"});
  Process& two = Add({"api"});
  Add({"inference"});
  LoadAll(one, "m", 1);
  EXPECT_TRUE(Generate(two, "m").status.ok()) << "at once: what is not known is looked up";
  v1::UpdateAliasRequest update;
  update.set_name("aliases/prod");
  v1::AliasTarget* target = update.add_targets();
  target->set_model("m");
  target->set_weight(1);
  v1::Alias alias;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(two.serving->UpdateAlias(&context, update, &alias).ok());
  }
  const Answer answer = Generate(one, "prod");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.last.model(), "servedModels/m");
  v1::UnloadModelRequest unload;
  unload.set_name("servedModels/m");
  v1::ServedModel model;
  {
    grpc::ClientContext context;
    EXPECT_EQ(ReasonOf(one.serving->UnloadModel(&context, unload, &model)), "MODEL_IN_ALIAS");
  }
  v1::DeleteAliasRequest remove;
  remove.set_name("aliases/prod");
  v1::DeleteAliasResponse removed;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(one.serving->DeleteAlias(&context, remove, &removed).ok());
  }
  grpc::ClientContext context;
  const grpc::Status unloaded = two.serving->UnloadModel(&context, unload, &model);
  ASSERT_TRUE(unloaded.ok()) << unloaded.error_message();
  EXPECT_EQ(model.state(), v1::SERVED_MODEL_STATE_UNLOADED);
  EXPECT_EQ(ReasonOf(Generate(two, "m").status), "MODEL_NOT_FOUND");
}

TEST_F(FleetServingTest, ReplicasAreForFleets) {
  ServerOptions options;
  options.data_dir = dir_ / "alone";
  options.listen = "127.0.0.1:0";
  options.http_listen = options.metrics_listen = "off";
  options.disk_reserve_mib = 0;
  auto alone = Server::Start(options, Log::Silent());
  ASSERT_TRUE(alone.ok()) << alone.status();
  const auto serving =
      v1::ServingService::NewStub(grpc::CreateChannel((*alone)->address(), grpc::InsecureChannelCredentials()));
  v1::LoadModelRequest request;
  request.set_name("m");
  request.set_source(source_);
  request.set_replicas(2);
  v1::ServedModel model;
  grpc::ClientContext context;
  const grpc::Status status = serving->LoadModel(&context, request, &model);
  EXPECT_EQ(ReasonOf(status), "REPLICAS");
  EXPECT_THAT(status.error_message(), HasSubstr("--metadata-store"));
}

TEST_F(FleetServingTest, InstancesTalkOverTlsAndShowTheirCertificates) {
  const TestCa ca(dir_.path(), "ca");
  ca.Sign("server");
  const auto tls = [&](ServerOptions& options) {
    options.tls_cert = dir_ / "server.crt";
    options.tls_key = dir_ / "server.key";
    options.tls_client_ca = ca.certificate();
    options.fleet_ca = ca.certificate();
  };
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = ReadText(ca.certificate());
  ssl.pem_private_key = ReadText(dir_ / "server.key");
  ssl.pem_cert_chain = ReadText(dir_ / "server.crt");
  credentials_ = grpc::SslCredentials(ssl);
  Process& api = Add({"api"}, tls);
  Add({"inference"}, tls);
  LoadAll(api, "m", 1);
  const Answer answer = Generate(api, "m");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "aaa");
}

}  // namespace
}  // namespace qamserve
