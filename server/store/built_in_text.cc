#include "server/store/built_in_text.h"

namespace qamserve {
namespace {

constexpr std::string_view kText =
#include "server/store/built_in_text.inc"
    ;

// SHA-256 of the text, which a test holds it to.
constexpr std::string_view kDigest = "fe8b0739724d0ccd296a778bf493b70a90fb5352b1731c86cf123469bb79d395";

}  // namespace

std::string_view BuiltInText() { return kText; }

TextRecord BuiltInTextRecord() {
  TextRecord record;
  record.digest = kDigest;
  record.display_name = "built-in text";
  record.file = {.name = "built-in.txt", .sha256 = std::string(kDigest), .size_bytes = kText.size()};
  return record;
}

bool IsBuiltInText(std::string_view digest) { return digest == kDigest; }

}  // namespace qamserve
