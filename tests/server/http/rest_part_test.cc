#include "server/http/rest/rest_part.h"

#include <gmock/gmock.h>

#include "server/http/rest/errors.h"
#include "tests/server/http/rest_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using RestPartTest = RestFixture;

TEST_F(RestPartTest, AnswersWithJson) {
  const FakeAnswer answer = Ask("GET", "/v1/jobs/a", {{"Authorization", "Bearer k"}});
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.field("Content-Type"), "application/json");
  EXPECT_EQ(Json::parse(answer.body)["name"], "jobs/a");
  EXPECT_EQ(backend().last_request(), R"(name: "jobs/a")");
  EXPECT_EQ(backend().last_metadata("authorization"), "Bearer k");
  EXPECT_EQ(backend().last_metadata("x-qamserve-peer"), "127.0.0.1:4711");
}

TEST_F(RestPartTest, BodiesBecomeRequests) {
  const FakeAnswer answer =
      AskJson("POST", "/v1/jobs:quantize", R"({"checkpoint": "checkpoints/c", "spec": {"codec": "CODEC_JOINT"}})");
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(Json::parse(answer.body)["checkpoint"], "checkpoints/c");
  EXPECT_EQ(answer.field("Cache-Control"), "no-store");
  EXPECT_EQ(backend().last_request(), R"(checkpoint: "checkpoints/c" spec { codec: CODEC_JOINT })");
}

TEST_F(RestPartTest, IdempotencyKeysBecomeRequestIds) {
  EXPECT_EQ(Ask("POST", "/v1/jobs/a:cancel", {{"Idempotency-Key", "r"}}).status, 200);
  EXPECT_EQ(backend().last_request(), R"(name: "jobs/a" request_id: "r")");
}

TEST_F(RestPartTest, ErrorsOfServicesKeepCodeReasonAndMessage) {
  FakeAnswer answer = Ask("GET", "/v1/jobs/none");
  EXPECT_EQ(answer.status, 404);
  const Json error = ErrorOf(answer);
  EXPECT_EQ(error["status"], "NOT_FOUND");
  EXPECT_EQ(error["message"], "there is no job jobs/none");
  EXPECT_EQ(error["details"][0]["@type"], "type.googleapis.com/google.rpc.ErrorInfo");
  EXPECT_EQ(error["details"][0]["reason"], "JOB_NOT_FOUND");
  EXPECT_EQ(error["details"][0]["domain"], "qamserve");
  // Without details the code is the reason.
  EXPECT_EQ(ReasonIn(Ask("GET", "/v1/jobs/plain")), "FAILED_PRECONDITION");
}

TEST_F(RestPartTest, TellsWhenToTryAgain) {
  const FakeAnswer answer = Ask("GET", "/v1/jobs/busy");
  EXPECT_EQ(answer.status, 429);
  EXPECT_EQ(answer.field("Retry-After"), "1");
  EXPECT_THAT(answer.body, HasSubstr(R"("retryDelay":"1s")"));
}

TEST_F(RestPartTest, BadRequestsNameTheField) {
  const FakeAnswer answer = AskJson("POST", "/v1/jobs:quantize", R"({"spec": {"bpw": "much"}})");
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(ReasonIn(answer), "JSON_FIELD");
  EXPECT_THAT(answer.body, HasSubstr(R"("field":"spec.bpw")"));
  EXPECT_EQ(Ask("GET", "/v1/jobs?page_size=x").status, 400);
  EXPECT_EQ(Ask("GET", "/v1/jobs/%zz").status, 400);
  EXPECT_EQ(Ask("GET", "/v1/jobs", {{"X-Request-Timeout", "soon"}}).status, 400);
}

TEST_F(RestPartTest, ContentTypesAndEncodings) {
  EXPECT_EQ(Ask("POST", "/v1/jobs:quantize", {}, "{}").status, 415);
  EXPECT_EQ(Ask("POST", "/v1/jobs:quantize", {{"Content-Type", "application/json"}, {"Content-Encoding", "gzip"}}, "x")
                .status,
            415);
}

TEST_F(RestPartTest, LargeBodiesAreRefused) {
  const std::string text(kMaxJsonBodyBytes + 1, ' ');
  FakeAnswer answer = AskJson("POST", "/v1/jobs:quantize", text);
  EXPECT_EQ(answer.status, 413);
  EXPECT_EQ(ReasonIn(answer), "HTTP_BODY_SIZE");
  // Small enough as JSON, too large as a message.
  answer = AskJson("POST", "/v1/jobs:quantize", R"({"displayName": ")" + std::string(5 << 20, 'x') + R"("})");
  EXPECT_EQ(answer.status, 413);
  EXPECT_THAT(answer.body, HasSubstr("4194304"));
}

TEST_F(RestPartTest, PathsAndMethods) {
  FakeAnswer answer = Ask("GET", "/v1/nothing");
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(ReasonIn(answer), "HTTP_PATH");
  answer = Ask("POST", "/v1/jobs/a");
  EXPECT_EQ(answer.status, 405);
  EXPECT_EQ(ReasonIn(answer), "HTTP_METHOD");
  EXPECT_EQ(answer.field("Allow"), "GET, DELETE, HEAD, OPTIONS");
  answer = Ask("OPTIONS", "/v1/jobs/a");
  EXPECT_EQ(answer.status, 204);
  EXPECT_EQ(answer.field("Allow"), "GET, DELETE, HEAD, OPTIONS");
  EXPECT_EQ(Ask("HEAD", "/v1/jobs/a").status, 200);
  EXPECT_EQ(Ask("POST", "/openapi.json").status, 405);
}

TEST_F(RestPartTest, TakesItsPathsOnly) {
  for (const char* path : {"/v1/jobs", "/v1/x", "/openapi.json", "/docs"})
    EXPECT_TRUE(part_.takes(HeadOf("GET", path))) << path;
  for (const char* path : {"/", "/v1", "/v2/models/x", "/metrics", "/docs/x"}) {
    EXPECT_FALSE(part_.takes(HeadOf("GET", path))) << path;
  }
}

TEST_F(RestPartTest, NothingChangesForAPageOfAnotherSite) {
  EXPECT_EQ(Ask("POST", "/v1/jobs/a:cancel", {{"Sec-Fetch-Site", "cross-site"}}).status, 403);
  EXPECT_EQ(backend().last_request(), "");
  EXPECT_EQ(Ask("POST", "/v1/jobs/a:cancel", {{"Sec-Fetch-Site", "same-origin"}}).status, 200);
  EXPECT_EQ(Ask("GET", "/v1/jobs/a", {{"Sec-Fetch-Site", "cross-site"}}).status, 200);
}

TEST_F(RestPartTest, UnchangedAnswersAreNotSentAgain) {
  const FakeAnswer first = Ask("GET", "/v1/jobs/a");
  const std::string etag(first.field("ETag"));
  ASSERT_EQ(etag.size(), 34u);  // of the whole answer: a job's field etag says less
  const FakeAnswer again = Ask("GET", "/v1/jobs/a", {{"If-None-Match", etag}});
  EXPECT_EQ(again.status, 304);
  EXPECT_EQ(again.body, "");
  EXPECT_EQ(again.field("ETag"), etag);
  EXPECT_EQ(Ask("GET", "/v1/jobs/b", {{"If-None-Match", etag}}).status, 200);
}

TEST_F(RestPartTest, AnAliasHasItsOwnETag) {
  const FakeAnswer answer = Ask("GET", "/v1/aliases/a");
  EXPECT_EQ(answer.field("ETag"), "\"3f\"");
  EXPECT_EQ(Ask("GET", "/v1/aliases/a", {{"If-None-Match", "W/\"3f\""}}).status, 304);
  EXPECT_EQ(Ask("PUT", "/v1/aliases/a", {{"If-Match", "\"3f\""}, {"Content-Type", "application/json"}}, "{}").status,
            200);
  EXPECT_EQ(backend().last_request(), R"(name: "aliases/a" etag: "3f")");
}

TEST_F(RestPartTest, AClientThatVanishesCancelsItsCall) {
  FakeClient client(HeadOf("GET", "/v1/jobs/stuck"));
  client.SendTo(part_.handle);
  while (backend().last_request().empty()) std::this_thread::yield();
  client.Vanish();
  EXPECT_TRUE(backend().WaitForCancelled());
  EXPECT_TRUE(client.WaitForRelease());
}

TEST_F(RestPartTest, ADeadlineIsAnAnswer) {
  const FakeAnswer answer = Ask("GET", "/v1/jobs/stuck", {{"X-Request-Timeout", "0.05"}});
  EXPECT_EQ(answer.status, 504);
  EXPECT_EQ(ErrorOf(answer)["status"], "DEADLINE_EXCEEDED");
}

TEST_F(RestPartTest, LongBodiesAreReadOnTheExecutor) {
  Executor executor(1, 8);
  RestOptions options;
  options.calls = std::make_shared<LocalCalls>(server_.channel());
  options.services = FakeServer::services();
  options.executor = &executor;
  absl::StatusOr<HttpPart> part = RestPart(options);
  ASSERT_TRUE(part.ok());
  part_ = *part;
  const std::string body = R"({"displayName": ")" + std::string(200'000, 'x') + R"("})";
  EXPECT_EQ(AskJson("POST", "/v1/jobs:quantize", body).status, 200);
  executor.Stop();
  EXPECT_EQ(AskJson("POST", "/v1/jobs:quantize", body).status, 503);
}

TEST_F(RestPartTest, TheDocsPageLoadsNothingFromElsewhere) {
  const FakeAnswer answer = Ask("GET", "/docs");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.field("Content-Type"), "text/html; charset=utf-8");
  const std::string policy(answer.field("Content-Security-Policy"));
  EXPECT_THAT(policy, HasSubstr("default-src 'none'; script-src 'sha256-"));
  EXPECT_THAT(policy, HasSubstr("style-src 'sha256-"));
  EXPECT_EQ(answer.body.find("http://"), std::string::npos);
  EXPECT_EQ(answer.body.find("https://"), std::string::npos);
  EXPECT_EQ(Ask("GET", "/docs", {{"If-None-Match", std::string(answer.field("ETag"))}}).status, 304);
}

TEST(RestErrorsTest, HasTheHttpStatusOfEachCode) {
  const int expected[] = {200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401};
  for (int code = 0; code <= 16; ++code)
    EXPECT_EQ(rest::HttpStatusOf(static_cast<grpc::StatusCode>(code)), expected[code]);
  EXPECT_EQ(rest::HttpStatusOf(static_cast<grpc::StatusCode>(99)), 500);
  const rest::Answer answer = rest::ErrorAnswer(grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "\xFFwho"));
  EXPECT_EQ(FieldOf(answer.head.fields, "WWW-Authenticate"), "Bearer");
  EXPECT_TRUE(nlohmann::json::accept(answer.body)) << answer.body;
  EXPECT_EQ(rest::ErrorAnswer(InvalidArgument("HTTP_SLOW", "slow")).head.status, 408);
}

}  // namespace
}  // namespace qamserve
