// How numbers are written into reports and studies.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

namespace qamserve {

// Six significant digits: what a mean over thousands of tokens can carry, and no more than libm's last bit, which may
// differ between machines, can disturb.
inline double Rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  return std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr);
}

}  // namespace qamserve
