// Errors. Start here: every function that input, disk, network or a device can make fail returns absl::Status or
// absl::StatusOr. A message names the file, tensor or field and the limit; a reason (UPPER_SNAKE, at most 63
// characters) lets a program tell errors apart. The reason rides as a payload and becomes google.rpc.ErrorInfo at
// the gRPC boundary.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <fmt/format.h>

#include <string>
#include <string_view>
#include <utility>

namespace qamserve {

// An error with `reason` attached. `code` must not be kOk.
absl::Status MakeError(absl::StatusCode code, std::string_view reason, std::string message);

// The reason given to MakeError, or the name of the status code if there is none, or "" for an OK status.
std::string ReasonOf(const absl::Status& status);

// The same error (code and reason) with "context: " put before its message. OK stays OK.
absl::Status Annotate(const absl::Status& status, std::string_view context);

// std::string_view of a status message, which in this build of Abseil is a type of its own.
inline std::string MessageOf(const absl::Status& status) {
  return std::string(status.message().data(), status.message().size());
}

#define QAMSERVE_DEFINE_ERROR(Name, Code)                                                               \
  template <typename... Args>                                                                           \
  absl::Status Name(std::string_view reason, fmt::format_string<Args...> format, Args&&... args) {      \
    return MakeError(absl::StatusCode::Code, reason, fmt::format(format, std::forward<Args>(args)...)); \
  }
QAMSERVE_DEFINE_ERROR(InvalidArgument, kInvalidArgument)
QAMSERVE_DEFINE_ERROR(NotFound, kNotFound)
QAMSERVE_DEFINE_ERROR(AlreadyExists, kAlreadyExists)
QAMSERVE_DEFINE_ERROR(FailedPrecondition, kFailedPrecondition)
QAMSERVE_DEFINE_ERROR(ResourceExhausted, kResourceExhausted)
QAMSERVE_DEFINE_ERROR(OutOfRange, kOutOfRange)
QAMSERVE_DEFINE_ERROR(Unimplemented, kUnimplemented)
QAMSERVE_DEFINE_ERROR(Unavailable, kUnavailable)
QAMSERVE_DEFINE_ERROR(Aborted, kAborted)
QAMSERVE_DEFINE_ERROR(Cancelled, kCancelled)
QAMSERVE_DEFINE_ERROR(DataLoss, kDataLoss)
QAMSERVE_DEFINE_ERROR(Internal, kInternal)
#undef QAMSERVE_DEFINE_ERROR

#define QAMSERVE_CONCAT_INNER(a, b) a##b
#define QAMSERVE_CONCAT(a, b) QAMSERVE_CONCAT_INNER(a, b)

// Returns from the calling function if `expr` is an error. The variable's name is one that no `expr` can use: a plainer
// one would capture a member of that name and initialize itself from itself.
#define RETURN_IF_ERROR(expr)                                                             \
  do {                                                                                    \
    if (absl::Status qamserve_returned_status = (expr); !qamserve_returned_status.ok()) { \
      return qamserve_returned_status;                                                    \
    }                                                                                     \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()): returns from the calling function if F() is an error, else moves its value to x.
#define ASSIGN_OR_RETURN(lhs, expr) ASSIGN_OR_RETURN_IMPL(QAMSERVE_CONCAT(status_or_, __LINE__), lhs, expr)
#define ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                          \
  if (!tmp.ok()) {                            \
    return tmp.status();                      \
  }                                           \
  lhs = std::move(tmp).value()

}  // namespace qamserve
