#include "core/codec/trellis.h"

namespace qamserve {
namespace {

struct Rate {
  float step;
  double mse;
};
// By pair_bits from kMinTrellisPairBits on, from core/kernels/tools/measure_trellis.cc with only 120 rings (7,680
// weights): near the minimum the error is flat and this sample cannot tell neighbouring steps apart. At 9 bits the step
// stands one place beside the one that it printed, 0.0075.
constexpr Rate kRates[] = {{0.0069f, 3.651e-2}, {0.0070f, 1.880e-2}, {0.0072f, 9.549e-3}, {0.0075f, 4.910e-3},
                           {0.0076f, 2.492e-3}, {0.0077f, 1.330e-3}, {0.0083f, 6.967e-4}};

}  // namespace

float TrellisStep(int pair_bits) { return kRates[pair_bits - kMinTrellisPairBits].step; }
double TrellisGaussianMse(int pair_bits) { return kRates[pair_bits - kMinTrellisPairBits].mse; }

}  // namespace qamserve
