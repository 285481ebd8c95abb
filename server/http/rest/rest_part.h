// The REST API: every call of the services in package qamserve.v1 by the path that its option google.api.http names,
// with JSON by the proto3 mapping; /openapi.json describes them and /docs is a page to read that and to try calls.
// docs/rest.md has the conventions.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/grpc/executor.h"
#include "server/http/exchange.h"
#include "server/http/local_calls.h"

namespace qamserve {

// Of a JSON body. JSON is wordier than a message, which may have 4 MiB.
inline constexpr size_t kMaxJsonBodyBytes = size_t{8} << 20;

struct RestOptions {
  std::shared_ptr<LocalCalls> calls;
  std::vector<std::string> services;  // full names (RpcServer::service_names()); those of other packages are left out
  std::string version;                // of the program, for /openapi.json
  // Where bodies are read that take more than a moment; must outlive the part. Null = on I/O threads.
  Executor* executor = nullptr;
  std::chrono::milliseconds ping_interval{15'000};  // of event streams
};

// Takes all of /v1/, /openapi.json and /docs: it answers 404 in their place. So it stands after other parts that have
// paths under /v1/. INTERNAL (HTTP_RULE) if an annotation cannot be followed.
absl::StatusOr<HttpPart> RestPart(const RestOptions& options);

}  // namespace qamserve
