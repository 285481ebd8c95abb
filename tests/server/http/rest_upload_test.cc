// REST over a whole server: uploads into a real store, cut and gone on with, and what stands on its port.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "server/http/rest/rest_part.h"
#include "tests/server/grpc/server_fixture.h"
#include "tests/support/fake_exchange.h"
#include "tests/support/raw_http.h"

namespace qamserve {
namespace {

using Json = nlohmann::json;

class RestUploadTest : public ServerFixture {
 protected:
  void SetUp() override {
    ServerFixture::SetUp();
    RestOptions options;
    options.calls = std::make_shared<LocalCalls>(server_->InProcessChannel());
    options.services = {v1::CheckpointService::service_full_name(), v1::JobService::service_full_name()};
    absl::StatusOr<HttpPart> part = RestPart(options);
    ASSERT_TRUE(part.ok()) << part.status();
    part_ = *std::move(part);
  }

  static HttpRequestHead Head(const std::string& method, const std::string& path, const std::string& query = "") {
    HttpRequestHead head;
    head.method = method;
    head.path = path;
    head.query = query;
    head.fields = {{"Content-Type", "application/json"}};
    return head;
  }
  Json Ask(int status, const HttpRequestHead& head, const std::string& body = "") {
    FakeClient client(head, body);
    client.SendTo(part_.handle);
    const FakeAnswer answer = client.Wait();
    EXPECT_EQ(answer.status, status) << answer.body;
    return Json::parse(answer.body, nullptr, false);
  }

  HttpPart part_;
};

TEST_F(RestUploadTest, IsCutAndGoesOnWhereItWas) {
  std::string content(3'500'000, ' ');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i * 7 % 26);
  const std::string digest = Sha256Hex(content);
  const Json upload = Ask(200, Head("POST", "/v1/uploads"),
                          Json{{"kind", "UPLOAD_KIND_TEXT"},
                               {"files", {{{"name", "text.txt"}, {"sha256", digest}, {"sizeBytes", content.size()}}}}}
                              .dump());
  const std::string path = "/v1/" + upload["name"].get<std::string>();

  // Cut: the client vanishes after two million bytes and a bit.
  {
    FakeClient client(Head("PUT", path + "/files/" + digest), content.substr(0, 2'000'123), false);
    client.SetPieceBytes(700'000);
    client.SendTo(part_.handle);
    int64_t committed = 0;
    while (committed < 2'000'123) {
      committed = std::stoll(Ask(200, Head("GET", path))["files"][0]["committedBytes"].get<std::string>());
    }
    client.Vanish();
    ASSERT_TRUE(client.WaitForRelease());
  }

  // A wrong offset is refused and loses nothing; the right one is what GET says.
  const Json refused = Ask(400, Head("PUT", path + "/files/" + digest, "offset=5"), content.substr(5));
  EXPECT_EQ(refused["error"]["details"][0]["reason"], "UPLOAD_OFFSET");
  const Json state = Ask(200, Head("GET", path))["files"][0];
  EXPECT_EQ(state["committedBytes"], "2000123");
  EXPECT_EQ(state["complete"], false);
  HttpRequestHead rest = Head("PUT", path + "/files/" + digest);
  rest.fields.emplace_back("Content-Range", fmt::format("bytes 2000123-{}/{}", content.size() - 1, content.size()));
  const Json sent = Ask(200, rest, content.substr(2'000'123));
  EXPECT_EQ(sent["complete"], true);
  EXPECT_EQ(sent["committedBytes"], std::to_string(content.size()));

  const Json completed = Ask(200, Head("POST", path + ":complete"));
  EXPECT_EQ(completed["text"]["name"], "texts/" + digest);
}

TEST_F(RestUploadTest, AWholeFileInOneBody) {
  const std::string content = "a text";
  const std::string digest = Sha256Hex(content);
  const Json upload =
      Ask(200, Head("POST", "/v1/uploads"),
          Json{{"kind", "UPLOAD_KIND_TEXT"}, {"files", {{{"name", "t.txt"}, {"sha256", digest}, {"sizeBytes", "6"}}}}}
              .dump());
  const std::string path = "/v1/" + upload["name"].get<std::string>();
  EXPECT_EQ(Ask(200, Head("PUT", path + "/files/" + digest), content)["complete"], true);
  EXPECT_EQ(Ask(200, Head("POST", path + ":complete"))["text"]["sizeBytes"], "6");
}

TEST_F(RestUploadTest, WrongBytesAreAnError) {
  const std::string digest = Sha256Hex("right");
  const Json upload =
      Ask(200, Head("POST", "/v1/uploads"),
          Json{{"kind", "UPLOAD_KIND_TEXT"}, {"files", {{{"name", "t.txt"}, {"sha256", digest}, {"sizeBytes", 5}}}}}
              .dump());
  const Json error = Ask(500, Head("PUT", "/v1/" + upload["name"].get<std::string>() + "/files/" + digest), "wrong");
  EXPECT_EQ(error["error"]["details"][0]["reason"], "UPLOAD_DIGEST");
}

TEST_F(RestUploadTest, AnUploadThatIsNotThere) {
  const Json error = Ask(404, Head("GET", "/v1/uploads/none"));
  EXPECT_EQ(error["error"]["details"][0]["reason"], "UPLOAD_NOT_FOUND");
}

// --- On the port of a server ---

class RestServerTest : public ServerFixture {};

TEST_F(RestServerTest, HasEveryServiceOnItsPort) {
  const RawAnswer document = HttpGet(server_->http_port(), "/openapi.json");
  ASSERT_EQ(document.status, 200);
  const Json paths = Json::parse(document.body)["paths"];
  for (const char* path : {"/v1/uploads", "/v1/jobs", "/v1/artifacts", "/v1/servedModels", "/v1/inference:chat",
                           "/v1/keys", "/v1/system"}) {
    EXPECT_TRUE(paths.contains(path)) << path;
  }
  EXPECT_EQ(HttpGet(server_->http_port(), "/v1/system").status, 200);
  EXPECT_EQ(HttpGet(server_->http_port(), "/docs").status, 200);
  const RawAnswer nothing = HttpGet(server_->http_port(), "/v1/nothing");
  EXPECT_EQ(nothing.status, 404);
  EXPECT_EQ(Json::parse(nothing.body)["error"]["details"][0]["reason"], "HTTP_PATH");
}

TEST_F(RestServerTest, ConditionsAndHeadOverASocket) {
  RawClient client(server_->http_port());
  ASSERT_TRUE(client.Send("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  const RawAnswer first = client.ReadAnswer();
  EXPECT_EQ(first.status, 200);
  const std::string etag = first.field("ETag");
  ASSERT_TRUE(client.Send("GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: " + etag + "\r\n\r\n"));
  EXPECT_EQ(client.ReadAnswer().status, 304);
  ASSERT_TRUE(client.Send("HEAD /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  const RawAnswer head = client.ReadAnswer(/*to_head=*/true);
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.field("Content-Length"), std::to_string(first.body.size()));
  // The connection is still good.
  ASSERT_TRUE(client.Send("OPTIONS /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  EXPECT_EQ(client.ReadAnswer().status, 204);
}

TEST_F(RestServerTest, AWatcherHearsOfTheShutdown) {
  v1::CreateQuantizeJobRequest request;
  request.set_checkpoint(MakeCheckpoint());
  v1::Job job;
  grpc::ClientContext context;
  ASSERT_TRUE(jobs_->CreateQuantizeJob(&context, request, &job).ok());
  RawClient client(server_->http_port());
  ASSERT_TRUE(client.Send("GET /v1/" + job.name() + ":watch HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"));
  EXPECT_THAT(client.ReadUntil("data: {"), testing::HasSubstr("200 OK"));
  server_->Drain();
  EXPECT_THAT(client.ReadToEnd(), testing::HasSubstr("event: error\ndata: {\"error\":{\"code\":503"));
}

}  // namespace
}  // namespace qamserve
