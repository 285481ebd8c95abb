// The HTTP server over real sockets: malformed, oversized, slow and half-closed requests get a clear answer, and the
// server goes on.
#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/server/http/http_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

class HostileClientTest : public HttpFixture {
 protected:
  // What the server says to `request` and closes after, as "status reason".
  std::string Refusal(const std::string& request) {
    RawClient client(port());
    client.Send(request);
    const RawAnswer answer = client.ReadAnswer();
    EXPECT_EQ(answer.field("Connection"), "close");
    EXPECT_EQ(answer.field("Content-Type"), "application/json");
    EXPECT_TRUE(client.Ends());
    const nlohmann::json body = nlohmann::json::parse(answer.body, nullptr, false);
    if (body.is_discarded()) return "no JSON: " + answer.head + answer.body;
    const nlohmann::json& error = body.at("error");
    EXPECT_EQ(error.at("code"), answer.status);
    EXPECT_FALSE(error.at("message").get<std::string>().empty());
    EXPECT_FALSE(error.at("status").get<std::string>().empty());
    EXPECT_EQ(error.at("details").at(0).at("domain"), "qamserve");
    return std::to_string(answer.status) + " " + error.at("details").at(0).at("reason").get<std::string>();
  }
  void ExpectAlive() { EXPECT_EQ(HttpGet(port(), "/hello").status, 200); }
};

// A sanitizer keeps what was freed for a while.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kMemorySlack = size_t{512} << 20;
#else
constexpr size_t kMemorySlack = size_t{16} << 20;
#endif

// Bytes that this process keeps in memory.
size_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  size_t total = 0;
  size_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<size_t>(sysconf(_SC_PAGESIZE));
}

TEST_F(HostileClientTest, MalformedHeadsAreRefused) {
  Start();
  const std::string host = " HTTP/1.1\r\nHost: x\r\n";
  const std::pair<std::string, std::string> cases[] = {
      {"garbage\r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"GET\r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"GET  /hello HTTP/1.1\r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"GET /hello\r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"GET /hello HTTP/1.1 \r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"G\xc3\x84T /hello HTTP/1.1\r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello", "400 HTTP_REQUEST_LINE"},
      {"GET /hello HTTP/1.2\r\n\r\n", "505 HTTP_VERSION"},
      {"GET /hello HTTP/0.9\r\n\r\n", "505 HTTP_VERSION"},
      {"GET /hello JUNK/1.1\r\n\r\n", "400 HTTP_REQUEST_LINE"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 HTTP_VERSION"},
      {"GET hello" + host + "\r\n", "400 HTTP_TARGET"},
      {"GET /h\xc3\xa9llo" + host + "\r\n", "400 HTTP_TARGET"},
      {"GET /hello#part" + host + "\r\n", "400 HTTP_TARGET"},
      {"CONNECT example.org:443" + host + "\r\n", "400 HTTP_TARGET"},
      {"GET *" + host + "\r\n", "400 HTTP_TARGET"},
      {"GET /hello HTTP/1.1\r\n\r\n", "400 HTTP_HOST"},
      {"GET /hello" + host + "Host: y\r\n\r\n", "400 HTTP_HOST"},
      {"GET /hello" + host + "no colon\r\n\r\n", "400 HTTP_HEADER"},
      {"GET /hello" + host + "space : x\r\n\r\n", "400 HTTP_HEADER"},
      {"GET /hello" + host + ": nameless\r\n\r\n", "400 HTTP_HEADER"},
      {"GET /hello" + host + std::string("X: a\0b\r\n\r\n", 10), "400 HTTP_HEADER"},
      {"GET /hello" + host + "X: bare\rreturn\r\n\r\n", "400 HTTP_HEADER"},
      {"GET /hello" + host + "Expect: miracles\r\n\r\n", "417 HTTP_EXPECT"},
  };
  for (const auto& [request, refusal] : cases) EXPECT_EQ(Refusal(request), refusal) << request;
  ExpectAlive();
  EXPECT_TRUE(WaitForConnections(0));
}

// Whatever two servers could read as different bodies.
TEST_F(HostileClientTest, AmbiguousLengthsAreRefused) {
  Start();
  const std::string post = "POST /count HTTP/1.1\r\nHost: x\r\n";
  const std::string smuggled = "\r\n0\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n";
  const std::pair<std::string, std::string> cases[] = {
      {"Content-Length: -1\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: +1\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: 0x10\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: 1 2\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: \r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: 99999999999999999999999\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: 1\r\nContent-Length: 2\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: 1, 2\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "400 HTTP_CONTENT_LENGTH"},
      {"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "400 HTTP_TRANSFER_ENCODING"},
      {"Content-Length: 5\r\nTransfer-Encoding: identity\r\n", "400 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "400 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "400 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: gzip\r\n", "501 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: gzip, chunked\r\n", "501 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: chunked, identity\r\n", "501 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: xchunked\r\n", "501 HTTP_TRANSFER_ENCODING"},
      {"Transfer-Encoding: \"chunked\"\r\n", "501 HTTP_TRANSFER_ENCODING"},
  };
  for (const auto& [fields, refusal] : cases)
    EXPECT_EQ(Refusal(fmt::format("{}{}{}", post, fields, smuggled)), refusal) << fields;
  EXPECT_EQ(Refusal("POST /count HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + smuggled), "400 HTTP_TRANSFER_ENCODING");
  ExpectAlive();
}

TEST_F(HostileClientTest, HeaderBombsAreRefused) {
  Start();
  const std::string get = "GET /hello HTTP/1.1\r\nHost: x\r\n";
  EXPECT_EQ(Refusal(get + "X: " + std::string(40'000, 'x')), "431 HTTP_HEADER_SIZE") << "without an end";
  EXPECT_EQ(Refusal(get + "X: " + std::string(40'000, 'x') + "\r\n\r\n"), "431 HTTP_HEADER_SIZE");
  EXPECT_EQ(Refusal(get + std::string(40'000, 'x')), "431 HTTP_HEADER_SIZE") << "a name without an end";
  std::string many = get;
  for (int i = 0; i < 100; ++i) many += "a: b\r\n";
  EXPECT_EQ(Refusal(many + "\r\n"), "431 HTTP_HEADER_COUNT");
  std::string endless = get;
  for (int i = 0; i < 10'000; ++i) endless += "a: b\r\n";
  EXPECT_EQ(Refusal(endless), "431 HTTP_HEADER_SIZE");
  EXPECT_EQ(Refusal("GET /" + std::string(9'000, 'x') + " HTTP/1.1\r\nHost: x\r\n\r\n"), "414 HTTP_TARGET_SIZE");
  EXPECT_EQ(Refusal("GET /" + std::string(100'000, 'x')), "414 HTTP_TARGET_SIZE");
  ExpectAlive();
}

TEST_F(HostileClientTest, TheLargestAllowedHeadIsServed) {
  Start();
  std::string request = "GET /hello?" + std::string(8'000, 'q') + " HTTP/1.1\r\nHost: x\r\n";
  for (int i = 0; i < 7; ++i) request += "X: " + std::string(3'500, 'x') + "\r\n";
  EXPECT_EQ(Refusal(request + "X: " + std::string(200, 'x') + "\r\n\r\n"), "431 HTTP_HEADER_SIZE");
  RawClient client(port());
  client.Send(request + "\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  // However it is cut.
  for (const size_t bytes : {1, 5, 9'000}) {
    client.Send(request.substr(0, bytes));
    usleep(1'000);
    client.Send(request.substr(bytes) + "\r\n");
    EXPECT_EQ(client.ReadAnswer().status, 200);
  }
}

TEST_F(HostileClientTest, BadChunksEndTheBodyWithAnError) {
  Start();
  const std::string post = "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string& chunks :
       {std::string("x\r\nabc\r\n0\r\n\r\n"), std::string("3\r\nabcd\r\n0\r\n\r\n"),
        std::string("ffffffffffffffffff\r\nabc"), std::string("-1\r\nabc\r\n0\r\n\r\n"),
        "3;" + std::string(300'000, 'e'), "0\r\nX: " + std::string(300'000, 't') + "\r\n\r\n",
        std::string("3 3\r\nabc\r\n0\r\n\r\n"), std::string("3\nabc\n0\n\n and more, so that there is an end \r\n")}) {
    RawClient client(port());
    client.Send(post + chunks);
    const RawAnswer answer = client.ReadAnswer();
    EXPECT_EQ(answer.status, 400) << chunks.substr(0, 30);
    EXPECT_THAT(answer.body, HasSubstr("HTTP_BODY")) << chunks.substr(0, 30);
    EXPECT_EQ(answer.field("Connection"), "close");
    EXPECT_TRUE(client.Ends());
  }
  ExpectAlive();
}

// A trailer of more than 64 KiB that comes with a last chunk in pieces that the parser takes as one.
TEST_F(HostileClientTest, LongTrailersDoNotThrow) {
  Start();
  RawClient client(port());
  client.Send("POST /hold HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  const auto exchange = held_.Get(0);
  client.Send("3\r\nabc\r\n0\r\nX: " + std::string(66'000, 't') + "\r\n\r\n");
  std::make_shared<BodyCounter>(exchange)->Next();
  EXPECT_EQ(client.ReadAnswer().status, 400);
  ExpectAlive();
}

TEST_F(HostileClientTest, SlowHeadsTimeOut) {
  limits_.head_ms = 50;
  limits_.linger_ms = 50;
  Start();
  EXPECT_EQ(Refusal("GET /hello HTTP/1.1\r\nHost: x\r\nX-Slow: "), "408 HTTP_SLOW");
  RawClient silent(port());
  EXPECT_TRUE(silent.Ends()) << "without a word: there was no request";
  // Bytes that keep coming do not help.
  RawClient drip(port());
  drip.Send("GET /hello HTTP/1.1\r\n");
  while (drip.Send("a: b\r\n")) usleep(1'000);
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HostileClientTest, IdleConnectionsAreClosed) {
  limits_.idle_ms = 50;
  Start();
  RawClient client(port());
  client.Send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  EXPECT_TRUE(client.Ends());
}

TEST_F(HostileClientTest, SlowBodiesTimeOutOnlyWhileTheyAreWaitedFor) {
  limits_.body_ms = 50;
  Start();
  RawClient client(port());
  client.Send("POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345");
  const RawAnswer answer = client.ReadAnswer();
  EXPECT_EQ(answer.status, 408);
  EXPECT_THAT(answer.body, HasSubstr("HTTP_SLOW"));
  EXPECT_EQ(answer.field("Connection"), "close");

  RawClient patient(port());
  patient.Send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n");
  const auto exchange = held_.Get(0);
  usleep(150'000);  // the handler is the slow one here
  patient.Send("1234567890");
  std::make_shared<BodyCounter>(exchange)->Next();
  EXPECT_EQ(patient.ReadAnswer().body, "10");
}

TEST_F(HostileClientTest, UnreadBodiesThatDoNotComeEndTheConnection) {
  limits_.body_ms = 50;
  Start();
  RawClient client(port());
  client.Send("POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  EXPECT_TRUE(client.Ends());
}

TEST_F(HostileClientTest, ClientsThatDoNotReadAreCutOff) {
  limits_.write_ms = 100;
  Start();
  RawClient client(port(), 4096);
  client.Send("GET /pour HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(held_.WaitForGone(1));
  EXPECT_TRUE(WaitForConnections(0));
  ExpectAlive();
}

TEST_F(HostileClientTest, ClientsThatDoNotCloseAreClosed) {
  limits_.linger_ms = 50;
  Start();
  RawClient client(port());
  client.Send("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  EXPECT_TRUE(WaitForConnections(0)) << "although the client keeps its side open";
}

TEST_F(HostileClientTest, HalfClosedClientsCountAsGoneAndStillGetAnAnswer) {
  Start();
  RawClient quick(port());
  quick.Send("GET /hello?1 HTTP/1.1\r\nHost: x\r\n\r\nGET /hello?2 HTTP/1.1\r\nHost: x\r\n\r\n");
  quick.EndSending();
  EXPECT_EQ(quick.ReadAnswer().body, "GET /hello 1");
  EXPECT_EQ(quick.ReadAnswer().body, "GET /hello 2");
  EXPECT_TRUE(quick.Ends());
  RawClient waiting(port());
  waiting.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  auto exchange = held_.Get(0);
  waiting.EndSending();
  EXPECT_TRUE(held_.WaitForGone(1));
  exchange->Respond({200, {}}, "all the same");
  EXPECT_EQ(waiting.ReadAnswer().body, "all the same");
  EXPECT_TRUE(waiting.Ends());
  RawClient dropped(port());
  dropped.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  held_.Get(1);
  dropped.EndSending();
  EXPECT_TRUE(held_.WaitForGone(2));
  held_.Drop();
  EXPECT_THAT(dropped.ReadAnswer().body, HasSubstr("CLIENT_GONE"));

  RawClient partial(port());
  partial.Send("GET /hello HTTP/1.1\r\nHo");
  partial.EndSending();
  EXPECT_THAT(partial.ReadAnswer().body, HasSubstr("HTTP_PARTIAL"));
  RawClient nothing(port());
  nothing.EndSending();
  EXPECT_TRUE(nothing.Ends());
  RawClient body(port());
  body.Send("POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123");
  body.EndSending();
  EXPECT_THAT(body.ReadAnswer().body, HasSubstr("CLIENT_GONE"));
  EXPECT_TRUE(WaitForConnections(0));
}

// A client that sends more than is read ahead and resets: nothing reads the socket, and yet the handler hears of it.
TEST_F(HostileClientTest, ResetsAreSeenBehindUnreadBytes) {
  Start();
  RawClient client(port());
  client.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  held_.Get(0);
  ASSERT_TRUE(client.Send(std::string(300'000, 'x')));
  client.Reset();
  EXPECT_TRUE(held_.WaitForGone(1));
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HostileClientTest, BodiesStreamThroughFlatMemory) {
  constexpr size_t kBytes = size_t{96} << 20;
  Start();
  const std::string piece(1 << 20, 'p');
  const auto upload = [&](const std::string& field, const std::string& before, const std::string& after,
                          const std::string& end) {
    RawClient client(port());
    client.Send("POST /count HTTP/1.1\r\nHost: x\r\n" + field + "\r\n\r\n");
    for (size_t sent = 0; sent < kBytes; sent += piece.size()) {
      if (!client.Send(before) || !client.Send(piece) || !client.Send(after)) break;
    }
    client.Send(end);
    return client.ReadAnswer().body;
  };
  const std::string length = fmt::format("Content-Length: {}", kBytes);
  EXPECT_EQ(upload(length, "", "", ""), std::to_string(kBytes));
  const size_t before = ResidentBytes();
  EXPECT_EQ(upload("Transfer-Encoding: chunked", "100000\r\n", "\r\n", "0\r\n\r\n"), std::to_string(kBytes));
  EXPECT_EQ(upload(length, "", "", ""), std::to_string(kBytes));
  EXPECT_LT(ResidentBytes(), before + kMemorySlack);
}

TEST_F(HostileClientTest, WhatNobodyReadsStaysWithTheClient) {
  Start();
  RawClient client(port());
  client.Send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n");
  held_.Get(0);
  const std::string body(size_t{64} << 20, 'b');
  size_t sent = 0;
  EXPECT_FALSE(client.Send(body, 500, &sent));
  EXPECT_LT(sent, size_t{32} << 20) << "the kernel's buffers and 64 KiB of ours";
  client.Reset();
  EXPECT_TRUE(held_.WaitForGone(1));
}

TEST_F(HostileClientTest, ConnectionsAboveTheLimitAreToldSo) {
  limits_.max_connections = 2;
  Start();
  RawClient first(port());
  RawClient second(port());
  for (RawClient* client : {&first, &second}) {
    client->Send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(client->ReadAnswer().status, 200);
  }
  EXPECT_EQ(Refusal(""), "503 HTTP_CONNECTIONS");
  first.Close();
  EXPECT_TRUE(WaitForConnections(1));
  ExpectAlive();
}

}  // namespace
}  // namespace qamserve
