// What an api process does with calls for inference: replicas that answer, refuse, break off, stall, and never were
// there.
#include <gmock/gmock.h>

#include <sstream>
#include <thread>

#include "qamserve/v1/access.grpc.pb.h"
#include "server/grpc/status_conversion.h"
#include "tests/server/fleet/scripted_replica.h"
#include "tests/server/fleet/server_fleet_fixture.h"
#include "tests/support/raw_http.h"

namespace qamserve {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;

constexpr char kOneError[] = "qamserve_requests_total{model=\"m\",outcome=\"error\"} 1";

v1::GenerateResponse Piece(const std::string& text, const std::string& model) {
  v1::GenerateResponse response;
  response.set_text(text);
  response.add_tokens(5);
  response.set_model(model);
  return response;
}

// Writes "one", "two", and ends.
grpc::Status TwoPieces(grpc::ServerContext&, const v1::GenerateRequest& request, ScriptedReplica::Writer& writer) {
  writer.Write(Piece("one", request.model()));
  v1::GenerateResponse last = Piece("two", request.model());
  last.set_finish_reason(v1::FINISH_REASON_STOP);
  last.mutable_usage()->set_prompt_tokens(4);
  writer.Write(last);
  return grpc::Status::OK;
}

class ForwardingTest : public ServerFleetTest {
 protected:
  void SetUp() override {
    ServerFleetTest::SetUp();
    AddModel("m");
    api_ = &Add({"api"}, [](ServerOptions& options) { options.metrics_listen = "127.0.0.1:0"; });
  }
  // Lines of the api process about requests; those that a replica has counted are not among them.
  std::vector<std::string> CountedRequests() const {
    std::vector<std::string> lines;
    std::istringstream text(HttpGet(api_->server->metrics_port(), "/metrics").body);
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with("qamserve_requests_total{")) lines.push_back(line);
    }
    return lines;
  }
  void AddModel(const std::string& name) {
    ASSERT_TRUE(store_->PutServedModel({.name = name, .source = source_, .replicas = 8}).ok());
  }
  // One that the api process knows of.
  ScriptedReplica& AddReplica(const std::string& id, ScriptedReplica::Script script, int32_t running = 0) {
    ScriptedReplica& replica =
        *replicas_.emplace_back(std::make_unique<ScriptedReplica>(id, *store_, std::move(script)));
    replica.Serve("m", running);
    const int count = static_cast<int>(replicas_.size());
    EXPECT_TRUE(Eventually([&] { return Get(*api_, "m").ready_replicas() == count; }));
    return replica;
  }

  Process* api_ = nullptr;
  std::vector<std::unique_ptr<ScriptedReplica>> replicas_;
};

grpc::Status Refuse(absl::Status status) { return ToGrpcStatus(status); }

TEST_F(ForwardingTest, PassesOnRequestAnswerAndWhoCalls) {
  std::string asked;
  ScriptedReplica& replica =
      AddReplica("a", [&](grpc::ServerContext& context, const v1::GenerateRequest& request, auto& writer) {
        asked = request.model() + " " + request.prompt();
        return TwoPieces(context, request, writer);
      });
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer k");
  context.AddMetadata("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  context.AddMetadata("x-request-id", "r-1");
  context.AddMetadata("x-qamserve-peer", "forged");
  const Answer answer = ReadAll(*api_->inference->Generate(&context, Prompt("m")));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "onetwo");
  EXPECT_EQ(answer.last.finish_reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.last.model(), "servedModels/m");
  EXPECT_EQ(asked, "servedModels/m hello");
  const auto metadata = replica.metadata();
  EXPECT_THAT(metadata, Contains(Pair("authorization", "Bearer k")));
  EXPECT_THAT(metadata, Contains(Pair("traceparent", HasSubstr("0af7651916cd43dd8448eb211c80319c"))));
  EXPECT_THAT(metadata, Contains(Pair("x-request-id", "r-1")));
  EXPECT_THAT(metadata, Contains(Pair("x-qamserve-forwarded", "1")));
  EXPECT_THAT(metadata, Contains(Pair("x-qamserve-peer", HasSubstr("127.0.0.1:"))));
}

TEST_F(ForwardingTest, AnotherReplicaIsTriedBeforeTheFirstMessage) {
  ScriptedReplica& full = AddReplica(
      "a", [](auto&, auto&, auto&) { return Refuse(ResourceExhausted("QUEUE_FULL", "no place")); }, 0);
  AddReplica("b", TwoPieces, 100);
  EXPECT_TRUE(Generate(*api_, "m").status.ok());
  EXPECT_EQ(full.calls(), 1);
  // One that has gone without a word.
  full.Die();
  const Answer answer = Generate(*api_, "m");
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_EQ(answer.text, "onetwo");
}

TEST_F(ForwardingTest, NoMoreThanThreeAreAskedAndTheLastErrorIsTold) {
  for (const char* id : {"a", "b", "c", "d"}) {
    AddReplica(id, [id](auto&, auto&, auto&) { return Refuse(Unavailable("SHUTTING_DOWN", "{} goes", id)); });
  }
  const Answer answer = Generate(*api_, "m");
  EXPECT_EQ(ReasonOf(answer.status), "SHUTTING_DOWN");
  EXPECT_THAT(CountedRequests(), IsEmpty()) << "who refuses counts that";
  int calls = 0;
  for (const auto& replica : replicas_) {
    EXPECT_LE(replica->calls(), 1);
    calls += replica->calls();
  }
  EXPECT_EQ(calls, 3);
}

TEST_F(ForwardingTest, WhatIsWrongWithARequestIsNotTriedElsewhere) {
  for (const char* id : {"a", "b"}) {
    AddReplica(id, [](auto&, auto&, auto&) { return Refuse(InvalidArgument("PROMPT_EMPTY", "the prompt is empty")); });
  }
  const Answer answer = Generate(*api_, "m");
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(ReasonOf(answer.status), "PROMPT_EMPTY");
  EXPECT_EQ(answer.status.error_message(), "the prompt is empty");
  EXPECT_EQ(replicas_[0]->calls() + replicas_[1]->calls(), 1);
}

TEST_F(ForwardingTest, AStreamThatBreaksOffEndsUnavailable) {
  std::atomic<bool> die{false};
  ScriptedReplica& replica = AddReplica(
      "a",
      [&](grpc::ServerContext& context, const v1::GenerateRequest& request, auto& writer) {
        writer.Write(Piece("one", request.model()));
        while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        return grpc::Status::CANCELLED;
      },
      0);
  ScriptedReplica& other = AddReplica("b", TwoPieces, 100);
  grpc::ClientContext context;
  const auto reader = api_->inference->Generate(&context, Prompt("m"));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.text(), "one");
  replica.Die();
  EXPECT_FALSE(reader->Read(&response)) << "an answer that has begun is not begun again elsewhere";
  const grpc::Status status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(status), "REPLICA_LOST");
  EXPECT_THAT(status.error_message(), testing::Not(HasSubstr("127.0.0.1")));
  EXPECT_EQ(other.calls(), 0);
  EXPECT_THAT(CountedRequests(), ElementsAre(kOneError));
  EXPECT_TRUE(Generate(*api_, "m").status.ok()) << "the next request goes to the other one";
  EXPECT_THAT(CountedRequests(), ElementsAre(kOneError));
}

TEST_F(ForwardingTest, ARequestThatIsLostWithTheOnlyReplicaCountsAsAnError) {
  ScriptedReplica& replica = AddReplica("a", TwoPieces);
  replica.Die();
  const Answer answer = Generate(*api_, "m");
  EXPECT_EQ(ReasonOf(answer.status), "REPLICA_LOST");
  EXPECT_THAT(answer.status.error_message(), HasSubstr("\"m\""));
  EXPECT_THAT(CountedRequests(), ElementsAre(kOneError));
}

TEST_F(ForwardingTest, ARequestThatTheOnlyReplicaRefusesIsNotCountedTwice) {
  AddReplica("a", [](auto&, auto&, auto&) { return Refuse(ResourceExhausted("QUEUE_FULL", "no place")); });
  EXPECT_EQ(ReasonOf(Generate(*api_, "m").status), "QUEUE_FULL");
  EXPECT_THAT(CountedRequests(), IsEmpty());
}

TEST_F(ForwardingTest, CancellationReachesTheReplica) {
  std::atomic<bool> cancelled{false};
  AddReplica("a", [&](grpc::ServerContext& context, const v1::GenerateRequest& request, auto& writer) {
    writer.Write(Piece("one", request.model()));
    while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    cancelled = true;
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  const auto reader = api_->inference->Generate(&context, Prompt("m"));
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  context.TryCancel();
  EXPECT_TRUE(Eventually([&] { return cancelled.load(); }));
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ForwardingTest, TheDeadlineOfTheCallIsTheReplicasToo) {
  std::atomic<double> left{0};
  AddReplica("a", [&](grpc::ServerContext& context, const v1::GenerateRequest&, auto&) {
    left = std::chrono::duration<double>(context.deadline() - std::chrono::system_clock::now()).count();
    while (!context.IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return grpc::Status::CANCELLED;
  });
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(400));
  const Answer answer = ReadAll(*api_->inference->Generate(&context, Prompt("m")));
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_GT(left, 0);
  EXPECT_LT(left, 1) << "clocks of client and server meet in a whole millisecond";
}

TEST_F(ForwardingTest, ASlowReaderHoldsUpItsOwnStreamAndNothingGrows) {
  constexpr size_t kPieceBytes = size_t{256} << 10;
  constexpr int kPieces = 100;
  std::atomic<int> written{0};
  AddReplica("a", [&](grpc::ServerContext& context, const v1::GenerateRequest& request, auto& writer) {
    if (request.prompt() != "much") return TwoPieces(context, request, writer);
    for (int i = 0; i < kPieces; ++i) {
      if (!writer.Write(Piece(std::string(kPieceBytes, 'x'), request.model()))) break;
      ++written;
    }
    return grpc::Status::OK;
  });
  grpc::ClientContext context;
  v1::GenerateRequest much = Prompt("m");
  much.set_prompt("much");
  const auto reader = api_->inference->Generate(&context, much);
  int before = -1;
  ASSERT_TRUE(Eventually([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    return std::exchange(before, written.load()) == written && written > 0;
  })) << "the replica is held up";
  EXPECT_LT(written, kPieces / 2);
  EXPECT_TRUE(Generate(*api_, "m").status.ok()) << "others go on";
  size_t bytes = 0;
  v1::GenerateResponse response;
  while (reader->Read(&response)) bytes += response.text().size();
  EXPECT_TRUE(reader->Finish().ok());
  EXPECT_EQ(bytes, kPieces * kPieceBytes);
}

TEST_F(ForwardingTest, UnaryCallsAreTriedElsewhereToo) {
  ScriptedReplica& first = AddReplica("a", TwoPieces, 0);
  ScriptedReplica& second = AddReplica("b", TwoPieces, 100);
  first.refusal = Refuse(Unavailable("SHUTTING_DOWN", "it goes"));
  v1::ScoreRequest request;
  request.set_model("servedModels/m");
  request.set_text("hello");
  v1::ScoreResponse response;
  {
    grpc::ClientContext context;
    const grpc::Status status = api_->inference->Score(&context, request, &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  EXPECT_EQ(response.model(), "servedModels/m");
  EXPECT_EQ(first.calls(), 1);
  EXPECT_EQ(second.calls(), 1);
  second.refusal = Refuse(InvalidArgument("SCORE_TOO_SHORT", "too short"));
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(api_->inference->Score(&context, request, &response)), "SCORE_TOO_SHORT");
}

TEST_F(ForwardingTest, ComparesOnAnInstanceThatHasBoth) {
  AddModel("n");
  AddReplica("a", TwoPieces);
  ScriptedReplica& both = AddReplica("b", TwoPieces, 100);
  v1::CompareRequest request;
  request.set_base("m");
  request.set_other("n");
  v1::CompareResponse response;
  const auto compare = [&] {
    grpc::ClientContext context;
    return api_->inference->Compare(&context, request, &response);
  };
  EXPECT_EQ(ReasonOf(compare()), "MODEL_NOT_READY");
  both.Serve("n");
  ASSERT_TRUE(Eventually([&] { return Get(*api_, "n").ready_replicas() == 1; }));
  const grpc::Status status = compare();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.other(), "servedModels/n");
  EXPECT_EQ(both.calls(), 1);
}

TEST_F(ForwardingTest, TokensThatAReplicaTellsCountAgainstTheKey) {
  AddReplica("a", TwoPieces);
  const auto access = v1::AccessService::NewStub(api_->channel);
  const auto create = [&](v1::Scope scope, int tokens, const std::string& by) {
    v1::CreateKeyRequest request;
    request.set_display_name("k");
    request.add_scopes(scope);
    request.mutable_limits()->set_tokens_per_minute(tokens);
    v1::NewKey key;
    grpc::ClientContext context;
    if (!by.empty()) context.AddMetadata("authorization", "Bearer " + by);
    const grpc::Status status = access->CreateKey(&context, request, &key);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return key.secret();
  };
  const std::string admin = create(v1::SCOPE_ADMIN, 0, "");
  const std::string key = create(v1::SCOPE_INFER, 10, admin);
  const auto score = [&] {
    v1::ScoreRequest request;
    request.set_model("m");
    request.set_text("hello");
    v1::ScoreResponse response;
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + key);
    return api_->inference->Score(&context, request, &response);
  };
  EXPECT_TRUE(score().ok());  // 7 of 10
  EXPECT_TRUE(score().ok());
  EXPECT_EQ(ReasonOf(score()), "KEY_LIMIT");
}

}  // namespace
}  // namespace qamserve
