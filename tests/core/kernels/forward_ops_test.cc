// The operations of a forward pass on a device against the kernels of the CPU: the same bits over ragged shapes. Built
// twice: with the device's threads in turn on this machine, and for a GPU.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/rng.h"
#include "core/codec/half.h"
#include "core/codec/int8_packing.h"
#include "core/codec/rotation.h"
#include "core/kernels/kernels.h"
#include "tests/support/forward_test_device.h"

namespace qamserve {
namespace {

std::vector<float> Gaussian(int64_t n, uint64_t seed, double deviation = 1) {
  Rng rng(seed);
  std::vector<float> out;
  out.reserve(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<float>(deviation * rng.NextGaussian()));
  return out;
}

// Equal as numbers, and where they are not the first place is told.
template <typename T>
void ExpectSame(const std::vector<T>& got, const std::vector<T>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], expected[i]) << what << ", at " << i;
}

class ForwardOps : public ForwardDeviceTest {
 protected:
  RotationView View(const Rotation& rotation) {
    RotationView view;
    view.n = rotation.size();
    if (rotation.factors().empty()) return view;
    view.blocks = rotation.blocks();
    view.scale = rotation.scale();
    view.signs = Upload(rotation.signs());
    for (const Rotation::Factor& factor : rotation.factors()) {
      view.order[view.factors] = factor.order;
      if (!factor.entries.empty()) view.entries[view.factors] = Upload(factor.entries);
      ++view.factors;
    }
    return view;
  }

  // What the CPU multiplies, by the steps of core/model/linear.cc.
  struct Quantized {
    std::vector<int16_t> q;
    std::vector<int8_t> q8;
    std::vector<float> scale;
  };
  static Quantized Reference(std::vector<float> x, int64_t rows, int64_t n, const std::vector<float>& inverse_scale,
                             const Rotation& rotation) {
    const int64_t padded = PaddedCols(n);
    Quantized out;
    out.q.resize(static_cast<size_t>(rows * padded));
    out.q8.resize(out.q.size());
    std::vector<float> scratch(static_cast<size_t>(n));
    for (int64_t row = 0; row < rows; ++row) {
      float* v = x.data() + row * n;
      for (size_t i = 0; i < inverse_scale.size(); ++i) v[i] *= inverse_scale[i];
      rotation.Apply(v, scratch.data());
      out.scale.push_back(ScalarKernels().quantize_input(v, n, padded, out.q.data() + row * padded));
      out.scale.push_back(ScalarKernels().quantize_input8(v, n, padded, out.q8.data() + row * padded));
    }
    return out;
  }

  // Runs `args` for both widths and compares.
  void ExpectInput(InputArgs args, const Quantized& expected, const std::string& what) {
    args.padded = PaddedCols(args.n);
    const int64_t count = args.rows * args.padded;
    auto* const q = static_cast<int16_t*>(Allocate(count * 2));
    auto* const q8 = static_cast<int8_t*>(Allocate(count));
    args.scale = static_cast<float*>(Allocate(args.rows * 4));
    for (const bool int8 : {false, true}) {
      args.q = int8 ? nullptr : q;
      args.q8 = int8 ? q8 : nullptr;
      const absl::Status status = device().Input(args);
      ASSERT_TRUE(status.ok()) << status;
      if (int8) {
        ExpectSame(Download(q8, count), expected.q8, what + ", 8 bits");
      } else {
        ExpectSame(Download(q, count), expected.q, what);
      }
      const std::vector<float> scale = Download(args.scale, args.rows);
      for (size_t i = 0; i < scale.size(); ++i) ASSERT_EQ(scale[i], expected.scale[2 * i + (int8 ? 1 : 0)]) << what;
    }
  }
};

// Powers of two with each number of stages left over, Paley factors of several orders with and without a power of two,
// two of them, blocks; the widest inputs of Llama models, of which 11008 has blocks alone.
TEST_F(ForwardOps, InputsAreRotatedAndQuantizedAsOnTheCpu) {
  struct Case {
    int64_t n;
    RotationKind kind;
  };
  constexpr Case kCases[] = {{8, RotationKind::kFull},    {16, RotationKind::kFull},   {32, RotationKind::kFull},
                             {64, RotationKind::kFull},   {4096, RotationKind::kFull}, {12, RotationKind::kFull},
                             {24, RotationKind::kFull},   {576, RotationKind::kFull},  {1536, RotationKind::kFull},
                             {4864, RotationKind::kFull}, {9728, RotationKind::kFull}, {5632, RotationKind::kFull},
                             {4096, RotationKind::kNone}, {576, RotationKind::kBlock}, {40, RotationKind::kFull},
                             {11008, RotationKind::kBlock}, {14336, RotationKind::kFull}};
  for (const auto& [n, kind] : kCases) {
    const absl::StatusOr<Rotation> rotation = Rotation::Create(n, kind, 7);
    ASSERT_TRUE(rotation.ok()) << rotation.status();
    const std::string what = std::to_string(n) + " as " + rotation->Describe();
    std::vector<float> x = Gaussian(3 * n, static_cast<uint64_t>(n));
    std::fill(x.begin() + n, x.begin() + 2 * n, 0.0f);  // a row without a scale
    std::vector<float> inverse;
    inverse.reserve(static_cast<size_t>(n));
    for (float v : Gaussian(n, 5)) inverse.push_back(std::exp2(v));
    InputArgs args;
    args.x = Upload(x);
    args.n = n;
    args.rows = 3;
    args.rotation = View(*rotation);
    ExpectInput(args, Reference(x, 3, n, {}, *rotation), what);
    args.inverse_scale = Upload(inverse);
    ExpectInput(args, Reference(x, 3, n, inverse, *rotation), what + ", scaled");
  }
}

// Engines that share a device: what one's launches want of shared memory takes nothing from those of the other.
TEST_F(ForwardOps, LaunchesOfOtherSizesRunBesideEachOther) {
  const auto run = [](int64_t n, absl::Status& status) {
    absl::StatusOr<std::unique_ptr<ForwardDevice>> own = OpenTestDevice();
    status = own.status();
    if (!status.ok()) return;
    std::vector<ForwardDevice::Memory> memory;
    for (const int64_t bytes : {4 * n, 2 * PaddedCols(n), int64_t{4}}) {
      absl::StatusOr<ForwardDevice::Memory> taken = (*own)->Allocate(bytes);
      status = taken.status();
      if (!status.ok()) return;
      memory.push_back(*std::move(taken));
    }
    const std::vector<float> x = Gaussian(n, 1);
    status = (*own)->Upload(memory[0].get(), x.data(), 4 * n);
    InputArgs args;
    args.x = static_cast<float*>(memory[0].get());
    args.n = n;
    args.rows = 1;
    args.rotation.n = n;
    args.padded = PaddedCols(n);
    args.q = static_cast<int16_t*>(memory[1].get());
    args.scale = static_cast<float*>(memory[2].get());
    float scale = 0;
    for (int i = 0; i < 30 && status.ok(); ++i) {
      status = (*own)->Input(args);
      if (status.ok()) status = (*own)->Download(&scale, args.scale, 4);
    }
  };
  absl::Status status[2];
  std::thread other(run, 14336, std::ref(status[1]));
  run(28672, status[0]);
  other.join();
  EXPECT_TRUE(status[0].ok()) << status[0];
  EXPECT_TRUE(status[1].ok()) << status[1];
}

TEST_F(ForwardOps, InputsAreNormedAndGatedFirst) {
  for (const int64_t n : {8, 24, 576, 2048}) {
    const absl::StatusOr<Rotation> rotation = Rotation::Create(n, RotationKind::kFull, 7);
    ASSERT_TRUE(rotation.ok()) << rotation.status();
    const std::vector<float> x = Gaussian(2 * n, 1, 3), up = Gaussian(2 * n, 2), weight = Gaussian(n, 3);
    InputArgs args;
    args.x = Upload(x);
    args.n = n;
    args.rows = 2;
    args.rotation = View(*rotation);
    args.eps = 1e-5f;
    std::vector<float> changed(x.size());
    for (int64_t row = 0; row < 2; ++row) {
      ScalarKernels().rms_norm(x.data() + row * n, weight.data(), args.eps, n, changed.data() + row * n);
    }
    args.norm = Upload(weight);
    ExpectInput(args, Reference(changed, 2, n, {}, *rotation), std::to_string(n) + ", normed");
    args.norm = nullptr;
    args.up = Upload(up);
    for (const bool gelu : {false, true}) {
      changed = x;
      (gelu ? ScalarKernels().gelu_mul : ScalarKernels().silu_mul)(changed.data(), up.data(), 2 * n);
      args.gelu = gelu;
      ExpectInput(args, Reference(changed, 2, n, {}, *rotation), std::to_string(n) + ", gated");
    }
  }
}

TEST_F(ForwardOps, GatesSaturateAsOnTheCpu) {
  std::vector<float> gate = {0.0f, -0.0f, 1e-30f, -1e-30f, 87.0f, -87.0f, 87.5f, -87.5f, 1e4f, -1e4f, 1e9f, -1e9f};
  for (float v : Gaussian(500, 4, 8)) gate.push_back(v);
  const std::vector<float> up = Gaussian(512, 5);
  for (const bool gelu : {false, true}) {
    std::vector<float> expected = gate;
    (gelu ? ScalarKernels().gelu_mul : ScalarKernels().silu_mul)(expected.data(), up.data(), 512);
    float* const on_device = Upload(gate);
    const absl::Status status = device().Gate({on_device, Upload(up), gelu, 256, 2});
    ASSERT_TRUE(status.ok()) << status;
    ExpectSame(Download(on_device, 512), expected, gelu ? "gelu" : "silu");
  }
}

TEST_F(ForwardOps, NormsPickRowsAndResidualsAddUp) {
  for (const int64_t n : {8, 64, 576, 4096}) {
    const std::vector<float> x = Gaussian(4 * n, 1, 2), y = Gaussian(4 * n, 2), weight = Gaussian(n, 3);
    const std::vector<int32_t> of = {3, 0, 3};
    float* const on_device = Upload(x);
    auto* const out = static_cast<float*>(Allocate(4 * n * 4));
    std::vector<float> expected(static_cast<size_t>(4 * n));
    const auto norm = [&](const std::vector<float>& from, int64_t row, int64_t to) {
      ScalarKernels().rms_norm(from.data() + row * n, weight.data(), 1e-6f, n, expected.data() + to * n);
    };
    for (int64_t i = 0; i < 4; ++i) norm(x, i, i);
    ASSERT_TRUE(device().Norm({on_device, nullptr, Upload(weight), 1e-6f, n, 4, out}).ok());
    ExpectSame(Download(out, 4 * n), expected, "a norm of " + std::to_string(n));
    for (int64_t i = 0; i < 3; ++i) norm(x, of[static_cast<size_t>(i)], i);
    ASSERT_TRUE(device().Norm({on_device, Upload(of), Upload(weight), 1e-6f, n, 3, out}).ok());
    ExpectSame(Download(out, 3 * n), {expected.begin(), expected.begin() + 3 * n}, "chosen rows");

    for (int64_t i = 0; i < 4; ++i) norm(y, i, i);
    std::vector<float> plain = x, normed = x;
    for (size_t i = 0; i < x.size(); ++i) {
      plain[i] += y[i];
      normed[i] += expected[i];
    }
    ASSERT_TRUE(device().Residual({on_device, Upload(y), nullptr, 1e-6f, n, 4}).ok());
    ExpectSame(Download(on_device, 4 * n), plain, "a sum");
    float* const again = Upload(x);
    ASSERT_TRUE(device().Residual({again, Upload(y), Upload(weight), 1e-6f, n, 4}).ok());
    ExpectSame(Download(again, 4 * n), normed, "a sum of a norm");
  }
}

TEST_F(ForwardOps, BiasesAreAddedToEveryRow) {
  for (const int64_t n : {1, 33, 700}) {
    const std::vector<float> y = Gaussian(3 * n, 1), bias = Gaussian(n, 2);
    std::vector<float> expected = y;
    for (size_t i = 0; i < y.size(); ++i) expected[i] += bias[i % static_cast<size_t>(n)];
    float* const on_device = Upload(y);
    ASSERT_TRUE(device().Bias({on_device, Upload(bias), n, 3}).ok());
    ExpectSame(Download(on_device, 3 * n), expected, "bias");
  }
}

std::vector<uint16_t> Narrowed(const std::vector<float>& values, DenseType type) {
  std::vector<uint16_t> out;
  out.reserve(values.size());
  for (float v : values) out.push_back(type == DenseType::kF16 ? FloatToHalf(v) : FloatToBFloat16(v));
  return out;
}

TEST_F(ForwardOps, DenseProductsRunInTheLanesOfTheCpu) {
  constexpr int64_t kSizes[] = {1, 2, 8, 16, 17, 31, 32, 33, 70};
  for (const DenseType type : {DenseType::kF32, DenseType::kF16, DenseType::kBF16}) {
    for (const int64_t outs : kSizes) {
      for (const int64_t k : {8, 16, 120, 128, 136, 576}) {
        const int64_t tokens = outs % 19 + 1;
        const std::vector<float> w = Gaussian(outs * k, 1), x = Gaussian(tokens * (k + 8), 2);
        const std::vector<uint16_t> narrow = Narrowed(w, type);
        DenseMatmulArgs args{x.data(), k + 8, {}, nullptr, outs + 3, tokens, outs, k};
        args.w = {type == DenseType::kF32 ? static_cast<const void*>(w.data()) : narrow.data(), type, k};
        std::vector<float> expected(static_cast<size_t>(tokens * (outs + 3)), -3);
        float* const y = Upload(expected);
        args.y = expected.data();
        ScalarKernels().dense_matmul(args);
        args.x = Upload(x);
        args.y = y;
        args.w.data = type == DenseType::kF32 ? static_cast<const void*>(Upload(w)) : Upload(narrow);
        const absl::Status status = device().DenseMatmul(args);
        ASSERT_TRUE(status.ok()) << status;
        ExpectSame(
            Download(y, tokens * (outs + 3)), expected,
            std::to_string(outs) + " x " + std::to_string(k) + ", type " + std::to_string(static_cast<int>(type)));
      }
    }
  }
}

TEST_F(ForwardOps, EmbeddingsAreReadOfEveryType) {
  const std::vector<int32_t> tokens = {5, 0, 39, 5};
  for (const int64_t n : {8, 40, 576}) {
    const std::vector<float> table = Gaussian(40 * n, 1);
    for (const DenseType type : {DenseType::kF32, DenseType::kF16, DenseType::kBF16}) {
      const std::vector<uint16_t> narrow = Narrowed(table, type);
      EmbedArgs args;
      args.tokens = Upload(tokens);
      args.rows = 4;
      args.n = n;
      args.dense = {type == DenseType::kF32 ? static_cast<const void*>(Upload(table)) : Upload(narrow), type, n};
      args.scale = 3.5f;
      args.out = static_cast<float*>(Allocate(4 * n * 4));
      ASSERT_TRUE(device().Embed(args).ok());
      std::vector<float> expected(static_cast<size_t>(4 * n));
      for (int64_t row = 0; row < 4; ++row) {
        const int64_t at = tokens[static_cast<size_t>(row)] * n;
        const void* from = type == DenseType::kF32 ? static_cast<const void*>(table.data() + at) : narrow.data() + at;
        ScalarKernels().to_float(from, type, n, expected.data() + row * n);
      }
      for (float& v : expected) v *= 3.5f;
      ExpectSame(Download(args.out, 4 * n), expected, "embeddings of " + std::to_string(n));
    }
  }
}

TEST_F(ForwardOps, EmbeddingsInEightBitsAreRotatedBack) {
  const std::vector<int32_t> tokens = {33, 1};
  for (const int64_t n : {8, 40, 576, 2048}) {
    const absl::StatusOr<Rotation> rotation = Rotation::Create(n, RotationKind::kFull, 7);
    ASSERT_TRUE(rotation.ok()) << rotation.status();
    Rng rng(static_cast<uint64_t>(n));
    std::vector<int8_t> data(static_cast<size_t>(Int8Bytes(40, n)));
    for (int8_t& v : data) v = static_cast<int8_t>(rng.NextU64());
    std::vector<float> row_scale(64);
    for (float& v : row_scale) v = static_cast<float>(rng.NextUniform());
    EmbedArgs args;
    args.tokens = Upload(tokens);
    args.rows = 2;
    args.n = n;
    args.int8 = {Upload(data), Upload(row_scale), 40, n};
    args.rotation = View(*rotation);
    args.scale = 0.5f;
    args.out = static_cast<float*>(Allocate(2 * n * 4));
    ASSERT_TRUE(device().Embed(args).ok());
    std::vector<float> expected, scratch(static_cast<size_t>(n));
    for (const int32_t token : tokens) {
      std::vector<float> row(static_cast<size_t>(n));
      for (int64_t c = 0; c < n; ++c) {
        row[static_cast<size_t>(c)] = static_cast<float>(data[static_cast<size_t>(Int8Offset(n, token, c))]) *
                                      row_scale[static_cast<size_t>(token)];
      }
      rotation->ApplyInverse(row.data(), scratch.data());
      for (float v : row) expected.push_back(v * 0.5f);
    }
    ExpectSame(Download(args.out, 2 * n), expected, "embeddings in 8 bits of " + std::to_string(n));
  }
}

}  // namespace
}  // namespace qamserve
