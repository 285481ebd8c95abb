// Aliases over a real connection, with a fake engine: calls, errors, routing, metrics.
#include <gmock/gmock.h>

#include <set>

#include "tests/server/grpc/server_fixture.h"
#include "tests/support/raw_http.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::UnorderedElementsAre;

class AliasRpcTest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    checkpoint_ = MakeCheckpoint();
    Load("a");
    Load("b");
  }

  void Load(const std::string& name) {
    v1::ServedModel model;
    const grpc::Status status = LoadModel(name, checkpoint_, &model);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }

  static v1::UpdateAliasRequest Request(const std::string& name,
                                        const std::vector<std::pair<std::string, int>>& targets) {
    v1::UpdateAliasRequest request;
    request.set_name("aliases/" + name);
    for (const auto& [model, weight] : targets) {
      v1::AliasTarget* target = request.add_targets();
      target->set_model(model);
      target->set_weight(weight);
    }
    return request;
  }

  grpc::Status Update(const v1::UpdateAliasRequest& request, v1::Alias* alias = nullptr) {
    v1::Alias ignored;
    grpc::ClientContext context;
    return serving_->UpdateAlias(&context, request, alias == nullptr ? &ignored : alias);
  }
  // Updates an alias and expects this refusal.
  void ExpectRefusal(const v1::UpdateAliasRequest& request, grpc::StatusCode code, const std::string& reason) {
    const grpc::Status status = Update(request);
    EXPECT_EQ(status.error_code(), code) << status.error_message();
    EXPECT_EQ(ReasonOf(status), reason) << status.error_message();
  }
  grpc::Status Get(const std::string& name, v1::Alias* alias) {
    v1::GetAliasRequest request;
    request.set_name(name);
    grpc::ClientContext context;
    return serving_->GetAlias(&context, request, alias);
  }
  grpc::Status Unload(const std::string& name) {
    v1::UnloadModelRequest request;
    request.set_name("servedModels/" + name);
    v1::ServedModel model;
    grpc::ClientContext context;
    return serving_->UnloadModel(&context, request, &model);
  }

  struct Answer {
    grpc::Status status;
    std::set<std::string> models;  // of all messages
  };
  static Answer ReadAll(grpc::ClientReader<v1::GenerateResponse>& reader) {
    Answer answer;
    for (v1::GenerateResponse response; reader.Read(&response);) answer.models.insert(response.model());
    answer.status = reader.Finish();
    return answer;
  }
  Answer Generate(const std::string& model) {
    v1::GenerateRequest request;
    request.set_model(model);
    request.set_prompt("hello");
    request.mutable_params()->set_max_tokens(2);
    grpc::ClientContext context;
    return ReadAll(*inference_->Generate(&context, request));
  }

  std::string Metrics() const { return HttpGet(server_->metrics_port(), "/metrics").body; }

  std::string checkpoint_;
};

TEST_F(AliasRpcTest, IsMadeChangedListedAndDeleted) {
  v1::Alias made;
  ASSERT_TRUE(Update(Request("prod", {{"a", 95}, {"servedModels/b", 5}}), &made).ok());
  EXPECT_EQ(made.name(), "aliases/prod");
  ASSERT_EQ(made.targets_size(), 2);
  EXPECT_EQ(made.targets(0).model(), "servedModels/a");
  EXPECT_EQ(made.targets(0).weight(), 95);
  EXPECT_EQ(made.targets(1).model(), "servedModels/b");
  EXPECT_GT(made.update_time().seconds(), 0);
  v1::Alias seen;
  ASSERT_TRUE(Get("aliases/prod", &seen).ok());
  EXPECT_EQ(seen.SerializeAsString(), made.SerializeAsString());

  v1::UpdateAliasRequest change = Request("prod", {{"b", 1}});
  change.set_validate_only(true);
  v1::Alias dry;
  ASSERT_TRUE(Update(change, &dry).ok());
  EXPECT_EQ(dry.targets_size(), 1);
  EXPECT_EQ(dry.etag(), "");
  EXPECT_FALSE(dry.has_update_time());
  change.set_validate_only(false);
  change.set_etag(made.etag());
  ASSERT_TRUE(Update(change, &seen).ok());
  EXPECT_NE(seen.etag(), made.etag());
  ExpectRefusal(change, grpc::StatusCode::ABORTED, "ETAG_MISMATCH");

  ASSERT_TRUE(Update(Request("canary", {{"a", 1}})).ok());
  v1::ListAliasesRequest list;
  list.set_page_size(1);
  std::vector<std::string> names;
  for (int pages = 0; pages < 5; ++pages) {
    v1::ListAliasesResponse page;
    grpc::ClientContext context;
    ASSERT_TRUE(serving_->ListAliases(&context, list, &page).ok());
    for (const v1::Alias& alias : page.aliases()) names.push_back(alias.name());
    list.set_page_token(page.next_page_token());
    if (page.next_page_token().empty()) break;
  }
  EXPECT_THAT(names, testing::ElementsAre("aliases/canary", "aliases/prod"));
  list.set_page_size(1001);
  v1::ListAliasesResponse page;
  grpc::ClientContext list_context;
  EXPECT_EQ(ReasonOf(serving_->ListAliases(&list_context, list, &page)), "PAGE_SIZE");

  v1::DeleteAliasRequest remove;
  remove.set_name("aliases/prod");
  remove.set_etag(made.etag());
  v1::DeleteAliasResponse removed;
  grpc::ClientContext stale_context;
  EXPECT_EQ(ReasonOf(serving_->DeleteAlias(&stale_context, remove, &removed)), "ETAG_MISMATCH");
  remove.set_etag(seen.etag());
  grpc::ClientContext remove_context;
  EXPECT_TRUE(serving_->DeleteAlias(&remove_context, remove, &removed).ok());
  const grpc::Status gone = Get("aliases/prod", &seen);
  EXPECT_EQ(gone.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(ReasonOf(gone), "ALIAS_NOT_FOUND");
}

TEST_F(AliasRpcTest, RefusalsCarryCodeAndReason) {
  using grpc::StatusCode;
  ASSERT_TRUE(Update(Request("prod", {{"a", 1}})).ok());
  ExpectRefusal(Request("b", {{"a", 1}}), StatusCode::ALREADY_EXISTS, "MODEL_NAME_TAKEN");
  ExpectRefusal(Request("next", {{"ghost", 1}}), StatusCode::NOT_FOUND, "MODEL_NOT_FOUND");
  ExpectRefusal(Request("next", {{"prod", 1}}), StatusCode::INVALID_ARGUMENT, "ALIAS_OF_ALIAS");
  ExpectRefusal(Request("next", {{"aliases/prod", 1}}), StatusCode::INVALID_ARGUMENT, "MODEL_NAME");
  ExpectRefusal(Request("next", {{"a", 1}, {"servedModels/a", 1}}), StatusCode::INVALID_ARGUMENT, "ALIAS_TARGETS");
  ExpectRefusal(Request("next", {}), StatusCode::INVALID_ARGUMENT, "ALIAS_TARGETS");
  ExpectRefusal(Request("next", {{"a", 1'000'001}}), StatusCode::INVALID_ARGUMENT, "ALIAS_WEIGHT");
  ExpectRefusal(Request("next", {{"a", 0}}), StatusCode::INVALID_ARGUMENT, "ALIAS_WEIGHT");
  ExpectRefusal(Request("Next", {{"a", 1}}), StatusCode::INVALID_ARGUMENT, "ALIAS_NAME");
  v1::UpdateAliasRequest no_collection = Request("next", {{"a", 1}});
  no_collection.set_name("next");
  ExpectRefusal(no_collection, StatusCode::INVALID_ARGUMENT, "RESOURCE_NAME");
  v1::UpdateAliasRequest bad_id = Request("next", {{"a", 1}});
  bad_id.set_request_id("not an id");
  ExpectRefusal(bad_id, StatusCode::INVALID_ARGUMENT, "REQUEST_ID");

  const grpc::Status unload = Unload("a");
  EXPECT_EQ(unload.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(ReasonOf(unload), "MODEL_IN_ALIAS");
  EXPECT_THAT(unload.error_message(), HasSubstr("\"prod\""));
  v1::ServedModel model;
  const grpc::Status load = LoadModel("prod", checkpoint_, &model);
  EXPECT_EQ(load.error_code(), StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(ReasonOf(load), "ALIAS_NAME_TAKEN");
}

TEST_F(AliasRpcTest, EveryCallTakesAnAliasAndTellsWhichModelAnswered) {
  ASSERT_TRUE(Update(Request("prod", {{"a", 0}, {"b", 1}})).ok());
  for (const char* name : {"prod", "aliases/prod"}) {
    const Answer answer = Generate(name);
    EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
    EXPECT_THAT(answer.models, UnorderedElementsAre("servedModels/b")) << "in every message";
  }
  EXPECT_THAT(Generate("a").models, UnorderedElementsAre("servedModels/a"));
  EXPECT_EQ(ReasonOf(Generate("servedModels/prod").status), "MODEL_NOT_FOUND");
  EXPECT_EQ(ReasonOf(Generate("aliases/a").status), "ALIAS_NOT_FOUND");

  v1::ChatRequest chat;
  chat.set_model("prod");
  chat.add_messages()->set_role("user");
  chat.mutable_messages(0)->set_content("hi");
  chat.mutable_params()->set_max_tokens(1);
  grpc::ClientContext chat_context;
  EXPECT_THAT(ReadAll(*inference_->Chat(&chat_context, chat)).models, UnorderedElementsAre("servedModels/b"));
  v1::ScoreRequest score;
  score.set_model("prod");
  score.set_text("hello");
  v1::ScoreResponse scores;
  grpc::ClientContext score_context;
  ASSERT_TRUE(inference_->Score(&score_context, score, &scores).ok());
  EXPECT_EQ(scores.model(), "servedModels/b");
  v1::TokenizeRequest tokenize;
  tokenize.set_model("prod");
  tokenize.set_text("hello");
  v1::TokenizeResponse tokens;
  grpc::ClientContext tokenize_context;
  ASSERT_TRUE(inference_->Tokenize(&tokenize_context, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.model(), "servedModels/b");
  v1::DetokenizeRequest detokenize;
  detokenize.set_model("prod");
  *detokenize.mutable_tokens() = tokens.tokens();
  v1::DetokenizeResponse text;
  grpc::ClientContext detokenize_context;
  ASSERT_TRUE(inference_->Detokenize(&detokenize_context, detokenize, &text).ok());
  EXPECT_EQ(text.model(), "servedModels/b");
  EXPECT_EQ(text.text(), "hello");
}

class AliasMetricsTest : public AliasRpcTest {
 protected:
  AliasMetricsTest() { metrics_ = true; }
};

TEST_F(AliasMetricsTest, RequestsAreSpreadAndCountedUnderTheModelThatAnswers) {
  ASSERT_TRUE(Update(Request("prod", {{"a", 1}, {"b", 1}})).ok());
  std::map<std::string, int> answers;
  // A fair choice leaves one of the two out once in 2^63 runs.
  for (int i = 0; i < 64; ++i) {
    const Answer answer = Generate("prod");
    ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
    ++answers[*answer.models.begin()];
  }
  EXPECT_EQ(answers.size(), 2u);
  // What is refused once it has been routed counts under the model too; what cannot be routed has none.
  ASSERT_TRUE(Update(Request("prod", {{"b", 1}})).ok());
  v1::GenerateRequest empty;
  empty.set_model("prod");
  grpc::ClientContext context;
  EXPECT_EQ(ReasonOf(ReadAll(*inference_->Generate(&context, empty)).status), "PROMPT_EMPTY");
  EXPECT_EQ(ReasonOf(Generate("nobody").status), "MODEL_NOT_FOUND");
  const std::string metrics = Metrics();
  const auto count = [](const char* model, const char* outcome, int n) {
    return HasSubstr(fmt::format("qamserve_requests_total{{model=\"{}\",outcome=\"{}\"}} {}\n", model, outcome, n));
  };
  EXPECT_THAT(metrics,
              AllOf(count("a", "length", answers["servedModels/a"]), count("b", "length", answers["servedModels/b"]),
                    count("b", "refused", 1), count("other", "refused", 1), Not(HasSubstr("\"prod\""))));
}

TEST_F(AliasRpcTest, AnAliasWithoutAReadyTargetIsUnavailable) {
  state_->Set([this] { state_->load_status = Unavailable("FILE_IO", "disk went away"); });
  v1::ServedModel model;
  EXPECT_EQ(ReasonOf(LoadModel("c", checkpoint_, &model)), "FILE_IO");
  state_->Set([this] { state_->load_status = absl::OkStatus(); });
  ASSERT_TRUE(Update(Request("prod", {{"c", 99}, {"a", 1}})).ok());
  EXPECT_THAT(Generate("prod").models, UnorderedElementsAre("servedModels/a"));
  ASSERT_TRUE(Update(Request("prod", {{"c", 99}})).ok());
  const Answer answer = Generate("prod");
  EXPECT_EQ(answer.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ReasonOf(answer.status), "MODEL_NOT_READY");
  EXPECT_THAT(answer.status.error_message(), AllOf(HasSubstr("\"prod\""), HasSubstr("\"c\" is FAILED")));
}

TEST_F(AliasRpcTest, ComesBackAfterARestart) {
  v1::Alias made;
  ASSERT_TRUE(Update(Request("prod", {{"b", 7}}), &made).ok());
  Restart();
  v1::Alias seen;
  ASSERT_TRUE(Get("aliases/prod", &seen).ok()) << "it is there from the first call on";
  EXPECT_EQ(seen.SerializeAsString(), made.SerializeAsString());
  ASSERT_TRUE(state_->WaitUntil([this] { return state_->loads == 4; }));
  Answer answer = Generate("prod");
  // The last load has begun; until its model is READY the alias says so.
  for (int i = 0; i < 2000 && ReasonOf(answer.status) == "MODEL_NOT_READY"; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    answer = Generate("prod");
  }
  EXPECT_TRUE(answer.status.ok()) << answer.status.error_message();
  EXPECT_THAT(answer.models, UnorderedElementsAre("servedModels/b"));
}

}  // namespace
}  // namespace qamserve
