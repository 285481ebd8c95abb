#include "server/grpc/call.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_replace.h>

#include <algorithm>
#include <atomic>

#include "server/grpc/in_process_channel.h"

namespace qamserve {
namespace {

constexpr char kAuthorization[] = "authorization";
constexpr char kPeerMetadata[] = "x-qamserve-peer";
constexpr char kTraceParent[] = "traceparent";
constexpr char kRequestId[] = "x-request-id";
constexpr size_t kMaxRequestIdBytes = 64;
constexpr char kPackage[] = "qamserve.v1";
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

std::string RequestIdOf(const grpc::CallbackServerContext& call) {
  const std::string_view sent = MetadataOf(call, kRequestId);
  const auto is_plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' || c == ':' || c == '-';
  };
  const bool plain = !sent.empty() && sent.size() <= kMaxRequestIdBytes && std::all_of(sent.begin(), sent.end(), is_plain);
  return plain ? std::string(sent) : RandomId();
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
        inner(IsInProcessPeer(call.peer()) && IsForwarded(call)),
        admission(inner ? AdmitInner(call) : context.access.Admit(MetadataOf(call, kAuthorization), rule)),
        peer(PeerOf(call)),
        request_id(RequestIdOf(call)),
        span(context.tracer->Begin(MetadataOf(call, kTraceParent))),
        trace_parent(context.tracer->ParentFor(span, MetadataOf(call, kTraceParent))) {}

  // The key is checked again, but the outer call has counted already.
  AccessControl::Admission AdmitInner(const grpc::CallbackServerContext& call) {
    if (rule == nullptr) return context.access.Admit(MetadataOf(call, kAuthorization), rule);
    MethodRule uncounted = *rule;
    uncounted.counted = false;
    uncounted.inference = false;
    return context.access.Admit(MetadataOf(call, kAuthorization), &uncounted);
  }

  // Changes, whatever became of them, and what was refused to somebody. Who has used up a limit would only fill the
  // log.
  bool IsAudited(const absl::Status& status) const {
    const bool denied = absl::IsUnauthenticated(admission.status) || absl::IsPermissionDenied(admission.status);
    return denied || (rule != nullptr && rule->changes && ReasonOf(status) != "KEY_LIMIT");
  }

  void TellTrace(const absl::Status& status, absl::Time end) const;
  void TellLog(const absl::Status& status, std::string_view code, double seconds) const;
  Log::Fields LogFields() const {
    Log::Fields fields = {{"request", request_id}};
    if (span.sampled) fields["trace"] = HexOf(span.trace_id);
    return fields;
  }

  ServiceContext& context;
  const CallName name;
  const CallMessages messages;
  const MethodRule* const rule;
  // The second half of a call that this process has forwarded to itself: counted, logged and audited as the first one.
  const bool inner;
  const absl::Time start = absl::Now();
  AccessControl::Admission admission;
  const std::string peer;
  const std::string request_id;
  const SpanIds span;
  const std::string trace_parent;
  std::string resource;
  std::atomic<int64_t> tokens{0};
};

void CallGuard::State::TellTrace(const absl::Status& status, absl::Time end) const {
  if (!span.sampled) return;
  SpanRecord record;
  record.ids = span;
  record.name = fmt::format("{}.{}/{}", kPackage, name.service, name.method);
  record.kind = SpanKind::kServer;
  record.start = start;
  record.end = end;
  record.attributes = {{"rpc.system", "grpc"},
                       {"rpc.service", fmt::format("{}.{}", kPackage, name.service)},
                       {"rpc.method", std::string(name.method)},
                       {"rpc.grpc.status_code", static_cast<int64_t>(status.code())},
                       {"network.peer.address", peer},
                       {"qamserve.request", request_id}};
  if (!admission.caller.key().empty()) record.attributes.emplace_back("qamserve.key", admission.caller.key());
  if (!status.ok()) record.attributes.emplace_back("qamserve.reason", ReasonOf(status));
  if (IsOurFault(status.code())) record.error = ReasonOf(status);
  context.tracer->End(std::move(record));
}

void CallGuard::State::TellLog(const absl::Status& status, std::string_view code, double seconds) const {
  const bool failed = IsOurFault(status.code());
  if (!failed && !context.log.debug()) return;
  Log::Fields fields = LogFields();
  fields["method"] = std::string(name.method);
  fields["seconds"] = seconds;
  if (!status.ok()) fields["reason"] = ReasonOf(status);
  if (failed) {
    fields["message"] = MessageOf(status);
    return context.log.Warning("rpc_failed", fields);
  }
  // Without the message: of a call that was wrong it may quote what was sent.
  fields["code"] = std::string(code);
  fields["peer"] = peer;
  if (!admission.caller.key().empty()) fields["key"] = admission.caller.key();
  context.log.Debug("rpc", fields);
}

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
void CallGuard::CountTokens(int64_t tokens) const {
  state_->tokens += tokens;
  if (!state_->inner) state_->context.access.CountTokens(caller(), tokens);
}
int64_t CallGuard::counted_tokens() const { return state_->tokens; }

const std::string& CallGuard::trace_parent() const { return state_->trace_parent; }
const std::string& CallGuard::request_id() const { return state_->request_id; }
Log::Fields CallGuard::LogFields() const { return state_->LogFields(); }

void CallGuard::Finished(const absl::Status& status) {
  State& state = *state_;
  const absl::Time end = absl::Now();
  const double seconds = absl::ToDoubleSeconds(end - state.start);
  const std::string_view code = StatusCodeLabel(static_cast<grpc::StatusCode>(status.code()));
  const CallName& name = state.name;
  if (state.inner) {
    state.TellTrace(status, end);
    return;
  }
  state.context.metrics.Add(Metric::kRpcTotal, {name.service, name.method, code});
  state.context.metrics.Observe(Metric::kRpcSeconds, {name.service, name.method}, seconds);
  state.TellTrace(status, end);
  state.TellLog(status, code, seconds);
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

bool IsForwarded(const grpc::CallbackServerContext& call) { return !MetadataOf(call, kForwardedMetadata).empty(); }

void TellTokens(grpc::CallbackServerContext& call, const CallGuard& guard) {
  if (IsForwarded(call)) call.AddTrailingMetadata(kTokensMetadata, fmt::format("{}", guard.counted_tokens()));
}

void ForwardTo(const grpc::CallbackServerContext& call, const CallGuard& guard, grpc::ClientContext& inner) {
  inner.set_deadline(call.deadline());
  inner.AddMetadata(kForwardedMetadata, "1");
  inner.AddMetadata(kPeerMetadata, PeerOf(call));
  inner.AddMetadata(kRequestId, guard.request_id());
  if (!guard.trace_parent().empty()) inner.AddMetadata(kTraceParent, guard.trace_parent());
  const std::string_view key = MetadataOf(call, kAuthorization);
  if (!key.empty()) inner.AddMetadata(kAuthorization, std::string(key));
}

std::string PeerOf(const grpc::CallbackServerContext& call) {
  std::string peer = call.peer();
  const std::string_view told = MetadataOf(call, kPeerMetadata);
  if (IsInProcessPeer(peer)) {
    if (told.empty()) return "this process";
    peer = std::string(told);
  } else if (IsForwarded(call) && !told.empty()) {
    peer = fmt::format("{} for {}", peer, told);
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
