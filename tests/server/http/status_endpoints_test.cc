#include "server/http/status_endpoints.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/support/fake_exchange.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

FakeAnswer Ask(const HttpPart& part, const std::string& method, const std::string& path) {
  FakeClient client({.method = method, .path = path});
  if (!part.takes({.method = method, .path = path})) return {};
  client.SendTo(part.handle);
  return client.Wait();
}

TEST(StatusEndpointsTest, AnswerProbesAndScrapes) {
  std::atomic<bool> started{false};
  StatusSources sources;
  sources.metrics_text = [] { return std::string("qamserve_build_info 1\n"); };
  sources.not_started = [&started] { return started ? "" : "models are being loaded"; };
  sources.not_ready = sources.not_started;
  const HttpPart part = StatusPart(sources);
  EXPECT_EQ(Ask(part, "GET", "/livez").status, 200);
  EXPECT_EQ(Ask(part, "GET", "/livez").body, "ok\n");
  EXPECT_EQ(Ask(part, "GET", "/startupz").status, 503);
  EXPECT_THAT(Ask(part, "GET", "/readyz").body, HasSubstr("models are being loaded"));
  started = true;
  EXPECT_EQ(Ask(part, "GET", "/startupz").status, 200);
  EXPECT_EQ(Ask(part, "HEAD", "/readyz").status, 200);
  const FakeAnswer metrics = Ask(part, "GET", "/metrics");
  EXPECT_EQ(metrics.body, "qamserve_build_info 1\n");
  EXPECT_THAT(std::string(metrics.field("content-type")), HasSubstr("version=0.0.4"));
  const FakeAnswer post = Ask(part, "POST", "/metrics");
  EXPECT_EQ(post.status, 405);
  EXPECT_EQ(post.field("Allow"), "GET, HEAD");
  for (const char* path : {"/", "/metrics/", "/livezz", "/etc/passwd"}) EXPECT_EQ(Ask(part, "GET", path).status, 0);
}

TEST(StatusEndpointsTest, MetricsAreMadeWhereTheyMayTakeTime) {
  StatusSources sources;
  std::thread::id io;
  std::thread::id maker;
  sources.metrics_text = [&maker] {
    maker = std::this_thread::get_id();
    return std::string("text");
  };
  sources.run = [&io](const std::function<void()>& task) {
    io = std::this_thread::get_id();
    std::thread(task).join();
  };
  EXPECT_EQ(Ask(StatusPart(sources), "GET", "/metrics").body, "text");
  EXPECT_NE(io, maker);
}

}  // namespace
}  // namespace qamserve
