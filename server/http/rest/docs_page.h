// The page at /docs: what /openapi.json says, to read, and to try calls with. One HTML file without anything to load.
#pragma once

#include <string>

namespace qamserve::rest {

std::string DocsPage();
// Its Content-Security-Policy: of scripts and styles only those in the page, by their digests, and calls only of this
// server.
std::string DocsPagePolicy();

}  // namespace qamserve::rest
