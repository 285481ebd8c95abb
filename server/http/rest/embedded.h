// Files that are part of the program; CMakeLists.txt says what they are made of.
#pragma once

#include <string_view>

namespace qamserve::rest {

// A google.protobuf.FileDescriptorSet of the API with its comments, which generated code has not.
std::string_view EmbeddedDescriptors();
// docs_page.html.
std::string_view EmbeddedDocsPage();

}  // namespace qamserve::rest
