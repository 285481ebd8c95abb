#include <nlohmann/json.hpp>

#include "core/codec/codebook.h"
#include "core/quantize/quantize.h"

namespace qamserve {
namespace {

absl::Status CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("SPEC_FIELD", "{} is {}; the limits are {} and {}", field, value, low, high);
}

}  // namespace

absl::Status ValidateQuantizeSpec(const QuantizeSpec& spec) {
  RETURN_IF_ERROR(PairBitsFor(spec.bpw).status());
  RETURN_IF_ERROR(CheckRange("calibration_windows", spec.calibration_windows, 1, 4096));
  return CheckRange("window_tokens", spec.window_tokens, 8, 32768);
}

std::string QuantizeSpecToJson(const QuantizeSpec& spec) {
  return nlohmann::json{{"bpw", spec.bpw},
                        {"calibration_windows", spec.channel_scale ? spec.calibration_windows : 0},
                        {"channel_scale", spec.channel_scale},
                        {"codec", kCodecVersion},
                        {"rotation", RotationKindName(spec.rotation)},
                        {"seed", spec.seed},
                        {"window_tokens", spec.channel_scale ? spec.window_tokens : 0}}
      .dump();
}

}  // namespace qamserve
