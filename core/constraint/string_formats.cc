#include "core/constraint/string_formats.h"

#include <utility>

namespace qamserve::constraint {
namespace {

// Years of four digits from 1000 on, and no 29th of February, so that every date is one. RFC 3339.
#define QAMSERVE_DATE                                                                       \
  "[1-9]\\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\\d|3[01])|(0[469]|11)-(0[1-9]|[12]\\d|30)|02" \
  "-(0[1-9]|1\\d|2[0-8]))"
// No leap seconds.
#define QAMSERVE_TIME "([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d{1,6})?(Z|[+-]([01]\\d|2[0-3]):[0-5]\\d)"
#define QAMSERVE_LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define QAMSERVE_HOST QAMSERVE_LABEL "(\\." QAMSERVE_LABEL "){0,3}"
#define QAMSERVE_BYTE "(25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"

constexpr std::pair<std::string_view, std::string_view> kFormats[] = {
    {"date", QAMSERVE_DATE},
    {"time", QAMSERVE_TIME},
    {"date-time", QAMSERVE_DATE "T" QAMSERVE_TIME},
    {"duration", "P(\\d{1,4}W|\\d{1,4}D(T\\d{1,4}(H|M|S))?|T\\d{1,4}(H(\\d{1,4}M)?(\\d{1,4}S)?|M(\\d{1,4}S)?|S))"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    // RFC 5321: 64 bytes before the @, here without quotes.
    {"email", "[A-Za-z0-9_+-]{1,31}(\\.[A-Za-z0-9_+-]{1,31})?@" QAMSERVE_LABEL "(\\." QAMSERVE_LABEL "){1,3}"},
    {"hostname", QAMSERVE_HOST},
    {"ipv4", QAMSERVE_BYTE "(\\." QAMSERVE_BYTE "){3}"},
    // Without "::".
    {"ipv6", "[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}"},
    {"uri", "[a-z][a-z0-9+.-]{1,15}://" QAMSERVE_HOST
            "(:[1-9]\\d{0,3})?(/[A-Za-z0-9._~-]{0,64}){0,16}(\\?[A-Za-z0-9._~=&-]{0,256})?(#[A-Za-z0-9._~-]{0,64})?"},
};

#undef QAMSERVE_DATE
#undef QAMSERVE_TIME
#undef QAMSERVE_LABEL
#undef QAMSERVE_HOST
#undef QAMSERVE_BYTE

}  // namespace

std::optional<std::string_view> FormatPattern(std::string_view format) {
  for (const auto& [name, pattern] : kFormats) {
    if (name == format) return pattern;
  }
  return std::nullopt;
}

std::string FormatNames() {
  std::string names;
  for (const auto& [name, pattern] : kFormats) {
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

}  // namespace qamserve::constraint
