#include "server/store/postgres_errors.h"

#include <algorithm>
#include <array>

namespace qamserve {
namespace {

struct Rule {
  std::string_view prefix;  // of the SQLSTATE; the first that fits counts
  PostgresErrorClass error;
};

constexpr bool kSessionEnds = true;
constexpr std::array<Rule, 20> kRules = {{
    {"40001", {absl::StatusCode::kAborted, "STORE_CONFLICT"}},  // serialization failure
    {"40P01", {absl::StatusCode::kAborted, "STORE_CONFLICT"}},  // deadlock
    {"55P03", {absl::StatusCode::kAborted, "STORE_CONFLICT"}},  // lock timeout
    {"53100", {absl::StatusCode::kResourceExhausted, "DISK_FULL"}},
    {"25006", {absl::StatusCode::kFailedPrecondition, "STORE_READ_ONLY"}},
    {"25P03", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // idle in transaction
    {"28", {absl::StatusCode::kFailedPrecondition, "STORE_CREDENTIALS", kSessionEnds}},
    {"42501", {absl::StatusCode::kFailedPrecondition, "STORE_CREDENTIALS"}},  // may not use a table
    {"3D000", {absl::StatusCode::kFailedPrecondition, "STORE_MISSING", kSessionEnds}},
    {"23", {absl::StatusCode::kAlreadyExists, "STORE_CONSTRAINT"}},
    {"22", {absl::StatusCode::kInvalidArgument, "STORE_VALUE"}},  // not UTF-8, out of range
    {"XX001", {absl::StatusCode::kDataLoss, "STORE_CORRUPT"}},
    {"XX002", {absl::StatusCode::kDataLoss, "STORE_CORRUPT"}},
    {"57P01", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // shut down by its operator
    {"57P02", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // another session crashed
    {"57P03", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // starting or stopping
    {"57P04", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // database was dropped
    {"57P05", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // idle session
    {"08", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},     // connection
    {"53300", {absl::StatusCode::kUnavailable, "STORE_UNAVAILABLE", kSessionEnds}},  // too many connections
}};

bool IsCodeCharacter(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z'); }

}  // namespace

PostgresErrorClass ClassifySqlState(std::string_view sqlstate) {
  for (const Rule& rule : kRules) {
    if (sqlstate.substr(0, rule.prefix.size()) == rule.prefix) return rule.error;
  }
  return {};
}

std::string SqlStateOfConnectError(std::string_view message) {
  // "SEVERITY:  CODE: text" with two spaces, as libpq writes it when it is asked for codes.
  constexpr std::string_view kBefore = ":  ";
  for (size_t at = message.rfind(kBefore); at != std::string_view::npos && at > 0;
       at = message.rfind(kBefore, at - 1)) {
    const std::string_view code = message.substr(at + kBefore.size(), 6);
    if (code.size() == 6 && code[5] == ':' && std::all_of(code.begin(), code.begin() + 5, IsCodeCharacter)) {
      return std::string(code.substr(0, 5));
    }
  }
  return "";
}

std::string OneLine(std::string_view message) {
  std::string out;
  while (!message.empty()) {
    const size_t end = std::min(message.find('\n'), message.size());
    std::string_view line = message.substr(0, end);
    message.remove_prefix(std::min(end + 1, message.size()));
    line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
    // Such lines tell of the server's source; the word is translated, the file's name is not.
    const bool location = line.find(".c:") != std::string_view::npos && line.find(", ") != std::string_view::npos;
    if (line.empty() || location) continue;
    if (!out.empty()) out += "; ";
    out += line;
  }
  return out;
}

}  // namespace qamserve
