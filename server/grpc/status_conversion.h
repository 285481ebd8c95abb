// The one place where an absl::Status becomes a grpc::Status.
#pragma once

#include <grpcpp/support/status.h>

#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

// Of google.rpc.ErrorInfo.
inline constexpr std::string_view kErrorDomain = "qamserve";
// Message and details travel as HTTP/2 trailers, for which clients allow 8 KiB in all; the message is in both.
inline constexpr size_t kMaxStatusMessageBytes = 1500;

// Same code and message; error_details() is a serialized google.rpc.Status with ErrorInfo{reason, domain} and, where
// trying again may help (UNAVAILABLE, a full queue, a status with a delay: retry_delay.h), RetryInfo. A long message is cut, bytes that are not UTF-8 are
// replaced.
grpc::Status ToGrpcStatus(const absl::Status& status);

// The reason in the details that ToGrpcStatus makes; empty if there is none, as in what gRPC itself says.
std::string GrpcReasonOf(const grpc::Status& status);
// The way back: code, message and reason. What gRPC itself says has the code's name as its reason.
absl::Status FromGrpcStatus(const grpc::Status& status);

// "INVALID_ARGUMENT" and so on.
std::string_view StatusCodeLabel(grpc::StatusCode code);

// `text` as valid UTF-8, which protobuf strings must be.
std::string ValidUtf8(std::string_view text);

}  // namespace qamserve
