#include "core/codec/tensor_format.h"

#include <fmt/core.h>

#include <iterator>
#include <string>

#include "core/codec/int8_packing.h"
#include "core/codec/packing.h"
#include "core/codec/trellis.h"

namespace qamserve {

std::string_view CodecName(Codec codec) {
  switch (codec) {
    case Codec::kJoint:
      return "joint";
    case Codec::kPolar:
      return "polar";
    case Codec::kScalar:
      return "scalar";
    case Codec::kUniform:
      return "uniform";
    case Codec::kTrellis:
      return "trellis";
    case Codec::kInt8:
      return "int8";
    case Codec::kFull:
      return "full";
  }
  return "";
}

absl::StatusOr<Codec> ParseCodec(std::string_view name) {
  std::string known;
  for (Codec codec : kCodecs) {
    if (name == CodecName(codec)) return codec;
    fmt::format_to(std::back_inserter(known), "{}{}", known.empty() ? "" : ", ", CodecName(codec));
  }
  return InvalidArgument("CODEC", "codec \"{}\" is not known; there are {}", name, known);
}

const Codebook* CodebookOf(const TensorFormat& format) {
  switch (format.codec) {
    case Codec::kJoint:
      return &CodebookFor(CodebookKind::kJoint, format.pair_bits);
    case Codec::kPolar:
      return &CodebookFor(CodebookKind::kPolar, format.pair_bits);
    case Codec::kScalar:
      return &CodebookFor(CodebookKind::kScalar, format.pair_bits);
    case Codec::kUniform:
      return &CodebookFor(CodebookKind::kUniform, format.pair_bits);
    case Codec::kTrellis:
    case Codec::kInt8:
    case Codec::kFull:
      break;
  }
  return nullptr;
}

absl::Status CheckTensorFormat(const TensorFormat& format) {
  int low = kMinPairBits, high = kMaxPairBits;
  if (format.codec == Codec::kTrellis) low = kMinTrellisPairBits, high = kMaxTrellisPairBits;
  if (format.codec == Codec::kInt8) low = high = kInt8PairBits;
  if (format.codec == Codec::kFull) low = high = kFullPairBits;
  if (format.pair_bits >= low && format.pair_bits <= high) return absl::OkStatus();
  return InvalidArgument("BPW_RANGE", "bpw is {}; the limits of codec {} are {} and {}, in half bits",
                         format.pair_bits / 2.0, CodecName(format.codec), low / 2.0, high / 2.0);
}

int64_t CodesStripBytes(const TensorFormat& format, int64_t cols) {
  return format.codec == Codec::kInt8 ? Int8StripBytes(cols) : StripBytes(cols, format.pair_bits);
}

int64_t CodesBytes(const TensorFormat& format, int64_t rows, int64_t cols) {
  if (!HasCodes(format)) return rows * cols * static_cast<int64_t>(sizeof(uint16_t));
  return StripsDown(rows) * CodesStripBytes(format, cols);
}

void StoreCode(const TensorFormat& format, uint8_t* strip, int64_t cols, int r, int64_t col, uint32_t code) {
  if (format.codec == Codec::kInt8) {
    strip[Int8Offset(cols, r, col)] = static_cast<uint8_t>(code & 255u);
    if (col + 1 < cols) strip[Int8Offset(cols, r, col + 1)] = static_cast<uint8_t>(code >> 8);
    return;
  }
  uint8_t* tile = strip + col / kTileCols * TileBytes(format.pair_bits);
  PackCode(tile, format.pair_bits, r, static_cast<int>(col % kTileCols) / 2, code);
}

float FormatStep(const TensorFormat& format) {
  if (const Codebook* codebook = CodebookOf(format)) return codebook->step;
  return format.codec == Codec::kTrellis ? TrellisStep(format.pair_bits) : 1.0f / static_cast<float>(kInt8MaxWeight);
}

double FormatGaussianMse(const TensorFormat& format) {
  if (const Codebook* codebook = CodebookOf(format)) return codebook->gaussian_mse;
  return format.codec == Codec::kTrellis ? TrellisGaussianMse(format.pair_bits) : 0;
}

std::vector<int32_t> DecodeTable(const TensorFormat& format) {
  const Codebook* found = CodebookOf(format);
  if (found == nullptr) return {};
  const Codebook& codebook = *found;
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

namespace {

int SignedByte(uint8_t byte) { return byte < 128 ? byte : byte - 256; }

}  // namespace

RowDecoder::RowDecoder(const TensorFormat& format)
    : format_(format), step_(FormatStep(format)), table_(DecodeTable(format)) {}

void RowDecoder::Decode(const uint8_t* strip, int row_in_strip, int64_t cols, float* out) const {
  for (int64_t col = 0; col < cols; col += 2) {
    int x, y;
    if (format_.codec == Codec::kInt8) {
      x = SignedByte(strip[Int8Offset(cols, row_in_strip, col)]);
      y = SignedByte(strip[Int8Offset(cols, row_in_strip, col + 1)]);
      out[col] = static_cast<float>(x) * step_;
      if (col + 1 < cols) out[col + 1] = static_cast<float>(y) * step_;
      continue;
    }
    const uint8_t* tile = strip + (col / kTileCols) * TileBytes(format_.pair_bits);
    const int pair = static_cast<int>(col % kTileCols) / 2;
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
