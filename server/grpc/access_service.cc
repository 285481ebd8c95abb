#include "server/grpc/access_service.h"

#include <array>

#include "server/grpc/converters.h"

namespace qamserve {
namespace {

constexpr std::string_view kKeys = "keys";
constexpr std::array<Scope, 5> kScopes = {Scope::kRead, Scope::kUpload, Scope::kQuantize, Scope::kInfer, Scope::kAdmin};
constexpr int64_t kMinuteMs = 60'000;

constexpr CallName AccessCall(std::string_view method) { return {"AccessService", method}; }

template <typename Scopes>
void AddScopes(ScopeSet set, Scopes* scopes) {
  for (const Scope scope : kScopes) {
    if (set.Has(scope)) scopes->Add(static_cast<int>(scope));
  }
}

v1::Key ToProto(const KeyRecord& record, int64_t now_ms) {
  v1::Key key;
  key.set_name(ResourceName(kKeys, record.id));
  key.set_display_name(record.display_name);
  AddScopes(record.scopes, key.mutable_scopes());
  v1::KeyLimits* limits = key.mutable_limits();
  limits->set_requests_per_minute(record.limits.requests_per_minute);
  limits->set_tokens_per_minute(record.limits.tokens_per_minute);
  limits->set_concurrent_requests(record.limits.concurrent_requests);
  limits->set_upload_bytes_per_day(record.limits.upload_bytes_per_day);
  key.set_state(static_cast<v1::KeyState>(StateOf(record, now_ms)));
  key.set_hint(record.hint);
  *key.mutable_create_time() = TimestampFromMs(record.created_ms);
  if (record.expires_ms != 0) *key.mutable_expire_time() = TimestampFromMs(record.expires_ms);
  if (record.use.last_used_ms != 0) {
    *key.mutable_last_used_time() = TimestampFromMs(record.use.last_used_ms / kMinuteMs * kMinuteMs);
  }
  if (record.previous_expires_ms > now_ms) {
    *key.mutable_previous_secret_expire_time() = TimestampFromMs(record.previous_expires_ms);
  }
  return key;
}

v1::AuditEvent ToProto(const AuditRecord& record) {
  v1::AuditEvent event;
  event.set_sequence(record.sequence);
  *event.mutable_time() = TimestampFromMs(record.time_ms);
  if (!record.key.empty()) event.set_key(ResourceName(kKeys, record.key));
  event.set_method(record.method);
  event.set_resource(record.resource);
  event.set_code(record.code);
  event.set_reason(record.reason);
  event.set_peer(record.peer);
  return event;
}

absl::StatusOr<CreateKeyArgs> ArgsFromProto(const v1::CreateKeyRequest& request) {
  CreateKeyArgs args;
  args.display_name = request.display_name();
  for (const int scope : request.scopes()) {
    if (scope < static_cast<int>(kScopes.front()) || scope > static_cast<int>(kScopes.back())) {
      return InvalidArgument("KEY_SCOPES", "scopes: {} is not a scope that this server knows", scope);
    }
    args.scopes.Add(static_cast<Scope>(scope));
  }
  args.limits = {.requests_per_minute = request.limits().requests_per_minute(),
                 .tokens_per_minute = request.limits().tokens_per_minute(),
                 .concurrent_requests = request.limits().concurrent_requests(),
                 .upload_bytes_per_day = request.limits().upload_bytes_per_day()};
  args.ttl_seconds = request.ttl_seconds();
  args.request_id = request.request_id();
  v1::CreateKeyRequest payload = request;
  payload.clear_request_id();
  args.payload = payload.SerializeAsString();
  return args;
}

void FillNewKey(const KeyWithSecret& made, int64_t now_ms, v1::NewKey* response) {
  *response->mutable_key() = ToProto(made.key, now_ms);
  response->set_secret(made.secret);
}

}  // namespace

grpc::ServerUnaryReactor* AccessServiceImpl::CreateKey(grpc::CallbackServerContext* call,
                                                       const v1::CreateKeyRequest* request, v1::NewKey* response) {
  return AnswerOn(context_.quick, context_, call, AccessCall("CreateKey"),
                  [this, request, response]() -> absl::Status {
                    ASSIGN_OR_RETURN(const CreateKeyArgs args, ArgsFromProto(*request));
                    ASSIGN_OR_RETURN(const KeyWithSecret made, context_.access.Create(args));
                    FillNewKey(made, context_.access.now_ms(), response);
                    return absl::OkStatus();
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* AccessServiceImpl::GetKey(grpc::CallbackServerContext* call, const v1::GetKeyRequest* request,
                                                    v1::Key* response) {
  return AnswerOn(context_.quick, context_, call, AccessCall("GetKey"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::string id, ParseResourceName(kKeys, request->name()));
    ASSIGN_OR_RETURN(const KeyRecord key, context_.access.Get(id));
    *response = ToProto(key, context_.access.now_ms());
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::ListKeys(grpc::CallbackServerContext* call,
                                                      const v1::ListKeysRequest* request,
                                                      v1::ListKeysResponse* response) {
  return AnswerOn(context_.quick, context_, call, AccessCall("ListKeys"), [this, request, response]() -> absl::Status {
    ASSIGN_OR_RETURN(const Page<KeyRecord> page,
                     context_.access.List(PageFromProto(request->page_size(), request->page_token())));
    const int64_t now_ms = context_.access.now_ms();
    for (const KeyRecord& key : page.items) *response->add_keys() = ToProto(key, now_ms);
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::RotateKey(grpc::CallbackServerContext* call,
                                                       const v1::RotateKeyRequest* request, v1::NewKey* response) {
  return AnswerOn(context_.quick, context_, call, AccessCall("RotateKey"),
                  [this, request, response]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string id, ParseResourceName(kKeys, request->name()));
                    ASSIGN_OR_RETURN(const KeyWithSecret made,
                                     context_.access.Rotate(id, request->grace_seconds(), request->ttl_seconds()));
                    FillNewKey(made, context_.access.now_ms(), response);
                    return absl::OkStatus();
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* AccessServiceImpl::RevokeKey(grpc::CallbackServerContext* call,
                                                       const v1::RevokeKeyRequest* request, v1::Key* response) {
  return AnswerOn(context_.quick, context_, call, AccessCall("RevokeKey"),
                  [this, request, response]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string id, ParseResourceName(kKeys, request->name()));
                    ASSIGN_OR_RETURN(const KeyRecord key, context_.access.Revoke(id, request->request_id()));
                    *response = ToProto(key, context_.access.now_ms());
                    return absl::OkStatus();
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* AccessServiceImpl::DeleteKey(grpc::CallbackServerContext* call,
                                                       const v1::DeleteKeyRequest* request, v1::DeleteKeyResponse*) {
  return AnswerOn(context_.quick, context_, call, AccessCall("DeleteKey"),
                  [this, request]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string id, ParseResourceName(kKeys, request->name()));
                    return context_.access.Delete(id);
                  },
                  {request});
}

grpc::ServerUnaryReactor* AccessServiceImpl::GetCaller(grpc::CallbackServerContext* call, const v1::GetCallerRequest*,
                                                       v1::Caller* response) {
  return AnswerOn(context_.quick, context_, call, AccessCall("GetCaller"),
                  [this, response](const CallGuard& guard) -> absl::Status {
                    const Caller& caller = guard.caller();
                    AddScopes(caller.scopes(), response->mutable_scopes());
                    const KeyAllowance left = context_.access.Left(caller);
                    response->set_requests_left(left.requests_left);
                    response->set_tokens_left(left.tokens_left);
                    response->set_upload_bytes_left(left.upload_bytes_left);
                    if (caller.key().empty()) return absl::OkStatus();
                    ASSIGN_OR_RETURN(const KeyRecord key, context_.access.Get(caller.key()));
                    *response->mutable_key() = ToProto(key, context_.access.now_ms());
                    return absl::OkStatus();
                  });
}

grpc::ServerUnaryReactor* AccessServiceImpl::ListAuditEvents(grpc::CallbackServerContext* call,
                                                             const v1::ListAuditEventsRequest* request,
                                                             v1::ListAuditEventsResponse* response) {
  return AnswerOn(
      context_.quick, context_, call, AccessCall("ListAuditEvents"), [this, request, response]() -> absl::Status {
        std::string key;
        if (!request->key().empty()) {
          ASSIGN_OR_RETURN(key, ParseResourceName(kKeys, request->key()));
        }
        ASSIGN_OR_RETURN(const Page<AuditRecord> page,
                         context_.access.ListAudit(PageFromProto(request->page_size(), request->page_token()), key));
        for (const AuditRecord& event : page.items) *response->add_events() = ToProto(event);
        response->set_next_page_token(page.next_page_token);
        return absl::OkStatus();
      });
}

}  // namespace qamserve
