// What a block of the GPU does with packed codes and 64 tokens, its threads run one after the other and the matrix
// instruction modelled: the bits of the scalar reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/kernels/cuda/packed_plan.h"
#include "core/kernels/cuda/packed_wide_block.h"
#include "tests/core/kernels/matmul_problems.h"
#include "tests/core/kernels/warps_in_turn.h"

namespace qamserve {
namespace {

// As MakeFragments of matmul.cc.
std::vector<TwoWords> Fragments(const PackedProblem& p) {
  const int64_t steps = (TilesAcross(p.cols) + kStepTiles - 1) / kStepTiles;
  const int64_t count = steps * FragmentStepBytes(kWideTokens) / static_cast<int64_t>(sizeof(TwoWords));
  std::vector<TwoWords> out;
  for (int64_t first = 0; first < p.tokens; first += kWideTokens) {
    PackedInput group = p.x;
    group.q += first * p.x.stride;
    group.tokens = std::min<int64_t>(kWideTokens, p.tokens - first);
    for (int64_t i = 0; i < count; ++i) {
      out.emplace_back();
      MakeFragment(group, PaddedCols(p.cols), kWideTokens, i, out.back().of);
    }
  }
  return out;
}

constexpr float kUntouched = -3;

template <typename Decoder>
std::vector<float> Multiply(const PackedProblem& p, int warps, int64_t strip_begin, int64_t strip_end) {
  using Block = PackedWideBlock<Decoder>;
  std::vector<FourWords> codes(p.codes.size() / sizeof(FourWords));  // for their alignment
  std::copy(p.codes.begin(), p.codes.end(), reinterpret_cast<uint8_t*>(codes.data()));
  const std::vector<TwoWords> fragments = Fragments(p);
  std::vector<float> y(static_cast<size_t>(p.tokens * p.rows), kUntouched);
  PackedWideArgs args{p.w, reinterpret_cast<const unsigned char*>(fragments.data()), p.scale.data(), p.tokens};
  args.w.codes = reinterpret_cast<const uint8_t*>(codes.data());
  args.y = y.data();
  args.y_stride = p.rows;
  args.strip_begin = strip_begin;
  args.strip_end = strip_end;
  args.warps = warps;
  for (int64_t block = 0; block < Block::Blocks(args); ++block) {
    SharedInTurn shared(Block::SharedBytes(warps));
    Block::Run(args, block, shared.data(), WarpsInTurn(warps, block % 2 == 1));
    EXPECT_TRUE(shared.is_whole()) << "beyond shared memory";
  }
  return y;
}

template <typename Decoder>
void ExpectTheReference(Codec codec) {
  const TensorFormat format{codec, Decoder::kBitsOfRate};
  struct Shape {
    int64_t rows, cols, tokens;
    int warps;
  };
  // One tile; a block cut short, a group of one token; steps cut short and an odd number of them; idle warps.
  for (const Shape& s : {Shape{1, 1, 64, 1}, {33, 576, 65, 2}, {70, 700, 40, 4}, {40, 1090, 130, 1}}) {
    const PackedProblem p(format, s.rows, s.cols, s.tokens);
    ASSERT_EQ(Multiply<Decoder>(p, s.warps, 0, StripsDown(s.rows)), p.Reference())
        << format.pair_bits << " bits, " << s.rows << " x " << s.cols << ", " << s.tokens << " tokens";
  }
}

TEST(PackedWide, TablesGiveTheBitsOfTheReference) {
  ExpectTheReference<TableDecoder<5>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<6>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<7>>(Codec::kPolar);
  ExpectTheReference<TableDecoder<8>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<9>>(Codec::kScalar);
  ExpectTheReference<TableDecoder<10>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<11>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<12>>(Codec::kUniform);
}

TEST(PackedWide, TrellisesGiveTheBitsOfTheReference) {
  ExpectTheReference<TrellisDecoder<5>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<6>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<7>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<8>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<9>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<10>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<11>>(Codec::kTrellis);
}

TEST(PackedWide, PartOfTheStripsLeavesTheOthersAlone) {
  const PackedProblem p({Codec::kJoint, 8}, 150, 100, 64);
  const std::vector<float> got = Multiply<TableDecoder<8>>(p, 2, 1, 4), expected = p.Reference();
  for (size_t i = 0; i < got.size(); ++i) {
    const bool inside = i % 150 >= 32 && i % 150 < 128;
    ASSERT_EQ(got[i], inside ? expected[i] : kUntouched) << i;
  }
}

// The largest weights times the largest activations in every place: sums are at what the instruction may hold.
TEST(PackedWide, TheLargestSumsAreExact) {
  PackedProblem p({Codec::kUniform, 12}, 32, 512, 64);
  int32_t most = 0, code = 0;
  for (size_t i = 0; i < p.table.size(); ++i) {
    const int32_t x = static_cast<int16_t>(p.table[i] & 0xffff), y = p.table[i] >> 16;
    if (x + y <= most) continue;
    most = x + y;
    code = static_cast<int32_t>(i);
  }
  std::fill(p.codes.begin(), p.codes.end(), uint8_t{0});
  for (int64_t tile = 0; tile < TilesAcross(512); ++tile) {
    for (int row = 0; row < kTileRows; ++row) {
      for (int pair = 0; pair < kTilePairs; ++pair) {
        PackCode(p.codes.data() + tile * TileBytes(12), 12, row, pair, static_cast<uint32_t>(code));
      }
    }
  }
  std::fill(p.q.begin(), p.q.end(), int16_t{63 * 128 + 63});  // both parts are 63; one can be 64, not both
  EXPECT_EQ(Multiply<TableDecoder<12>>(p, 1, 0, 1), p.Reference());
}

template <typename Decoder>
PackedNeeds NeedsOf(std::initializer_list<int64_t> narrow) {
  PackedNeeds needs;
  std::copy(narrow.begin(), narrow.end(), needs.narrow);
  needs.wide = PackedWideBlock<Decoder>::SharedBytes(kMostWideWarps);
  needs.wide_half = PackedWideBlock<Decoder>::SharedBytes(kMostWideWarps / 2);
  return needs;
}

// Every token is in one group of a kernel that fits, and the scratch memory holds the fragments of all.
TEST(PackedPlan, CoversEveryTokenOnce) {
  constexpr int64_t kK = 1024;
  const PackedNeeds needs = NeedsOf<TableDecoder<11>>({84 * kK, 103 * kK, 140 * kK, 140 * kK, 212 * kK});
  for (const PackedRoom room : {PackedRoom{163 * kK, 108}, PackedRoom{227 * kK, 132}, PackedRoom{100 * kK, 128}}) {
    for (const int64_t strips : {1, 32, 128, 448}) {
      for (int64_t tokens = 1; tokens < 400; ++tokens) {
        const PackedPlan plan = PlanPacked(tokens, strips, needs, room);
        ASSERT_GT(plan.narrow, 0);
        ASSERT_EQ(plan.wide_tokens, std::min(tokens, plan.wide_groups * kWideTokens));
        const int64_t rest = tokens - plan.wide_tokens;
        int at = 0;
        while (1 << at < plan.narrow) ++at;
        ASSERT_EQ(1 << at, plan.narrow);
        ASSERT_LE(needs.narrow[at], room.shared_bytes);
        ASSERT_TRUE(plan.narrow >= rest || plan.narrow == kMostNarrowTokens ||
                    needs.narrow[at + 1] > room.shared_bytes);
        if (plan.wide_groups > 0) {
          ASSERT_GE(tokens, kWideTokens);
          ASSERT_LE(plan.wide_warps == kMostWideWarps ? needs.wide : needs.wide_half, room.shared_bytes);
        }
        const int64_t narrow_groups = (rest + plan.narrow - 1) / plan.narrow;
        const int64_t fragments = plan.wide_groups * kWideTokens + narrow_groups * plan.narrow;
        ASSERT_LE(PackedSteps(4096) * FragmentStepBytes(1) * fragments, PackedScratchBytes(4096, tokens)) << tokens;
      }
    }
  }
}

// Prompts go by 64 where they fill the device, and single tokens never.
TEST(PackedPlan, FillsTheDevice) {
  const PackedNeeds needs = NeedsOf<TableDecoder<8>>({0, 0, 0, 0, 0});
  const PackedRoom h100{227 * 1024, 132};
  EXPECT_EQ(PlanPacked(63, 448, needs, h100).wide_groups, 0);
  EXPECT_EQ(PlanPacked(64, 128, needs, h100).wide_groups, 0) << "32 blocks of half the warps";
  EXPECT_EQ(PlanPacked(64, 448, needs, h100).wide_groups, 1);
  EXPECT_EQ(PlanPacked(64, 448, needs, h100).wide_warps, kMostWideWarps / 2);
  EXPECT_EQ(PlanPacked(512, 448, needs, h100).wide_warps, kMostWideWarps);
  EXPECT_EQ(PlanPacked(90, 448, needs, h100).wide_groups, 1);
  EXPECT_EQ(PlanPacked(97, 448, needs, h100).wide_groups, 2) << "more than half of a group is one";
  const PackedNeeds most = NeedsOf<TableDecoder<12>>({0, 0, 0, 0, 0});
  EXPECT_EQ(PlanPacked(512, 448, most, {200 * 1024, 132}).wide_warps, kMostWideWarps / 2) << "room for no more";
  EXPECT_EQ(PlanPacked(512, 448, most, {163 * 1024, 108}).wide_groups, 0) << "an A100";
  EXPECT_EQ(PlanPacked(512, 448, needs, {64 * 1024, 108}).wide_groups, 0) << "no room";
}

// A block that is given its room fits the devices that it is meant for.
template <typename Decoder>
void ExpectRoom(int64_t whole, int64_t half) {
  EXPECT_LE(PackedWideBlock<Decoder>::SharedBytes(kMostWideWarps), whole);
  EXPECT_LE(PackedWideBlock<Decoder>::SharedBytes(kMostWideWarps / 2), half);
}

TEST(PackedWide, BlocksFitWhereTheyAreMeantTo) {
  constexpr int64_t kA100 = 163 * 1024, kH100 = 227 * 1024;
  ExpectRoom<TableDecoder<5>>(kA100, kA100);
  ExpectRoom<TableDecoder<8>>(kA100, kA100);
  ExpectRoom<TableDecoder<11>>(kA100, kA100);
  ExpectRoom<TableDecoder<12>>(kH100, kH100);
  ExpectRoom<TrellisDecoder<5>>(kA100, kA100);
  ExpectRoom<TrellisDecoder<8>>(kA100, kA100);
}

}  // namespace
}  // namespace qamserve
