#include <nlohmann/json.hpp>

#include "core/codec/codebook.h"
#include "core/codec/int8_packing.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

absl::Status CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("SPEC_FIELD", "{} is {}; the limits are {} and {}", field, value, low, high);
}

}  // namespace

absl::StatusOr<TensorFormat> FormatOf(const QuantizeSpec& spec) {
  TensorFormat format{.codec = spec.codec, .pair_bits = 0};
  if (spec.codec == Codec::kInt8) {
    if (spec.bpw == 8) return TensorFormat{.codec = Codec::kInt8, .pair_bits = kInt8PairBits};
    return InvalidArgument("BPW_RANGE", "bpw is {}; codec int8 has 8 bits a weight", spec.bpw);
  }
  ASSIGN_OR_RETURN(format.pair_bits, PairBitsFor(spec.bpw));
  RETURN_IF_ERROR(CheckTensorFormat(format));
  return format;
}

absl::Status ValidateQuantizeSpec(const QuantizeSpec& spec) {
  RETURN_IF_ERROR(FormatOf(spec).status());
  if (spec.embedding_bits != 8 && spec.embedding_bits != 16) {
    return InvalidArgument("SPEC_FIELD", "embedding_bits is {}; it may be 8 or 16", spec.embedding_bits);
  }
  RETURN_IF_ERROR(CheckRange("calibration_windows", spec.calibration_windows, 1, 4096));
  return CheckRange("window_tokens", spec.window_tokens, 8, 32768);
}

std::string QuantizeSpecToJson(const QuantizeSpec& spec) {
  const bool calibrates = NeedsStatistics(spec);
  return nlohmann::json{{"bpw", spec.bpw},
                        {"calibration_windows", calibrates ? spec.calibration_windows : 0},
                        {"channel_scale", spec.channel_scale},
                        {"codec", CodecName(spec.codec)},
                        {"codec_version", kCodecVersion},
                        {"embedding_bits", spec.embedding_bits},
                        {"error_feedback", spec.error_feedback},
                        {"rotation", RotationKindName(spec.rotation)},
                        {"seed", spec.seed},
                        {"window_tokens", calibrates ? spec.window_tokens : 0}}
      .dump();
}

}  // namespace qamserve
