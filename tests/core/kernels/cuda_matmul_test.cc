// Packed and 8-bit products on a GPU: the bits of the scalar reference over ragged shapes, all rates and batches.
#include <gtest/gtest.h>

#include "core/codec/trellis.h"
#include "core/kernels/cuda/matmul.h"
#include "tests/core/kernels/cuda_fixture.h"
#include "tests/core/kernels/matmul_problems.h"

namespace qamserve {
namespace {

// One tile; steps and strips cut short; an odd number of steps; two rounds of columns; more strips than
// multiprocessors.
constexpr std::pair<int64_t, int64_t> kShapes[] = {{1, 1}, {33, 576}, {70, 700}, {40, 8500}, {9000, 320}};

class CudaMatmul : public CudaTest {
 protected:
  std::vector<float> Packed(const PackedProblem& p) {
    const CudaBuffer codes = Upload(p.codes), row_scale = Upload(p.row_scale), scale = Upload(p.scale), q = Upload(p.q);
    const CudaBuffer table = Upload(p.table), scratch = Allocate(CudaPackedScratchBytes(p.cols, p.tokens));
    const CudaBuffer y = Upload(std::vector<float>(static_cast<size_t>(p.tokens * p.rows), -3));
    PackedMatmulArgs args{p.w, p.x, y.as<float>(), p.rows, 0, StripsDown(p.rows), scratch.as<void>()};
    args.w.codes = codes.as<uint8_t>();
    args.w.row_scale = row_scale.as<float>();
    if (!p.table.empty()) args.w.table = table.as<int32_t>();
    args.x.q = q.as<int16_t>();
    args.x.scale = scale.as<float>();
    const absl::Status status = LaunchPackedMatmul(args, stream());
    EXPECT_TRUE(status.ok()) << status;
    return Download(y);
  }

  void ExpectPacked(const TensorFormat& format) {
    for (const auto& [rows, cols] : kShapes) {
      for (int64_t tokens : {1, 2, 3, 7, 8, 11, 16, 33}) {
        if (rows > 1000 && tokens != 1 && tokens != 8 && tokens != 16) continue;
        const PackedProblem p(format, rows, cols, tokens);
        ASSERT_EQ(Packed(p), p.Reference())
            << format.pair_bits << " bits, " << rows << " x " << cols << ", " << tokens << " tokens";
      }
    }
  }
};

TEST_F(CudaMatmul, CodebooksGiveTheBitsOfTheReference) {
  for (int bits = kMinPairBits; bits <= kMaxPairBits; ++bits) ExpectPacked({Codec::kJoint, bits});
}

TEST_F(CudaMatmul, TrellisesGiveTheBitsOfTheReference) {
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) ExpectPacked({Codec::kTrellis, bits});
}

// Groups of 64 tokens, with a rest that is a group too, one that is not, and none; blocks of 8 warps and of 4, the last
// of them cut short.
TEST_F(CudaMatmul, PromptsGiveTheBitsOfTheReference) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{9000, 320}, {21000, 700}, {4104, 64}}) {
    for (int64_t tokens : {64, 77, 101, 200}) {
      for (const TensorFormat format : {TensorFormat{Codec::kJoint, 6},
                                        {Codec::kJoint, 9},
                                        {Codec::kJoint, 11},
                                        {Codec::kTrellis, 5},
                                        {Codec::kTrellis, 8},
                                        {Codec::kTrellis, 11}}) {
        if (rows > 10000 && (tokens != 77 || format.pair_bits % 3 != 2)) continue;  // the reference is slow
        const PackedProblem p(format, rows, cols, tokens);
        ASSERT_EQ(Packed(p), p.Reference())
            << format.pair_bits << " bits, " << rows << " x " << cols << ", " << tokens << " tokens";
      }
    }
  }
}

TEST_F(CudaMatmul, PartOfTheStripsLeavesTheOthersAlone) {
  const PackedProblem p({Codec::kJoint, 11}, 130, 576, 2);
  const CudaBuffer codes = Upload(p.codes), row_scale = Upload(p.row_scale), scale = Upload(p.scale), q = Upload(p.q);
  const CudaBuffer table = Upload(p.table), scratch = Allocate(CudaPackedScratchBytes(p.cols, p.tokens));
  const CudaBuffer y = Upload(std::vector<float>(260, -3));
  const PackedMatrix w{codes.as<uint8_t>(), row_scale.as<float>(), table.as<int32_t>(), 11, 130, 576};
  const PackedInput x{q.as<int16_t>(), p.x.stride, scale.as<float>(), 2};
  ASSERT_TRUE(LaunchPackedMatmul({w, x, y.as<float>(), 130, 1, 3, scratch.as<void>()}, stream()).ok());
  const std::vector<float> got = Download(y), expected = p.Reference();
  for (size_t i = 0; i < got.size(); ++i) {
    const bool inside = i % 130 >= 32 && i % 130 < 96;
    EXPECT_EQ(got[i], inside ? expected[i] : -3) << i;
  }
}

// Layers that share an input, and an input that changes where it lies.
TEST_F(CudaMatmul, FragmentsThatAreHeldServeOtherMatrices) {
  const TensorFormat format{Codec::kJoint, 9};
  const PackedProblem first(format, 70, 700, 5), second(format, 33, 700, 5);
  const CudaBuffer scratch = Allocate(CudaPackedScratchBytes(700, 5)), scale = Upload(first.scale);
  const CudaBuffer q = Upload(first.q), table = Upload(first.table);
  PackedFragments held;
  for (const PackedProblem* p : {&first, &second}) {
    const CudaBuffer codes = Upload(p->codes), row_scale = Upload(p->row_scale);
    const CudaBuffer y = Upload(std::vector<float>(static_cast<size_t>(5 * p->rows), -3));
    PackedMatmulArgs args{p->w, first.x, y.as<float>(), p->rows, 0, StripsDown(p->rows), scratch.as<void>()};
    args.w.codes = codes.as<uint8_t>();
    args.w.row_scale = row_scale.as<float>();
    args.w.table = table.as<int32_t>();
    args.x.q = q.as<int16_t>();
    args.x.scale = scale.as<float>();
    ASSERT_TRUE(LaunchPackedMatmul(args, stream(), &held).ok());
    EXPECT_EQ(held.q, args.x.q);
    const std::vector<float> got = Download(y);
    std::vector<float> expected(got.size());
    alignas(64) char room[kPackedScratchBytes];
    ScalarKernels().packed_matmul({p->w, first.x, expected.data(), p->rows, 0, StripsDown(p->rows), room});
    EXPECT_EQ(got, expected);
  }
}

TEST_F(CudaMatmul, BytesGiveTheBitsOfTheReference) {
  for (const auto& [rows, cols] : kShapes) {
    for (int64_t tokens : {1, 2, 3, 7, 8, 11, 16, 33}) {
      const Int8Problem p(rows, cols, tokens);
      const CudaBuffer data = Upload(p.data), row_scale = Upload(p.row_scale), scale = Upload(p.scale);
      const CudaBuffer q = Upload(p.q), wide = Upload(p.wide);
      const CudaBuffer y = Upload(std::vector<float>(static_cast<size_t>(tokens * rows), -3));
      const Int8Matrix w{data.as<int8_t>(), row_scale.as<float>(), rows, cols};
      const Int8Input x{q.as<int8_t>(), p.x.stride, scale.as<float>(), tokens};
      absl::Status status = LaunchInt8Matmul({w, x, y.as<float>(), rows, 0, StripsDown(rows)}, stream());
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(Download(y), p.Reference()) << rows << " x " << cols << ", " << tokens << " tokens";
      const PackedInput wide_x{wide.as<int16_t>(), p.x.stride, scale.as<float>(), tokens};
      status = LaunchInt8WideMatmul({w, wide_x, y.as<float>(), rows, 0, StripsDown(rows)}, stream());
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(Download(y), p.WideReference()) << rows << " x " << cols << ", " << tokens << " tokens, 14 bits";
    }
  }
}

TEST_F(CudaMatmul, RefusesWhatItCannotMultiply) {
  const CudaBuffer any = Allocate(1024);
  PackedMatmulArgs packed{{any.as<uint8_t>(), any.as<float>(), nullptr, 12, 1, 64},
                          {any.as<int16_t>(), 64, any.as<float>(), 1},
                          any.as<float>(),
                          1,
                          0,
                          1,
                          any.as<void>()};
  EXPECT_EQ(ReasonOf(LaunchPackedMatmul(packed, stream())), "CUDA_MATMUL") << "no trellis has 12 bits";
  packed.w.pair_bits = 8;
  packed.w.codes += 4;
  EXPECT_EQ(ReasonOf(LaunchPackedMatmul(packed, stream())), "CUDA_MATMUL") << "alignment";
  const Int8Matrix wide{any.as<int8_t>(), any.as<float>(), 1, kInt8BlockCols + 64};
  const Int8Input x{any.as<int8_t>(), kInt8BlockCols + 64, any.as<float>(), 1};
  EXPECT_EQ(ReasonOf(LaunchInt8Matmul({wide, x, any.as<float>(), 1, 0, 1}, stream())), "CUDA_MATMUL");
}

}  // namespace
}  // namespace qamserve
