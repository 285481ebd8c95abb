// The fuzzers' targets over their seeds and small changes of them. A target that fails ends this process.
#include <gtest/gtest.h>

#include "core/base/rng.h"
#include "tests/fuzz/targets.h"

namespace qamserve {
namespace {

// A few bytes changed, a piece cut out, doubled or overwritten.
std::string Changed(const std::string& seed, Rng& rng) {
  std::string input = seed;
  const auto below = [&rng](size_t n) { return static_cast<size_t>(rng.NextU64() % std::max<size_t>(1, n)); };
  for (size_t i = 0; i < 1 + below(3) && !input.empty(); ++i) {
    // Most of what is looked at stands in the first kilobytes.
    const size_t at = below(below(2) == 0 ? input.size() : std::min<size_t>(input.size(), 2048));
    const size_t length = 1 + below(std::min<size_t>(32, input.size() - at));
    switch (below(5)) {
      case 0:
        input[at] = static_cast<char>(rng.NextU64());
        break;
      case 1:
        input[at] = static_cast<char>(input[at] ^ (1 << below(8)));
        break;
      case 2:
        input.erase(at, length);
        break;
      case 3:
        input.insert(at, input.substr(at, length));
        break;
      default:
        input.replace(at, length, std::string(length, below(2) == 0 ? '\xff' : '9'));
        break;
    }
  }
  return input;
}

class ReplayTest : public testing::TestWithParam<FuzzTarget> {};

TEST_P(ReplayTest, SeedsAndTheirNeighboursAreReadOrRefused) {
  const auto seeds = GetParam().seeds();
  ASSERT_TRUE(seeds.ok()) << seeds.status();
  Rng rng(1);
  for (const std::string& seed : *seeds) {
    GetParam().run(seed);
    for (size_t n = 0; n < 64; ++n) GetParam().run(std::string_view(seed).substr(0, seed.size() * n / 64));
    for (int i = 0; i < 300; ++i) GetParam().run(Changed(seed, rng));
  }
}

std::string NameOf(const testing::TestParamInfo<FuzzTarget>& info) { return std::string(info.param.name); }
INSTANTIATE_TEST_SUITE_P(Targets, ReplayTest, testing::ValuesIn(FuzzTargets().begin(), FuzzTargets().end()), NameOf);

}  // namespace
}  // namespace qamserve
