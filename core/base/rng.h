// A pseudo-random generator that gives the same numbers on every platform: xoshiro256** (Blackman and Vigna, 2018),
// seeded by SplitMix64. std:: distributions differ between libraries, so none is used.
#pragma once

#include <bit>
#include <cstdint>

namespace qamserve {

class Rng {
 public:
  explicit Rng(uint64_t seed) {
    for (uint64_t& word : state_) {
      seed += 0x9e3779b97f4a7c15u;
      uint64_t z = seed;
      z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
      z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
      word = z ^ (z >> 31);
    }
  }

  uint64_t NextU64() {
    const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
    const uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // Uniform in [0, 1), 53 bits.
  double NextUniform() { return static_cast<double>(NextU64() >> 11) * 0x1p-53; }

  // Nearly Gaussian, unit variance: the sum of 12 uniforms less 6 (Irwin-Hall). It needs no libm, so it is the same
  // everywhere; its tails end at 6 sigma, which is why it serves tests and random weights only.
  double NextGaussian() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += NextUniform();
    return sum;
  }

 private:
  uint64_t state_[4];
};

}  // namespace qamserve
