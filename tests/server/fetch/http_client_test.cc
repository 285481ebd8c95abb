#include "server/fetch/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/scripted_http_server.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using testing::SizeIs;

HttpClientOptions Quick() {
  HttpClientOptions options;
  options.attempts = 3;
  options.first_pause_ms = 1;
  options.max_pause_ms = 2;
  return options;
}

FetchRequest RequestFor(std::string url) {
  return {.url = std::move(url), .headers = {}, .signing = nullptr, .what = "a.bin of test", .cancelled = {}};
}

// Everything that GetFrom hands on, after `offset` bytes that were there already.
absl::StatusOr<std::string> Fetch(const std::string& url, uint64_t offset, uint64_t size) {
  std::string got;
  const absl::Status status =
      HttpClient(Quick()).GetFrom(RequestFor(url), offset, size, [&](std::span<const std::byte> bytes) {
        got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return got;
}

TEST(HttpClientTest, GoesOnWhereACutLeftIt) {
  const std::string content = "0123456789abcdefghij";
  ScriptedHttpServer server([&](const std::string& head) -> std::string {
    const std::string range = HeaderOf(head, "Range");
    const size_t from = range.empty() ? 0 : std::stoul(range.substr(range.find('=') + 1));
    // Announces all that is left and sends six bytes of it.
    return "HTTP/1.1 " + std::string(from == 0 ? "200" : "206") +
           " x\r\nContent-Length: " + std::to_string(content.size() - from) + "\r\n\r\n" + content.substr(from, 6);
  });
  EXPECT_EQ(Fetch(server.url(), 0, content.size()).value(), content);
  EXPECT_THAT(server.requests(), SizeIs(4));
  EXPECT_EQ(Fetch(server.url(), 15, content.size()).value(), "fghij");
}

TEST(HttpClientTest, AServerWithoutRangesIsReadFromItsStart) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(200, "0123456789"); });
  EXPECT_EQ(Fetch(server.url(), 7, 10).value(), "789");
}

TEST(HttpClientTest, TriesAgainAfterWhatMayPassAndGivesUp) {
  std::atomic<int> calls{0};
  ScriptedHttpServer server([&](const std::string&) {
    return ++calls < 3 ? HttpAnswer(503, "later", "Retry-After: 0\r\n") : HttpAnswer(200, "ok");
  });
  EXPECT_EQ(HttpClient(Quick()).Get(RequestFor(server.url()), 10).value().body, "ok");
  calls = -100;
  const absl::Status status = HttpClient(Quick()).Get(RequestFor(server.url()), 10).status();
  EXPECT_EQ(ReasonOf(status), "IMPORT_SOURCE");
  EXPECT_THAT(MessageOf(status), HasSubstr("a.bin of test: the source answers 503"));
  EXPECT_EQ(calls, -97);
}

TEST(HttpClientTest, WhatWillNotPassIsSaidAtOnce) {
  int status = 404;
  ScriptedHttpServer server([&](const std::string&) { return HttpAnswer(status, "no"); });
  const auto reason = [&](int code) {
    status = code;
    return ReasonOf(HttpClient(Quick()).Get(RequestFor(server.url()), 10).status());
  };
  EXPECT_EQ(reason(404), "IMPORT_NOT_FOUND");
  EXPECT_EQ(reason(401), "IMPORT_DENIED");
  EXPECT_EQ(reason(403), "IMPORT_DENIED");
  EXPECT_EQ(reason(412), "IMPORT_CHANGED");
  EXPECT_THAT(server.requests(), SizeIs(4));
}

TEST(HttpClientTest, BoundsWhatItTakes) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(200, "0123456789"); });
  EXPECT_EQ(ReasonOf(HttpClient(Quick()).Get(RequestFor(server.url()), 9).status()), "IMPORT_SIZE");
  EXPECT_EQ(Fetch(server.url(), 0, 9).status().code(), absl::StatusCode::kDataLoss);
}

TEST(HttpClientTest, AKeyDoesNotFollowARedirectToAnotherServer) {
  ScriptedHttpServer other([](const std::string&) { return HttpAnswer(200, "elsewhere"); });
  ScriptedHttpServer server([&](const std::string&) {
    // Another name for the same machine is another host.
    std::string target = other.url();
    target.replace(target.find("127.0.0.1"), 9, "localhost");
    return HttpAnswer(302, "", "Location: " + target + "/x\r\n");
  });
  FetchRequest request = RequestFor(server.url());
  request.headers = {"Authorization: Bearer secret"};
  EXPECT_EQ(HttpClient(Quick()).Get(request, 100).value().body, "elsewhere");
  EXPECT_EQ(HeaderOf(server.requests().front(), "Authorization"), "Bearer secret");
  EXPECT_EQ(HeaderOf(other.requests().front(), "Authorization"), "");
}

TEST(HttpClientTest, EndsWhenNobodyWaits) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(503, ""); });
  FetchRequest request = RequestFor(server.url());
  request.cancelled = [] { return true; };
  EXPECT_FALSE(HttpClient(Quick()).Get(request, 100).ok());
  EXPECT_LE(server.requests().size(), 1U);
}

TEST(PercentTest, BothWays) {
  EXPECT_EQ(EncodeForUrl("a b/c~ü=", true), "a%20b/c~%C3%BC%3D");
  EXPECT_EQ(EncodeForUrl("a/b", false), "a%2Fb");
  EXPECT_EQ(DecodeFromUrl("refs%2Fpr%2f1").value(), "refs/pr/1");
  for (const char* bad : {"%", "%1", "%zz", "a%2"})
    EXPECT_EQ(ReasonOf(DecodeFromUrl(bad).status()), "IMPORT_SOURCE_NAME");
}

}  // namespace
}  // namespace qamserve
