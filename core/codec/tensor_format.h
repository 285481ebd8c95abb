// How one quantized tensor is stored, and the one place that turns its codes back into numbers.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/codec/codebook.h"

namespace qamserve {

enum class Codec : uint8_t {
  // Codebooks of pairs (core/codec/codebook.h); all but the first are baselines.
  kJoint,
  kPolar,
  kScalar,
  kUniform,  // rounds to nearest: a row's largest weight is on the outermost level
  kTrellis,  // core/codec/trellis.h
};
inline constexpr Codec kCodecs[] = {Codec::kJoint, Codec::kPolar, Codec::kScalar, Codec::kUniform, Codec::kTrellis};
// "joint", "polar", "scalar", "uniform", "trellis".
std::string_view CodecName(Codec codec);
// INVALID_ARGUMENT (CODEC) names what there is.
absl::StatusOr<Codec> ParseCodec(std::string_view name);

struct TensorFormat {
  Codec codec = Codec::kJoint;
  int pair_bits = 11;  // 2 x bpw
  bool operator==(const TensorFormat&) const = default;
};
// INVALID_ARGUMENT (BPW_RANGE) if the codec has no such rate.
absl::Status CheckTensorFormat(const TensorFormat& format);

// The codebook of a codec that has one, else null.
const Codebook* CodebookOf(const TensorFormat& format);

// One unit of a decoded integer, in standard deviations of a normalized row.
float FormatStep(const TensorFormat& format);
// Mean squared error a weight on a unit Gaussian.
double FormatGaussianMse(const TensorFormat& format);
// [2^pair_bits]: signed int16 x (low half) and y of each code, as PackedMatrix wants it; empty for a trellis.
std::vector<int32_t> DecodeTable(const TensorFormat& format);

// Immutable; thread-safe.
class RowDecoder {
 public:
  // REQUIRES: CheckTensorFormat(format) is OK.
  explicit RowDecoder(const TensorFormat& format);
  const TensorFormat& format() const { return format_; }
  // The normalized values (standard deviation about 1, rotated basis) of one row of a packed strip.
  void Decode(const uint8_t* strip, int row_in_strip, int64_t cols, float* out) const;

 private:
  TensorFormat format_;
  float step_;
  std::vector<int32_t> table_;
};

}  // namespace qamserve
