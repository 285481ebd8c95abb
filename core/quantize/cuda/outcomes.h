// From what a panel's rows measured to what its strips add to their tensor's totals, in EncodeStrip's order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/quantize/strip.h"

namespace qamserve {

// Zeros where nothing was measured.
struct PanelMeasures {
  PanelMeasures(size_t rows, size_t strips) : energy(rows), squared(rows), loss(rows), weighted(2 * strips) {}
  std::vector<double> energy, squared, loss;  // of each row, as EncodePanel has them
  std::vector<double> weighted;               // [strips][2]
};

// INVALID_ARGUMENT (TENSOR_RANGE) names the first row whose norm does not fit.
absl::Status ToOutcomes(std::span<const uint16_t> norms, const PanelMeasures& measures,
                        std::span<StripOutcome> outcomes);

}  // namespace qamserve
