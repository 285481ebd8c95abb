// The HTTP ports of a whole server: who answers where, and what a drain does to them.
#include <gmock/gmock.h>

#include <thread>

#include "tests/server/grpc/server_fixture.h"
#include "tests/support/raw_http.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class HttpPortsTest : public ServerFixture {
 protected:
  void SetUp() override {
    metrics_ = true;
    ServerFixture::SetUp();
  }
  // Served models are restored in the background.
  int WaitForReady(int port) {
    for (int i = 0; i < 3000 && HttpGet(port, "/readyz").status != 200; ++i) usleep(10'000);
    return HttpGet(port, "/readyz").status;
  }
};

TEST_F(HttpPortsTest, BothTellHowTheServerIs) {
  EXPECT_EQ(server_->http_url(), "http://127.0.0.1:" + std::to_string(server_->http_port()));
  for (const int port : {server_->http_port(), server_->metrics_port()}) {
    EXPECT_EQ(WaitForReady(port), 200);
    EXPECT_EQ(HttpGet(port, "/livez").body, "ok\n");
    EXPECT_EQ(HttpGet(port, "/startupz").status, 200);
    const RawAnswer metrics = HttpGet(port, "/metrics");
    EXPECT_THAT(metrics.field("Content-Type"), HasSubstr("version=0.0.4"));
    EXPECT_THAT(metrics.body, HasSubstr("qamserve_build_info"));
    RawClient head(port);
    head.Send("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_GT(std::stoi(head.ReadAnswer(true).field("Content-Length")), 1000);
    EXPECT_EQ(head.ReadAnswer().body, "ok\n");
    RawClient post(port);
    post.Send("POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(post.ReadAnswer().status, 405);
  }
  EXPECT_THAT(HttpGet(server_->metrics_port(), "/nowhere").body, HasSubstr("HTTP_NOT_FOUND"));
}

TEST_F(HttpPortsTest, WithoutKeysOnlyNamesOfLoopbackAreAnswered) {
  const auto status = [&](const std::string& host) {
    RawClient client(server_->http_port());
    client.Send("GET /v1/system HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    return client.ReadAnswer().status;
  };
  for (const char* host : {"localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080", "[::1]"}) {
    EXPECT_EQ(status(host), 200) << host;
  }
  for (const char* host :
       {"rebound.example.org", "rebound.example.org:8080", "10.0.0.1", "[fe80::1]:80", "localhost.example"}) {
    EXPECT_EQ(status(host), 403) << host;
  }
}

TEST_F(HttpPortsTest, RequestsAndConnectionsAreCounted) {
  RawClient open(server_->http_port());
  open.Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(open.ReadAnswer().status, 200);
  EXPECT_EQ(HttpGet(server_->http_port(), "/nowhere/to/be/found").status, 404);
  RawClient bad(server_->http_port());
  bad.Send("nonsense\r\n\r\n");
  EXPECT_EQ(bad.ReadAnswer().status, 400);
  // Answers are counted just after they were sent.
  std::string metrics;
  for (int i = 0; i < 3000 && metrics.find("code=\"4xx\",part=\"none\"} 2") == std::string::npos; ++i) {
    metrics = HttpGet(server_->metrics_port(), "/metrics").body;
  }
  EXPECT_THAT(metrics, AllOf(HasSubstr("qamserve_http_requests_total{code=\"2xx\",part=\"status\"} 1"),
                             HasSubstr("qamserve_http_requests_total{code=\"4xx\",part=\"none\"} 2"),
                             HasSubstr("qamserve_http_connections ")));
}

TEST_F(HttpPortsTest, ADrainClosesThePortAndSaysNotReady) {
  EXPECT_EQ(WaitForReady(server_->metrics_port()), 200);
  const int http_port = server_->http_port();
  RawClient idle(http_port);
  idle.Send("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(idle.ReadAnswer().status, 200);
  server_->Drain();
  EXPECT_TRUE(idle.Ends());
  EXPECT_FALSE(RawClient(http_port).connected());
  const RawAnswer ready = HttpGet(server_->metrics_port(), "/readyz");
  EXPECT_EQ(ready.status, 503);
  EXPECT_THAT(ready.body, HasSubstr("shutting down"));
  EXPECT_EQ(HttpGet(server_->metrics_port(), "/livez").status, 200);
  EXPECT_EQ(HttpGet(server_->metrics_port(), "/metrics").status, 200) << "with no thread left to make it elsewhere";
}

TEST_F(HttpPortsTest, PortsThatAreTakenAreNamed) {
  ServerOptions options = Options();
  options.data_dir = dir_ / "other";
  options.http_listen = "127.0.0.1:" + std::to_string(server_->http_port());
  absl::Status status = Server::Start(options, Log::Silent()).status();
  EXPECT_EQ(ReasonOf(status), "HTTP_LISTEN");
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr("--http-listen"), HasSubstr(options.http_listen)));
  options.http_listen = "off";
  options.metrics_listen = "127.0.0.1:" + std::to_string(server_->metrics_port());
  status = Server::Start(options, Log::Silent()).status();
  EXPECT_EQ(ReasonOf(status), "METRICS_LISTEN");
  options.metrics_listen = "off";
  const auto without = Server::Start(options, Log::Silent());
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_EQ((*without)->http_port(), 0);
  EXPECT_EQ((*without)->http_url(), "");
}

}  // namespace
}  // namespace qamserve
