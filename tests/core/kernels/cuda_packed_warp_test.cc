// What a warp of the GPU does with packed codes, its 32 lanes run one after the other and the matrix instruction
// modelled: the bits of the scalar reference.
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <vector>

#include "core/codec/half.h"
#include "core/kernels/cuda/packed_warp.h"
#include "tests/core/kernels/matmul_problems.h"
#include "tests/core/kernels/mma_model.h"

namespace qamserve {
namespace {

template <typename Decoder>
typename Decoder::Lane ReadLane(const uint8_t* tile, int g) {
  using Lane = typename Decoder::Lane;
  Lane lane{};
  for (int i = 0; i < Lane::kRows; ++i) {
    const int row = (kLaneRows * g + i - Lane::kBack) & (kTileRows - 1);
    const auto word = [&](int line) {
      uint32_t bytes;
      std::memcpy(&bytes, tile + kTileLine * line + 4 * row, 4);
      return bytes;
    };
    for (int line = 0; line < Lane::kBaseLines; ++line) lane.base[line][i] = word(line);
    for (int e = 0; e < Lane::kExtra; ++e) lane.extra[e][i] = word(Lane::kBaseLines + e);
  }
  return lane;
}

template <typename Decoder>
std::vector<unsigned char> SharedTable(const std::vector<int32_t>& table) {
  std::vector<unsigned char> shared(Decoder::kTableBytes);
  for (int thread = 0; thread < 7; ++thread) FillTable<Decoder>(table.data(), shared.data(), thread, 7);
  return shared;
}

// A word of the fragments of B of a step and k-step.
uint32_t Fragment(const PackedProblem& p, int64_t step, int s, int column, int t, int i) {
  uint32_t words[2];
  const int tokens = static_cast<int>(p.tokens) + 1;  // the last one is not there
  const int64_t at = ((step * kMmaSteps + s) * (2 * tokens) + column) * kStepTiles + t;
  MakeFragment(p.x, PaddedCols(p.cols), tokens, at, words);
  return words[i];
}

// Sums of rows and tokens over one step, [32][4].
template <typename Decoder>
std::vector<int32_t> StepSums(const PackedProblem& p, int64_t strip, int64_t step,
                              const std::vector<unsigned char>& table) {
  std::vector<Lane32> halves[2] = {std::vector<Lane32>(32), std::vector<Lane32>(32)};
  const int64_t tiles = TilesAcross(p.cols);
  for (int v = 0; v < kPairGroups; ++v) {
    uint32_t out[32][kLaneRows][kGroupPairs];
    for (int lane = 0; lane < 32; ++lane) {
      const int64_t tile = std::min(step * kStepTiles + lane % 4, tiles - 1);
      const uint8_t* bytes =
          p.codes.data() + strip * StripBytes(p.cols, Decoder::kBitsOfRate) + tile * TileBytes(Decoder::kBitsOfRate);
      Decoder::Decode(ReadLane<Decoder>(bytes, lane / 4), v, static_cast<uint32_t>(4 * lane), table.data(), out[lane]);
    }
    for (int k = 0; k < 2; ++k) {
      for (int h = 0; h < 2; ++h) {
        for (int lane = 0; lane < 32; ++lane) {
          Lane32& l = halves[h][static_cast<size_t>(lane)];
          for (int i = 0; i < 4; ++i) l.a[i] = out[lane][2 * h + i % 2][2 * k + i / 2];
          for (int i = 0; i < 2; ++i) {
            const bool there = lane / 4 < 2 * (p.tokens + 1);
            l.b[i] = there ? Fragment(p, step, 2 * v + k, lane / 4, lane % 4, i) : 0;
          }
        }
        ModelOfMma(halves[h]);
      }
    }
  }
  std::vector<int32_t> sums(32 * 4);
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < kLaneRows; ++i) {
      const float* c = halves[i / 2][static_cast<size_t>(lane)].c + 2 * (i % 2);
      const int row = kLaneRows * (lane / 4) + i, at = 4 * row + lane % 4;
      sums[static_cast<size_t>(at)] = StepSum(c[0], c[1]);
    }
  }
  return sums;
}

template <typename Decoder>
std::vector<float> Multiply(const PackedProblem& p) {
  const std::vector<unsigned char> table = SharedTable<Decoder>(p.table);
  const auto steps = static_cast<int>((TilesAcross(p.cols) + kStepTiles - 1) / kStepTiles);
  std::vector<float> y(static_cast<size_t>(p.tokens * p.rows), -1);
  for (int64_t strip = 0; strip < StripsDown(p.rows); ++strip) {
    std::vector<std::vector<int32_t>> sums;
    sums.reserve(static_cast<size_t>(steps));
    for (int step = 0; step < steps; ++step) sums.push_back(StepSums<Decoder>(p, strip, step, table));
    for (int64_t row = strip * kTileRows; row < std::min(p.rows, (strip + 1) * kTileRows); ++row) {
      for (int64_t token = 0; token < p.tokens; ++token) {
        const int64_t at = row % kTileRows * 4 + token;
        float total = 0;
        for (int first = 0; first < steps; first += kRoundSteps) {
          total = AddRound(total, std::min(kRoundSteps, steps - first), [&](int i) {
            const int step = first + i;
            return sums[static_cast<size_t>(step)][static_cast<size_t>(at)];
          });
        }
        y[static_cast<size_t>(token * p.rows + row)] =
            total * (p.row_scale[static_cast<size_t>(row)] * p.scale[static_cast<size_t>(token)]);
      }
    }
  }
  return y;
}

template <typename Decoder>
void ExpectTheReference(Codec codec) {
  const TensorFormat format{codec, Decoder::kBitsOfRate};
  // One tile; steps cut short; an odd number of steps; more than a round.
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {33, 576}, {32, 700}, {5, 4420}}) {
    const PackedProblem p(format, rows, cols, cols == 576 ? 4 : 2);
    ASSERT_EQ(Multiply<Decoder>(p), p.Reference()) << format.pair_bits << " bits, " << rows << " x " << cols;
  }
}

TEST(PackedWarp, TablesGiveTheBitsOfTheReference) {
  ExpectTheReference<TableDecoder<5>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<6>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<7>>(Codec::kPolar);
  ExpectTheReference<TableDecoder<8>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<9>>(Codec::kScalar);
  ExpectTheReference<TableDecoder<10>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<11>>(Codec::kJoint);
  ExpectTheReference<TableDecoder<12>>(Codec::kUniform);
}

TEST(PackedWarp, TrellisesGiveTheBitsOfTheReference) {
  ExpectTheReference<TrellisDecoder<5>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<6>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<7>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<8>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<9>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<10>>(Codec::kTrellis);
  ExpectTheReference<TrellisDecoder<11>>(Codec::kTrellis);
}

// Every place of a tile, against the packing code itself.
template <typename Decoder>
void ExpectCodes() {
  constexpr int kBits = Decoder::kBitsOfRate;
  Rng rng(kBits);
  std::vector<uint8_t> tile(static_cast<size_t>(TileBytes(kBits)));
  for (uint8_t& byte : tile) byte = static_cast<uint8_t>(rng.NextU64());
  for (int g = 0; g < kTileRows / kLaneRows; ++g) {
    const auto lane = ReadLane<Decoder>(tile.data(), g);
    for (int row = 0; row < kLaneRows; ++row) {
      for (int pair = 0; pair < kTilePairs; ++pair) {
        ASSERT_EQ(Decoder::State(lane, Decoder::kBack + row, pair / 4, pair % 4) & 0xffffu,
                  TrellisState(tile.data(), kBits, kLaneRows * g + row, pair))
            << kBits << " bits, row " << kLaneRows * g + row << ", pair " << pair;
      }
    }
  }
}

TEST(PackedWarp, StatesAreThoseOfTheRing) {
  ExpectCodes<TrellisDecoder<5>>();
  ExpectCodes<TrellisDecoder<6>>();
  ExpectCodes<TrellisDecoder<7>>();
  ExpectCodes<TrellisDecoder<8>>();
  ExpectCodes<TrellisDecoder<9>>();
  ExpectCodes<TrellisDecoder<10>>();
  ExpectCodes<TrellisDecoder<11>>();
}

TEST(PackedWarp, EveryStateIsAHalfOfItsValues) {
  for (uint32_t state = 0; state < 65536; ++state) {
    const uint32_t halves = TrellisHalves(state | 0xabcd0000u);
    ASSERT_EQ(LowHalf(halves), static_cast<float>(TrellisValue(state, 0))) << state;
    ASSERT_EQ(HighHalf(halves), static_cast<float>(TrellisValue(state, 1))) << state;
  }
}

template <typename Decoder>
void ExpectOwnPlaces() {
  std::set<uint32_t> places;
  for (uint32_t i = 0; i < Decoder::kEntries; ++i) {
    EXPECT_EQ(Decoder::TableOffset(i) % 128, 0u) << "lane l's copy must be in bank l";
    EXPECT_LE(Decoder::TableOffset(i) + 128, Decoder::kTableBytes);
    EXPECT_TRUE(places.insert(Decoder::TableOffset(i)).second) << i;
  }
}

TEST(PackedWarp, EveryEntryOfATableHasAPlaceOfItsOwnInEveryBank) {
  ExpectOwnPlaces<TableDecoder<5>>();
  ExpectOwnPlaces<TableDecoder<7>>();
  ExpectOwnPlaces<TableDecoder<8>>();
  ExpectOwnPlaces<TableDecoder<9>>();
  ExpectOwnPlaces<TableDecoder<10>>();
  ExpectOwnPlaces<TableDecoder<11>>();
  ExpectOwnPlaces<TableDecoder<12>>();
}

// What lets float sums of a step be exact, whatever the instruction's order of adding.
TEST(PackedWarp, PartsOfActivationsAreSmallEnough) {
  int most = 0;
  for (int q = -kMaxActivation; q <= kMaxActivation; ++q) {
    ASSERT_EQ(128 * ActivationPart(q, 0) + ActivationPart(q, 1), q);
    for (int part : {0, 1}) most = std::max(most, std::abs(ActivationPart(q, part)));
  }
  EXPECT_EQ(most, 64);
  EXPECT_LT(int64_t{most} * kTrellisMaxValue * kStepCols, int64_t{1} << 23);
}

// Each activation of a step is in exactly one place.
TEST(PackedWarp, FragmentsCoverAStep) {
  std::multiset<int64_t> cols;
  for (int s = 0; s < kMmaSteps; ++s) {
    for (int t = 0; t < kStepTiles; ++t) {
      for (int i = 0; i < 4; ++i) cols.insert(FragmentCol(3, s, t) + i);
    }
  }
  ASSERT_EQ(cols.size(), static_cast<size_t>(kStepCols));
  int64_t expected = 3 * kStepCols;
  for (int64_t col : cols) EXPECT_EQ(col, expected++);
}

}  // namespace
}  // namespace qamserve
