// How a failure is told, and the exit codes.
#pragma once

#include "client/qamctl/session.h"

namespace qamserve::qamctl {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotFound = 3;
inline constexpr int kExitUnavailable = 4;    // not reached, or no answer in time
inline constexpr int kExitInterrupted = 130;  // as a shell reports SIGINT

// The reason of an error that means no more than "Ctrl-C".
inline constexpr char kInterrupted[] = "INTERRUPTED";

int ExitCodeOf(const absl::Status& status);

// What failed, the reason, and what to do about it where we know: on the error stream, or as
// {"error":{code,reason,message,hint}} on the output with --json.
void PrintError(Terminal& terminal, bool json, std::string_view address, const absl::Status& status);

}  // namespace qamserve::qamctl
