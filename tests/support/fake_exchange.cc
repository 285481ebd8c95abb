#include "tests/support/fake_exchange.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <thread>
#include <utility>

namespace qamserve {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(30);
constexpr size_t kMaxPieceBytes = size_t{1} << 20;

}  // namespace

struct FakeClient::State {
  using Reader = std::function<void(absl::StatusOr<std::string>)>;
  using Writer = std::function<void(bool)>;

  // Gives the waiting reader what there is for it. Callbacks are queued, so that none runs inside a call.
  void ServeReader() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (!reader) return;
    absl::StatusOr<std::string> piece = std::string();
    if (gone) {
      piece = Cancelled("CLIENT_GONE", "the client went away");
    } else if (!body.empty()) {
      const size_t bytes = std::min(body.size(), piece_bytes);
      piece = body.substr(0, bytes);
      body.erase(0, bytes);
      taken += bytes;
    } else if (!body_error.ok()) {
      piece = body_error;
    } else if (!body_ended) {
      return;
    }
    tasks.emplace_back([reader = std::exchange(reader, nullptr), piece = std::move(piece)] { reader(piece); });
  }
  void ServeWriter() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (!writer || (held && !gone)) return;
    tasks.emplace_back([writer = std::exchange(writer, nullptr), written = !gone] { writer(written); });
  }
  void ServeGone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (gone && on_gone && !Over()) tasks.emplace_back(std::exchange(on_gone, nullptr));
  }
  bool Over() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return answer.ended || answer.aborted || answer.dropped; }
  // No more will come.
  bool Done() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return Over() || (gone && released); }
  // True if an answer may begin now.
  bool BeginAnswer(HttpAnswerHead head, int64_t length) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    if (answer.status != 0) ADD_FAILURE() << "a second answer: " << head.status;
    if (head.status < 200 || head.status > 599) ADD_FAILURE() << "status " << head.status;
    for (const auto& [name, value] : head.fields) {
      if ((name + value).find_first_of(std::string_view("\r\n\0", 3)) != std::string::npos) {
        ADD_FAILURE() << "a line break in field " << name << ": " << value;
      }
    }
    if (answer.status != 0) return false;
    answer.status = head.status;
    answer.fields = std::move(head.fields);
    answer.length = length;
    return true;
  }

  void Loop() {
    mutex.Lock();
    while (true) {
      mutex.Await(absl::Condition(this, &State::Wake));
      if (tasks.empty()) break;
      std::function<void()> task = std::move(tasks.front());
      tasks.pop_front();
      mutex.Unlock();
      task();
      task = nullptr;  // may hold the exchange, whose end locks
      mutex.Lock();
    }
    mutex.Unlock();
  }
  bool Wake() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stopping || !tasks.empty(); }

  mutable absl::Mutex mutex;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  std::deque<std::function<void()>> tasks ABSL_GUARDED_BY(mutex);
  bool sent ABSL_GUARDED_BY(mutex) = false;
  bool released ABSL_GUARDED_BY(mutex) = false;
  bool gone ABSL_GUARDED_BY(mutex) = false;
  bool held ABSL_GUARDED_BY(mutex) = false;
  std::string body ABSL_GUARDED_BY(mutex);
  bool body_ended ABSL_GUARDED_BY(mutex) = true;
  absl::Status body_error ABSL_GUARDED_BY(mutex);
  size_t piece_bytes ABSL_GUARDED_BY(mutex) = kMaxPieceBytes;
  size_t taken ABSL_GUARDED_BY(mutex) = 0;
  Reader reader ABSL_GUARDED_BY(mutex);
  Writer writer ABSL_GUARDED_BY(mutex);
  std::function<void()> on_gone ABSL_GUARDED_BY(mutex);
  FakeAnswer answer ABSL_GUARDED_BY(mutex);
  HttpRequestHead head;  // const after construction
  std::thread thread;
};

class FakeClient::Exchange final : public HttpExchange {
 public:
  explicit Exchange(std::shared_ptr<State> state) : state_(std::move(state)) {}
  ~Exchange() override {
    absl::MutexLock lock(&state_->mutex);
    state_->released = true;
    if (state_->Over() || state_->gone) return;
    state_->answer.dropped = true;
    if (state_->answer.status == 0) state_->answer.status = 500;
  }

  const HttpRequestHead& head() const override { return state_->head; }

  void ReadSome(State::Reader done) override {
    absl::MutexLock lock(&state_->mutex);
    if (state_->stopping) return;
    if (state_->reader) ADD_FAILURE() << "ReadSome before the last one was done";
    state_->reader = std::move(done);
    state_->ServeReader();
  }

  void Respond(HttpAnswerHead head, std::string body) override {
    absl::MutexLock lock(&state_->mutex);
    if (!state_->BeginAnswer(std::move(head), static_cast<int64_t>(body.size()))) return;
    state_->answer.body = std::move(body);
    state_->answer.ended = true;
  }

  void Begin(HttpAnswerHead head, int64_t length) override {
    absl::MutexLock lock(&state_->mutex);
    state_->BeginAnswer(std::move(head), length);
  }

  void Write(std::string piece, State::Writer written) override {
    absl::MutexLock lock(&state_->mutex);
    if (state_->stopping) return;
    FakeAnswer& answer = state_->answer;
    if (answer.status == 0) ADD_FAILURE() << "Write before Begin";
    if (answer.ended) ADD_FAILURE() << "Write after the end";
    if (state_->writer) ADD_FAILURE() << "Write before the last piece has left";
    if (!state_->gone) {
      answer.body += piece;
      answer.pieces.push_back(std::move(piece));
    }
    state_->writer = std::move(written);
    state_->ServeWriter();
  }

  void End() override {
    absl::MutexLock lock(&state_->mutex);
    FakeAnswer& answer = state_->answer;
    if (answer.status == 0) ADD_FAILURE() << "End before Begin";
    if (answer.ended) ADD_FAILURE() << "a second End";
    const bool has_body = state_->head.method != "HEAD";
    if (has_body && !state_->gone && answer.length >= 0 && answer.length != static_cast<int64_t>(answer.body.size())) {
      ADD_FAILURE() << "Begin promised " << answer.length << " bytes, " << answer.body.size() << " came";
    }
    answer.ended = true;
  }

  void Abort() override {
    absl::MutexLock lock(&state_->mutex);
    state_->answer.aborted = true;
  }

  void OnGone(std::function<void()> gone) override {
    absl::MutexLock lock(&state_->mutex);
    if (state_->stopping) return;
    if (state_->on_gone) ADD_FAILURE() << "a second OnGone";
    state_->on_gone = std::move(gone);
    state_->ServeGone();
  }

 private:
  const std::shared_ptr<State> state_;
};

FakeClient::FakeClient(HttpRequestHead head, std::string body, bool body_ends) : state_(std::make_shared<State>()) {
  state_->head = std::move(head);
  {
    absl::MutexLock lock(&state_->mutex);
    state_->body = std::move(body);
    state_->body_ended = body_ends;
  }
  state_->thread = std::thread([state = state_.get()] { state->Loop(); });
}

FakeClient::~FakeClient() {
  Vanish();
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stopping = true;
  }
  state_->thread.join();
  // Callbacks hold exchanges, which hold the state. They are destroyed outside of the lock, which exchanges take.
  State::Reader reader;
  State::Writer writer;
  std::function<void()> on_gone;
  absl::MutexLock lock(&state_->mutex);
  reader.swap(state_->reader);
  writer.swap(state_->writer);
  on_gone.swap(state_->on_gone);
}

void FakeClient::SendTo(const HttpHandler& handler) {
  auto exchange = std::make_shared<Exchange>(state_);
  absl::MutexLock lock(&state_->mutex);
  if (std::exchange(state_->sent, true)) ADD_FAILURE() << "one FakeClient sends one request";
  // The task must not keep the exchange once the handler has returned.
  state_->tasks.emplace_back([handler, exchange = std::move(exchange)]() mutable { handler(std::move(exchange)); });
}

void FakeClient::SetPieceBytes(size_t bytes) {
  absl::MutexLock lock(&state_->mutex);
  state_->piece_bytes = std::clamp<size_t>(bytes, 1, kMaxPieceBytes);
}

void FakeClient::AddBody(std::string_view bytes) {
  absl::MutexLock lock(&state_->mutex);
  state_->body += bytes;
  state_->ServeReader();
}

void FakeClient::EndBody() {
  absl::MutexLock lock(&state_->mutex);
  state_->body_ended = true;
  state_->ServeReader();
}

void FakeClient::FailBody(absl::Status error) {
  absl::MutexLock lock(&state_->mutex);
  state_->body_error = std::move(error);
  state_->ServeReader();
}

size_t FakeClient::body_bytes_taken() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->taken;
}

FakeAnswer FakeClient::Wait() {
  absl::MutexLock lock(&state_->mutex);
  const auto over = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return state_->Done(); };
  if (!state_->mutex.AwaitWithTimeout(absl::Condition(&over), kPatience)) {
    ADD_FAILURE() << "no end of the answer to " << state_->head.method << " " << state_->head.path
                  << "; so far: " << state_->answer.status << " " << state_->answer.body;
  }
  return state_->answer;
}

bool FakeClient::WaitForBody(std::string_view text) {
  absl::MutexLock lock(&state_->mutex);
  const auto there = [this, text]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
    return state_->Done() || state_->answer.body.find(text) != std::string::npos;
  };
  state_->mutex.AwaitWithTimeout(absl::Condition(&there), kPatience);
  return state_->answer.body.find(text) != std::string::npos;
}

FakeAnswer FakeClient::answer() const {
  absl::MutexLock lock(&state_->mutex);
  return state_->answer;
}

void FakeClient::StopReading() {
  absl::MutexLock lock(&state_->mutex);
  state_->held = true;
}

void FakeClient::ResumeReading() {
  absl::MutexLock lock(&state_->mutex);
  state_->held = false;
  state_->ServeWriter();
}

void FakeClient::Vanish() {
  absl::MutexLock lock(&state_->mutex);
  state_->gone = true;
  state_->ServeReader();
  state_->ServeWriter();
  state_->ServeGone();
}

bool FakeClient::WaitForRelease() {
  absl::MutexLock lock(&state_->mutex);
  const auto released = [this]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return state_->released; };
  return state_->mutex.AwaitWithTimeout(absl::Condition(&released), kPatience);
}

}  // namespace qamserve
