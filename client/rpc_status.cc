#include "client/rpc_status.h"

#include "google/rpc/error_details.pb.h"

namespace qamserve {

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  // The codes of gRPC and Abseil are the same numbers by design of both.
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  std::string message = status.error_message();
  std::string reason =
      code == absl::StatusCode::kUnavailable ? std::string(kServerUnreachable) : absl::StatusCodeToString(code);
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : details.details()) {
      google::rpc::ErrorInfo info;
      google::rpc::BadRequest bad_request;
      if (any.Is<google::rpc::ErrorInfo>() && any.UnpackTo(&info) && !info.reason().empty()) {
        reason = info.reason();
      } else if (any.Is<google::rpc::BadRequest>() && any.UnpackTo(&bad_request)) {
        for (const auto& violation : bad_request.field_violations()) {
          message += fmt::format("; {}: {}", violation.field(), violation.description());
        }
      }
    }
  }
  return MakeError(code, reason, std::move(message));
}

}  // namespace qamserve
