// qamctl probe against servers whose every answer a test writes.
#include <chrono>

#include "tests/client/qamctl_fixture.h"
#include "tests/support/scripted_http_server.h"

namespace qamserve::qamctl {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

class QamctlProbeTest : public QamctlTest {};

TEST_F(QamctlProbeTest, TwoHundredIsOk) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(200, "ok\n"); });
  const Result result = RunBare({"probe", server.url() + "/readyz"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_EQ(result.out, "ok\n");
  ASSERT_EQ(server.requests().size(), 1u);
  EXPECT_THAT(server.requests()[0],
              AllOf(StartsWith("GET /readyz HTTP/1.1\r\n"), HasSubstr("Host: " + server.url().substr(7)),
                    HasSubstr("Connection: close")));
  EXPECT_EQ(RunBare({"probe", server.url(), "--json"}).out, "{\"ok\":true}\n");
  EXPECT_EQ(TargetOf(server.requests()[1]), "/");
}

TEST_F(QamctlProbeTest, AnythingElseIsToldWithItsText) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(503, "models are being loaded\n"); });
  const Result result = RunBare({"probe", server.url() + "/startupz"});
  EXPECT_EQ(result.code, kExitUnavailable);
  EXPECT_THAT(result.err,
              AllOf(HasSubstr("/startupz answered 503: models are being loaded"), HasSubstr("PROBE_FAILED")));
  EXPECT_EQ(result.out, "");
}

TEST_F(QamctlProbeTest, WhatSpeaksNoHttpIsNotAlive) {
  ScriptedHttpServer server([](const std::string&) { return std::string("SSH-2.0-OpenSSH_9.2\r\n"); });
  const Result result = RunBare({"probe", server.url() + "/livez"});
  EXPECT_EQ(result.code, kExitUnavailable);
  EXPECT_THAT(result.err, HasSubstr("PROBE_ANSWER"));
  ScriptedHttpServer silent([](const std::string&) { return std::string(); });
  EXPECT_EQ(RunBare({"probe", silent.url() + "/livez"}).code, kExitUnavailable);
}

TEST_F(QamctlProbeTest, AnAnswerIsNotWaitedForLongerThanItsTime) {
  ScriptedHttpServer server([](const std::string&) {
    std::this_thread::sleep_for(std::chrono::seconds(2));
    return HttpAnswer(200, "late");
  });
  const auto begin = std::chrono::steady_clock::now();
  const Result result = RunBare({"probe", server.url() + "/livez", "--timeout", "0.2"});
  EXPECT_EQ(result.code, kExitUnavailable);
  EXPECT_THAT(result.err, HasSubstr("PROBE_TIMEOUT"));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(1500));
}

TEST_F(QamctlProbeTest, APortWhereNobodyListensIsUnreachable) {
  std::string url;
  {
    const ScriptedHttpServer server([](const std::string&) { return std::string(); });
    url = server.url();
  }
  const Result result = RunBare({"probe", url + "/livez"});
  EXPECT_EQ(result.code, kExitUnavailable);
  EXPECT_THAT(result.err, AllOf(HasSubstr("PROBE_UNREACHABLE"), HasSubstr(url)));
}

TEST_F(QamctlProbeTest, AUrlThatIsNoneIsAMistakeOfTheCommandLine) {
  for (const char* url :
       {"https://127.0.0.1/livez", "127.0.0.1:9090/livez", "http://", "http://:9090/livez", "http://127.0.0.1:0/livez",
        "http://127.0.0.1:65536/", "http://127.0.0.1:9x/", "http://[::1/livez", "http://127.0.0.1:9090/a b"}) {
    const Result result = RunBare({"probe", url});
    EXPECT_EQ(result.code, kExitUsage) << url;
    EXPECT_THAT(result.err, HasSubstr("http://HOST[:PORT][/PATH]")) << url;
  }
}

}  // namespace
}  // namespace qamserve::qamctl
