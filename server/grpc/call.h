// How a call is answered: its key is checked first, it runs on an executor, never on gRPC's own thread, and it is
// counted, timed and audited. Every handler, unary or streaming, goes through CallGuard.
#pragma once

#include <absl/time/clock.h>
#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "server/access/access_control.h"
#include "server/grpc/service_context.h"
#include "server/grpc/status_conversion.h"

namespace qamserve {

// Which call it is, in the table of scopes, metrics and logs. Both views are of literals.
struct CallName {
  std::string_view service;
  std::string_view method;
};

// Of a call that changes something: the audit log tells what it was about or what it made. Both live until the call's
// Finish; either may be null.
struct CallMessages {
  const google::protobuf::Message* request = nullptr;
  const google::protobuf::Message* response = nullptr;
};

// One call from its beginning to Finished. Its construction checks the key in the metadata "authorization" against the
// method's scope and the key's limits: where `admitted` is not OK, the call must end with it and do nothing. Copies are
// the same call. CountTokens is thread-safe; the other calls are for whoever works on the call, one at a time.
class CallGuard {
 public:
  CallGuard(ServiceContext& context, const grpc::CallbackServerContext& call, CallName name,
            CallMessages messages = {});

  const absl::Status& admitted() const;
  const Caller& caller() const;
  // In place of what the messages tell; for streams.
  void About(std::string resource);
  // PERMISSION_DENIED (KEY_SCOPE): for what a request asks beside its method. `what` names it.
  absl::Status CheckScope(Scope scope, std::string_view what) const;
  // See AccessControl.
  absl::Status CountUpload(int64_t bytes) const;
  void CountTokens(int64_t tokens) const;
  int64_t counted_tokens() const;
  // W3C traceparent for what is done on behalf of the call, by this process or another one: that of the call's own
  // span, or as it came if it is not traced here. Empty if there is none.
  const std::string& trace_parent() const;
  // What log lines call it by: the client's x-request-id if that is 1 to 64 of A-Z, a-z, 0-9, '.', '_', ':' and '-',
  // else a random id. To be passed on as x-request-id.
  const std::string& request_id() const;
  // `request`, and `trace` if it is traced, for log lines about the call.
  Log::Fields LogFields() const;
  // Counts, times and traces the call, logs it (a failure by our own fault as a warning), audits it, and gives its place
  // back. Once, and before gRPC's Finish.
  void Finished(const absl::Status& status);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Of a call that was forwarded here: how many tokens it has read and made, for the limits of where it came from. In the
// trailing metadata, so before Finish.
inline constexpr char kTokensMetadata[] = "x-qamserve-tokens";
void TellTokens(grpc::CallbackServerContext& call, const CallGuard& guard);

// UNAVAILABLE (SHUTTING_DOWN) when the server drains, CANCELLED when nobody waits for the answer any more.
absl::Status ReadyToBegin(const ServiceContext& context, const grpc::CallbackServerContext& call);

// Runs `handler`, a callable that returns absl::Status and fills in the response, on `executor`; it may take the
// CallGuard&. Request and response live until then. A call that was cancelled, or whose deadline passed, while it was
// queued is not begun. Calls that change something give their messages.
template <typename Handler>
grpc::ServerUnaryReactor* AnswerOn(Executor& executor, ServiceContext& context, grpc::CallbackServerContext* call,
                                   CallName name, Handler handler, CallMessages messages = {}) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  CallGuard guard(context, *call, name, messages);
  absl::Status refused = guard.admitted();
  if (refused.ok()) {
    refused = executor.Run([call, reactor, guard, &context, handler = std::move(handler)]() mutable {
      absl::Status status = ReadyToBegin(context, *call);
      if constexpr (std::is_invocable_v<Handler&, CallGuard&>) {
        if (status.ok()) status = handler(guard);
      } else {
        if (status.ok()) status = handler();
      }
      guard.Finished(status);
      TellTokens(*call, guard);
      reactor->Finish(ToGrpcStatus(status));
    });
  }
  if (!refused.ok()) {
    guard.Finished(refused);
    reactor->Finish(ToGrpcStatus(refused));
  }
  return reactor;
}

// Metadata of a call that an api process makes of a replica on behalf of another call. Whoever sends it from outside gains
// nothing: the key is checked and counted here as well.
inline constexpr char kForwardedMetadata[] = "x-qamserve-forwarded";
bool IsForwarded(const grpc::CallbackServerContext& call);
// Key, deadline and peer of a call, and its trace and id by its guard, for one that is made on its behalf elsewhere.
void ForwardTo(const grpc::CallbackServerContext& call, const CallGuard& guard, grpc::ClientContext& inner);

// Where a call came from: HOST:PORT. Calls of this process itself (in_process_channel.h) are told
// for whom they are made ("x-qamserve-peer"). What another process says about that is told beside its own address, as
// "HOST:PORT for HOST:PORT"; and nothing of what others say is heeded.
std::string PeerOf(const grpc::CallbackServerContext& call);

// The resource that a call was about or made: `name` of the answer, or of the message in it; else what the request
// names. Empty if neither tells.
std::string ResourceOf(const CallMessages& messages);

}  // namespace qamserve
