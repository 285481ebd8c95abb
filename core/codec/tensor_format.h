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
  kInt8,     // 8-bit weights (core/codec/int8_packing.h) that meet 8-bit activations; a baseline, too
  kFull,     // full precision: a plain matrix of 16-bit floats; the baseline of all
};
inline constexpr Codec kCodecs[] = {Codec::kJoint,   Codec::kPolar, Codec::kScalar, Codec::kUniform,
                                    Codec::kTrellis, Codec::kInt8,  Codec::kFull};
// "joint", "polar", "scalar", "uniform", "trellis", "int8", "full".
std::string_view CodecName(Codec codec);
// INVALID_ARGUMENT (CODEC) names what there is.
absl::StatusOr<Codec> ParseCodec(std::string_view name);

inline constexpr int kFullPairBits = 32;

struct TensorFormat {
  Codec codec = Codec::kJoint;
  int pair_bits = 11;  // 2 x bpw; 16 for kInt8, 32 for kFull
  bool operator==(const TensorFormat&) const = default;
};
// INVALID_ARGUMENT (BPW_RANGE) if the codec has no such rate.
absl::Status CheckTensorFormat(const TensorFormat& format);

// False for kFull, whose tensors are stored as matrices of floats, without norms. What is said of codes here, and
// RowDecoder, is for formats that have them.
inline bool HasCodes(const TensorFormat& format) { return format.codec != Codec::kFull; }

// The codebook of a codec that has one, else null.
const Codebook* CodebookOf(const TensorFormat& format);

// Bytes of the codes of a matrix (kFull: of the matrix), and of a strip of 32 rows.
int64_t CodesBytes(const TensorFormat& format, int64_t rows, int64_t cols);
int64_t CodesStripBytes(const TensorFormat& format, int64_t cols);
// Puts the code of row r (0..31) and the pair of columns (col, col + 1) into a zeroed strip. A code of kInt8 is two
// signed bytes, that of the even column first.
void StoreCode(const TensorFormat& format, uint8_t* strip, int64_t cols, int r, int64_t col, uint32_t code);

// One unit of a decoded integer, in standard deviations of a normalized row.
float FormatStep(const TensorFormat& format);
// Mean squared error a weight on a unit Gaussian; 0 for kInt8, whose rows are scaled by their largest weight, and for
// kFull.
double FormatGaussianMse(const TensorFormat& format);
// [2^pair_bits]: signed int16 x (low half) and y of each code, as PackedMatrix wants it; empty for codecs without a
// codebook.
std::vector<int32_t> DecodeTable(const TensorFormat& format);

// Immutable; thread-safe.
class RowDecoder {
 public:
  // REQUIRES: CheckTensorFormat(format) is OK, HasCodes(format).
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
