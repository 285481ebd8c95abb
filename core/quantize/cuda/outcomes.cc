#include "core/quantize/cuda/outcomes.h"

#include <algorithm>

#include "core/codec/half.h"
#include "core/codec/packing.h"

namespace qamserve {

absl::Status ToOutcomes(std::span<const uint16_t> norms, const PanelMeasures& measures,
                        std::span<StripOutcome> outcomes) {
  constexpr uint16_t kInfiniteHalf = 0x7c00;
  for (size_t strip = 0; strip < outcomes.size(); ++strip) {
    StripOutcome out;
    const size_t end = std::min(norms.size(), (strip + 1) * kTileRows);
    for (size_t r = strip * kTileRows; r < end; ++r) {
      if (norms[r] == kInfiniteHalf) {
        return InvalidArgument("TENSOR_RANGE", "row {}: its norm does not fit binary16 (65504)", r);
      }
      if (measures.energy[r] > 0) {
        const double relative = measures.squared[r] / measures.energy[r];
        out.relative += relative;
        out.worst_row = std::max(out.worst_row, relative);
      }
      const double norm = static_cast<double>(HalfToFloat(norms[r]));
      out.feedback_loss += measures.loss[r] * norm * norm;
    }
    out.weighted = measures.weighted[2 * strip];
    out.weighted_energy = measures.weighted[2 * strip + 1];
    outcomes[strip] = out;
  }
  return absl::OkStatus();
}

}  // namespace qamserve
