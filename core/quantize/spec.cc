#include <nlohmann/json.hpp>

#include "core/codec/codebook.h"
#include "core/codec/int8_packing.h"
#include "core/codec/trellis.h"
#include "core/quantize/internal.h"

namespace qamserve {
namespace {

using nlohmann::json;

constexpr size_t kMaxFilterBytes = 256;

absl::Status CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("SPEC_FIELD", "{} is {}; the limits are {} and {}", field, value, low, high);
}

// Full precision has nothing to scale, rotate or make up for: an option that says otherwise is a mistake.
absl::Status CheckFullPrecision(const QuantizeSpec& spec) {
  const std::pair<const char*, bool> options[] = {{"channel_scale", spec.channel_scale},
                                                  {"error_feedback", spec.error_feedback},
                                                  {"rates", !spec.rates.empty()},
                                                  {"rotation", spec.rotation != RotationKind::kNone},
                                                  {"embedding_bits", spec.embedding_bits != 16}};
  for (const auto& [field, conflicts] : options) {
    if (conflicts) return InvalidArgument("CODEC_OPTION", "{} is set; codec full quantizes nothing", field);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TensorFormat> FormatFor(Codec codec, double bpw) {
  TensorFormat format{.codec = codec, .pair_bits = 0};
  if (codec == Codec::kInt8 || codec == Codec::kFull) {
    format.pair_bits = codec == Codec::kInt8 ? kInt8PairBits : kFullPairBits;
    const double only = format.pair_bits / 2.0;
    if (bpw == only) return format;
    return InvalidArgument("BPW_RANGE", "bpw is {}; codec {} has {} bits a weight", bpw, CodecName(codec), only);
  }
  ASSIGN_OR_RETURN(format.pair_bits, PairBitsFor(bpw));
  // So that a mix has somewhere to go above the trellis's last rate, whose memory is 5 bits.
  if (codec == Codec::kTrellis && format.pair_bits > kMaxTrellisPairBits) format.codec = Codec::kJoint;
  RETURN_IF_ERROR(CheckTensorFormat(format));
  return format;
}

absl::Status ValidateQuantizeSpec(const QuantizeSpec& spec) {
  RETURN_IF_ERROR(FormatFor(spec.codec, spec.bpw).status());
  if (spec.codec == Codec::kFull) RETURN_IF_ERROR(CheckFullPrecision(spec));
  for (const RateRule& rule : spec.rates) {
    if (rule.filter.empty() || rule.filter.size() > kMaxFilterBytes) {
      return InvalidArgument("RATE_FILTER", "a filter of rates has {} bytes; it may have 1 to {}", rule.filter.size(),
                             kMaxFilterBytes);
    }
    const absl::Status format = FormatFor(spec.codec, rule.bpw).status();
    if (!format.ok()) return Annotate(format, fmt::format("rates, filter {}", rule.filter));
  }
  if (spec.embedding_bits != 8 && spec.embedding_bits != 16) {
    return InvalidArgument("SPEC_FIELD", "embedding_bits is {}; it may be 8 or 16", spec.embedding_bits);
  }
  RETURN_IF_ERROR(CheckRange("calibration_windows", spec.calibration_windows, 1, 4096));
  return CheckRange("window_tokens", spec.window_tokens, 8, 32768);
}

std::vector<double> RatesOf(Codec codec) {
  std::vector<double> rates;
  for (int pair_bits = 1; pair_bits <= kFullPairBits; ++pair_bits) {
    if (FormatFor(codec, pair_bits / 2.0).ok()) rates.push_back(pair_bits / 2.0);
  }
  return rates;
}

double IdealDistortion(Codec codec, double bpw) {
  const auto format = FormatFor(codec, bpw);
  return format.ok() ? FormatGaussianMse(*format) : 0;
}

std::string QuantizeSpecToJson(const QuantizeSpec& spec) {
  const bool calibrates = NeedsStatistics(spec);
  json out = {{"bpw", spec.bpw},
              {"calibration_windows", calibrates ? spec.calibration_windows : 0},
              {"channel_scale", spec.channel_scale},
              {"codec", CodecName(spec.codec)},
              {"codec_version", kCodecVersion},
              {"embedding_bits", spec.embedding_bits},
              {"error_feedback", spec.error_feedback},
              {"rotation", RotationKindName(spec.rotation)},
              {"seed", spec.seed},
              {"window_tokens", calibrates ? spec.window_tokens : 0}};
  for (const RateRule& rule : spec.rates) out["rates"].push_back({{"bpw", rule.bpw}, {"filter", rule.filter}});
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<QuantizeSpec> QuantizeSpecFromJson(const std::string& text) {
  try {
    const json in = json::parse(text);
    QuantizeSpec spec;
    spec.bpw = in.at("bpw").get<double>();
    ASSIGN_OR_RETURN(spec.codec, ParseCodec(in.at("codec").get<std::string>()));
    spec.channel_scale = in.at("channel_scale").get<bool>();
    spec.error_feedback = in.at("error_feedback").get<bool>();
    // Specs of earlier versions kept embeddings as they were.
    spec.embedding_bits = in.value("embedding_bits", 16);
    ASSIGN_OR_RETURN(spec.rotation, ParseRotationKind(in.at("rotation").get<std::string>()));
    spec.seed = in.at("seed").get<uint64_t>();
    if (NeedsStatistics(spec)) {
      spec.calibration_windows = in.at("calibration_windows").get<int32_t>();
      spec.window_tokens = in.at("window_tokens").get<int32_t>();
    }
    if (const auto rules = in.find("rates"); rules != in.end()) {
      for (const json& rule : *rules) {
        spec.rates.push_back({.filter = rule.at("filter").get<std::string>(), .bpw = rule.at("bpw").get<double>()});
      }
    }
    return spec;
  } catch (const json::exception& error) {
    return DataLoss("SPEC_INVALID", "quantize spec: {}", error.what());
  }
}

}  // namespace qamserve
