// The part of the fake server that is about keys: an AccessService and a SystemService in memory.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "qamserve/v1/access.grpc.pb.h"
#include "qamserve/v1/system.grpc.pb.h"

namespace qamserve {

// Guarded by `mutex` while calls run.
struct FakeAccessState {
  std::mutex mutex;
  std::vector<v1::Key> keys;
  std::vector<v1::AuditEvent> events;
  v1::CreateKeyRequest create;
  v1::RotateKeyRequest rotate;
  v1::ListAuditEventsRequest audit;
  bool has_caller = false;
  std::string authorization;  // of the last call
};

class FakeAccess final : public v1::AccessService::Service {
 public:
  explicit FakeAccess(FakeAccessState& state) : state_(state) {}

  grpc::Status CreateKey(grpc::ServerContext*, const v1::CreateKeyRequest* request, v1::NewKey* response) override;
  grpc::Status GetKey(grpc::ServerContext*, const v1::GetKeyRequest* request, v1::Key* response) override;
  grpc::Status ListKeys(grpc::ServerContext*, const v1::ListKeysRequest* request,
                        v1::ListKeysResponse* response) override;
  grpc::Status RotateKey(grpc::ServerContext*, const v1::RotateKeyRequest* request, v1::NewKey* response) override;
  grpc::Status RevokeKey(grpc::ServerContext*, const v1::RevokeKeyRequest* request, v1::Key* response) override;
  grpc::Status DeleteKey(grpc::ServerContext*, const v1::DeleteKeyRequest* request,
                         v1::DeleteKeyResponse* response) override;
  grpc::Status GetCaller(grpc::ServerContext* context, const v1::GetCallerRequest* request,
                         v1::Caller* response) override;
  grpc::Status ListAuditEvents(grpc::ServerContext*, const v1::ListAuditEventsRequest* request,
                               v1::ListAuditEventsResponse* response) override;

 private:
  FakeAccessState& state_;
};

class FakeSystem final : public v1::SystemService::Service {
 public:
  grpc::Status GetSystem(grpc::ServerContext*, const v1::GetSystemRequest* request, v1::System* response) override;
};

}  // namespace qamserve
