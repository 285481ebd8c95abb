// The block search of the GPU, its threads run one after the other: the same codes as TrellisSearch.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

#include "core/kernels/cuda/trellis_block.h"
#include "tests/core/kernels/trellis_rings.h"

namespace qamserve {
namespace {

template <int kBits, int kRings = MostTrellisRings(kBits)>
std::vector<uint16_t> SearchOnHost(const TrellisRings& rings, bool backwards) {
  using Block = TrellisBlock<kBits, kRings>;
  std::vector<int> order(Block::kThreads);
  std::iota(order.begin(), order.end(), 0);
  if (backwards) std::reverse(order.begin(), order.end());
  auto block = std::make_unique<Block>();
  std::fill_n(reinterpret_cast<unsigned char*>(block.get()), sizeof(Block), 0xa5);  // as left by another block
  std::vector<uint16_t> codes(rings.x.size(), 0xffff);
  for (int ring = 0; ring < rings.rings(); ring += Block::kRings) {
    const size_t at = static_cast<size_t>(ring) * kTileRows;
    SearchTrellisBlock(*block, &rings.x[at], &rings.y[at], &codes[at], std::min(Block::kRings, rings.rings() - ring),
                       [&](const auto& phase) {
                         for (int thread : order) phase(thread);
                       });
  }
  return codes;
}

template <typename Bits>
class TrellisBlockTest : public testing::Test {};
using AllBits =
    testing::Types<std::integral_constant<int, 5>, std::integral_constant<int, 6>, std::integral_constant<int, 7>,
                   std::integral_constant<int, 8>, std::integral_constant<int, 9>, std::integral_constant<int, 10>,
                   std::integral_constant<int, 11>>;
TYPED_TEST_SUITE(TrellisBlockTest, AllBits);

// 11 rings leave the last block part of its rings. Threads of a phase may run in any order.
TYPED_TEST(TrellisBlockTest, FindsTheCodesOfTheReference) {
  constexpr int kBits = TypeParam::value;
  const TrellisRings rings(11, kBits, 3);
  const std::vector<uint16_t> expected = rings.Search(kBits);
  EXPECT_EQ(SearchOnHost<kBits>(rings, false), expected);
  EXPECT_EQ(SearchOnHost<kBits>(rings, true), expected);
}

TYPED_TEST(TrellisBlockTest, FindsThemWithFewerRingsOfABlock) {
  constexpr int kBits = TypeParam::value;
  const TrellisRings rings(3, kBits, 4);
  const std::vector<uint16_t> expected = rings.Search(kBits);
  EXPECT_EQ((SearchOnHost<kBits, 1>(rings, false)), expected);
  EXPECT_EQ((SearchOnHost<kBits, 2>(rings, true)), expected);
}

TYPED_TEST(TrellisBlockTest, SharesNoMoreMemoryThanABlockOfAnA100Has) {
  EXPECT_LE(sizeof(TrellisBlock<TypeParam::value>), 163u << 10);
}

// No block is given more rings than it has room for, nor so many that another number would be done sooner.
TEST(TrellisRingsOfBlock, FillsTheDevice) {
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    for (const int64_t rings : {1, 31, 128, 448, 896, 100'000}) {
      const int of_block = TrellisRingsOfBlock(bits, rings, 132);
      EXPECT_TRUE(of_block == 1 || of_block == 2 || of_block == 4 || of_block == 8) << of_block;
      EXPECT_LE(of_block, MostTrellisRings(bits));
    }
  }
  EXPECT_EQ(TrellisRingsOfBlock(8, 128, 132), 1) << "4096 rows: one ring each";
  EXPECT_EQ(TrellisRingsOfBlock(8, 448, 132), 4) << "14336 rows: 112 blocks";
  EXPECT_EQ(TrellisRingsOfBlock(8, 100'000, 132), 8);
  EXPECT_EQ(TrellisRingsOfBlock(5, 100'000, 132), 2);
}

TEST(TrellisValueByBytes, IsTrellisValueForEveryState) {
  for (uint32_t state = 0; state < 65536; ++state) {
    ASSERT_EQ(TrellisValueByBytes<0>(state), TrellisValue(state, 0)) << state;
    ASSERT_EQ(TrellisValueByBytes<1>(state), TrellisValue(state, 1)) << state;
  }
}

TEST(TrellisTarget, RoundsTiesToEvenAndEndsAtTheLargestValue) {
  EXPECT_EQ(TrellisTarget(0.5f), 0);
  EXPECT_EQ(TrellisTarget(-1.5f), -2);
  EXPECT_EQ(TrellisTarget(509.6f), 510);
  EXPECT_EQ(TrellisTarget(1e30f), 510);
  EXPECT_EQ(TrellisTarget(-1e30f), -510);
}

}  // namespace
}  // namespace qamserve
