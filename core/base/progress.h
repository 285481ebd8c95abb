// How a long call tells how far it is, and how it is stopped.
#pragma once

#include <absl/functional/function_ref.h>

#include "core/base/status.h"

namespace qamserve {

// Called now and then with the finished fraction of the call; a status that is not OK stops it and is returned.
using ProgressFn = absl::FunctionRef<absl::Status(double fraction)>;

}  // namespace qamserve
