// One connection of the HTTP server: reads requests, hands them to handlers, sends their answers. Lives on the thread
// of its loop; only Post may be called from elsewhere.
//
//   handshake --> idle --> head --> running --> idle            (keep-alive)
//                            |         |\-----> discarding --> idle   (a body that nobody wanted)
//                            v         v            v
//                        refusing --> lingering <---/           (we have said all, the client closes)
//   any state --> closed
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <atomic>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/exchange.h"
#include "server/http/http_parser.h"
#include "server/http/http_server.h"
#include "server/http/http_text.h"
#include "server/http/http_transport.h"

namespace qamserve {

// What all connections of a server share. Thread-safe.
class HttpCore {
 public:
  explicit HttpCore(const HttpServerOptions& options)
      : limits(options.limits), parts(options.parts), on_answered(options.on_answered) {}

  // The number of open ones, the new one included.
  int AddConnection() {
    absl::MutexLock lock(&mutex_);
    return ++open_;
  }
  void RemoveConnection() {
    absl::MutexLock lock(&mutex_);
    --open_;
  }
  int connections() const {
    absl::MutexLock lock(&mutex_);
    return open_;
  }
  void AwaitNoConnection(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithDeadline(absl::Condition(this, &HttpCore::NoneOpen), deadline);
  }

  const HttpLimits limits;
  const std::vector<HttpPart> parts;
  const std::function<void(const HttpAnswered&)> on_answered;
  std::atomic<bool> draining{false};

 private:
  bool NoneOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_ == 0; }

  mutable absl::Mutex mutex_;
  int open_ ABSL_GUARDED_BY(mutex_) = 0;
};

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Reader = std::function<void(absl::StatusOr<std::string>)>;
  using Writer = std::function<void(bool)>;

  // Counts among core's connections from here on.
  HttpConnection(std::shared_ptr<HttpLoop> loop, std::shared_ptr<HttpCore> core,
                 std::shared_ptr<HttpTransport> transport, std::string peer);
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;
  ~HttpConnection();

  // Runs `task` on the loop's thread; drops it if the loop has stopped. Thread-safe.
  void Post(std::function<void(HttpConnection&)> task);

  // Once, first. A `refusal` is sent in place of everything else.
  void Start(std::optional<HttpRefusal> refusal);
  // Closes if no request runs, else after its answer.
  void Drain();
  void Cut() { Close(/*reset=*/true); }

  // What an exchange asks, by the number of its request; see HttpExchange. Calls for a request that is over get what
  // those of a client that is gone get.
  void ReadSome(uint64_t request, Reader done);
  void Respond(uint64_t request, const HttpAnswerHead& head, std::string body);
  void Begin(uint64_t request, const HttpAnswerHead& head, int64_t length);
  void Write(uint64_t request, std::string piece, Writer written);
  void End(uint64_t request);
  void Abort(uint64_t request);
  void OnGone(uint64_t request, std::function<void()> gone);
  // Nobody holds the exchange any more.
  void Release(uint64_t request);

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { kHandshake, kIdle, kHead, kRunning, kDiscarding, kRefusing, kLingering, kClosed };
  enum class Answer { kNone, kBegun, kEnded };

  // The request that runs.
  struct Request {
    std::string_view part = "none";
    bool keep_alive = false;
    bool no_body = false;  // of the answer: to HEAD, or by its status
    bool http10 = false;
    bool continue_due = false;  // the client waits for 100 Continue before it sends the body
    absl::Status body_error;
    Reader reader;
    Answer answer = Answer::kNone;
    int status = 0;
    bool chunked = false;
    bool until_close = false;  // the body ends with the connection
    int64_t length_left = -1;  // of the answer's body; -1 = not known
    bool close = false;        // the connection, after the answer
    bool gone = false;
    std::function<void()> on_gone;
    Clock::time_point begun;
  };
  struct Piece {
    std::string bytes;
    Writer written;  // may be empty
  };

  bool Runs(uint64_t request) const;
  // --- in ---
  void Pump();
  void OnRead(const HttpTransport::ErrorCode& error, size_t bytes);
  void OnInputEnd(bool broken);
  void Advance();
  void ParseHead();
  void BeginRequest();
  void FeedReader();
  void Discard();
  void GiveReader(absl::StatusOr<std::string> piece);
  void TellGone();
  std::string_view input() const { return std::string_view(in_).substr(in_used_); }
  void Use(size_t bytes);
  // --- out ---
  // False: the head cannot be sent; an error was answered in its place.
  bool BeginAnswer(const HttpAnswerHead& head, int64_t length);
  void EndAnswer();
  void AnswerError(int status, const absl::Status& error);
  void Refuse(const HttpRefusal& refusal);
  bool CloseAfterAnswer() const;
  void Send(std::string bytes, Writer written = nullptr);
  void WriteMore();
  void OnWritten(const HttpTransport::ErrorCode& error, size_t bytes);
  void FinishRequest();
  void NextRequest();
  void Linger();
  void Close(bool reset);
  void CountAnswer(int status);
  // --- time ---
  static Clock::time_point After(int64_t milliseconds) {
    return Clock::now() + std::chrono::milliseconds(milliseconds);
  }
  void SetInputDeadline(Clock::time_point at);
  void Arm();
  void OnTimer();
  void OnInputDeadline();

  const std::shared_ptr<HttpLoop> loop_;  // first: what follows is bound to it
  const std::shared_ptr<HttpCore> core_;
  const std::shared_ptr<HttpTransport> transport_;
  const std::string peer_;
  State state_ = State::kHandshake;
  uint64_t number_ = 0;  // of the request that runs or ran last
  std::unique_ptr<HttpParser> parser_;
  Request request_;
  size_t discarded_ = 0;

  std::vector<char> chunk_;  // what the socket reads into; fixed while reading_
  bool reading_ = false;
  bool last_read_full_ = false;
  bool watching_ = false;
  bool input_ended_ = false;
  bool wants_body_ = false;  // the handler has begun to read the body: larger reads pay
  std::string in_;           // read and not used, from in_used_ on
  size_t in_used_ = 0;

  std::deque<Piece> out_;
  size_t out_sent_ = 0;  // of out_.front()
  bool writing_ = false;

  asio::steady_timer timer_;
  bool armed_ = false;
  Clock::time_point armed_for_;
  Clock::time_point input_deadline_ = Clock::time_point::max();
  Clock::time_point write_deadline_ = Clock::time_point::max();
};

}  // namespace qamserve
