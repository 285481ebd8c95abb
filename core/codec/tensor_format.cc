#include "core/codec/tensor_format.h"

#include "core/codec/codebook.h"
#include "core/codec/packing.h"
#include "core/codec/trellis.h"

namespace qamserve {

const char* CodecName(Codec codec) { return codec == Codec::kTrellis ? "trellis" : "joint"; }

absl::StatusOr<Codec> ParseCodec(std::string_view name) {
  for (Codec codec : {Codec::kJoint, Codec::kTrellis}) {
    if (name == CodecName(codec)) return codec;
  }
  return InvalidArgument("CODEC", "codec \"{}\" is not known; there are joint and trellis", name);
}

absl::Status CheckTensorFormat(const TensorFormat& format) {
  const bool trellis = format.codec == Codec::kTrellis;
  const int low = trellis ? kMinTrellisPairBits : kMinPairBits, high = trellis ? kMaxTrellisPairBits : kMaxPairBits;
  if (format.pair_bits >= low && format.pair_bits <= high) return absl::OkStatus();
  return InvalidArgument("BPW_RANGE", "bpw is {}; the limits of codec {} are {} and {}, in half bits",
                         format.pair_bits / 2.0, CodecName(format.codec), low / 2.0, high / 2.0);
}

float FormatStep(const TensorFormat& format) {
  return format.codec == Codec::kTrellis ? TrellisStep(format.pair_bits) : CodebookFor(format.pair_bits).step;
}

double FormatGaussianMse(const TensorFormat& format) {
  return format.codec == Codec::kTrellis ? TrellisGaussianMse(format.pair_bits)
                                         : CodebookFor(format.pair_bits).gaussian_mse;
}

std::vector<int32_t> DecodeTable(const TensorFormat& format) {
  if (format.codec == Codec::kTrellis) return {};
  const Codebook& codebook = CodebookFor(format.pair_bits);
  const int m = codebook.magnitude_bits();
  std::vector<int32_t> table(size_t{1} << format.pair_bits);
  for (size_t code = 0; code < table.size(); ++code) {
    const size_t magnitude = code & ((size_t{1} << m) - 1);
    const int x = (code >> m) & 1 ? -codebook.x[magnitude] : codebook.x[magnitude];
    const int y = (code >> (m + 1)) & 1 ? -codebook.y[magnitude] : codebook.y[magnitude];
    table[code] = static_cast<int32_t>(static_cast<uint32_t>(x & 0xffff) | static_cast<uint32_t>(y) << 16);
  }
  return table;
}

RowDecoder::RowDecoder(const TensorFormat& format)
    : format_(format), step_(FormatStep(format)), table_(DecodeTable(format)) {}

void RowDecoder::Decode(const uint8_t* strip, int row_in_strip, int64_t cols, float* out) const {
  for (int64_t col = 0; col < cols; col += 2) {
    const uint8_t* tile = strip + (col / kTileCols) * TileBytes(format_.pair_bits);
    const int pair = static_cast<int>(col % kTileCols) / 2;
    int x, y;
    if (format_.codec == Codec::kTrellis) {
      const uint32_t state = TrellisState(tile, format_.pair_bits, row_in_strip, pair);
      x = TrellisValue(state, 0);
      y = TrellisValue(state, 1);
    } else {
      const int32_t entry = table_[UnpackCode(tile, format_.pair_bits, row_in_strip, pair)];
      x = static_cast<int16_t>(entry & 0xffff);
      y = entry >> 16;
    }
    out[col] = static_cast<float>(x) * step_;
    if (col + 1 < cols) out[col + 1] = static_cast<float>(y) * step_;
  }
}

}  // namespace qamserve
