#include "tests/client/fake_access.h"

#include <algorithm>

#include "tests/client/fake_server.h"

namespace qamserve {
namespace {

using grpc::ServerContext;
using grpc::Status;
using grpc::StatusCode;
using Lock = std::lock_guard<std::mutex>;

constexpr char kSecret[] = "qsk-abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ";

v1::Key* FindKey(std::vector<v1::Key>& keys, const std::string& name) {
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const v1::Key& key) { return key.name() == name; });
  return found == keys.end() ? nullptr : &*found;
}

Status NoKey(const std::string& name) {
  return ErrorWithReason(StatusCode::NOT_FOUND, "KEY_NOT_FOUND", "there is no " + name);
}

}  // namespace

Status FakeAccess::CreateKey(ServerContext*, const v1::CreateKeyRequest* request, v1::NewKey* response) {
  Lock lock(state_.mutex);
  state_.create = *request;
  v1::Key& key = *response->mutable_key();
  key.set_name("keys/0123456789" + std::to_string(state_.keys.size()));
  key.set_display_name(request->display_name());
  *key.mutable_scopes() = request->scopes();
  *key.mutable_limits() = request->limits();
  key.set_state(v1::KEY_STATE_VALID);
  key.set_hint("qsk-abcd");
  response->set_secret(kSecret);
  state_.keys.push_back(key);
  return Status::OK;
}

Status FakeAccess::GetKey(ServerContext*, const v1::GetKeyRequest* request, v1::Key* response) {
  Lock lock(state_.mutex);
  const v1::Key* key = FindKey(state_.keys, request->name());
  if (key == nullptr) return NoKey(request->name());
  *response = *key;
  return Status::OK;
}

Status FakeAccess::ListKeys(ServerContext*, const v1::ListKeysRequest*, v1::ListKeysResponse* response) {
  Lock lock(state_.mutex);
  *response->mutable_keys() = {state_.keys.begin(), state_.keys.end()};
  return Status::OK;
}

Status FakeAccess::RotateKey(ServerContext*, const v1::RotateKeyRequest* request, v1::NewKey* response) {
  Lock lock(state_.mutex);
  state_.rotate = *request;
  const v1::Key* key = FindKey(state_.keys, request->name());
  if (key == nullptr) return NoKey(request->name());
  *response->mutable_key() = *key;
  response->mutable_key()->mutable_previous_secret_expire_time()->set_seconds(1'767'225'600);
  response->set_secret(kSecret);
  return Status::OK;
}

Status FakeAccess::RevokeKey(ServerContext*, const v1::RevokeKeyRequest* request, v1::Key* response) {
  Lock lock(state_.mutex);
  v1::Key* key = FindKey(state_.keys, request->name());
  if (key == nullptr) return NoKey(request->name());
  key->set_state(v1::KEY_STATE_REVOKED);
  *response = *key;
  return Status::OK;
}

Status FakeAccess::DeleteKey(ServerContext*, const v1::DeleteKeyRequest* request, v1::DeleteKeyResponse*) {
  Lock lock(state_.mutex);
  const size_t gone = std::erase_if(state_.keys, [&](const v1::Key& key) { return key.name() == request->name(); });
  return gone > 0 ? Status::OK : NoKey(request->name());
}

Status FakeAccess::GetCaller(ServerContext* context, const v1::GetCallerRequest*, v1::Caller* response) {
  Lock lock(state_.mutex);
  const auto found = context->client_metadata().find("authorization");
  state_.authorization =
      found == context->client_metadata().end() ? "" : std::string(found->second.data(), found->second.size());
  response->set_requests_left(-1);
  response->set_tokens_left(7);
  response->set_upload_bytes_left(1 << 20);
  if (state_.has_caller) response->mutable_key()->set_name("keys/me");
  return Status::OK;
}

// One a page, so that the client must follow tokens.
Status FakeAccess::ListAuditEvents(ServerContext*, const v1::ListAuditEventsRequest* request,
                                   v1::ListAuditEventsResponse* response) {
  Lock lock(state_.mutex);
  state_.audit = *request;
  const size_t index = request->page_token().empty() ? 0 : std::stoul(request->page_token());
  if (index < state_.events.size()) *response->add_events() = state_.events[index];
  if (index + 1 < state_.events.size()) response->set_next_page_token(std::to_string(index + 1));
  return Status::OK;
}

Status FakeSystem::GetSystem(ServerContext*, const v1::GetSystemRequest*, v1::System* response) {
  response->set_version("1.2.3");
  response->add_roles("api");
  response->add_roles("worker");
  response->set_device("cpu");
  response->set_jobs_running(3);
  response->set_disk_free_bytes(int64_t{5} << 30);
  response->set_disk_size_bytes(int64_t{9} << 30);
  response->set_keys_required(true);
  return Status::OK;
}

}  // namespace qamserve
