// A server under load, as load_bench sees it: requests in, tokens and an end out. The two there are: ours over gRPC
// (load_grpc.cc) and llama-server over HTTP (load_http.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct LoadRequest {
  std::vector<int32_t> prompt;  // token ids
  int32_t max_tokens = 0;       // to be generated, whatever the model would rather do
};

// Where one request's answer goes. Called from a thread of the target, one call at a time; may start other requests.
class LoadSink {
 public:
  virtual ~LoadSink() = default;
  // So many more than before, at least one.
  virtual void OnTokens(int64_t tokens) = 0;
  // Once, last. OK only if the server said itself that the answer is over, and why.
  virtual void OnEnd(const absl::Status& status) = 0;
};

// Thread-safe. No call waits for an answer. All requests must have ended before it is destroyed.
class LoadTarget {
 public:
  virtual ~LoadTarget() = default;
  virtual void Start(LoadRequest request, std::shared_ptr<LoadSink> sink) = 0;
  // Breaks off what runs; each request gets its OnEnd.
  virtual void CancelAll() = 0;
};

// Both take HOST:PORT, and only the numbers of this machine: 127.x.x.x or [::1], so that no name is looked up and no
// other machine gets any load. INVALID_ARGUMENT (LOAD_ADDRESS) for anything else.
//
// `model` is a name that the server serves.
absl::StatusOr<std::unique_ptr<LoadTarget>> OpenGrpcTarget(const std::string& address, const std::string& model);
absl::StatusOr<std::unique_ptr<LoadTarget>> OpenHttpTarget(const std::string& address);

absl::Status CheckLoadAddress(const std::string& address);

}  // namespace qamserve
