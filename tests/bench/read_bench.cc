// How fast this machine reads memory and multiplies floats: what other programs' rates are fractions of, where those do
// not measure it themselves. Prints one JSON object: read_gb_per_second, read_bytes (how much was read at a time),
// read_loop (which was fastest), last_level_cache_bytes, float_multiply_adds_per_second, threads.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "core/base/thread_pool.h"
#include "tests/bench/fma_peak.h"
#include "tests/bench/read_bandwidth.h"

int main(int argc, char** argv) {
  int threads = 1, repetitions = 5;
  int64_t mebibytes = qamserve::ReadBandwidthBytes() >> 20;
  CLI::App app("Measures the read bandwidth and the float multiply-adds of this machine.");
  app.add_option("--threads", threads)->check(CLI::Range(1, 1024));
  app.add_option("--repetitions", repetitions)->check(CLI::Range(1, 1000));
  app.add_option("--mib", mebibytes, "How much to read, in MiB; default: many times the last-level cache")
      ->check(CLI::Range(1, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  qamserve::ThreadPool pool(threads);
  std::string loop;
  const double read = qamserve::MeasureReadBandwidth(mebibytes << 20, repetitions, pool, &loop);
  const nlohmann::json result = {{"read_gb_per_second", read / 1e9},
                                 {"read_bytes", mebibytes << 20},
                                 {"read_loop", loop},
                                 {"last_level_cache_bytes", qamserve::LastLevelCacheBytes()},
                                 {"float_multiply_adds_per_second", qamserve::MeasureFmaPeak(repetitions, pool)},
                                 {"threads", threads}};
  std::printf("%s\n", result.dump(2).c_str());
  return 0;
}
