// The client of one HTTP request without a socket, for tests of handlers: gives a handler an exchange, feeds the body,
// collects the answer, reads slowly, vanishes. As with the real server, handlers and their callbacks run on an I/O
// thread (one of each FakeClient). A handler that breaks the rules of exchange.h fails the test. Thread-safe.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/exchange.h"

namespace qamserve {

struct FakeAnswer {
  int status = 0;  // 0 = nothing yet; 500 if the exchange was dropped without an answer
  HttpFields fields;
  int64_t length = -1;  // as given to Begin; of the body after Respond
  std::string body;
  std::vector<std::string> pieces;  // of Write
  bool ended = false;               // Respond or End was called
  bool aborted = false;             // Abort was called
  bool dropped = false;             // nobody answered

  std::string_view field(std::string_view name) const { return FieldOf(fields, name); }
};

class FakeClient {
 public:
  // `body_ends` false: more comes by AddBody and EndBody.
  explicit FakeClient(HttpRequestHead head, std::string body = "", bool body_ends = true);
  FakeClient(const FakeClient&) = delete;
  FakeClient& operator=(const FakeClient&) = delete;
  // Vanishes, and runs what was due. Exchanges that are still held do nothing from then on.
  ~FakeClient();

  // Runs `handler` with the one exchange of this client, on the I/O thread.
  void SendTo(const HttpHandler& handler);

  // --- The request's body ---
  void SetPieceBytes(size_t bytes);  // most that one ReadSome gives
  void AddBody(std::string_view bytes);
  void EndBody();
  // ReadSome fails with it once it has given what is there.
  void FailBody(absl::Status error);
  size_t body_bytes_taken() const;

  // --- The answer ---
  // Until the answer has ended, was cut or dropped, or the handler let go of the exchange of a client that vanished.
  // Fails the test after 30 seconds.
  FakeAnswer Wait();
  // Until the answer's body holds `text`, or the answer is over; false if it never did, or after 30 seconds.
  bool WaitForBody(std::string_view text);
  // What is there by now.
  FakeAnswer answer() const;
  // No piece leaves any more: `written` is not called until Resume.
  void StopReading();
  void ResumeReading();
  // The connection is gone: OnGone, reads get CANCELLED, writes get false.
  void Vanish();
  // Whether the handler has let go of its exchange; waits for it up to 30 seconds.
  bool WaitForRelease();

 private:
  struct State;
  class Exchange;
  const std::shared_ptr<State> state_;
};

}  // namespace qamserve
