// The text to calibrate on that needs no upload: pages, API and code of this project, prose and lists, tables and
// source, as they were once. It is frozen: its digest is part of the keys of jobs and stands in reports.
#pragma once

#include <string>
#include <string_view>

#include "server/store/records.h"

namespace qamserve {

// The last part of its resource name, in place of the digest.
inline constexpr char kBuiltInText[] = "built-in";

std::string_view BuiltInText();
// As if it had been uploaded. Its digest names it like any other text.
TextRecord BuiltInTextRecord();
bool IsBuiltInText(std::string_view digest);

}  // namespace qamserve
