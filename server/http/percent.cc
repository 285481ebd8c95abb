#include "server/http/percent.h"

#include <absl/strings/ascii.h>

#include <algorithm>

#include "server/grpc/status_conversion.h"

namespace qamserve {
namespace {

// -1 if it is none.
int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = absl::ascii_tolower(static_cast<unsigned char>(c));
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

std::string Quoted(std::string_view text) { return ValidUtf8(text.substr(0, 80)); }

absl::StatusOr<std::string> Decode(std::string_view text, bool plus_is_space) {
  std::string decoded;
  decoded.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += plus_is_space && text[i] == '+' ? ' ' : text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? HexDigit(text[i + 1]) : -1;
    const int low = high >= 0 ? HexDigit(text[i + 2]) : -1;
    if (low < 0) return InvalidArgument("PERCENT_ENCODING", "'{}': a '%' without two hex digits", Quoted(text));
    decoded += static_cast<char>(high * 16 + low);
    i += 2;
  }
  if (decoded.find('\0') != std::string::npos) {
    return InvalidArgument("PERCENT_ENCODING", "'{}' has a NUL byte", Quoted(text));
  }
  if (ValidUtf8(decoded) != decoded) return InvalidArgument("PERCENT_ENCODING", "'{}' is not UTF-8", Quoted(text));
  return decoded;
}

}  // namespace

absl::StatusOr<std::string> PercentDecode(std::string_view text) { return Decode(text, false); }

absl::StatusOr<std::vector<std::pair<std::string, std::string>>> ParseQuery(std::string_view query) {
  std::vector<std::pair<std::string, std::string>> parameters;
  while (!query.empty()) {
    const std::string_view parameter = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), parameter.size() + 1));
    if (parameter.empty()) continue;
    if (parameters.size() == kMaxQueryParameters) {
      return InvalidArgument("QUERY_PARAMETERS", "the query has more than {} parameters", kMaxQueryParameters);
    }
    const size_t equals = parameter.find('=');
    ASSIGN_OR_RETURN(std::string name, Decode(parameter.substr(0, equals), true));
    std::string value;
    if (equals != std::string_view::npos) {
      ASSIGN_OR_RETURN(value, Decode(parameter.substr(equals + 1), true));
    }
    parameters.emplace_back(std::move(name), std::move(value));
  }
  return parameters;
}

}  // namespace qamserve
