// Stored elements to float. Each block type is decoded with the float operations of ggml's reference in its order
// (scale times integer, then plus or minus the minimum), so results agree to the bit.
// A block is read through memcpy: a tensor may begin at any byte.
#include <bit>
#include <cstring>

#include "core/format/tensor.h"

namespace qamserve {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF and safetensors data is little-endian");

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

// Both forms are computed and one is picked, so a loop over this vectorizes. The subnormal form goes through an
// integer conversion: no float subnormal appears, and a flush-to-zero mode cannot spoil it.
float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t rebias = (127u - 15u) << 23;
  const uint32_t inf_or_nan = magnitude >= 0x7c00u ? rebias : 0u;
  const uint32_t normal = (magnitude << 13) + rebias + inf_or_nan;
  const uint32_t subnormal = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  return std::bit_cast<float>(sign | (magnitude < 0x400u ? subnormal : normal));
}

float LoadHalf(const uint8_t* from) { return HalfToFloat(Load<uint16_t>(from)); }

float Bfloat16ToFloat(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

template <float (*Convert)(uint16_t)>
void ConvertHalves(const uint8_t* from, int64_t n, float* out) {
  // A constant inner trip count lets the compiler vectorize at -O2.
  constexpr int64_t kUnroll = 16;
  int64_t i = 0;
  for (; i + kUnroll <= n; i += kUnroll) {
    uint16_t values[kUnroll];
    std::memcpy(values, from + 2 * i, sizeof(values));
    for (int64_t j = 0; j < kUnroll; ++j) out[i + j] = Convert(values[j]);
  }
  for (; i < n; ++i) out[i] = Convert(Load<uint16_t>(from + 2 * i));
}

// ---- blocks of 32. Weight j is the low nibble of byte j, weight j + 16 its high nibble. ----

// f16 scale, 16 bytes of nibbles: scale * (nibble - 8).
void DecodeQ4_0(const uint8_t* block, float* out) {
  const float scale = LoadHalf(block);
  const uint8_t* nibbles = block + 2;
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>((nibbles[j] & 15) - 8) * scale;
    out[j + 16] = static_cast<float>((nibbles[j] >> 4) - 8) * scale;
  }
}

// f16 scale, f16 minimum, 16 bytes of nibbles: scale * nibble + minimum.
void DecodeQ4_1(const uint8_t* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  const uint8_t* nibbles = block + 4;
  for (int j = 0; j < 16; ++j) {
    out[j] = static_cast<float>(nibbles[j] & 15) * scale + minimum;
    out[j + 16] = static_cast<float>(nibbles[j] >> 4) * scale + minimum;
  }
}

// The fifth bits of Q5_0 and Q5_1 are one 32-bit word, bit i for weight i.
int FiveBits(const uint8_t* nibbles, uint32_t high, int i) {
  const int low = i < 16 ? nibbles[i] & 15 : nibbles[i - 16] >> 4;
  return low | static_cast<int>((high >> i) & 1u) << 4;
}

// f16 scale, 4 bytes of high bits, 16 bytes of nibbles: scale * (value - 16).
void DecodeQ5_0(const uint8_t* block, float* out) {
  const float scale = LoadHalf(block);
  const auto high = Load<uint32_t>(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(FiveBits(block + 6, high, i) - 16) * scale;
}

// f16 scale, f16 minimum, 4 bytes of high bits, 16 bytes of nibbles: scale * value + minimum.
void DecodeQ5_1(const uint8_t* block, float* out) {
  const float scale = LoadHalf(block);
  const float minimum = LoadHalf(block + 2);
  const auto high = Load<uint32_t>(block + 4);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(FiveBits(block + 8, high, i)) * scale + minimum;
}

// f16 scale, 32 signed bytes.
void DecodeQ8_0(const uint8_t* block, float* out) {
  const float scale = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * scale;
}

// ---- blocks of 256: groups of 16 or 32 weights, each group with its own small scale ----

// Two-bit fields of Q2_K and Q3_K: half h of the block (128 weights) has 32 bytes; its quarter q (32 weights) is bits
// 2q and 2q+1 of each byte.
int TwoBits(const uint8_t* fields, int i) { return (fields[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2)) & 3; }

// 16 bytes (low nibble scale, high nibble minimum, one per 16 weights), 64 bytes of fields, f16 scale, f16 minimum.
void DecodeQ2_K(const uint8_t* block, float* out) {
  const uint8_t* fields = block + 16;
  const float scale = LoadHalf(block + 80);
  const float minimum = LoadHalf(block + 82);
  for (int group = 0; group < 16; ++group) {
    const float group_scale = scale * static_cast<float>(block[group] & 15);
    const float group_minimum = minimum * static_cast<float>(block[group] >> 4);
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      out[i] = group_scale * static_cast<float>(TwoBits(fields, i)) - group_minimum;
    }
  }
}

// The 6-bit scale of group g in Q3_K: low 4 bits in bytes 0..7 (groups 8..15 in the high nibbles), high 2 bits in bytes
// 8..11, where byte 8 + g % 4 serves groups g, g + 4, g + 8, g + 12 from its low end.
int Q3Scale(const uint8_t* scales, int group) {
  const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
  const int high = (scales[8 + group % 4] >> (group / 4 * 2)) & 3;
  return (low | high << 4) - 32;
}

// 32 bytes of high bits (bit i / 32 of byte i % 32 for weight i), 64 bytes of fields, 12 bytes of scales, f16 scale.
// A high bit that is not set takes 4 off.
void DecodeQ3_K(const uint8_t* block, float* out) {
  const uint8_t* high = block;
  const uint8_t* fields = block + 32;
  const uint8_t* scales = block + 96;
  const float scale = LoadHalf(block + 108);
  for (int group = 0; group < 16; ++group) {
    const float group_scale = scale * static_cast<float>(Q3Scale(scales, group));
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const int value = TwoBits(fields, i) - (((high[i % 32] >> (i / 32)) & 1) != 0 ? 0 : 4);
      out[i] = group_scale * static_cast<float>(value);
    }
  }
}

struct ScaleAndMinimum {
  float scale;
  float minimum;
};

// The 6-bit scale and minimum of group g (of 8) in Q4_K and Q5_K, times the f16 pair at the start of the block. Of the
// 12 bytes, 0..3 hold scales 0..3 and 4..7 minima 0..3 in their low 6 bits; 8..11 hold the low nibbles of scales and
// minima 4..7, whose top 2 bits are the spare top bits of bytes 0..7.
ScaleAndMinimum GroupOfQ45(const uint8_t* block, int group) {
  const uint8_t* packed = block + 4;
  int scale = packed[group % 4];
  int minimum = packed[4 + group % 4];
  if (group < 4) {
    scale &= 63;
    minimum &= 63;
  } else {
    const int low = packed[4 + group];
    scale = (low & 15) | (scale >> 6) << 4;
    minimum = (low >> 4) | (minimum >> 6) << 4;
  }
  return {LoadHalf(block) * static_cast<float>(scale), LoadHalf(block + 2) * static_cast<float>(minimum)};
}

// Nibbles of Q4_K and Q5_K: 32 bytes for two groups, the even one low, the odd one high.
int GroupNibble(const uint8_t* nibbles, int group, int i) {
  return (nibbles[group / 2 * 32 + i] >> (group % 2 * 4)) & 15;
}

// f16 scale, f16 minimum, 12 bytes of scales, 128 bytes of nibbles.
void DecodeQ4_K(const uint8_t* block, float* out) {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = GroupOfQ45(block, group);
    for (int i = 0; i < 32; ++i) {
      out[32 * group + i] = scale * static_cast<float>(GroupNibble(block + 16, group, i)) - minimum;
    }
  }
}

// As Q4_K, with 32 bytes of fifth bits (bit g of byte i for weight i of group g) before the nibbles.
void DecodeQ5_K(const uint8_t* block, float* out) {
  const uint8_t* high = block + 16;
  for (int group = 0; group < 8; ++group) {
    const auto [scale, minimum] = GroupOfQ45(block, group);
    for (int i = 0; i < 32; ++i) {
      const int value = GroupNibble(block + 48, group, i) + ((high[i] >> group) & 1) * 16;
      out[32 * group + i] = scale * static_cast<float>(value) - minimum;
    }
  }
}

// 128 bytes of nibbles, 64 bytes of high pairs, 16 signed scales, f16 scale. Half h (128 weights) has 64 bytes of
// nibbles and 32 of pairs; its quarter q (32 weights) takes nibble bytes 32 (q % 2) + i, low for q < 2, and pair q.
void DecodeQ6_K(const uint8_t* block, float* out) {
  const float scale = LoadHalf(block + 208);
  for (int quarter = 0; quarter < 8; ++quarter) {
    const int half = quarter / 4;
    const int q = quarter % 4;
    const uint8_t* nibbles = block + 64 * half + 32 * (q % 2);
    const uint8_t* pairs = block + 128 + 32 * half;
    for (int i = 0; i < 32; ++i) {
      const auto group = static_cast<int8_t>(block[192 + 2 * quarter + i / 16]);
      const int value = ((nibbles[i] >> (q / 2 * 4)) & 15) | ((pairs[i] >> (2 * q)) & 3) << 4;
      out[32 * quarter + i] = scale * static_cast<float>(group) * static_cast<float>(value - 32);
    }
  }
}

using DecodeBlock = void (*)(const uint8_t*, float*);

// Null for types that are not blocks.
DecodeBlock DecoderOf(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return DecodeQ4_0;
    case DType::kQ4_1:
      return DecodeQ4_1;
    case DType::kQ5_0:
      return DecodeQ5_0;
    case DType::kQ5_1:
      return DecodeQ5_1;
    case DType::kQ8_0:
      return DecodeQ8_0;
    case DType::kQ2_K:
      return DecodeQ2_K;
    case DType::kQ3_K:
      return DecodeQ3_K;
    case DType::kQ4_K:
      return DecodeQ4_K;
    case DType::kQ5_K:
      return DecodeQ5_K;
    case DType::kQ6_K:
      return DecodeQ6_K;
    default:
      return nullptr;
  }
}

}  // namespace

absl::Status ConvertToFloat(DType dtype, const std::byte* data, int64_t n, float* out) {
  const auto* from = reinterpret_cast<const uint8_t*>(data);
  const int64_t block = DTypeBlockElements(dtype);
  if (n < 0 || n % block != 0) {
    return InvalidArgument("TENSOR_SHAPE", "{} elements are not whole {} blocks of {}", n, DTypeName(dtype), block);
  }
  if (const DecodeBlock decode = DecoderOf(dtype)) {
    for (int64_t i = 0; i < n; i += block, from += DTypeBlockBytes(dtype)) decode(from, out + i);
    return absl::OkStatus();
  }
  switch (dtype) {
    case DType::kF32:
      if (n > 0) std::memcpy(out, from, static_cast<size_t>(n) * sizeof(float));
      return absl::OkStatus();
    case DType::kF16:
      ConvertHalves<HalfToFloat>(from, n, out);
      return absl::OkStatus();
    case DType::kBF16:
      ConvertHalves<Bfloat16ToFloat>(from, n, out);
      return absl::OkStatus();
    default:
      return InvalidArgument("TENSOR_DTYPE_UNSUPPORTED", "elements of type {} are not weights", DTypeName(dtype));
  }
}

}  // namespace qamserve
