// The OpenAPI 3.1 document of the REST API: paths and parameters from the routes, schemas from the descriptors, words
// from the comments of the protos.
#pragma once

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "server/http/route_table.h"

namespace qamserve::rest {

// The text of the document. INTERNAL (API_DESCRIPTORS) if what is embedded cannot be read.
absl::StatusOr<std::string> OpenApiDocument(const RouteTable& routes, std::string_view version);

}  // namespace qamserve::rest
