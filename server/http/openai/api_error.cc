#include "server/http/openai/api_error.h"

#include <absl/strings/ascii.h>

#include <algorithm>
#include <array>
#include <utility>

#include "google/rpc/error_details.pb.h"

namespace qamserve::openai {
namespace {

// What a reason says beyond the code of its status.
struct ReasonRow {
  std::string_view reason;
  int http;  // 0 = that of the code
  std::string_view param;
  std::string_view code;  // empty = the reason in small letters
};
constexpr ReasonRow kReasons[] = {
    {"MODEL_NOT_FOUND", 404, "model", ""},
    {"ALIAS_NOT_FOUND", 404, "model", "model_not_found"},
    {"MODEL_NOT_READY", 503, "model", ""},
    {"PROMPT_TOO_LONG", 400, "", "context_length_exceeded"},
    {"CONSTRAINT_SIZE", 400, "", ""},
    {"CHAT_MESSAGES", 400, "messages", ""},
    {"CHAT_TEMPLATE_REFUSED", 400, "messages", ""},
    {"CHAT_TEMPLATE_BUDGET", 400, "messages", ""},
    {"CHAT_TEMPLATE_TOOLS", 400, "tools", ""},
    // The machine's memory, not the client's rate.
    {"KV_MEMORY", 503, "", ""},
    {"STEP_MEMORY", 503, "", ""},
    {"HTTP_BODY_SIZE", 413, "", ""},
    {"HTTP_SLOW", 408, "", ""},
    {"HTTP_TIMEOUT", 400, "x-request-timeout", ""},
    {"CONTENT_TYPE", 415, "", ""},
    {"METHOD", 405, "", ""},
};

// Errors about sampling name the member in their text; it has OpenAI's name.
constexpr std::string_view kSamplingMembers[] = {
    "max_tokens",       "temperature",       "top_k",      "top_p",    "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "stop",  "seed"};

int HttpStatusOf(int code) {
  switch (static_cast<absl::StatusCode>(code)) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string_view TypeOf(int http) {
  switch (http) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return http >= 500 ? "server_error" : "invalid_request_error";
  }
}

std::string_view SamplingMemberIn(std::string_view message) {
  std::string_view first;
  size_t at = std::string_view::npos;
  for (const std::string_view name : kSamplingMembers) {
    const size_t found = message.find(name);
    if (found < at) {
      at = found;
      first = name;
    }
  }
  return first;
}

ApiError MakeApiError(int code, const std::string& reason, std::string message) {
  ApiError error;
  error.status = HttpStatusOf(code);
  error.code = absl::AsciiStrToLower(reason);
  const auto* row = std::find_if(std::begin(kReasons), std::end(kReasons),
                                 [&reason](const ReasonRow& r) { return r.reason == reason; });
  if (row != std::end(kReasons)) {
    if (row->http != 0) error.status = row->http;
    error.param = row->param;
    if (!row->code.empty()) error.code = row->code;
  } else if (reason == "SAMPLING_PARAM") {
    error.param = SamplingMemberIn(message);
    error.code = "invalid_value";
  }
  error.type = TypeOf(error.status);
  error.message = std::move(message);
  return error;
}

}  // namespace

ApiError ToApiError(const absl::Status& status) {
  ApiError error = MakeApiError(static_cast<int>(status.code()), ReasonOf(status), MessageOf(status));
  if (const std::string param = ParamOf(status); !param.empty()) error.param = param;
  if (error.status == 429) error.retry_seconds = 1;
  return error;
}

ApiError ToApiError(const grpc::Status& status, const ErrorParams& params) {
  google::rpc::Status wire;
  google::rpc::ErrorInfo info;
  google::rpc::RetryInfo retry;
  if (wire.ParseFromString(status.error_details())) {
    for (const auto& detail : wire.details()) {
      detail.UnpackTo(&info);
      detail.UnpackTo(&retry);
    }
  }
  ApiError error = MakeApiError(status.error_code(), info.reason(), status.error_message());
  if (info.reason().starts_with("PROMPT_") || info.reason() == "SCORE_TOO_SHORT") error.param = params.input;
  if (info.reason().starts_with("CONSTRAINT_")) error.param = params.constraint;
  // gRPC's own: the services give a reason with every refusal, and this one is for what is too large.
  if (info.reason().empty() && status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED) {
    error.status = 413;
    error.type = TypeOf(error.status);
    error.code = "message_size";
  }
  if (retry.has_retry_delay()) {
    const int64_t seconds = retry.retry_delay().seconds() + (retry.retry_delay().nanos() > 0 ? 1 : 0);
    error.retry_seconds = static_cast<int>(std::clamp<int64_t>(seconds, 1, 86400));
  }
  return error;
}

Json ToJson(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  Json body = {{"message", error.message}, {"type", error.type}};
  body["param"] = text_or_null(error.param);
  body["code"] = text_or_null(error.code);
  return Json{{"error", std::move(body)}};
}

HttpAnswerHead HeadOf(const ApiError& error) {
  HttpAnswerHead head;
  head.status = error.status;
  head.fields = {{"Content-Type", "application/json; charset=utf-8"}};
  if (error.retry_seconds > 0) head.fields.emplace_back("Retry-After", std::to_string(error.retry_seconds));
  if (error.status == 401) head.fields.emplace_back("WWW-Authenticate", "Bearer");
  return head;
}

}  // namespace qamserve::openai
