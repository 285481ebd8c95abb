#include "server/http/rest/docs_page.h"

#include <absl/strings/escaping.h>
#include <fmt/format.h>
#include <openssl/sha.h>

#include <string_view>

#include "server/http/rest/embedded.h"

namespace qamserve::rest {
namespace {

// What stands between <tag> and </tag>; there is one of each.
std::string_view Between(std::string_view page, std::string_view tag) {
  const std::string open = fmt::format("<{}>", tag);
  const size_t begin = page.find(open) + open.size();
  return page.substr(begin, page.find(fmt::format("</{}>", tag), begin) - begin);
}

// As Content Security Policy Level 3 names inline content: base64 of its SHA-256.
std::string HashSource(std::string_view content) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(content.data()), content.size(), digest);
  const absl::string_view bytes(reinterpret_cast<const char*>(digest), sizeof(digest));
  return fmt::format("'sha256-{}'", absl::Base64Escape(bytes));
}

}  // namespace

std::string DocsPage() { return std::string(EmbeddedDocsPage()); }

std::string DocsPagePolicy() {
  const std::string_view page = EmbeddedDocsPage();
  return fmt::format(
      "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; "
      "frame-ancestors 'none'",
      HashSource(Between(page, "script")), HashSource(Between(page, "style")));
}

}  // namespace qamserve::rest
