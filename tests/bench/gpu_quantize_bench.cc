// How fast a GPU quantizes the matrices of one layer of a model of 7 G weights (Mistral 7B's shapes). Prints one JSON
// object a line: for each method the seconds of a layer, what 32 layers take at that pace, and weights a second. Timed
// from floats in the host's memory to codes in the host's memory; with error feedback the factor of each tensor is part
// of it. Reading a checkpoint and writing files are not.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/kernels/cuda/device.h"
#include "core/quantize/cuda/quantize_device.h"

namespace qamserve {
namespace {

struct Options {
  int device = -1;
  int repetitions = 3;
};

struct Shape {
  const char* name;
  int64_t rows, cols;
};
constexpr Shape kLayer[] = {{"q", 4096, 4096},     {"k", 1024, 4096},   {"v", 1024, 4096},    {"o", 4096, 4096},
                            {"gate", 14336, 4096}, {"up", 14336, 4096}, {"down", 4096, 14336}};
constexpr int kLayers = 32;

struct Method {
  const char* name;
  TensorFormat format;
  bool feedback;
};
constexpr Method kMethods[] = {{"joint", {Codec::kJoint, 11}, false},    {"joint", {Codec::kJoint, 8}, false},
                               {"ldlq", {Codec::kJoint, 11}, true},      {"ldlq", {Codec::kJoint, 8}, true},
                               {"trellis", {Codec::kTrellis, 8}, false}, {"trellis_ldlq", {Codec::kTrellis, 8}, true}};

// What a tensor is quantized from. Inputs of neighbouring channels are correlated.
class Problem {
 public:
  static absl::StatusOr<Problem> Create(const Shape& shape) {
    ASSIGN_OR_RETURN(Rotation rotation, Rotation::Create(shape.cols, RotationKind::kFull, 1));
    return Problem(shape, std::move(rotation));
  }

  absl::StatusOr<double> Seconds(QuantizeDevice& device, const Method& method) const {
    const int64_t cols = shape_.cols, strip_bytes = CodesStripBytes(method.format, cols);
    std::vector<uint16_t> norms(static_cast<size_t>(shape_.rows));
    std::vector<uint8_t> packed(static_cast<size_t>(CodesBytes(method.format, shape_.rows, cols)));
    std::vector<StripOutcome> outcomes(static_cast<size_t>(StripsDown(shape_.rows)));
    const auto begin = std::chrono::steady_clock::now();
    ASSIGN_OR_RETURN(const auto coder, device.MakeCoder({.group = shape_.name,
                                                         .format = method.format,
                                                         .rows = shape_.rows,
                                                         .rotation = rotation_,
                                                         .scale = scale_,
                                                         .mean_square = mean_square_,
                                                         .outer = method.feedback ? std::span<const float>(outer_)
                                                                                  : std::span<const float>()}));
    const int64_t panel = std::min(shape_.rows, coder->panel_rows());
    for (int64_t first = 0; first < shape_.rows; first += panel) {
      const int64_t count = std::min(panel, shape_.rows - first), strip = first / kTileRows, strips = StripsDown(count);
      const auto part = [](auto& of, int64_t from, int64_t size) {
        return std::span(of).subspan(static_cast<size_t>(from), static_cast<size_t>(size));
      };
      RETURN_IF_ERROR(coder->Encode(part(weights_, first * cols, count * cols), part(norms, first, count),
                                    part(packed, strip * strip_bytes, strips * strip_bytes),
                                    part(outcomes, strip, strips)));
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }

 private:
  Problem(const Shape& shape, Rotation rotation) : shape_(shape), rotation_(std::move(rotation)) {
    const auto n = static_cast<size_t>(shape.cols);
    Rng rng(n);
    weights_.resize(static_cast<size_t>(shape.rows) * n);
    // Uniform ones of the right variance: what is timed does not depend on their distribution once they are rotated.
    for (float& w : weights_) w = static_cast<float>((rng.NextUniform() - 0.5) * 0.07);
    scale_.assign(n, 1.0f);
    mean_square_.assign(n, 1.0);
    outer_.assign(n * n, 0.0f);
    constexpr int64_t kReach = 16;
    for (int64_t i = 0; i < shape.cols; ++i) {
      for (int64_t j = std::max<int64_t>(0, i - kReach); j < std::min(shape.cols, i + kReach + 1); ++j) {
        outer_[static_cast<size_t>(i * shape.cols + j)] = 1.0f / static_cast<float>(int64_t{1} << std::abs(i - j));
      }
    }
  }

  Shape shape_;
  Rotation rotation_;
  std::vector<float> weights_, scale_, outer_;
  std::vector<double> mean_square_;
};

absl::Status Measure(const Options& options, const CudaDevice& gpu) {
  ASSIGN_OR_RETURN(const auto device, OpenCudaQuantizeDevice(gpu.ordinal));
  std::vector<double> seconds(std::size(kMethods));
  double weights = 0;
  for (const Shape& shape : kLayer) {
    ASSIGN_OR_RETURN(const Problem problem, Problem::Create(shape));
    weights += static_cast<double>(shape.rows) * static_cast<double>(shape.cols);
    for (size_t m = 0; m < std::size(kMethods); ++m) {
      double best = 1e9;
      for (int i = 0; i < options.repetitions; ++i) {
        ASSIGN_OR_RETURN(const double took, problem.Seconds(*device, kMethods[m]));
        best = std::min(best, took);
      }
      seconds[m] += best;
      std::fprintf(stderr, "%s %s: %.3f s\n", kMethods[m].name, shape.name, best);
    }
  }
  for (size_t m = 0; m < std::size(kMethods); ++m) {
    const nlohmann::json line = {{"kind", "quantize"},
                                 {"device", gpu.name},
                                 {"method", kMethods[m].name},
                                 {"pair_bits", kMethods[m].format.pair_bits},
                                 {"layer_weights", weights},
                                 {"layer_seconds", seconds[m]},
                                 {"model_seconds", seconds[m] * kLayers},
                                 {"weights_per_second", weights / seconds[m]}};
    std::printf("%s\n", line.dump().c_str());
  }
  return absl::OkStatus();
}

absl::Status Main(const Options& options) {
  ASSIGN_OR_RETURN(const CudaPlatform platform, FindCudaDevices());
  for (const CudaDevice& device : platform.devices) {
    if (options.device < 0 || device.ordinal == options.device) return Measure(options, device);
  }
  return NotFound("CUDA_DEVICE", "there is no usable GPU {}", options.device);
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Measures how fast a GPU quantizes the matrices of one layer.");
  app.add_option("--device", options.device, "The GPU's number (default: the first usable one)");
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = qamserve::Main(options);
  if (status.ok()) return 0;
  // No driver, no device, too old a one: 77 is what test drivers take for skipped.
  const bool skipped = absl::IsFailedPrecondition(status);
  std::fprintf(stderr, "%s: %s\n", skipped ? "skipped, no GPU" : "error", qamserve::MessageOf(status).c_str());
  return skipped ? 77 : 1;
}
