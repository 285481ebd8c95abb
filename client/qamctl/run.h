// qamctl as a function, so that tests run it in their own process.
#pragma once

#include <string>
#include <vector>

#include "client/qamctl/terminal.h"

namespace qamserve::qamctl {

// `arguments` without the program's name. Returns the exit code (errors.h).
int RunQamctl(const std::vector<std::string>& arguments, Terminal& terminal);

}  // namespace qamserve::qamctl
