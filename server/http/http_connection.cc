#include "server/http/http_connection.h"

#include <absl/time/clock.h>

#include <algorithm>
#include <boost/asio/error.hpp>
#include <utility>

namespace qamserve {
namespace {

// Idle connections keep one buffer of this size each.
constexpr size_t kSmallRead = 4 << 10;
// A body that fills small reads is read in larger ones: 2 GiB in 16,000 pieces.
constexpr size_t kLargeRead = 128 << 10;
// What may wait in memory: of later requests or a body that the handler has not asked for, and of one that it reads.
constexpr size_t kReadAhead = 64 << 10;
constexpr size_t kBodyReadAhead = 256 << 10;
constexpr size_t kMaxPiece = 1 << 20;
// Pieces up to this size are copied to go out as one with their chunk's frame: one packet, one TLS record.
constexpr size_t kJoinedPiece = 16 << 10;

absl::Status Gone() { return Cancelled("CLIENT_GONE", "the client went away before the request was over"); }

HttpRefusal SlowHead() {
  return {408, MakeError(absl::StatusCode::kDeadlineExceeded, "HTTP_SLOW", "the request's head took too long to come")};
}

void Tell(const HttpConnection::Writer& written, bool yes) {
  if (written) written(yes);
}

HttpAnswerHead JsonHead(int status) { return {status, {{"Content-Type", "application/json"}}}; }

// A handler's side of one request.
class ConnectionExchange final : public HttpExchange {
 public:
  ConnectionExchange(std::shared_ptr<HttpConnection> connection, uint64_t request, HttpRequestHead head)
      : connection_(std::move(connection)), request_(request), head_(std::move(head)) {}
  ~ConnectionExchange() override {
    connection_->Post([request = request_](HttpConnection& connection) { connection.Release(request); });
  }

  const HttpRequestHead& head() const override { return head_; }
  void ReadSome(HttpConnection::Reader done) override {
    connection_->Post([request = request_, done = std::move(done)](HttpConnection& connection) {
      connection.ReadSome(request, done);
    });
  }
  void Respond(HttpAnswerHead head, std::string body) override {
    connection_->Post([request = request_, head = std::move(head), body = std::move(body)](
                          HttpConnection& connection) mutable { connection.Respond(request, head, std::move(body)); });
  }
  void Begin(HttpAnswerHead head, int64_t length) override {
    connection_->Post([request = request_, head = std::move(head), length](HttpConnection& connection) {
      connection.Begin(request, head, length);
    });
  }
  void Write(std::string piece, HttpConnection::Writer written) override {
    connection_->Post([request = request_, piece = std::move(piece),
                       written = std::move(written)](HttpConnection& connection) mutable {
      connection.Write(request, std::move(piece), std::move(written));
    });
  }
  void End() override {
    connection_->Post([request = request_](HttpConnection& connection) { connection.End(request); });
  }
  void Abort() override {
    connection_->Post([request = request_](HttpConnection& connection) { connection.Abort(request); });
  }
  void OnGone(std::function<void()> gone) override {
    connection_->Post(
        [request = request_, gone = std::move(gone)](HttpConnection& connection) { connection.OnGone(request, gone); });
  }

 private:
  const std::shared_ptr<HttpConnection> connection_;
  const uint64_t request_;
  const HttpRequestHead head_;
};

}  // namespace

HttpConnection::HttpConnection(std::shared_ptr<HttpLoop> loop, std::shared_ptr<HttpCore> core,
                               std::shared_ptr<HttpTransport> transport, std::string peer)
    : loop_(std::move(loop)),
      core_(std::move(core)),
      transport_(std::move(transport)),
      peer_(std::move(peer)),
      timer_(loop_->context()) {
  core_->AddConnection();
}

HttpConnection::~HttpConnection() {
  if (state_ != State::kClosed) core_->RemoveConnection();  // it never started
}

void HttpConnection::Post(std::function<void(HttpConnection&)> task) {
  loop_->Post([self = shared_from_this(), task = std::move(task)] { task(*self); });
}

void HttpConnection::Start(std::optional<HttpRefusal> refusal) {
  loop_->connections.insert(shared_from_this());
  if (refusal) return Refuse(*refusal);
  const auto ready = [](HttpConnection& connection) {
    connection.state_ = State::kIdle;
    if (connection.core_->draining) return connection.Close(false);
    // Its first request is awaited as long as a head: who connects has something to say.
    connection.SetInputDeadline(After(connection.core_->limits.head_ms));
    connection.Pump();
  };
  const bool shakes_hands =
      transport_->Handshake([self = shared_from_this(), ready](const HttpTransport::ErrorCode& error) {
        if (self->state_ == State::kClosed) return;
        if (error) return self->Close(false);
        ready(*self);
      });
  if (!shakes_hands) return ready(*this);
  SetInputDeadline(After(core_->limits.head_ms));
}

void HttpConnection::Drain() {
  if (state_ == State::kIdle || state_ == State::kHandshake) Close(false);
}

bool HttpConnection::Runs(uint64_t request) const {
  return state_ == State::kRunning && request == number_ && request_.answer != Answer::kEnded;
}

// --- in ---

void HttpConnection::Use(size_t bytes) {
  in_used_ += bytes;
  if (in_used_ == in_.size()) {
    in_.clear();
    in_used_ = 0;
  } else if (in_used_ >= kReadAhead) {
    in_.erase(0, in_used_);
    in_used_ = 0;
  }
}

// Keeps a read under way while there is room for what it brings: so the end of a connection is seen at once.
void HttpConnection::Pump() {
  if (reading_ || input_ended_ || state_ == State::kClosed || state_ == State::kHandshake) return;
  const bool in_head = state_ == State::kIdle || state_ == State::kHead;
  const bool in_body = state_ != State::kRunning || (wants_body_ && !parser_->body_done());
  const size_t room = in_head ? core_->limits.header_bytes + kSmallRead : in_body ? kBodyReadAhead : kReadAhead;
  if (input().size() >= room) {
    if (std::exchange(watching_, true)) return;
    return transport_->WaitForFailure([self = shared_from_this()] { self->Close(true); });
  }
  const size_t bytes = !in_head && in_body && last_read_full_ ? kLargeRead : kSmallRead;
  if (chunk_.size() != bytes) std::vector<char>(bytes).swap(chunk_);
  reading_ = true;
  transport_->ReadSome(asio::buffer(chunk_), [self = shared_from_this()](const HttpTransport::ErrorCode& error,
                                                                         size_t read) { self->OnRead(error, read); });
}

void HttpConnection::OnRead(const HttpTransport::ErrorCode& error, size_t bytes) {
  reading_ = false;
  if (state_ == State::kClosed) return;
  if (error) return OnInputEnd(error != asio::error::eof);
  last_read_full_ = bytes == chunk_.size();
  in_.append(chunk_.data(), bytes);
  Advance();
  Pump();
}

void HttpConnection::OnInputEnd(bool broken) {
  input_ended_ = true;
  if (broken) return Close(true);
  switch (state_) {
    case State::kRunning:
      FeedReader();
      if (request_.answer != Answer::kEnded) TellGone();
      return;
    case State::kHead:
      return Refuse({400, InvalidArgument("HTTP_PARTIAL", "the request ends within its head")});
    case State::kRefusing:
      return;  // the answer is on its way
    default:
      return Close(false);
  }
}

void HttpConnection::Advance() {
  switch (state_) {
    case State::kIdle:
    case State::kHead:
      return ParseHead();
    case State::kRunning:
      return FeedReader();
    case State::kDiscarding:
      return Discard();
    default:
      return Use(input().size());
  }
}

void HttpConnection::ParseHead() {
  if (input().empty()) return;
  if (state_ == State::kIdle) {
    state_ = State::kHead;
    parser_ = std::make_unique<HttpParser>(core_->limits);
    SetInputDeadline(After(core_->limits.head_ms));
  }
  const HttpParser::HeadStep step = parser_->TakeHead(input());
  Use(step.used);
  if (step.refusal) return Refuse(*step.refusal);
  if (step.done) BeginRequest();
}

void HttpConnection::BeginRequest() {
  SetInputDeadline(Clock::time_point::max());
  state_ = State::kRunning;
  HttpRequestHead head = parser_->TakeRequestHead();
  head.peer = peer_;
  request_ = Request{};
  request_.keep_alive = head.keep_alive;
  request_.no_body = head.method == "HEAD";
  request_.http10 = parser_->http10();
  request_.continue_due = parser_->expects_continue() && !parser_->body_done();
  request_.gone = input_ended_;
  request_.begun = Clock::now();
  const auto exchange = std::make_shared<ConnectionExchange>(shared_from_this(), ++number_, std::move(head));
  for (const HttpPart& part : core_->parts) {
    if (!part.takes(exchange->head())) continue;
    if (!part.name.empty()) request_.part = part.name;
    return part.handle(exchange);
  }
  AnswerError(404, NotFound("HTTP_NOT_FOUND", "nothing is served at {}", exchange->head().path));
}

void HttpConnection::FeedReader() {
  if (!request_.reader) return;
  if (!request_.body_error.ok()) return GiveReader(request_.body_error);
  std::string piece;
  if (!parser_->body_done() && !input().empty()) {
    piece.resize(std::min(input().size(), kMaxPiece));
    const HttpParser::BodyStep step = parser_->TakeBody(input(), piece.data(), piece.size());
    piece.resize(step.filled);
    Use(step.used);
    request_.body_error = step.error;
    if (step.error.ok() && step.used == 0 && input().size() >= kReadAhead) {
      request_.body_error =
          InvalidArgument("HTTP_BODY", "the head or trailer of a chunk has more than {} bytes", kReadAhead);
    }
  }
  if (!piece.empty()) return GiveReader(std::move(piece));
  if (!request_.body_error.ok()) return GiveReader(request_.body_error);
  if (parser_->body_done()) return GiveReader(std::string());
  if (input_ended_) return GiveReader(Gone());
  if (request_.continue_due && request_.answer == Answer::kNone) {
    request_.continue_due = false;
    Send("HTTP/1.1 100 Continue\r\n\r\n");
  }
  wants_body_ = true;
  SetInputDeadline(After(core_->limits.body_ms));
}

void HttpConnection::GiveReader(absl::StatusOr<std::string> piece) {
  SetInputDeadline(Clock::time_point::max());
  const Reader reader = std::exchange(request_.reader, nullptr);
  reader(std::move(piece));
}

void HttpConnection::TellGone() {
  if (std::exchange(request_.gone, true) || !request_.on_gone) return;
  const std::function<void()> gone = std::exchange(request_.on_gone, nullptr);
  gone();
}

void HttpConnection::Discard() {
  char sink[16 << 10];
  while (!input().empty()) {
    const HttpParser::BodyStep step = parser_->TakeBody(input(), sink, sizeof(sink));
    Use(step.used);
    discarded_ += step.used;
    if (!step.error.ok() || discarded_ > core_->limits.discard_bytes) return Linger();
    if (parser_->body_done()) return NextRequest();
    if (step.used == 0) return;
  }
}

// --- what exchanges ask ---

void HttpConnection::ReadSome(uint64_t request, Reader done) {
  if (!Runs(request)) return done(Gone());
  if (request_.reader) return done(FailedPrecondition("HTTP_BODY", "the piece before has not come yet"));
  request_.reader = std::move(done);
  FeedReader();
  Pump();
}

void HttpConnection::Respond(uint64_t request, const HttpAnswerHead& head, std::string body) {
  if (!Runs(request) || request_.answer != Answer::kNone) return;
  if (!BeginAnswer(head, static_cast<int64_t>(body.size()))) return;
  if (!request_.no_body) Send(std::move(body));
  EndAnswer();
}

void HttpConnection::Begin(uint64_t request, const HttpAnswerHead& head, int64_t length) {
  if (Runs(request) && request_.answer == Answer::kNone) BeginAnswer(head, length);
}

void HttpConnection::Write(uint64_t request, std::string piece, Writer written) {
  if (!Runs(request) || request_.answer != Answer::kBegun) return Tell(written, false);
  if (piece.empty() || request_.no_body) return Tell(written, true);
  if (request_.length_left >= 0) {
    request_.length_left -= static_cast<int64_t>(piece.size());
    if (request_.length_left < 0) {  // more than was promised: the handler's bug
      Close(true);
      return Tell(written, false);
    }
  }
  if (!request_.chunked) return Send(std::move(piece), std::move(written));
  std::string frame = fmt::format("{:x}\r\n", piece.size());
  if (piece.size() <= kJoinedPiece) {
    frame += piece;
    frame += "\r\n";
    return Send(std::move(frame), std::move(written));
  }
  Send(std::move(frame));
  Send(std::move(piece));
  Send("\r\n", std::move(written));
}

void HttpConnection::End(uint64_t request) {
  if (!Runs(request) || request_.answer != Answer::kBegun) return;
  if (request_.length_left > 0) return Close(true);  // less than was promised
  if (request_.chunked) Send("0\r\n\r\n");
  EndAnswer();
}

void HttpConnection::Abort(uint64_t request) {
  // Without length and chunks only a reset tells the client that there should have been more.
  if (Runs(request)) Close(request_.until_close);
}

void HttpConnection::OnGone(uint64_t request, std::function<void()> gone) {
  const bool closed = state_ == State::kClosed && request == number_ && request_.answer != Answer::kEnded;
  if (closed || (Runs(request) && request_.gone)) return gone();
  if (Runs(request)) request_.on_gone = std::move(gone);
}

void HttpConnection::Release(uint64_t request) {
  if (!Runs(request)) return;
  if (request_.answer == Answer::kBegun) return Close(request_.until_close);
  if (request_.gone) return AnswerError(499, Gone());
  AnswerError(500, Internal("HTTP_NO_ANSWER", "the request was dropped without an answer"));
}

// --- out ---

bool HttpConnection::CloseAfterAnswer() const {
  if (!request_.keep_alive || core_->draining || !request_.body_error.ok()) return true;
  if (parser_->body_done()) return input_ended_ && input().empty();
  if (input_ended_) return true;
  if (request_.continue_due) return true;  // nobody knows whether the client will send the body now
  const std::optional<uint64_t> left = parser_->length_left();
  return left && *left > core_->limits.discard_bytes;
}

bool HttpConnection::BeginAnswer(const HttpAnswerHead& head, int64_t length) {
  HttpFraming framing{length, request_.http10, /*close=*/false, /*head_only=*/request_.no_body};
  const bool has_body = framing.HasBody(head.status);
  const bool chunked = framing.Chunked(head.status);
  const bool until_close = has_body && length < 0 && !chunked;
  framing.close = until_close || CloseAfterAnswer();
  absl::StatusOr<std::string> text = AnswerHeadText(head, framing, absl::Now());
  if (!text.ok()) {
    AnswerError(500, text.status());
    return false;
  }
  request_.status = head.status;
  request_.answer = Answer::kBegun;
  request_.no_body = !has_body;
  request_.chunked = chunked;
  request_.until_close = until_close;
  request_.length_left = has_body ? length : -1;
  request_.close = framing.close;
  Send(*std::move(text));
  return true;
}

void HttpConnection::EndAnswer() {
  request_.answer = Answer::kEnded;
  if (request_.reader) GiveReader(Gone());
  request_.on_gone = nullptr;
  if (out_.empty()) FinishRequest();
}

void HttpConnection::AnswerError(int status, const absl::Status& error) {
  std::string body = HttpErrorBody(status, error);
  if (!BeginAnswer(JsonHead(status), static_cast<int64_t>(body.size()))) return;
  if (!request_.no_body) Send(std::move(body));
  EndAnswer();
}

void HttpConnection::Refuse(const HttpRefusal& refusal) {
  state_ = State::kRefusing;
  request_ = Request{.answer = Answer::kEnded};
  SetInputDeadline(Clock::time_point::max());
  Use(input().size());
  CountAnswer(refusal.status);
  const std::string body = HttpErrorBody(refusal.status, refusal.error);
  const HttpFraming framing{static_cast<int64_t>(body.size()), /*http10=*/false, /*close=*/true, /*head_only=*/false};
  const absl::StatusOr<std::string> head = AnswerHeadText(JsonHead(refusal.status), framing, absl::Now());
  if (!head.ok()) return Close(false);
  Send(*head + body);
  Pump();
}

void HttpConnection::Send(std::string bytes, Writer written) {
  if (bytes.empty()) return;
  out_.push_back({std::move(bytes), std::move(written)});
  WriteMore();
}

void HttpConnection::WriteMore() {
  if (writing_ || out_.empty()) return;
  HttpTransport::Buffers buffers;
  size_t used = 0;
  for (const Piece& piece : out_) {
    if (used == buffers.size()) break;
    const size_t sent = used == 0 ? out_sent_ : 0;
    buffers[used++] = asio::const_buffer(piece.bytes.data() + sent, piece.bytes.size() - sent);
  }
  writing_ = true;
  write_deadline_ = After(core_->limits.write_ms);
  Arm();
  transport_->WriteSome(buffers, [self = shared_from_this()](const HttpTransport::ErrorCode& error, size_t bytes) {
    self->OnWritten(error, bytes);
  });
}

void HttpConnection::OnWritten(const HttpTransport::ErrorCode& error, size_t bytes) {
  writing_ = false;
  if (state_ == State::kClosed) return;
  if (error) return Close(true);
  write_deadline_ = Clock::time_point::max();
  std::vector<Writer> written;
  out_sent_ += bytes;
  while (!out_.empty() && out_sent_ >= out_.front().bytes.size()) {
    out_sent_ -= out_.front().bytes.size();
    if (out_.front().written) written.push_back(std::move(out_.front().written));
    out_.pop_front();
  }
  WriteMore();
  for (const Writer& writer : written) writer(true);
  if (!out_.empty()) return;
  if (state_ == State::kRunning && request_.answer == Answer::kEnded) return FinishRequest();
  if (state_ == State::kRefusing) Linger();
}

void HttpConnection::FinishRequest() {
  CountAnswer(request_.status);
  if (request_.close) return Linger();
  if (parser_->body_done()) return NextRequest();
  state_ = State::kDiscarding;
  discarded_ = 0;
  SetInputDeadline(After(core_->limits.body_ms));
  Discard();
  Pump();
}

void HttpConnection::NextRequest() {
  state_ = State::kIdle;
  parser_ = nullptr;
  wants_body_ = false;
  if (input().empty() && core_->draining) return Close(false);
  if (input().empty() && in_.capacity() > kReadAhead) std::string().swap(in_);
  SetInputDeadline(After(core_->limits.idle_ms));
  ParseHead();
  if (input_ended_ && (state_ == State::kIdle || state_ == State::kHead)) return Close(false);
  Pump();
}

void HttpConnection::Linger() {
  state_ = State::kLingering;
  Use(input().size());
  if (input_ended_) return Close(false);
  transport_->ShutdownSend();
  SetInputDeadline(After(core_->limits.linger_ms));
  Pump();
}

void HttpConnection::Close(bool reset) {
  if (state_ == State::kClosed) return;
  const std::shared_ptr<HttpConnection> self = shared_from_this();
  const State before = std::exchange(state_, State::kClosed);
  timer_.cancel();
  transport_->Close(reset);
  loop_->connections.erase(self);
  core_->RemoveConnection();
  std::vector<Writer> unwritten;
  for (Piece& piece : out_) {
    if (piece.written) unwritten.push_back(std::move(piece.written));
  }
  for (const Writer& writer : unwritten) writer(false);
  if (before != State::kRunning) return;
  CountAnswer(request_.answer == Answer::kNone ? 499 : request_.status);
  if (request_.answer == Answer::kEnded) return;
  if (request_.reader) GiveReader(Gone());
  TellGone();
}

void HttpConnection::CountAnswer(int status) {
  if (!core_->on_answered) return;
  const bool ran = request_.begun != Clock::time_point();
  const double seconds = ran ? std::chrono::duration<double>(Clock::now() - request_.begun).count() : 0;
  core_->on_answered({request_.part, status, seconds});
}

// --- time ---

void HttpConnection::SetInputDeadline(Clock::time_point at) {
  input_deadline_ = at;
  Arm();
}

// One timer, for whichever comes first. A deadline that moves away leaves it alone: it looks again when it rings.
void HttpConnection::Arm() {
  const Clock::time_point next = std::min(input_deadline_, write_deadline_);
  if (state_ == State::kClosed || next == Clock::time_point::max() || (armed_ && armed_for_ <= next)) return;
  armed_ = true;
  armed_for_ = next;
  timer_.expires_at(next);
  timer_.async_wait([self = shared_from_this()](const HttpTransport::ErrorCode& error) {
    if (!error) self->OnTimer();
  });
}

void HttpConnection::OnTimer() {
  armed_ = false;
  if (state_ == State::kClosed) return;
  const Clock::time_point now = Clock::now();
  if (now >= write_deadline_) return Close(true);
  if (now >= input_deadline_) OnInputDeadline();
  Arm();
}

void HttpConnection::OnInputDeadline() {
  input_deadline_ = Clock::time_point::max();
  switch (state_) {
    case State::kHead:
      return Refuse(SlowHead());
    case State::kRunning:
      request_.body_error = MakeError(absl::StatusCode::kDeadlineExceeded, "HTTP_SLOW",
                                      fmt::format("no byte of the body came for {} ms", core_->limits.body_ms));
      return FeedReader();
    default:
      return Close(false);
  }
}

}  // namespace qamserve
