// Calls from this process's HTTP side to its own gRPC services (server/grpc/in_process_channel.h). REST, OpenAI and
// Open Inference requests all go this way, so that keys, limits, metrics, deadlines and errors are those of gRPC and
// are written once. Thread-safe.
#pragma once

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/http/exchange.h"

namespace qamserve {

// What an HTTP request tells a call: its key, its trace, its id, its peer and how long it may take. Bytes that cannot be gRPC
// metadata (anything but printable ASCII) are sent as '?'.
struct CallMetadata {
  std::string authorization;  // "Bearer ..."; empty = none
  std::string traceparent;
  std::string request_id;      // "x-request-id"
  std::string peer;            // of the HTTP client; trusted by the services because only this process can send it
  double timeout_seconds = 0;  // 0 = none
};
inline constexpr double kMaxTimeoutSeconds = 7 * 24 * 3600.0;
// Of each of the headers below; gRPC takes 8 KiB of metadata in all.
inline constexpr size_t kMaxMetadataBytes = 2048;
// From "authorization", "x-api-key" (as a bearer key), "traceparent", "x-request-id" and "x-request-timeout"
// (seconds, up to kMaxTimeoutSeconds). INVALID_ARGUMENT: HTTP_TIMEOUT, HTTP_HEADER_SIZE.
absl::StatusOr<CallMetadata> CallMetadataOf(const HttpRequestHead& head);

// A call that runs. Dropping it cancels the call. Each callback that was given is called exactly once, after a cancel
// too, and on a thread of gRPC's, never inside the call that it was given to.
class LocalCall {
 public:
  virtual ~LocalCall() = default;
  virtual void Cancel() = 0;
};

// A call whose answer is a stream. `next` gives a message, or null at the end with the call's status.
class LocalStream : public LocalCall {
 public:
  // One at a time, and none after the end; backpressure is not to call.
  virtual void Read(std::function<void(std::unique_ptr<google::protobuf::Message>, grpc::Status)> next) = 0;
};

// A call whose request is a stream.
class LocalUpload : public LocalCall {
 public:
  // One at a time; `written` false = the call has ended, and Finish tells why. `message` is copied.
  virtual void Write(const google::protobuf::Message& message, std::function<void(bool)> written) = 0;
  // Once, when no Write is under way. The message is null if the status is not OK.
  virtual void Finish(std::function<void(std::unique_ptr<google::protobuf::Message>, grpc::Status)> done) = 0;
};

class LocalCalls {
 public:
  explicit LocalCalls(std::shared_ptr<grpc::Channel> channel);
  // Calls take turns over several connections, each of which may have RpcServer's limit of streams. At least one.
  explicit LocalCalls(const std::vector<std::shared_ptr<grpc::Channel>>& channels);
  ~LocalCalls();

  // `method` names request and answer; it is one of the descriptors of this process's generated code. Callbacks run on
  // gRPC's threads and must not block.
  // `done`: the message is null if the status is not OK.
  std::shared_ptr<LocalCall> Unary(const google::protobuf::MethodDescriptor& method,
                                   const google::protobuf::Message& request, const CallMetadata& metadata,
                                   std::function<void(std::unique_ptr<google::protobuf::Message>, grpc::Status)> done);
  std::shared_ptr<LocalStream> ServerStream(const google::protobuf::MethodDescriptor& method,
                                            const google::protobuf::Message& request, const CallMetadata& metadata);
  std::shared_ptr<LocalUpload> ClientStream(const google::protobuf::MethodDescriptor& method,
                                            const CallMetadata& metadata);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qamserve
