#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string_view>
#include <vector>

#include "core/format/tensor.h"
#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

struct Golden {
  DType dtype;
  std::string_view stored;
  std::string_view values;
};

constexpr Golden kGolden[] = {
#include "tests/core/format/golden/dequantize.inc"
};

const std::byte* AsBytes(const std::string& text) { return reinterpret_cast<const std::byte*>(text.data()); }

TEST(DequantizeTest, BlocksMatchTheIndependentReferenceToTheBit) {
  EXPECT_EQ(std::size(kGolden), 10u);
  for (const Golden& golden : kGolden) {
    SCOPED_TRACE(DTypeName(golden.dtype));
    const std::string stored = FromHex(golden.stored);
    const std::string expected = FromHex(golden.values);
    const int64_t n = 2 * DTypeBlockElements(golden.dtype);
    ASSERT_EQ(static_cast<int64_t>(stored.size()), 2 * DTypeBlockBytes(golden.dtype));
    ASSERT_EQ(static_cast<int64_t>(expected.size()), 4 * n);
    std::vector<float> values(static_cast<size_t>(n));
    ASSERT_TRUE(ConvertToFloat(golden.dtype, AsBytes(stored), n, values.data()).ok());
    EXPECT_EQ(std::memcmp(values.data(), expected.data(), expected.size()), 0);
  }
}

TEST(DequantizeTest, AnyAddressWillDo) {
  for (const Golden& golden : kGolden) {
    const std::string stored = FromHex(golden.stored);
    const std::string expected = FromHex(golden.values);
    for (size_t shift : {1u, 2u, 3u}) {
      const std::string shifted = std::string(shift, '?') + stored;
      std::vector<float> values(expected.size() / 4);
      ASSERT_TRUE(
          ConvertToFloat(golden.dtype, AsBytes(shifted) + shift, static_cast<int64_t>(values.size()), values.data())
              .ok());
      EXPECT_EQ(std::memcmp(values.data(), expected.data(), expected.size()), 0) << DTypeName(golden.dtype);
    }
  }
}

// The definition of binary16, by arithmetic on its fields.
double HalfByDefinition(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int fraction = half & 1023;
  const double sign = (half & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

std::vector<float> Convert(DType dtype, const std::vector<uint16_t>& stored) {
  std::vector<float> values(stored.size());
  EXPECT_TRUE(ConvertToFloat(dtype, reinterpret_cast<const std::byte*>(stored.data()),
                             static_cast<int64_t>(stored.size()), values.data())
                  .ok());
  return values;
}

TEST(DequantizeTest, EveryHalf) {
  std::vector<uint16_t> stored(1 << 16);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<uint16_t>(i);
  const std::vector<float> values = Convert(DType::kF16, stored);
  for (size_t i = 0; i < stored.size(); ++i) {
    if ((stored[i] & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(values[i])) << i;
    } else {
      // By bits, so that the sign of zero counts.
      const auto expected = static_cast<float>(HalfByDefinition(stored[i]));
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected)) << i;
    }
  }
}

TEST(DequantizeTest, EveryBfloat16IsTheTopHalfOfItsFloat) {
  std::vector<uint16_t> stored(1 << 16);
  for (size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<uint16_t>(i);
  const std::vector<float> values = Convert(DType::kBF16, stored);
  for (size_t i = 0; i < stored.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), static_cast<uint32_t>(i) << 16);
  }
}

TEST(DequantizeTest, RaggedLengths) {
  for (size_t n : {0u, 1u, 2u, 8u, 15u, 16u, 17u, 31u, 32u, 33u}) {
    std::vector<uint16_t> stored;
    for (size_t i = 0; i < n; ++i) stored.push_back(static_cast<uint16_t>(0x3c00 + 64 * i));
    const std::vector<float> values = Convert(DType::kF16, stored);
    for (size_t i = 0; i < n; ++i) EXPECT_EQ(values[i], HalfByDefinition(stored[i])) << n;
  }
}

TEST(DequantizeTest, RefusesPartOfABlockAndIntegers) {
  std::vector<std::byte> stored(256);
  std::vector<float> values(64);
  EXPECT_EQ(ReasonOf(ConvertToFloat(DType::kQ4_0, stored.data(), 33, values.data())), "TENSOR_SHAPE");
  EXPECT_EQ(ReasonOf(ConvertToFloat(DType::kF32, stored.data(), -1, values.data())), "TENSOR_SHAPE");
  for (DType dtype : {DType::kI8, DType::kU8, DType::kI16, DType::kI32, DType::kI64}) {
    const absl::Status status = ConvertToFloat(dtype, stored.data(), 4, values.data());
    EXPECT_EQ(ReasonOf(status), "TENSOR_DTYPE_UNSUPPORTED");
    EXPECT_NE(MessageOf(status).find(DTypeName(dtype)), std::string::npos);
  }
}

}  // namespace
}  // namespace qamserve
