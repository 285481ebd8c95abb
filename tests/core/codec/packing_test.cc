#include "core/codec/packing.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/base/rng.h"

namespace qamserve {
namespace {

TEST(Packing, RoundTripsEveryRateAndUsesEveryByte) {
  for (int bits = 5; bits <= 12; ++bits) {
    std::vector<uint8_t> tile(static_cast<size_t>(TileBytes(bits)));
    std::vector<uint32_t> codes;
    Rng rng(static_cast<uint64_t>(bits));
    for (int r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kTilePairs; ++c) {
        codes.push_back(static_cast<uint32_t>(rng.NextU64()) & ((1u << bits) - 1));
        PackCode(tile.data(), bits, r, c, codes.back());
      }
    }
    size_t i = 0;
    for (int r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kTilePairs; ++c) ASSERT_EQ(UnpackCode(tile.data(), bits, r, c), codes[i++]) << bits;
    }
    // No padding: setting all codes to ones sets all bits.
    std::vector<uint8_t> ones(tile.size());
    for (int r = 0; r < kTileRows; ++r) {
      for (int c = 0; c < kTilePairs; ++c) PackCode(ones.data(), bits, r, c, (1u << bits) - 1);
    }
    for (uint8_t byte : ones) ASSERT_EQ(byte, 0xff) << bits;
  }
}

// The bytes of docs/artifact_format.md's example.
TEST(Packing, PlacesAnElevenBitCodeAsDocumented) {
  std::vector<uint8_t> tile(static_cast<size_t>(TileBytes(11)));
  PackCode(tile.data(), 11, 3, 9, 0x5a7);  // v = 2, n = 13
  EXPECT_EQ(tile[128 * 2 + 13], 0xa7);
  EXPECT_EQ(tile[128 * 8 + 13], 1 << 2);  // bit 8 of the code
  EXPECT_EQ(tile[128 * 9 + 13], 0);
  EXPECT_EQ(tile[128 * 10 + 13], 1 << 2);  // bit 10
  int set = 0;
  for (uint8_t byte : tile) set += byte != 0;
  EXPECT_EQ(set, 3);
}

TEST(Packing, PlacesAFiveBitCodeAsDocumented) {
  std::vector<uint8_t> tile(static_cast<size_t>(TileBytes(5)));
  PackCode(tile.data(), 5, 31, 31, 0x1d);  // v = 7, n = 127
  EXPECT_EQ(tile[128 * 3 + 127], 0xd0);
  EXPECT_EQ(tile[128 * 4 + 127], 0x80);
}

TEST(Packing, SizesCountWholeTiles) {
  EXPECT_EQ(PackedBytes(576, 576, 11), 18 * 9 * 1408);
  EXPECT_EQ(PackedBytes(1, 1, 8), 1024);
  EXPECT_EQ(PackedBytes(33, 65, 8), 2 * 2 * 1024);
  EXPECT_EQ(PaddedCols(65), 128);
}

}  // namespace
}  // namespace qamserve
