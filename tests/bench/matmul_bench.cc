// A prompt through one packed layer, beside the same product of floats by OpenBLAS: what a product that dequantizes its
// weights and leaves the rest to a library could reach at best, since the weights are dequantized here before the clock
// starts. Rounds of both in turn, on as many threads. Prints one JSON object: kernel, blas, and for both seconds and
// multiply_adds_per_second of each round; `largest_difference` of the two results over the largest value;
// `one_token_seconds`, what ours takes for one token, which is little but decoding the weights; `float_peak`, the
// multiply-adds a second of floats in registers, which OpenBLAS can reach at most. Ours are of
// integers, of which some processors do more.
//
// Ours takes floats to floats: rotation and rounding of the activations are part of its time.
#include <dlfcn.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/codec/packing.h"
#include "core/codec/rotation.h"
#include "core/codec/tensor_format.h"
#include "core/kernels/kernels.h"
#include "core/model/linear.h"
#include "tests/bench/fma_peak.h"

namespace qamserve {
namespace {

struct Options {
  std::string blas;
  std::string prefix;
  int64_t rows = 4096;
  int64_t cols = 4096;
  int64_t tokens = 512;
  int pair_bits = 11;
  int repetitions = 5;
  int threads = 1;
};

// OpenBLAS by its C interface with 32-bit integers, loaded from where it lies.
class OpenBlas {
 public:
  static absl::StatusOr<OpenBlas> Load(const Options& options) {
    void* library = dlopen(options.blas.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return NotFound("BLAS", "{}", dlerror());
    OpenBlas blas;
    const auto find = [&](const char* name) { return dlsym(library, (options.prefix + name).c_str()); };
    blas.sgemm_ = reinterpret_cast<decltype(blas.sgemm_)>(find("cblas_sgemm"));
    const auto set_threads = reinterpret_cast<void (*)(int)>(find("openblas_set_num_threads"));
    const auto config = reinterpret_cast<const char* (*)()>(find("openblas_get_config"));
    const auto core = reinterpret_cast<const char* (*)()>(find("openblas_get_corename"));
    if (blas.sgemm_ == nullptr || set_threads == nullptr || config == nullptr || core == nullptr) {
      return InvalidArgument("BLAS", "{} is no OpenBLAS with names that begin with '{}'", options.blas, options.prefix);
    }
    set_threads(options.threads);
    blas.name_ = fmt::format("{}; kernel {}", config(), core());
    return blas;
  }

  const std::string& name() const { return name_; }
  // y[t][r] = sum over c of x[t][c] w[r][c].
  void Multiply(const Options& o, const float* x, const float* w, float* y) const {
    constexpr int kRowMajor = 101, kAsItIs = 111, kTransposed = 112;
    const int tokens = static_cast<int>(o.tokens), rows = static_cast<int>(o.rows), cols = static_cast<int>(o.cols);
    sgemm_(kRowMajor, kAsItIs, kTransposed, tokens, rows, cols, 1, x, cols, w, cols, 0, y, rows);
  }

 private:
  void (*sgemm_)(int, int, int, int, int, int, float, const float*, int, const float*, int, float, float*,
                 int) = nullptr;
  std::string name_;
};

// OpenBLAS's threads look for more work for some 20 ms before they sleep: they would take the cores from what comes
// next.
constexpr std::chrono::milliseconds kUntilIdle(200);

// A layer of random codes of the joint codec, and its weights as floats.
class Layer {
 public:
  static absl::StatusOr<Layer> Create(const Options& o) {
    Layer out;
    out.format_ = {Codec::kJoint, o.pair_bits};
    ASSIGN_OR_RETURN(Rotation rotation, Rotation::Create(o.cols, RotationKind::kFull, 1));
    out.codes_.resize(static_cast<size_t>(PackedBytes(o.rows, o.cols, o.pair_bits)));
    Rng rng(1);
    for (uint8_t& byte : out.codes_) byte = static_cast<uint8_t>(rng.NextU64());
    Linear& layer = out.group_.layers.emplace_back();
    layer.rows = o.rows;
    layer.cols = o.cols;
    layer.codes = out.codes_.data();
    layer.pair_bits = o.pair_bits;
    layer.row_scale.resize(static_cast<size_t>(StripsDown(o.rows) * kTileRows));
    std::fill_n(layer.row_scale.begin(), o.rows, kRowNorm * FormatStep(out.format_));
    layer.table = std::make_shared<const std::vector<int32_t>>(DecodeTable(out.format_));
    out.group_.rotation = std::make_shared<const Rotation>(std::move(rotation));
    return out;
  }

  const LinearGroup& group() const { return group_; }

  // Rotated, as the codes are.
  std::vector<float> Dequantize() const {
    const Linear& layer = group_.layers[0];
    const RowDecoder decoder(format_);
    std::vector<float> out(static_cast<size_t>(layer.rows * layer.cols));
    for (int64_t r = 0; r < layer.rows; ++r) {
      float* row = out.data() + r * layer.cols;
      decoder.Decode(layer.codes + r / kTileRows * StripBytes(layer.cols, layer.pair_bits),
                     static_cast<int>(r % kTileRows), layer.cols, row);
      for (int64_t c = 0; c < layer.cols; ++c) row[c] *= kRowNorm;
    }
    return out;
  }

 private:
  static constexpr float kRowNorm = 1.0f / 64;

  TensorFormat format_;
  std::vector<uint8_t> codes_;
  LinearGroup group_;
};

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

nlohmann::json Rates(const Options& o, const std::vector<double>& seconds) {
  nlohmann::json rates = nlohmann::json::array();
  for (const double s : seconds) rates.push_back(static_cast<double>(o.rows * o.cols * o.tokens) / s);
  return {{"seconds", seconds}, {"multiply_adds_per_second", rates}};
}

double LargestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(static_cast<double>(a[i]) - b[i]));
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return difference / largest;
}

absl::StatusOr<nlohmann::json> Run(const Options& o) {
  ASSIGN_OR_RETURN(const OpenBlas blas, OpenBlas::Load(o));
  ASSIGN_OR_RETURN(const Layer layer, Layer::Create(o));
  std::vector<float> x(static_cast<size_t>(o.tokens * o.cols));
  Rng rng(2);
  for (float& v : x) v = static_cast<float>(rng.NextGaussian());
  std::vector<float> rotated = x, scratch(static_cast<size_t>(o.cols));
  for (int64_t t = 0; t < o.tokens; ++t) layer.group().rotation->Apply(rotated.data() + t * o.cols, scratch.data());
  const std::vector<float> weights = layer.Dequantize();
  std::vector<float> ours(static_cast<size_t>(o.tokens * o.rows)), theirs = ours;
  const OutputRows output{ours.data(), o.rows};
  ThreadPool pool(o.threads);
  PackedActivations activations;
  std::vector<double> our_seconds, their_seconds, one_token_seconds;
  const auto apply = [&](int64_t tokens) {
    ApplyGroup(layer.group(), x.data(), o.cols, tokens, {&output, 1}, BestKernels(), pool, activations);
  };
  double peak = 0;
  for (int i = 0; i <= o.repetitions; ++i) {
    one_token_seconds.push_back(Seconds([&] { apply(1); }));
    our_seconds.push_back(Seconds([&] { apply(o.tokens); }));
    their_seconds.push_back(Seconds([&] { blas.Multiply(o, rotated.data(), weights.data(), theirs.data()); }));
    std::this_thread::sleep_for(kUntilIdle);
    peak = std::max(peak, MeasureFmaPeak(1, pool));
  }
  // The first of each has cold pages.
  for (std::vector<double>* seconds : {&our_seconds, &their_seconds, &one_token_seconds}) {
    seconds->erase(seconds->begin());
  }
  const double difference = LargestDifference(ours, theirs);
  // Activations have 14 bits, sums of thousands of them lose less than this.
  if (difference > 1e-3) return Internal("BENCH", "the results differ by {} of the largest value", difference);
  return nlohmann::json{{"kernel", BestKernels().name},
                        {"blas", blas.name()},
                        {"threads", o.threads},
                        {"ours", Rates(o, our_seconds)},
                        {"one_token_seconds", one_token_seconds},
                        {"openblas", Rates(o, their_seconds)},
                        {"largest_difference", difference},
                        {"float_peak", peak}};
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Measures a prompt through a packed layer beside a product of floats by OpenBLAS.");
  app.add_option("--blas", options.blas, "OpenBLAS's shared library")->required();
  app.add_option("--prefix", options.prefix, "What its names begin with");
  app.add_option("--rows", options.rows)->check(CLI::Range(32, 1 << 17));
  app.add_option("--cols", options.cols)->check(CLI::Range(64, 1 << 17));
  app.add_option("--tokens", options.tokens)->check(CLI::Range(1, 1 << 16));
  app.add_option("--pair-bits", options.pair_bits, "Twice the bits of a weight")->check(CLI::Range(5, 12));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  app.add_option("--threads", options.threads)->check(CLI::Range(1, 1024));
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<nlohmann::json> result = qamserve::Run(options);
  if (!result.ok()) {
    fmt::print(stderr, "error: {}: {}\n", qamserve::ReasonOf(result.status()), qamserve::MessageOf(result.status()));
    return 1;
  }
  fmt::print("{}\n", result->dump(2));
  return 0;
}
