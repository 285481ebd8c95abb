// How fast 8-bit products stream their weights: one thread, a matrix many times the last-level cache. Prints one JSON
// object: kernel, read_gb_per_second (the fastest read loop over as many bytes), and for each number of tokens
// gb_per_second of weights, its fraction of the read loop and multiply-adds a second.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/base/thread_pool.h"
#include "core/codec/int8_packing.h"
#include "core/kernels/kernels.h"
#include "tests/bench/read_bandwidth.h"

namespace qamserve {
namespace {

struct Options {
  std::string kernel;
  int64_t rows = 65536;  // 256 MiB of weights: 8 times a 32 MiB cache
  int64_t cols = 4096;
  std::vector<int64_t> tokens = {1, 2, 4, 8, 32};
  int repetitions = 3;
};

// Seconds of the fastest of some passes over the matrix.
double Fastest(const Kernels& kernels, const Int8MatmulArgs& args, int repetitions) {
  double best = 1e9;
  for (int i = 0; i < repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    kernels.int8_matmul(args);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::min(best, seconds.count());
  }
  return best;
}

nlohmann::json Run(const Kernels& kernels, const Options& options) {
  const int64_t most = *std::max_element(options.tokens.begin(), options.tokens.end());
  std::vector<int8_t> weights(static_cast<size_t>(Int8Bytes(options.rows, options.cols)));
  std::vector<int8_t> q(static_cast<size_t>(most * PaddedCols(options.cols)));
  Rng rng(1);
  for (int8_t& v : weights) v = static_cast<int8_t>(rng.NextU64() % 255);
  for (int8_t& v : q) v = static_cast<int8_t>(static_cast<int>(rng.NextU64() % 255) - 127);
  const std::vector<float> row_scale(static_cast<size_t>(StripsDown(options.rows) * kTileRows), 1.0f);
  const std::vector<float> scale(static_cast<size_t>(most), 1.0f);
  std::vector<float> y(static_cast<size_t>(most * options.rows));
  const Int8Matrix matrix{weights.data(), row_scale.data(), options.rows, options.cols};

  ThreadPool one(1);
  const auto bytes = static_cast<double>(weights.size());
  const double read = MeasureReadBandwidth(static_cast<int64_t>(weights.size()), options.repetitions, one);
  nlohmann::json results = nlohmann::json::array();
  for (int64_t tokens : options.tokens) {
    const Int8Input x{q.data(), PaddedCols(options.cols), scale.data(), tokens};
    const Int8MatmulArgs args{matrix, x, y.data(), options.rows, 0, StripsDown(options.rows)};
    const double rate = bytes / Fastest(kernels, args, options.repetitions);
    results.push_back({{"tokens", tokens},
                       {"gb_per_second", rate / 1e9},
                       {"bandwidth_fraction", rate / read},
                       {"multiply_adds_per_second", rate * static_cast<double>(tokens)}});
  }
  return {{"kernel", kernels.name}, {"read_gb_per_second", read / 1e9}, {"results", results}};
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Measures products of 8-bit weights and activations, one thread.");
  app.add_option("--kernel", options.kernel, "scalar, avx2 or avx512 (default: the fastest)");
  app.add_option("--rows", options.rows)->check(CLI::Range(1, 1 << 24));
  app.add_option("--cols", options.cols)->check(CLI::Range(1, 1 << 20));
  app.add_option("--tokens", options.tokens, "Batches to measure")->check(CLI::Range(1, 4096));
  app.add_option("--repetitions", options.repetitions)->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  const qamserve::Kernels* kernels =
      options.kernel.empty() ? &qamserve::BestKernels() : qamserve::KernelsByName(options.kernel);
  if (kernels == nullptr) {
    std::fprintf(stderr, "error: kernel '%s' cannot run here\n", options.kernel.c_str());
    return 1;
  }
  std::printf("%s\n", qamserve::Run(*kernels, options).dump(2).c_str());
  return 0;
}
