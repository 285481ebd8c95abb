#include "server/fetch/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>

#include "core/base/digest.h"
#include "server/fetch/s3_url.h"
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
  FetchRequest request;
  request.url = std::move(url);
  request.what = "a.bin of test";
  return request;
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

// --- Send ---

TEST(HttpSendTest, GivesEveryAnswerAsItIs) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(403, "why not", "Retry-After: 7\r\n"); });
  const auto answer = HttpClient(Quick()).Send(RequestFor(server.url()), 3, {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 403);
  EXPECT_EQ(answer->body, "why");
  EXPECT_EQ(RetryAfterMs(*answer), 7000);
  EXPECT_EQ(answer->Field("none"), "");
  EXPECT_THAT(server.requests(), SizeIs(1));
}

TEST(HttpSendTest, SendsBodiesFromMemoryAndFiles) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(200, "", "ETag: \"e\"\r\n"); });
  const HttpClient client(Quick());
  const SigningKey key{.region = "r", .access_key = "AK", .secret_key = "S:K", .session_token = ""};
  const std::string text = "hello";
  FetchRequest request = RequestFor(server.url() + "/b/k");
  request.method = "PUT";
  request.signing = &key;
  request.body.bytes = std::as_bytes(std::span(text.data(), text.size()));
  request.body_sha256 = Sha256Hex(text);
  EXPECT_EQ(client.Send(request, 10, {})->Field("etag"), "\"e\"");

  // More than a buffer, from the middle of a file; large bodies wait for "100 Continue".
  std::string large(3'000'000, 'x');
  for (size_t i = 0; i < large.size(); i += 999) large[i] = static_cast<char>('a' + i % 26);
  std::FILE* file = std::tmpfile();
  ASSERT_EQ(std::fwrite(large.data(), 1, large.size(), file), large.size());
  std::fflush(file);
  request.method = "POST";
  request.body = {.bytes = {}, .fd = fileno(file), .offset = 1000, .file_bytes = 2'000'000};
  request.body_sha256 = Sha256Hex(large.substr(1000, 2'000'000));
  EXPECT_EQ(client.Send(request, 10, {})->status, 200);
  std::fclose(file);

  request.method = "DELETE";
  request.body = {};
  EXPECT_EQ(client.Send(request, 10, {})->status, 200);
  request.method = "HEAD";
  EXPECT_EQ(client.Send(request, 10, {})->status, 200);

  const auto heads = server.requests();
  const auto bodies = server.bodies();
  ASSERT_THAT(bodies, SizeIs(4));
  EXPECT_TRUE(heads[0].starts_with("PUT /b/k HTTP/1.1"));
  EXPECT_EQ(bodies[0], "hello");
  EXPECT_EQ(HeaderOf(heads[0], "x-amz-content-sha256"), Sha256Hex("hello"));
  EXPECT_THAT(HeaderOf(heads[0], "Authorization"), HasSubstr("Credential=AK/"));
  EXPECT_TRUE(heads[1].starts_with("POST /b/k HTTP/1.1"));
  EXPECT_TRUE(bodies[1] == large.substr(1000, 2'000'000));
  EXPECT_TRUE(heads[2].starts_with("DELETE /b/k HTTP/1.1"));
  EXPECT_EQ(HeaderOf(heads[2], "x-amz-content-sha256"), Sha256Hex(""));
  EXPECT_TRUE(heads[3].starts_with("HEAD /b/k HTTP/1.1"));
}

TEST(HttpSendTest, TellsWhatMayPassFromWhatWillNot) {
  std::string url;
  {
    ScriptedHttpServer server([](const std::string&) { return "HTTP/1.1 200 x\r\nContent-Length: 10\r\n\r\nabc"; });
    const absl::Status cut = HttpClient(Quick()).Send(RequestFor(server.url()), 10, {}).status();
    EXPECT_EQ(ReasonOf(cut), "HTTP_CONNECTION");
    EXPECT_THAT(MessageOf(cut), HasSubstr("a.bin of test"));
    url = server.url();
  }
  EXPECT_TRUE(absl::IsUnavailable(HttpClient(Quick()).Send(RequestFor(url), 10, {}).status()));
  EXPECT_EQ(ReasonOf(HttpClient(Quick()).Send(RequestFor("gopher://x"), 10, {}).status()), "HTTP_SETUP");
}

TEST(HttpSendTest, EndsWhereThePieceSays) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(200, "0123456789"); });
  const auto sent = HttpClient(Quick()).Send(RequestFor(server.url()), 10, [](std::span<const std::byte>) {
    return ResourceExhausted("DISK_FULL", "no room");
  });
  EXPECT_EQ(ReasonOf(sent.status()), "DISK_FULL");
}

TEST(BackoffTest, WaitsLongerEachTimeUpToItsLimit) {
  Backoff backoff(3, 1, 20);
  EXPECT_TRUE(backoff.Next(0, {}));
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_TRUE(backoff.Next(3'600'000, {}));  // no longer than its longest pause, whatever is asked for
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(took, std::chrono::milliseconds(20));
  EXPECT_LT(took, std::chrono::seconds(20));
  EXPECT_FALSE(backoff.Next(0, {}));
  backoff.Reset();
  EXPECT_TRUE(backoff.Next(0, {}));
  EXPECT_EQ(backoff.retries(), 3);
  EXPECT_FALSE(Backoff(3, 1, 20).Next(0, [] { return true; }));
}

TEST(S3UrlTest, IsWrittenAsSignaturesWantIt) {
  EXPECT_EQ(S3Url("https://s3.example/", "bucket", ""), "https://s3.example/bucket");
  EXPECT_EQ(S3Url("http://h:1", "bucket", "a b/c=d@e:f~.bin"), "http://h:1/bucket/a%20b/c%3Dd%40e%3Af~.bin");
  EXPECT_EQ(S3Url("http://h", "b", "k", {{"uploads", ""}, {"prefix", "x/y z"}, {"continuation-token", "a+b="}}),
            "http://h/b/k?continuation-token=a%2Bb%3D&prefix=x%2Fy%20z&uploads=");
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
