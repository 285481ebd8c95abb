// Tensors quantized on a GPU: the bytes and outcomes of the CPU.
#include <gtest/gtest.h>

#include "tests/core/kernels/cuda_fixture.h"
#include "tests/core/quantize/cuda/encode_problem.h"

namespace qamserve {
namespace {

class CudaEncoderTest : public CudaTest {
 protected:
  // In panels of `panel_rows`.
  EncodeResult OnDevice(const EncodeProblem& p, int64_t panel_rows) {
    EncodeResult out(p.method().format, p.rows(), p.cols());
    std::optional<CudaFactor> factor;
    if (p.feedback() != nullptr) {
      auto made = CudaFactor::Create("g", p.outer(), p.scale(), p.rotation(), stream());
      EXPECT_TRUE(made.ok()) << made.status();
      if (!made.ok()) return out;
      factor = *std::move(made);
    }
    auto encoder =
        CudaEncoder::Create({p.method().format, p.rotation(), p.scale(), p.mean_square(), factor ? &*factor : nullptr},
                            panel_rows, stream());
    EXPECT_TRUE(encoder.ok()) << encoder.status();
    if (!encoder.ok()) return out;
    const auto bytes = static_cast<size_t>(CodesStripBytes(p.method().format, p.cols()));
    const auto n = static_cast<size_t>(p.cols()), all = static_cast<size_t>(p.rows());
    const auto step = static_cast<size_t>(panel_rows);
    for (size_t first = 0; first < all; first += step) {
      const size_t count = std::min(step, all - first), strip = first / kTileRows;
      const auto strips = static_cast<size_t>(StripsDown(static_cast<int64_t>(count)));
      const absl::Status status = encoder->Encode(
          std::span(p.weights()).subspan(first * n, count * n), std::span(out.norms).subspan(first, count),
          std::span(out.packed).subspan(strip * bytes, strips * bytes), std::span(out.outcomes).subspan(strip, strips));
      EXPECT_TRUE(status.ok()) << status;
    }
    return out;
  }

  void ExpectTheCpu(const EncodeMethod& method, int64_t rows, int64_t cols, int64_t panel_rows) {
    const EncodeProblem problem(method, rows, cols);
    ExpectSame(OnDevice(problem, panel_rows), problem.OnCpu(), problem.Describe());
  }
};

TEST_F(CudaEncoderTest, GivesTheBytesOfTheCpuAtEveryRate) {
  for (const EncodeMethod& method : EncodeMethods()) ExpectTheCpu(method, 70, 144, 70);
}

TEST_F(CudaEncoderTest, GivesTheBytesOfTheCpuInEveryShape) {
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 2}, {33, 64}, {300, 576}, {65, 1536}, {40, 4096}}) {
    ExpectTheCpu({{Codec::kJoint, 11}}, rows, cols, rows);
    ExpectTheCpu({{Codec::kJoint, 7}, true, true}, rows, cols, rows);
  }
  ExpectTheCpu({{Codec::kJoint, 9}, false, false, RotationKind::kNone}, 4, 37, 4);
}

TEST_F(CudaEncoderTest, PanelsDoNotMatter) {
  ExpectTheCpu({{Codec::kJoint, 9}, true, true}, 200, 144, 64);
  ExpectTheCpu({{Codec::kTrellis, 8}, true, true}, 200, 64, 64);
  ExpectTheCpu({{Codec::kTrellis, 8}}, 200, 64, 96);
}

TEST_F(CudaEncoderTest, RefusesWhatItCannotEncode) {
  EncodeProblem problem({{Codec::kJoint, 8}}, 40, 64);
  auto encoder = CudaEncoder::Create({problem.method().format, problem.rotation(), {}, {}}, 40, stream());
  ASSERT_TRUE(encoder.ok()) << encoder.status();
  EncodeResult out(problem.method().format, 40, 64);
  EXPECT_EQ(ReasonOf(encoder->Encode(problem.weights(), std::span(out.norms).first(39), out.packed, out.outcomes)),
            "CUDA_PANEL");
  for (size_t i = 35 * 64; i < 36 * 64; ++i) problem.weights()[i] = 3e6f;
  const absl::Status status = encoder->Encode(problem.weights(), out.norms, out.packed, out.outcomes);
  EXPECT_EQ(ReasonOf(status), "TENSOR_RANGE");
  EXPECT_NE(MessageOf(status).find("row 35"), std::string::npos) << status;
}

}  // namespace
}  // namespace qamserve
