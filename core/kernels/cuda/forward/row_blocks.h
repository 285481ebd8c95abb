// The operations that take one row of activations at a time, a block of threads a row, for host and device (block.h).
//
// A norm's sum is a chain of n / 8 fused additions in each of 8 lanes, since that is the order of the CPU kernels; on a
// GPU at 1.755 GHz that is about 1.2 us for 4096 columns. Not measured yet.
#pragma once

#include <cstdint>

#include "core/codec/int8_packing.h"
#include "core/kernels/cuda/forward/args.h"
#include "core/kernels/cuda/forward/block.h"
#include "core/kernels/cuda/forward/float_math.h"
#include "core/kernels/cuda/forward/rotation_block.h"

namespace qamserve {

inline constexpr int kRowThreads = 512;

// A row in a block's memory, and what its threads tell each other.
struct RowShared {
  float* row;
  float* scratch;  // kRotationScratch floats, or none
  float* lanes;    // [8]
  float* partial;  // [kRowThreads]
  float* groups;   // [32]

  QAMSERVE_HOST_DEVICE static int64_t Bytes(int64_t n, bool rotates) { return RowShared(nullptr, n, rotates).bytes_; }
  QAMSERVE_HOST_DEVICE RowShared(unsigned char* shared, int64_t n, bool rotates) {
    SharedLayout layout;
    const auto floats = [&](int64_t count) {
      const int64_t at = layout.Add<float>(count);
      return shared == nullptr ? nullptr : reinterpret_cast<float*>(shared + at);
    };
    row = floats(n);
    scratch = floats(rotates ? kRotationScratch : 0);
    lanes = floats(kLanes);
    partial = floats(kRowThreads);
    groups = floats(32);
    bytes_ = layout.bytes();
  }

 private:
  int64_t bytes_;
};

// False if a rotation works in place without more memory.
QAMSERVE_HOST_DEVICE inline bool WantsScratch(const RotationView& rotation) {
  return rotation.factors > 0 && rotation.entries[0] != nullptr;
}

// Two phases of a norm: the first fills `lanes`, everybody then has the factor.
template <typename Each>
QAMSERVE_HOST_DEVICE inline void SumOfSquares(const float* row, int64_t n, float* lanes, const Each& each) {
  each([&](int thread) {
    if (thread >= kLanes) return;
    float sum = 0;
    for (int64_t i = thread; i < n; i += kLanes) sum = FusedMultiplyAdd(row[i], row[i], sum);
    lanes[thread] = sum;
  });
}
QAMSERVE_HOST_DEVICE inline float NormFactor(const float* lanes, int64_t n, float eps) {
  const float mean = AddLanes(lanes) / static_cast<float>(n);
  return 1.0f / sqrtf(mean + eps);
}

QAMSERVE_HOST_DEVICE inline float DenseElement(const DenseRows& w, int64_t at) {
  if (w.type == DenseType::kF32) return static_cast<const float*>(w.data)[at];
  const uint16_t bits = static_cast<const uint16_t*>(w.data)[at];
  return w.type == DenseType::kF16 ? FloatOfHalf(bits) : FloatOfBFloat16(bits);
}

struct EmbedBlock {
  using Args = EmbedArgs;
  static constexpr int kThreads = kRowThreads;
  static int64_t Blocks(const Args& a) { return a.rows; }
  static int64_t SharedBytes(const Args& a) { return RowShared::Bytes(a.n, WantsScratch(a.rotation)); }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const RowShared s(shared, a.n, WantsScratch(a.rotation));
    const int64_t token = a.tokens[block];
    each([&](int thread) {
      for (int64_t i = thread; i < a.n; i += kThreads) {
        s.row[i] = a.int8.data == nullptr
                       ? DenseElement(a.dense, token * a.dense.stride + i)
                       : static_cast<float>(a.int8.data[Int8Offset(a.n, token, i)]) * a.int8.row_scale[token];
      }
    });
    const bool rotates = a.int8.data != nullptr && a.rotation.signs != nullptr;
    if (rotates) TransformRow<kThreads>(a.rotation, /*transpose=*/true, s.row, s.scratch, each);
    each([&](int thread) {
      for (int64_t i = thread; i < a.n; i += kThreads) {
        const float back = rotates ? a.rotation.scale * a.rotation.signs[i] : 1.0f;
        a.out[block * a.n + i] = s.row[i] * back * a.scale;
      }
    });
  }
};

struct NormBlock {
  using Args = NormArgs;
  static constexpr int kThreads = kRowThreads;
  static int64_t Blocks(const Args& a) { return a.rows; }
  static int64_t SharedBytes(const Args& a) { return RowShared::Bytes(a.n, false); }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const RowShared s(shared, a.n, false);
    const float* x = a.x + (a.of == nullptr ? block : a.of[block]) * a.n;
    each([&](int thread) {
      for (int64_t i = thread; i < a.n; i += kThreads) s.row[i] = x[i];
    });
    SumOfSquares(s.row, a.n, s.lanes, each);
    each([&](int thread) {
      const float factor = NormFactor(s.lanes, a.n, a.eps);
      for (int64_t i = thread; i < a.n; i += kThreads) a.out[block * a.n + i] = s.row[i] * factor * a.weight[i];
    });
  }
};

struct ResidualBlock {
  using Args = ResidualArgs;
  static constexpr int kThreads = kRowThreads;
  static int64_t Blocks(const Args& a) { return a.rows; }
  static int64_t SharedBytes(const Args& a) { return RowShared::Bytes(a.n, false); }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const RowShared s(shared, a.n, false);
    each([&](int thread) {
      for (int64_t i = thread; i < a.n; i += kThreads) s.row[i] = a.y[block * a.n + i];
    });
    if (a.weight != nullptr) SumOfSquares(s.row, a.n, s.lanes, each);
    each([&](int thread) {
      const float factor = a.weight != nullptr ? NormFactor(s.lanes, a.n, a.eps) : 1.0f;
      for (int64_t i = thread; i < a.n; i += kThreads) {
        a.x[block * a.n + i] += a.weight != nullptr ? s.row[i] * factor * a.weight[i] : s.row[i];
      }
    });
  }
};

struct BiasBlock {
  using Args = BiasArgs;
  static constexpr int kThreads = 256;
  static int64_t Blocks(const Args& a) { return a.rows; }
  static int64_t SharedBytes(const Args&) { return 0; }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char*, const Each& each) {
    each([&](int thread) {
      for (int64_t i = thread; i < a.n; i += kThreads) a.y[block * a.n + i] += a.bias[i];
    });
  }
};

struct GateBlock {
  using Args = GateArgs;
  static constexpr int kThreads = kRowThreads;
  static int64_t Blocks(const Args& a) { return a.rows; }
  static int64_t SharedBytes(const Args&) { return 0; }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char*, const Each& each) {
    each([&](int thread) {
      for (int64_t i = block * a.n + thread; i < (block + 1) * a.n; i += kThreads) {
        a.gate[i] = GateTimes(a.gate[i], a.up[i], a.gelu);
      }
    });
  }
};

// Writes q = round(row / scale) of n values and zeros up to `padded`, for the largest |value| that everybody knows, and
// returns the scale.
template <int kLimit, int kThreads, typename Q>
QAMSERVE_HOST_DEVICE inline float QuantizeShare(int thread, const float* row, int64_t n, int64_t padded, float largest,
                                                Q* q) {
  constexpr auto kMost = static_cast<float>(kLimit);
  const float scale = largest / kMost;
  const bool any = scale > 1e-37f;  // see quantize_input
  const float inverse = any ? 1.0f / scale : 0.0f;
  for (int64_t i = thread; i < padded; i += kThreads) {
    float v = any && i < n ? RoundToEven(row[i] * inverse) : 0.0f;
    v = v < kMost ? v : kMost;
    q[i] = static_cast<Q>(v > -kMost ? v : -kMost);
  }
  return any ? scale : 0.0f;
}

struct InputBlock {
  using Args = InputArgs;
  static constexpr int kThreads = kRowThreads;
  static int64_t Blocks(const Args& a) { return a.rows; }
  static int64_t SharedBytes(const Args& a) { return RowShared::Bytes(a.n, WantsScratch(a.rotation)); }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    const RowShared s(shared, a.n, WantsScratch(a.rotation));
    const float* x = a.x + block * a.n;
    each([&](int thread) {
      for (int64_t i = thread; i < a.n; i += kThreads) {
        s.row[i] = a.up == nullptr ? x[i] : GateTimes(x[i], a.up[block * a.n + i], a.gelu);
      }
    });
    if (a.norm != nullptr) SumOfSquares(s.row, a.n, s.lanes, each);
    each([&](int thread) {
      const float factor = a.norm != nullptr ? NormFactor(s.lanes, a.n, a.eps) : 1.0f;
      for (int64_t i = thread; i < a.n; i += kThreads) {
        float v = s.row[i];
        if (a.norm != nullptr) v = v * factor * a.norm[i];
        if (a.inverse_scale != nullptr) v *= a.inverse_scale[i];
        if (a.rotation.signs != nullptr) v *= a.rotation.signs[i];
        s.row[i] = v;
      }
    });
    if (a.rotation.signs != nullptr) {
      TransformRow<kThreads>(a.rotation, /*transpose=*/false, s.row, s.scratch, each);
    }
    each([&](int thread) {
      const float scale = a.rotation.signs != nullptr ? a.rotation.scale : 1.0f;
      float most = 0;
      for (int64_t i = thread; i < a.n; i += kThreads) {
        const float v = s.row[i] * scale;
        s.row[i] = v;
        most = Magnitude(v) > most ? Magnitude(v) : most;
      }
      s.partial[thread] = most;
    });
    GroupMaxima<kThreads>(s.partial, s.groups, each);
    each([&](int thread) {
      const float largest = LargestOf(s.groups);
      const float scale = a.q8 == nullptr ? QuantizeShare<kMaxActivation, kThreads>(thread, s.row, a.n, a.padded,
                                                                                    largest, a.q + block * a.padded)
                                          : QuantizeShare<kMaxActivation8, kThreads>(thread, s.row, a.n, a.padded,
                                                                                     largest, a.q8 + block * a.padded);
      if (thread == 0) a.scale[block] = scale;
    });
  }
};

}  // namespace qamserve
