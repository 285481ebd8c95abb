#include "server/http/rest/embedded.h"

namespace qamserve::rest {
namespace {

constexpr unsigned char kDescriptors[] = {
#include "server/http/rest/descriptors.inc"
};
constexpr unsigned char kDocsPage[] = {
#include "server/http/rest/docs_page.inc"
};

template <size_t kSize>
std::string_view Text(const unsigned char (&bytes)[kSize]) {
  return {reinterpret_cast<const char*>(bytes), kSize};
}

}  // namespace

std::string_view EmbeddedDescriptors() { return Text(kDescriptors); }
std::string_view EmbeddedDocsPage() { return Text(kDocsPage); }

}  // namespace qamserve::rest
