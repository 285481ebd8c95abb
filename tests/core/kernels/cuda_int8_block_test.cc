// What a block of the GPU does with 8-bit weights, its threads run one after the other: the bits of the scalar
// reference.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "core/kernels/cuda/int8_block.h"
#include "tests/core/kernels/matmul_problems.h"
#include "tests/core/kernels/warps_in_turn.h"

namespace qamserve {
namespace {

constexpr float kUntouched = -3;
constexpr int64_t kGap = 5;  // floats between the rows of y, which must stay as they are

template <typename Args, int kTokens>
void RunBlocksOf(const Args& args, int64_t blocks) {
  using Block = Int8Block<Args, kTokens>;
  for (int64_t block = 0; block < blocks; ++block) {
    SharedInTurn shared(sizeof(typename Block::Shared));
    Block::Run(args, block, blocks, shared.data(), WarpsInTurn(kInt8Warps, block % 2 == 1));
    EXPECT_TRUE(shared.is_whole()) << "beyond shared memory";
  }
}

// By groups of 8 tokens and the kernels that QueueInt8 takes.
template <typename Args, typename Input>
std::vector<float> Multiply(const Int8Problem& p, const Input& x, int64_t blocks, int64_t strip_begin,
                            int64_t strip_end) {
  const int64_t stride = p.rows + kGap;
  std::vector<FourWords> data(p.data.size() / sizeof(FourWords));  // for their alignment
  std::copy(p.data.begin(), p.data.end(), reinterpret_cast<int8_t*>(data.data()));
  std::vector<float> y(static_cast<size_t>(p.tokens * stride), kUntouched);
  for (int64_t first = 0; first < p.tokens; first += 8) {
    Args args{p.w, x, y.data() + first * stride, stride, strip_begin, strip_end};
    args.w.data = reinterpret_cast<const int8_t*>(data.data());
    args.x.q += first * x.stride;
    args.x.scale += first;
    args.x.tokens = std::min<int64_t>(8, p.tokens - first);
    if (args.x.tokens == 1) {
      RunBlocksOf<Args, 1>(args, blocks);
    } else if (args.x.tokens == 2) {
      RunBlocksOf<Args, 2>(args, blocks);
    } else if (args.x.tokens <= 4) {
      RunBlocksOf<Args, 4>(args, blocks);
    } else {
      RunBlocksOf<Args, 8>(args, blocks);
    }
  }
  return y;
}

std::vector<float> Expected(const Int8Problem& p, const std::vector<float>& reference, int64_t begin, int64_t end) {
  std::vector<float> out(static_cast<size_t>(p.tokens * (p.rows + kGap)), kUntouched);
  for (int64_t token = 0; token < p.tokens; ++token) {
    for (int64_t row = begin; row < end; ++row) {
      out[static_cast<size_t>(token * (p.rows + kGap) + row)] = reference[static_cast<size_t>(token * p.rows + row)];
    }
  }
  return out;
}

// One tile; steps and strips cut short; three rounds, the last cut short, which blocks go through in turn.
TEST(Int8Block, GivesTheBitsOfTheReference) {
  struct Shape {
    int64_t rows, cols, blocks;
  };
  for (const Shape& s : {Shape{1, 1, 1}, {33, 576, 1}, {70, 700, 3}, {150, 4180, 2}}) {
    for (const int64_t tokens : {1, 2, 3, 8, 11, 16}) {
      const Int8Problem p(s.rows, s.cols, tokens);
      const int64_t strips = StripsDown(s.rows);
      ASSERT_EQ(Multiply<Int8MatmulArgs>(p, p.x, s.blocks, 0, strips), Expected(p, p.Reference(), 0, s.rows))
          << s.rows << " x " << s.cols << ", " << tokens << " tokens";
      ASSERT_EQ(Multiply<Int8WideMatmulArgs>(p, p.wide_x, s.blocks, 0, strips),
                Expected(p, p.WideReference(), 0, s.rows))
          << s.rows << " x " << s.cols << ", " << tokens << " tokens, 14 bits";
    }
  }
}

TEST(Int8Block, PartOfTheStripsLeavesTheOthersAlone) {
  const Int8Problem p(150, 300, 3);
  EXPECT_EQ(Multiply<Int8MatmulArgs>(p, p.x, 2, 1, 4), Expected(p, p.Reference(), 32, 128));
}

}  // namespace
}  // namespace qamserve
