#include "server/grpc/call.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_replace.h>

#include "server/grpc/in_process_channel.h"

namespace qamserve {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr char kPeerMetadata[] = "x-qamserve-peer";
// An IPv6 address with zone and port, or the name of a Unix socket.
constexpr size_t kMaxPeerBytes = 128;
constexpr size_t kMaxResourceBytes = 256;

bool IsOurFault(absl::StatusCode code) {
  return code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown ||
         code == absl::StatusCode::kDataLoss || code == absl::StatusCode::kUnavailable;
}

// The first value of a metadata key; empty if it is not there.
std::string_view MetadataOf(const grpc::CallbackServerContext& call, const char* key) {
  const auto& metadata = call.client_metadata();
  const auto found = metadata.find(key);
  return found == metadata.end() ? std::string_view() : std::string_view(found->second.data(), found->second.size());
}

std::string Printable(std::string_view text, size_t limit) {
  std::string shown(text.substr(0, limit));
  for (char& c : shown) {
    if (!absl::ascii_isprint(static_cast<unsigned char>(c))) c = '?';
  }
  return shown;
}

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

std::string StringField(const Message& message, const std::string& name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr || field->is_repeated() || field->type() != FieldDescriptor::TYPE_STRING) return "";
  return message.GetReflection()->GetString(message, field);
}

// `name`, or that of the first message in it that is set and has one.
std::string NameIn(const Message& message) {
  if (std::string name = StringField(message, "name"); !name.empty()) return name;
  const auto* descriptor = message.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->is_repeated() || field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!message.GetReflection()->HasField(message, field)) continue;
    std::string name = StringField(message.GetReflection()->GetMessage(message, field), "name");
    if (!name.empty()) return name;
  }
  return "";
}

}  // namespace

struct CallGuard::State {
  State(ServiceContext& where, const grpc::CallbackServerContext& call, CallName which, CallMessages what)
      : context(where),
        name(which),
        messages(what),
        rule(FindMethodRule(which.service, which.method)),
        admission(context.access.Admit(MetadataOf(call, kAuthorization), rule)),
        peer(PeerOf(call)) {}

  // Changes, whatever became of them, and what was refused to somebody. Who has used up a limit would only fill the
  // log.
  bool IsAudited(const absl::Status& status) const {
    const bool denied = absl::IsUnauthenticated(admission.status) || absl::IsPermissionDenied(admission.status);
    return denied || (rule != nullptr && rule->changes && ReasonOf(status) != "KEY_LIMIT");
  }

  ServiceContext& context;
  const CallName name;
  const CallMessages messages;
  const MethodRule* const rule;
  const absl::Time start = absl::Now();
  AccessControl::Admission admission;
  const std::string peer;
  std::string resource;
};

CallGuard::CallGuard(ServiceContext& context, const grpc::CallbackServerContext& call, CallName name,
                     CallMessages messages)
    : state_(std::make_shared<State>(context, call, name, messages)) {}

const absl::Status& CallGuard::admitted() const { return state_->admission.status; }
const Caller& CallGuard::caller() const { return state_->admission.caller; }
void CallGuard::About(std::string resource) { state_->resource = std::move(resource); }

absl::Status CallGuard::CheckScope(Scope scope, std::string_view what) const {
  return AccessControl::CheckScope(caller(), scope, what);
}

absl::Status CallGuard::CountUpload(int64_t bytes) const { return state_->context.access.CountUpload(caller(), bytes); }
void CallGuard::CountTokens(int64_t tokens) const { state_->context.access.CountTokens(caller(), tokens); }

void CallGuard::Finished(const absl::Status& status) {
  State& state = *state_;
  const double seconds = absl::ToDoubleSeconds(absl::Now() - state.start);
  const std::string_view code = StatusCodeLabel(static_cast<grpc::StatusCode>(status.code()));
  const CallName& name = state.name;
  state.context.metrics.Add(Metric::kRpcTotal, {name.service, name.method, code});
  state.context.metrics.Observe(Metric::kRpcSeconds, {name.service, name.method}, seconds);
  if (IsOurFault(status.code())) {
    state.context.log.Warning("rpc_failed", {{"method", std::string(name.method)},
                                             {"reason", ReasonOf(status)},
                                             {"message", MessageOf(status)},
                                             {"seconds", seconds}});
  }
  if (state.IsAudited(status)) {
    if (state.resource.empty()) state.resource = ResourceOf(state.messages);
    AuditRecord event;
    event.key = caller().key();
    event.method = fmt::format("{}.{}", name.service, name.method);
    event.resource = ValidUtf8(std::string_view(state.resource).substr(0, kMaxResourceBytes));
    event.code = std::string(code);
    event.reason = ReasonOf(status);
    event.peer = state.peer;
    state.context.access.Audit(std::move(event));
  }
  state.admission.caller.GiveUpPlace();
}

absl::Status ReadyToBegin(const ServiceContext& context, const grpc::CallbackServerContext& call) {
  if (context.drain.raised()) return Unavailable("SHUTTING_DOWN", "the server is shutting down");
  if (call.IsCancelled()) return Cancelled("CANCELLED", "the call was cancelled or its deadline passed");
  return absl::OkStatus();
}

std::string PeerOf(const grpc::CallbackServerContext& call) {
  std::string peer = call.peer();
  if (IsInProcessPeer(peer)) {
    const std::string_view told = MetadataOf(call, kPeerMetadata);
    if (told.empty()) return "this process";
    peer = std::string(told);
  }
  for (const std::string_view scheme : {"ipv4:", "ipv6:"}) {
    if (peer.starts_with(scheme)) peer.erase(0, scheme.size());
  }
  absl::StrReplaceAll({{"%5B", "["}, {"%5D", "]"}}, &peer);  // around IPv6 addresses
  return Printable(peer, kMaxPeerBytes);
}

std::string ResourceOf(const CallMessages& messages) {
  if (messages.response != nullptr) {
    if (std::string name = NameIn(*messages.response); !name.empty()) return name;
  }
  if (messages.request == nullptr) return "";
  for (const char* field : {"name", "job", "artifact", "checkpoint", "upload", "source", "path"}) {
    if (std::string value = StringField(*messages.request, field); !value.empty()) return value;
  }
  return "";
}

}  // namespace qamserve
