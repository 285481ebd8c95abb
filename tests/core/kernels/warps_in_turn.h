// The threads of a block (core/kernels/cuda/block_threads.cuh) run one after the other, forwards or backwards: a phase
// in which their order matters is wrong. What a thread keeps begins as bytes of 0xff, so that what is read before it
// was written gives wrong results.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "tests/core/kernels/mma_model.h"

namespace qamserve {

class WarpsInTurn {
 public:
  static constexpr int kMostWarps = 16;

  template <typename T>
  struct Own {
    static_assert(std::is_trivially_copyable_v<T>);
    std::vector<T> values = std::vector<T>(32 * kMostWarps);
    Own() { std::memset(static_cast<void*>(values.data()), 0xff, values.size() * sizeof(T)); }
    T& operator[](int thread) { return values[static_cast<size_t>(thread)]; }
  };

  WarpsInTurn(int warps, bool backwards) {
    for (int i = 0; i < warps; ++i) warps_.push_back(backwards ? warps - 1 - i : i);
    for (int i = 0; i < 32; ++i) lanes_.push_back(backwards ? 31 - i : i);
  }

  template <typename Phase>
  void operator()(const Phase& phase) const {
    Alone(phase);
  }
  template <typename Phase>
  void Alone(const Phase& phase) const {
    for (int warp : warps_) {
      for (int lane : lanes_) phase(32 * warp + lane);
    }
  }
  template <typename Has, typename Body>
  void OfWarps(const Has& has, const Body& body) const {
    WarpsInTurn some = *this;
    some.warps_.clear();
    for (int warp : warps_) {
      if (has(32 * warp)) some.warps_.push_back(warp);
    }
    body(some);
  }
  template <typename Get>
  void Multiply(const Get& get) const {
    for (int warp : warps_) {
      std::vector<Lane32> lanes(32);
      float(*c[32])[4];
      for (int i = 0; i < 32; ++i) {
        Lane32& lane = lanes[static_cast<size_t>(i)];
        c[i] = get(32 * warp + i, lane.a, lane.b);
        std::copy(*c[i], *c[i] + 4, lane.c);
      }
      ModelOfMma(lanes);
      for (int i = 0; i < 32; ++i) {
        std::copy(lanes[static_cast<size_t>(i)].c, lanes[static_cast<size_t>(i)].c + 4, *c[i]);
      }
    }
  }
  template <typename Give, typename Take>
  void Rotate(int by, const Give& give, const Take& take) const {
    FromLanes(give, take, [&](int lane) { return (lane + by) & 31; });
  }
  template <typename Give, typename Take>
  void Swap(int mask, const Give& give, const Take& take) const {
    FromLanes(give, take, [&](int lane) { return lane ^ mask; });
  }

 private:
  template <typename Give, typename Take, typename From>
  void FromLanes(const Give& give, const Take& take, const From& from) const {
    for (int warp : warps_) {
      std::array<uint32_t, 32> given;
      for (int lane = 0; lane < 32; ++lane) given[static_cast<size_t>(lane)] = give(32 * warp + lane);
      for (int lane : lanes_) take(32 * warp + lane, given[static_cast<size_t>(from(lane))]);
    }
  }

  std::vector<int> warps_, lanes_;
};

// Memory that the threads of a block share: bytes of 0xff at first, and none behind it is written.
class SharedInTurn {
 public:
  explicit SharedInTurn(int64_t bytes)
      : bytes_(static_cast<size_t>(bytes)), words_((bytes_ + kGuard + sizeof(Words) - 1) / sizeof(Words)) {
    std::memset(words_.data(), 0xff, words_.size() * sizeof(Words));
  }
  unsigned char* data() { return words_.data()->of; }
  bool is_whole() {
    return std::all_of(data() + bytes_, data() + bytes_ + kGuard, [](unsigned char byte) { return byte == 0xff; });
  }

 private:
  static constexpr size_t kGuard = 64;
  struct alignas(16) Words {
    unsigned char of[16];
  };
  size_t bytes_;
  std::vector<Words> words_;
};

}  // namespace qamserve
