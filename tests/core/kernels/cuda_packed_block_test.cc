// What a block of the GPU does with packed codes and up to 16 tokens, its threads run one after the other and the
// matrix instruction modelled: the bits of the scalar reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/kernels/cuda/packed_block.h"
#include "core/kernels/cuda/packed_plan.h"
#include "tests/core/kernels/matmul_problems.h"
#include "tests/core/kernels/warps_in_turn.h"

namespace qamserve {
namespace {

constexpr float kUntouched = -3;

// As QueueFragments makes them.
std::vector<FourWords> Fragments(const PackedProblem& p, int tokens) {
  const int64_t steps = (TilesAcross(p.cols) + kStepTiles - 1) / kStepTiles;
  const int64_t words = steps * FragmentStepBytes(tokens) / 4;
  std::vector<FourWords> out(static_cast<size_t>(words / 4));
  for (int64_t i = 0; i < words; i += 2) {
    uint32_t two[2];
    MakeFragment(p.x, PaddedCols(p.cols), tokens, i / 2, two);
    for (int64_t k : {0, 1}) out[static_cast<size_t>(i / 4)].of[(i + k) % 4] = two[k];
  }
  return out;
}

// Rows of y lie a few floats apart, which must stay as they are.
constexpr int64_t kGap = 5;

template <typename Decoder, int kTokens>
std::vector<float> MultiplyBy(const PackedProblem& p, int64_t blocks, int64_t strip_begin, int64_t strip_end) {
  using Block = PackedBlock<Decoder, kTokens>;
  std::vector<FourWords> codes(p.codes.size() / sizeof(FourWords));  // for their alignment
  std::copy(p.codes.begin(), p.codes.end(), reinterpret_cast<uint8_t*>(codes.data()));
  std::vector<FourWords> fragments = Fragments(p, kTokens);
  std::vector<float> y(static_cast<size_t>(p.tokens * (p.rows + kGap)), kUntouched);
  PackedMatmulArgs args{p.w, p.x, y.data(), p.rows + kGap, strip_begin, strip_end, fragments.data()};
  args.w.codes = reinterpret_cast<const uint8_t*>(codes.data());
  for (int64_t block = 0; block < blocks; ++block) {
    SharedInTurn shared(Block::kSharedBytes);
    Block::Run(args, block, blocks, shared.data(), WarpsInTurn(Block::kSteps, block % 2 == 1));
    EXPECT_TRUE(shared.is_whole()) << "beyond shared memory";
  }
  return y;
}

// By the kernel that PlanPacked would take.
template <typename Decoder>
std::vector<float> Multiply(const PackedProblem& p, int64_t blocks, int64_t strip_begin, int64_t strip_end) {
  if (p.tokens == 1) return MultiplyBy<Decoder, 1>(p, blocks, strip_begin, strip_end);
  if (p.tokens == 2) return MultiplyBy<Decoder, 2>(p, blocks, strip_begin, strip_end);
  if (p.tokens <= 4) return MultiplyBy<Decoder, 4>(p, blocks, strip_begin, strip_end);
  if (p.tokens <= 8) return MultiplyBy<Decoder, 8>(p, blocks, strip_begin, strip_end);
  return MultiplyBy<Decoder, 16>(p, blocks, strip_begin, strip_end);
}

std::vector<float> Expected(const PackedProblem& p, int64_t row_begin, int64_t row_end) {
  const std::vector<float> reference = p.Reference();
  std::vector<float> out(static_cast<size_t>(p.tokens * (p.rows + kGap)), kUntouched);
  for (int64_t token = 0; token < p.tokens; ++token) {
    for (int64_t row = row_begin; row < row_end; ++row) {
      out[static_cast<size_t>(token * (p.rows + kGap) + row)] = reference[static_cast<size_t>(token * p.rows + row)];
    }
  }
  return out;
}

struct Shape {
  int64_t rows, cols, blocks;
};
// One tile; a tile, a step and a strip cut short; three rounds of 8 steps, the last with an odd number, and two of 16;
// strips that blocks take in turn over two rounds, one block having more of them.
constexpr Shape kShapes[] = {{1, 1, 1}, {33, 576, 1}, {70, 700, 3}, {40, 4420, 1}, {150, 4100, 2}};

template <typename Decoder>
void ExpectTheReference(Codec codec, std::initializer_list<int64_t> token_counts) {
  const TensorFormat format{codec, Decoder::kBitsOfRate};
  for (const Shape& s : kShapes) {
    for (const int64_t tokens : token_counts) {
      const PackedProblem p(format, s.rows, s.cols, tokens);
      ASSERT_EQ(Multiply<Decoder>(p, s.blocks, 0, StripsDown(s.rows)), Expected(p, 0, s.rows))
          << format.pair_bits << " bits, " << s.rows << " x " << s.cols << ", " << tokens << " tokens";
    }
  }
}

TEST(PackedBlock, TablesGiveTheBitsOfTheReference) {
  ExpectTheReference<TableDecoder<5>>(Codec::kJoint, {1, 11});
  ExpectTheReference<TableDecoder<6>>(Codec::kJoint, {3, 16});
  ExpectTheReference<TableDecoder<8>>(Codec::kJoint, {1, 2, 3, 8, 11, 16});
  ExpectTheReference<TableDecoder<9>>(Codec::kScalar, {1, 8});
  ExpectTheReference<TableDecoder<11>>(Codec::kJoint, {1, 3, 8, 11, 16});
  ExpectTheReference<TableDecoder<12>>(Codec::kUniform, {8, 16});
}

TEST(PackedBlock, TrellisesGiveTheBitsOfTheReference) {
  ExpectTheReference<TrellisDecoder<5>>(Codec::kTrellis, {1, 3, 8, 11, 16});
  ExpectTheReference<TrellisDecoder<7>>(Codec::kTrellis, {3, 16});
  ExpectTheReference<TrellisDecoder<8>>(Codec::kTrellis, {1, 3, 8, 11, 16});
  ExpectTheReference<TrellisDecoder<11>>(Codec::kTrellis, {1, 11});
}

// check(Decoder<kFirst>()), check(Decoder<kFirst + 1>()), ...
template <template <int> class Decoder, int kFirst, typename Check, int... kMore>
void ForWidths(const Check& check, std::integer_sequence<int, kMore...>) {
  (check(Decoder<kFirst + kMore>()), ...);
}
template <typename Check>
void ForAllTables(const Check& check) {
  ForWidths<TableDecoder, kMinPairBits>(check, std::make_integer_sequence<int, kMaxPairBits - kMinPairBits + 1>());
}
template <typename Check>
void ForAllTrellises(const Check& check) {
  ForWidths<TrellisDecoder, kMinTrellisPairBits>(
      check, std::make_integer_sequence<int, kMaxTrellisPairBits - kMinTrellisPairBits + 1>());
}

TEST(PackedBlock, EightTokensGiveTheBitsOfTheReferenceAtEveryWidth) {
  ForAllTables([](auto decoder) { ExpectTheReference<decltype(decoder)>(Codec::kUniform, {5, 8}); });
  ForAllTrellises([](auto decoder) { ExpectTheReference<decltype(decoder)>(Codec::kTrellis, {5, 8}); });
}

TEST(PackedBlock, PartOfTheStripsLeavesTheOthersAlone) {
  const PackedProblem p({Codec::kJoint, 8}, 150, 100, 3);
  EXPECT_EQ(Multiply<TableDecoder<8>>(p, 2, 1, 4), Expected(p, 32, 128));
}

constexpr int64_t kA100 = 163 * 1024, kH100 = 227 * 1024;  // bytes that a block gets

// How many tokens the plan takes at a time, of `tokens` too few for the wide kernel, where a block gets `shared_bytes`.
template <typename Decoder>
int AtATime(int64_t tokens, int64_t shared_bytes) {
  const PackedNeeds needs{{PackedBlock<Decoder, 1>::kSharedBytes, PackedBlock<Decoder, 2>::kSharedBytes,
                           PackedBlock<Decoder, 4>::kSharedBytes, PackedBlock<Decoder, 8>::kSharedBytes,
                           PackedBlock<Decoder, 16>::kSharedBytes}};
  return PlanPacked(tokens, 128, needs, {shared_bytes, 108}).narrow;
}

// As matmul.h says: on an A100 a batch of 5 to 8 goes through all codes up to 11 bits once.
TEST(PackedBlock, ABatchGoesThroughTheCodesAsSeldomAsTheDeviceAllows) {
  ForAllTables([](auto decoder) {
    using Decoder = decltype(decoder);
    constexpr int kBits = Decoder::kBitsOfRate;
    for (int64_t tokens = 5; tokens <= 8; ++tokens) {
      EXPECT_EQ(AtATime<Decoder>(tokens, kA100), kBits <= 11 ? 8 : 1) << kBits << " bits, " << tokens << " tokens";
      EXPECT_EQ(AtATime<Decoder>(tokens, kH100), 8) << kBits << " bits, " << tokens << " tokens";
    }
    EXPECT_EQ(AtATime<Decoder>(16, kA100), kBits <= 5 ? 16 : kBits <= 11 ? 8 : 1) << kBits << " bits";
    EXPECT_EQ(AtATime<Decoder>(16, kH100), kBits <= 11 ? 16 : 8) << kBits << " bits";
    EXPECT_EQ(AtATime<Decoder>(1, kA100), 1) << kBits << " bits";
  });
  ForAllTrellises([](auto decoder) {
    using Decoder = decltype(decoder);
    EXPECT_EQ(AtATime<Decoder>(8, kA100), 8) << Decoder::kBitsOfRate << " bits";
    EXPECT_EQ(AtATime<Decoder>(16, kA100), 16) << Decoder::kBitsOfRate << " bits";
  });
}

}  // namespace
}  // namespace qamserve
