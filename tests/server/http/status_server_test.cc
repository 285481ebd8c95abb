#include "server/http/status_server.h"

#include <civetweb.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

namespace qamserve {
namespace {

using testing::HasSubstr;

struct Answer {
  int code = 0;
  std::string body;
};

Answer Get(int port, const std::string& path) {
  char error[256] = "";
  mg_connection* connection =
      mg_download("127.0.0.1", port, 0, error, sizeof(error), "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", path.c_str());
  if (connection == nullptr) {
    ADD_FAILURE() << error;
    return {};
  }
  Answer answer;
  answer.code = mg_get_response_info(connection)->status_code;
  char buffer[4096];
  for (int n = mg_read(connection, buffer, sizeof(buffer)); n > 0; n = mg_read(connection, buffer, sizeof(buffer))) {
    answer.body.append(buffer, static_cast<size_t>(n));
  }
  mg_close_connection(connection);
  return answer;
}

// One test: a CivetWeb server takes a second or two to close.
TEST(StatusServerTest, AnswersProbesAndScrapes) {
  std::atomic<bool> started{false};
  StatusSources sources;
  sources.metrics_text = [] { return std::string("qamserve_build_info 1\n"); };
  sources.not_started = [&started] { return started ? "" : "models are being loaded"; };
  sources.not_ready = sources.not_started;
  auto server = StatusServer::Start("127.0.0.1:0", sources);
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  ASSERT_GT(port, 0);

  EXPECT_EQ(Get(port, "/livez").code, 200);
  EXPECT_EQ(Get(port, "/startupz").code, 503);
  EXPECT_THAT(Get(port, "/readyz").body, HasSubstr("models are being loaded"));
  started = true;
  EXPECT_EQ(Get(port, "/startupz").code, 200);
  EXPECT_EQ(Get(port, "/readyz").code, 200);
  const Answer metrics = Get(port, "/metrics");
  EXPECT_EQ(metrics.code, 200);
  EXPECT_EQ(metrics.body, "qamserve_build_info 1\n");
  EXPECT_EQ(Get(port, "/etc/passwd").code, 404);
  EXPECT_EQ(Get(port, "/").code, 404);

  const absl::Status taken = StatusServer::Start("127.0.0.1:" + std::to_string(port), sources).status();
  EXPECT_EQ(ReasonOf(taken), "METRICS_LISTEN");
  EXPECT_THAT(MessageOf(taken), HasSubstr(std::to_string(port)));
}

}  // namespace
}  // namespace qamserve
