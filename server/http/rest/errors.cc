#include "server/http/rest/errors.h"

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>
#include <google/protobuf/util/json_util.h>

#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "google/rpc/error_details.pb.h"
#include "server/grpc/status_conversion.h"

namespace qamserve::rest {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kFieldUrl[] = "qamserve/field";
constexpr char kHttpStatusUrl[] = "qamserve/http_status";

// By code: OK, CANCELLED, UNKNOWN and so on. 499 is what proxies call a client that closed its request.
constexpr std::array<int, 17> kHttpStatus = {200, 499, 500, 400, 504, 404, 409, 403, 429,
                                             400, 409, 400, 501, 500, 503, 500, 401};

absl::Cord AsCord(std::string_view text) { return absl::Cord(absl::string_view(text.data(), text.size())); }

int HttpStatusOfOwn(const absl::Status& status) {
  const std::string reason = ReasonOf(status);
  if (reason == "HTTP_BODY_SIZE") return 413;
  if (reason == "HTTP_SLOW") return 408;
  int own = 0;
  const auto payload = status.GetPayload(kHttpStatusUrl);
  if (payload && absl::SimpleAtoi(std::string(*payload), &own)) return own;
  return rest::HttpStatusOf(static_cast<grpc::StatusCode>(status.code()));
}

// Null if it is of a type that is not ours.
Json DetailJson(const google::protobuf::Any& detail) {
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(detail, &text).ok()) return nullptr;
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

Answer MakeAnswer(int http_status, const google::rpc::Status& wire) {
  Answer answer;
  answer.head.status = http_status;
  answer.head.fields = {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}};
  if (http_status == 401) answer.head.fields.emplace_back("WWW-Authenticate", "Bearer");
  Json details = Json::array();
  for (const google::protobuf::Any& detail : wire.details()) {
    if (Json json = DetailJson(detail); json.is_object()) details.push_back(std::move(json));
    google::rpc::RetryInfo retry;
    if (!detail.Is<google::rpc::RetryInfo>() || !detail.UnpackTo(&retry)) continue;
    // Whole seconds, rounded up.
    const int64_t seconds = retry.retry_delay().seconds() + (retry.retry_delay().nanos() > 0 ? 1 : 0);
    answer.head.fields.emplace_back("Retry-After", std::to_string(seconds));
  }
  const Json error = {{"code", http_status},
                      {"status", StatusCodeLabel(static_cast<grpc::StatusCode>(wire.code()))},
                      {"message", wire.message()},
                      {"details", std::move(details)}};
  answer.body = Json{{"error", error}}.dump(-1, ' ', false, Json::error_handler_t::replace);
  return answer;
}

google::rpc::Status WireOf(const grpc::Status& status) {
  google::rpc::Status wire;
  if (!status.error_details().empty() && wire.ParseFromString(status.error_details())) return wire;
  wire.set_code(status.error_code());
  wire.set_message(ValidUtf8(status.error_message()));
  google::rpc::ErrorInfo info;
  info.set_reason(std::string(StatusCodeLabel(status.error_code())));
  info.set_domain(std::string(kErrorDomain));
  wire.clear_details();
  wire.add_details()->PackFrom(info);
  return wire;
}

}  // namespace

int HttpStatusOf(grpc::StatusCode code) {
  return code >= 0 && static_cast<size_t>(code) < kHttpStatus.size() ? kHttpStatus[static_cast<size_t>(code)] : 500;
}

absl::Status WithField(absl::Status status, std::string_view field) {
  if (!status.ok()) status.SetPayload(kFieldUrl, AsCord(field));
  return status;
}

absl::Status WithHttpStatus(absl::Status status, int http_status) {
  if (!status.ok()) status.SetPayload(kHttpStatusUrl, AsCord(std::to_string(http_status)));
  return status;
}

Answer ErrorAnswer(const absl::Status& status) {
  google::rpc::Status wire = WireOf(ToGrpcStatus(status));
  if (const auto field = status.GetPayload(kFieldUrl)) {
    google::rpc::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(ValidUtf8(std::string(*field)));
    violation->set_description(wire.message());
    wire.add_details()->PackFrom(bad);
  }
  return MakeAnswer(HttpStatusOfOwn(status), wire);
}

Answer ErrorAnswer(const grpc::Status& status) { return MakeAnswer(HttpStatusOf(status.error_code()), WireOf(status)); }

}  // namespace qamserve::rest
