// The HTTP server over real sockets: what well-behaved clients get.
#include "server/http/http_server.h"

#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <fstream>
#include <thread>

#include "tests/server/http/http_fixture.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

using HttpServerTest = HttpFixture;

// Of this process.
int Threads() {
  std::ifstream status("/proc/self/status");
  std::string word;
  int threads = 0;
  while (status >> word) {
    if (word == "Threads:") status >> threads;
  }
  return threads;
}

TEST_F(HttpServerTest, AnswersOneRequestAfterTheOther) {
  Start();
  RawClient client(port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send("GET /hello?a=1&b=%20 HTTP/1.1\r\nHost: x\r\n\r\n"));
    const RawAnswer answer = client.ReadAnswer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, "GET /hello a=1&b=%20");
    EXPECT_EQ(answer.field("Content-Type"), "text/plain");
    EXPECT_EQ(answer.field("Connection"), "");
    EXPECT_THAT(answer.field("Date"), testing::MatchesRegex("..., .. ... .... ..:..:.. GMT"));
  }
  EXPECT_TRUE(WaitForAnswered("/hello 200", 3));
  EXPECT_EQ(server_->connections(), 1);
}

TEST_F(HttpServerTest, HeadHasTheLengthAndNoBody) {
  Start();
  RawClient client(port());
  client.Send("HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\nHEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer(true).field("Content-Length"), "12");
  EXPECT_EQ(client.ReadAnswer(true).status, 404);
  client.Send("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n");
  const RawAnswer nothing = client.ReadAnswer();
  EXPECT_EQ(nothing.status, 204);
  EXPECT_EQ(nothing.field("Content-Length"), "");
}

TEST_F(HttpServerTest, ClosesWhereTheClientWantsIt) {
  Start();
  RawClient close(port());
  close.Send("GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(close.ReadAnswer().field("Connection"), "close");
  EXPECT_TRUE(close.Ends());
  RawClient old(port());
  old.Send("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old.ReadAnswer().body, "GET /hello ");
  EXPECT_TRUE(old.Ends());
  RawClient old_keep(port());
  old_keep.Send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(old_keep.ReadAnswer().field("Connection"), "keep-alive");
  old_keep.Send("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_EQ(old_keep.ReadAnswer().status, 200);
  EXPECT_TRUE(old_keep.Ends());
}

TEST_F(HttpServerTest, TakesWhatServersMustTake) {
  Start();
  RawClient client(port());
  client.Send("\r\n\r\nGET http://example.org/hello?x HTTP/1.1\r\nhost:   x  \r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().body, "GET /hello x");
  client.Send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 404);
  client.Send("GET http://example.org HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer().body, HasSubstr("nothing is served at /"));
}

TEST_F(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  Start();
  RawClient client(port());
  std::string requests;
  for (int i = 0; i < 2000; ++i) requests += fmt::format("GET /hello?{} HTTP/1.1\r\nHost: x\r\n\r\n", i);
  std::thread sender([&] { EXPECT_TRUE(client.Send(requests)); });
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(client.ReadAnswer().body, fmt::format("GET /hello {}", i));
  sender.join();
}

TEST_F(HttpServerTest, OneByteAtATimeIsARequestToo) {
  Start();
  RawClient client(port());
  const std::string request =
      "POST /count HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n";
  for (const char c : request) ASSERT_TRUE(client.Send({&c, 1}));
  EXPECT_EQ(client.ReadAnswer().body, "3");
}

TEST_F(HttpServerTest, ExpectedContinueIsSentOnceTheBodyIsWanted) {
  Start();
  RawClient client(port());
  client.Send("POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 100);
  client.Send("12345");
  EXPECT_EQ(client.ReadAnswer().body, "5");

  client.Send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
  held_.Get(0)->Respond({413, {}}, "too large");
  const RawAnswer refused = client.ReadAnswer();
  EXPECT_EQ(refused.status, 413) << "without a 100 before it";
  EXPECT_EQ(refused.field("Connection"), "close") << "nobody knows whether the body will come";
  EXPECT_TRUE(client.Ends());
}

TEST_F(HttpServerTest, UnwantedBodiesAreReadOverOrEndTheConnection) {
  limits_.discard_bytes = 100'000;
  Start();
  RawClient client(port());
  client.Send("POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + std::string(90'000, 'b'));
  EXPECT_EQ(client.ReadAnswer().status, 200);
  client.Send("POST /hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 200);
  client.Send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 200) << "the same connection";
  // A client that sends all before it reads: it still sees the answer.
  client.Send("POST /hello HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n" + std::string(4'000'000, 'b'));
  const RawAnswer answer = client.ReadAnswer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.field("Connection"), "close");
  EXPECT_TRUE(client.Ends());
}

TEST_F(HttpServerTest, StreamsInChunksOrUntilItCloses) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("first\n\n"), HasSubstr("Transfer-Encoding: chunked"));
  const std::string large(3 << 20, 'l');
  absl::Notification written;
  const auto stream = held_.Get(0);
  std::thread writer([&] {
    stream->Write(large, [&](bool yes) {
      EXPECT_TRUE(yes);
      written.Notify();
    });
  });
  EXPECT_EQ(client.ReadUntil("\r\n"), "\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n"), "300000\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n"), large + "\r\n");
  writer.join();
  written.WaitForNotification();
  stream->End();
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "0\r\n\r\n");
  client.Send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().status, 200);

  RawClient old(port());
  old.Send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_THAT(old.ReadUntil("\r\n\r\n"), AllOf(HasSubstr("Connection: close"), Not(HasSubstr("chunked"))));
  held_.Get(1)->End();
  EXPECT_EQ(old.ReadToEnd(), "data: first\n\n");
  EXPECT_EQ(held_.gone(), 0);
}

TEST_F(HttpServerTest, AnswersThatCannotBeSentAreErrors) {
  Start();
  RawClient client(port());
  client.Send("GET /drop HTTP/1.1\r\nHost: x\r\n\r\n");
  const RawAnswer dropped = client.ReadAnswer();
  EXPECT_EQ(dropped.status, 500);
  EXPECT_THAT(dropped.body, HasSubstr("HTTP_NO_ANSWER"));
  client.Send("GET /bad-field HTTP/1.1\r\nHost: x\r\n\r\n");
  const RawAnswer bad = client.ReadAnswer();
  EXPECT_EQ(bad.status, 500);
  EXPECT_THAT(bad.head + bad.body, Not(HasSubstr("Set-Cookie")));
  client.Send("GET /short HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.ReadAnswer().body, "five5") << "and then the end, though 10 bytes were promised";
  EXPECT_TRUE(client.Ends());
}

TEST_F(HttpServerTest, AbortCutsTheConnection) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  client.ReadUntil("first\n\n");
  held_.Get(0)->Abort();
  EXPECT_THAT(client.ReadToEnd(), Not(HasSubstr("0\r\n\r\n")));
}

// However the client goes, the handler hears of it while its stream is idle, and what it writes then goes nowhere.
TEST_F(HttpServerTest, HandlersHearOfClientsThatVanish) {
  Start();
  for (const bool reset : {false, true}) {
    const int before = held_.gone();
    RawClient client(port());
    client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
    client.ReadUntil("first\n\n");
    reset ? client.Reset() : client.Close();
    EXPECT_TRUE(held_.WaitForGone(before + 1));
  }
  EXPECT_TRUE(held_.WaitForGone(2));
  const auto stream = held_.Get(1);
  absl::Notification told;
  stream->Write("late", [&](bool written) {
    EXPECT_FALSE(written);
    told.Notify();
  });
  told.WaitForNotification();
  absl::Notification called;
  stream->OnGone([&] { called.Notify(); });
  called.WaitForNotification();
  absl::Notification read;
  stream->ReadSome([&](const absl::StatusOr<std::string>& piece) {
    EXPECT_EQ(ReasonOf(piece.status()), "CLIENT_GONE");
    read.Notify();
  });
  read.WaitForNotification();
}

TEST_F(HttpServerTest, AClientThatGoesInTheMiddleOfItsBodyIsGone) {
  Start();
  RawClient client(port());
  client.Send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345");
  const auto exchange = held_.Get(0);
  std::vector<std::string> pieces;
  absl::Notification first;
  exchange->ReadSome([&](absl::StatusOr<std::string> piece) {
    EXPECT_EQ(piece.value_or("error"), "12345");
    first.Notify();
  });
  first.WaitForNotification();
  absl::Notification second;
  exchange->ReadSome([&](const absl::StatusOr<std::string>& piece) {
    EXPECT_EQ(piece.status().code(), absl::StatusCode::kCancelled);
    second.Notify();
  });
  client.Close();
  second.WaitForNotification();
  EXPECT_TRUE(held_.WaitForGone(1));
}

TEST_F(HttpServerTest, IdleStreamsCostNoThreads) {
  constexpr int kStreams = 1000;
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_cur < 2 * kStreams + 500) GTEST_SKIP() << "this process may open " << files.rlim_cur << " files only";
  Start();
  const int threads = Threads();
  std::vector<std::unique_ptr<RawClient>> clients;
  clients.reserve(kStreams);
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<RawClient>(port()));
    ASSERT_TRUE(clients.back()->Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n"));
  }
  for (const auto& client : clients) ASSERT_THAT(client->ReadUntil("first\n\n"), HasSubstr("200 OK"));
  EXPECT_EQ(server_->connections(), kStreams);
  EXPECT_EQ(Threads(), threads);
  EXPECT_EQ(HttpGet(port(), "/hello").status, 200) << "beside them";
  // All are written to, and all are told apart.
  for (int i = 0; i < kStreams; ++i)
    held_.Get(static_cast<size_t>(i))->Write(fmt::format("data: {}\n\n", i), [](bool) {});
  std::vector<bool> seen(kStreams);
  for (const auto& client : clients) {
    client->ReadUntil("data: ");
    seen.at(std::stoul(client->ReadUntil("\n"))) = true;
  }
  EXPECT_THAT(seen, testing::Each(true));
  clients.clear();
  EXPECT_TRUE(held_.WaitForGone(kStreams));
  held_.Drop();  // as handlers do that hear of it
  EXPECT_TRUE(WaitForConnections(0));
}

TEST_F(HttpServerTest, ShutdownLetsAnswersEndAndCutsThemAtItsDeadline) {
  Start();
  RawClient idle(port());
  idle.Send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  idle.ReadAnswer();
  RawClient quick(port());
  quick.Send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto exchange = held_.Get(0);
  std::thread shutdown([&] { server_->Shutdown(absl::InfiniteFuture()); });
  EXPECT_TRUE(idle.Ends());
  exchange->Respond({200, {}}, "in time");
  const RawAnswer answer = quick.ReadAnswer();
  EXPECT_EQ(answer.body, "in time");
  EXPECT_EQ(answer.field("Connection"), "close");
  quick.Close();
  shutdown.join();
  EXPECT_FALSE(RawClient(port()).connected());
  server_->Shutdown(absl::InfinitePast());  // again: nothing
  EXPECT_EQ(held_.gone(), 0);

  Start();
  RawClient slow(port());
  slow.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  slow.ReadUntil("first\n\n");
  server_->Shutdown(absl::InfinitePast());
  EXPECT_EQ(held_.gone(), 1);
  EXPECT_EQ(server_->connections(), 0);
}

TEST_F(HttpServerTest, ExchangesMayOutliveTheServer) {
  Start();
  RawClient client(port());
  client.Send("GET /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto stream = held_.Get(0);
  server_ = nullptr;
  EXPECT_EQ(held_.gone(), 1);
  stream->Write("late", [](bool) { ADD_FAILURE() << "no thread is left to call this"; });
  stream->ReadSome([](const absl::StatusOr<std::string>&) { ADD_FAILURE(); });
  stream->End();
}

TEST_F(HttpServerTest, SaysWhereItCannotListen) {
  Start();
  HttpServerOptions options = Options();
  options.port = port();
  options.flag = "--some-listen";
  options.reason = "SOME_LISTEN";
  const absl::Status taken = HttpServer::Start(options).status();
  EXPECT_EQ(ReasonOf(taken), "SOME_LISTEN");
  EXPECT_THAT(MessageOf(taken), AllOf(HasSubstr(std::to_string(port())), HasSubstr("--some-listen")));
  options.host = "no such host";
  EXPECT_EQ(HttpServer::Start(options).status().code(), absl::StatusCode::kUnavailable);
  options.host = "localhost";
  options.port = 0;
  const auto by_name = HttpServer::Start(options);
  ASSERT_TRUE(by_name.ok()) << by_name.status();
  EXPECT_EQ(HttpGet((*by_name)->port(), "/hello").status, 200);
  EXPECT_EQ(ReasonOf((*by_name)->ReloadTls({})), "HTTP_TLS") << "it was started without";
}

}  // namespace
}  // namespace qamserve
