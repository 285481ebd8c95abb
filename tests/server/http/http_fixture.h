// An HTTP server in this process with a few handlers that tests steer.
#pragma once

#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/http/http_server.h"
#include "tests/support/raw_http.h"

namespace qamserve {

// Exchanges that wait for the test, and what became of their clients. Thread-safe.
class Held {
 public:
  void Add(const std::shared_ptr<HttpExchange>& exchange) {
    exchange->OnGone([this] {
      absl::MutexLock lock(&mutex_);
      ++gone_;
    });
    absl::MutexLock lock(&mutex_);
    exchanges_.push_back(exchange);
  }
  // The i-th, once it is there.
  std::shared_ptr<HttpExchange> Get(size_t i) {
    absl::MutexLock lock(&mutex_);
    const auto there = [this, i]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return exchanges_.size() > i; };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(30))) ADD_FAILURE() << "no exchange " << i;
    return exchanges_.at(i);
  }
  bool WaitForGone(int count) {
    absl::MutexLock lock(&mutex_);
    const auto reached = [this, count]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return gone_ >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30));
  }
  int gone() {
    absl::MutexLock lock(&mutex_);
    return gone_;
  }
  void Drop() {
    std::vector<std::shared_ptr<HttpExchange>> dropped;
    absl::MutexLock lock(&mutex_);
    dropped.swap(exchanges_);
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<HttpExchange>> exchanges_ ABSL_GUARDED_BY(mutex_);
  int gone_ ABSL_GUARDED_BY(mutex_) = 0;
};

// Reads a body to its end and answers with its size, or with the error's code, reason and message.
class BodyCounter : public std::enable_shared_from_this<BodyCounter> {
 public:
  explicit BodyCounter(std::shared_ptr<HttpExchange> exchange) : exchange_(std::move(exchange)) {}
  void Next() {
    exchange_->ReadSome([self = shared_from_this()](absl::StatusOr<std::string> piece) {
      if (!piece.ok()) {
        const std::string text = ReasonOf(piece.status()) + " " + MessageOf(piece.status());
        return self->exchange_->Respond({piece.status().code() == absl::StatusCode::kDeadlineExceeded ? 408 : 400, {}},
                                        text);
      }
      if (piece->empty()) return self->exchange_->Respond({200, {}}, std::to_string(self->bytes_));
      self->bytes_ += piece->size();
      self->Next();
    });
  }

 private:
  const std::shared_ptr<HttpExchange> exchange_;
  size_t bytes_ = 0;
};

// Writes pieces as fast as they leave, until one does not.
class Pourer : public std::enable_shared_from_this<Pourer> {
 public:
  Pourer(std::shared_ptr<HttpExchange> exchange, Held& held) : exchange_(std::move(exchange)), held_(held) {}
  void Start() {
    held_.Add(exchange_);
    exchange_->Begin({200, {{"Content-Type", "text/plain"}}}, -1);
    Next();
  }
  void Next() {
    exchange_->Write(std::string(64 << 10, 'x'), [self = shared_from_this()](bool written) {
      if (written) self->Next();
    });
  }

 private:
  const std::shared_ptr<HttpExchange> exchange_;
  Held& held_;
};

class HttpFixture : public testing::Test {
 protected:
  void TearDown() override {
    server_ = nullptr;
    held_.Drop();
  }

  HttpServerOptions Options() {
    HttpServerOptions options;
    options.limits = limits_;
    const auto part = [&options](const std::string& path, HttpHandler handle) {
      options.parts.push_back(
          {[path](const HttpRequestHead& head) { return head.path == path; }, std::move(handle), path});
    };
    part("/hello", [](const std::shared_ptr<HttpExchange>& exchange) {
      const HttpRequestHead& head = exchange->head();
      exchange->Respond({200, {{"Content-Type", "text/plain"}}}, head.method + " " + head.path + " " + head.query);
    });
    part("/count",
         [](const std::shared_ptr<HttpExchange>& exchange) { std::make_shared<BodyCounter>(exchange)->Next(); });
    part("/hold", [this](const std::shared_ptr<HttpExchange>& exchange) { held_.Add(exchange); });
    part("/stream", [this](const std::shared_ptr<HttpExchange>& exchange) {
      exchange->Begin({200, {{"Content-Type", "text/event-stream"}}}, -1);
      exchange->Write("data: first\n\n", [](bool) {});
      held_.Add(exchange);
    });
    part("/pour",
         [this](const std::shared_ptr<HttpExchange>& exchange) { std::make_shared<Pourer>(exchange, held_)->Start(); });
    part("/drop", [](const std::shared_ptr<HttpExchange>&) {});
    part("/bad-field", [](const std::shared_ptr<HttpExchange>& exchange) {
      exchange->Respond({200, {{"X-Text", "one\r\nSet-Cookie: two"}}}, "never");
    });
    part("/short", [](const std::shared_ptr<HttpExchange>& exchange) {
      exchange->Begin({200, {}}, 10);
      exchange->Write("five5", [exchange](bool) { exchange->End(); });
    });
    part("/nothing", [](const std::shared_ptr<HttpExchange>& exchange) { exchange->Respond({204, {}}, ""); });
    options.on_answered = [this](const HttpAnswered& answered) {
      absl::MutexLock lock(&mutex_);
      ++answered_[std::string(answered.part) + " " + std::to_string(answered.status)];
    };
    return options;
  }

  void Start() { Start(Options()); }
  void Start(const HttpServerOptions& options) {
    auto server = HttpServer::Start(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  int port() const { return server_->port(); }

  // Waits until that many answers of a part with a status were counted.
  bool WaitForAnswered(const std::string& what, int count) {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return answered_[what] >= count; };
    return mutex_.AwaitWithTimeout(absl::Condition(&reached), absl::Seconds(30));
  }
  bool WaitForConnections(int count) const {
    for (int i = 0; i < 3000 && server_->connections() != count; ++i) usleep(10'000);
    return server_->connections() == count;
  }

  HttpLimits limits_;
  Held held_;
  absl::Mutex mutex_;
  std::map<std::string, int> answered_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<HttpServer> server_;
};

}  // namespace qamserve
