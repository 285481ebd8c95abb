#include "server/serving/served_name.h"

namespace qamserve {
namespace {

absl::Status CheckName(std::string_view name, std::string_view reason, std::string_view of) {
  bool ok = !name.empty() && name.size() <= kMaxModelNameBytes;
  for (const char c : name) {
    ok = ok && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_');
  }
  if (ok) return absl::OkStatus();
  return InvalidArgument(reason, "name of {} must be 1 to {} of a-z, 0-9, '-', '.', '_'; got \"{}\"", of,
                         kMaxModelNameBytes, name.substr(0, kMaxModelNameBytes));
}

}  // namespace

absl::Status CheckModelName(std::string_view name) { return CheckName(name, "MODEL_NAME", "a served model"); }
absl::Status CheckAliasName(std::string_view name) { return CheckName(name, "ALIAS_NAME", "an alias"); }

}  // namespace qamserve
