// The console: one page at "/" with its styles and modules under "/console/", embedded into the program; its sources
// are in server/http/console/. The page holds no data of its own: it speaks the REST API, with the key of who looks at
// it.
#pragma once

#include "server/http/exchange.h"

namespace qamserve {

// Takes every request for "/" and "/console/...": GET and HEAD of what is there, else 404 or 405. Answers carry an ETag
// and must be validated before they are used again, so that a page never mixes the files of two versions. Their
// Content-Security-Policy lets no script, style or frame run that is not one of these files, and no script make markup
// out of text. Thread-safe; never blocks.
HttpPart ConsolePart();

}  // namespace qamserve
