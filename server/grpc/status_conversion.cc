#include "server/grpc/status_conversion.h"

#include <array>
#include <optional>

#include "core/tokenizer/utf8.h"
#include "google/rpc/error_details.pb.h"
#include "server/access/retry_delay.h"

namespace qamserve {
namespace {

// The codes of absl, gRPC and google.rpc are the same numbers.
constexpr std::array<std::string_view, 17> kCodeLabels = {
    "OK",           "CANCELLED",      "UNKNOWN",          "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",   "NOT_FOUND",
    "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL",      "UNAVAILABLE",      "DATA_LOSS",          "UNAUTHENTICATED"};

std::string CutMessage(std::string_view message) {
  if (message.size() <= kMaxStatusMessageBytes) return ValidUtf8(message);
  size_t end = kMaxStatusMessageBytes;
  while (end > 0 && (static_cast<unsigned char>(message[end]) & 0xC0) == 0x80) --end;
  return ValidUtf8(message.substr(0, end)) + " ...";
}

bool MayPass(const absl::Status& status, std::string_view reason) {
  return status.code() == absl::StatusCode::kUnavailable || reason == "QUEUE_FULL" || reason == "SERVER_BUSY" ||
         reason == "UPLOAD_BUSY" || reason == "MODEL_BUSY";
}

}  // namespace

std::string GrpcReasonOf(const grpc::Status& status) {
  google::rpc::Status wire;
  google::rpc::ErrorInfo info;
  if (!wire.ParseFromString(status.error_details()) || wire.details().empty()) return "";
  return wire.details(0).UnpackTo(&info) ? info.reason() : "";
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const std::string reason = GrpcReasonOf(status);
  return MakeError(code, reason.empty() ? StatusCodeLabel(status.error_code()) : reason, status.error_message());
}

std::string ValidUtf8(std::string_view text) { return MaskSurrogates(RepairUtf8(text)); }

std::string_view StatusCodeLabel(grpc::StatusCode code) {
  return code >= 0 && static_cast<size_t>(code) < kCodeLabels.size() ? kCodeLabels[code] : kCodeLabels[2];
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const std::string reason = ReasonOf(status);
  google::rpc::Status wire;
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(CutMessage(MessageOf(status)));
  google::rpc::ErrorInfo info;
  info.set_reason(reason);
  info.set_domain(std::string(kErrorDomain));
  wire.add_details()->PackFrom(info);
  const std::optional<int64_t> delay_seconds = RetryDelaySecondsOf(status);
  if (delay_seconds || MayPass(status, reason)) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(delay_seconds.value_or(1));
    wire.add_details()->PackFrom(retry);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), wire.message(), wire.SerializeAsString());
}

}  // namespace qamserve
