// The trellis search on a GPU: the same codes as on the CPU, for every rate and for numbers of rings that leave blocks
// part empty.
#include <gtest/gtest.h>

#include "core/kernels/cuda/device.h"
#include "core/kernels/cuda/trellis_search.h"
#include "tests/core/kernels/trellis_rings.h"

namespace qamserve {
namespace {

class CudaTrellis : public testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<CudaPlatform> platform = FindCudaDevices();
    if (!platform.ok()) GTEST_SKIP() << "no GPU: " << platform.status().message();
    absl::StatusOr<CudaStream> stream = CudaStream::Create(platform->devices.front().ordinal);
    ASSERT_TRUE(stream.ok()) << stream.status();
    stream_ = std::make_unique<CudaStream>(*std::move(stream));
  }
  std::unique_ptr<CudaStream> stream_;
};

TEST_F(CudaTrellis, FindsTheCodesOfTheReference) {
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    for (int count : {1, 8, 300}) {
      const TrellisRings rings(count, bits, static_cast<uint64_t>(count));
      std::vector<uint16_t> codes(rings.x.size(), 0xffff);
      const absl::Status status = CudaTrellisSearch(bits, rings.x, rings.y, codes, *stream_);
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(codes, rings.Search(bits)) << bits << " bits, " << count << " rings";
    }
  }
}

TEST_F(CudaTrellis, RefusesWhatItCannotSearch) {
  std::vector<float> x(32), y(32);
  std::vector<uint16_t> codes(32);
  EXPECT_EQ(ReasonOf(CudaTrellisSearch(12, x, y, codes, *stream_)), "BPW_RANGE");
  codes.resize(31);
  EXPECT_EQ(ReasonOf(CudaTrellisSearch(8, x, y, codes, *stream_)), "TRELLIS_SHAPE");
  EXPECT_TRUE(CudaTrellisSearch(8, {}, {}, {}, *stream_).ok());
}

}  // namespace
}  // namespace qamserve
