// The trellis search on a GPU: the same codes as on the CPU, for every rate and for numbers of rings that leave blocks
// part empty.
#include <gtest/gtest.h>

#include "core/kernels/cuda/trellis_search.h"
#include "tests/core/kernels/cuda_fixture.h"
#include "tests/core/kernels/trellis_rings.h"

namespace qamserve {
namespace {

using CudaTrellis = CudaTest;

TEST_F(CudaTrellis, FindsTheCodesOfTheReference) {
  for (int bits = kMinTrellisPairBits; bits <= kMaxTrellisPairBits; ++bits) {
    for (int count : {1, 8, 300}) {
      const TrellisRings rings(count, bits, static_cast<uint64_t>(count));
      std::vector<uint16_t> codes(rings.x.size(), 0xffff);
      const absl::Status status = CudaTrellisSearch(bits, rings.x, rings.y, codes, stream());
      ASSERT_TRUE(status.ok()) << status;
      ASSERT_EQ(codes, rings.Search(bits)) << bits << " bits, " << count << " rings";
    }
  }
}

TEST_F(CudaTrellis, RefusesWhatItCannotSearch) {
  std::vector<float> x(32), y(32);
  std::vector<uint16_t> codes(32);
  EXPECT_EQ(ReasonOf(CudaTrellisSearch(12, x, y, codes, stream())), "BPW_RANGE");
  codes.resize(31);
  EXPECT_EQ(ReasonOf(CudaTrellisSearch(8, x, y, codes, stream())), "TRELLIS_SHAPE");
  EXPECT_TRUE(CudaTrellisSearch(8, {}, {}, {}, stream()).ok());
}

}  // namespace
}  // namespace qamserve
