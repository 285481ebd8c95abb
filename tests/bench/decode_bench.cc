// Tokens a second of one sequence from an empty cache: fed one token at a time, as llama-bench -p 0 -n N does, or all at
// once (--prefill N), as -p N -n 0.
// Prints one JSON object: tokens_per_second (a number for each repetition), bytes_per_token, gb_per_second,
// read_gb_per_second (measured here, same threads), bandwidth_fraction, kernel, threads.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/format/file_set.h"
#include "core/model/model.h"
#include "tests/bench/read_bandwidth.h"

namespace qamserve {
namespace {

struct Options {
  std::string model;
  int tokens = 128;
  int prefill = 0;  // tokens of a prompt; 0 = decode
  int repetitions = 3;
  int threads = 2;
  int64_t bandwidth_bytes = int64_t{512} << 20;  // 16 times a 32 MiB cache
};

// Feeds `n` tokens one after another. Which ones does not matter to the time, as long as they are not all the same row
// of the embedding.
absl::Status Decode(const Model& model, int n, Workspace& workspace, ThreadPool& pool) {
  KvCache cache(model.config(), n);
  Rng rng(1);
  std::vector<float> logits;
  for (int i = 0; i < n; ++i) {
    const auto token = static_cast<int32_t>(rng.NextU64() % static_cast<uint64_t>(model.config().vocab_size));
    const SequenceChunk chunk{.tokens = {&token, 1}, .cache = &cache};
    RETURN_IF_ERROR(model.Forward({&chunk, 1}, workspace, pool, logits));
  }
  return absl::OkStatus();
}

// Feeds a prompt and asks for the logits after it.
absl::Status Prefill(const Model& model, int n, Workspace& workspace, ThreadPool& pool) {
  KvCache cache(model.config(), n);
  Rng rng(1);
  std::vector<int32_t> tokens;
  tokens.reserve(static_cast<size_t>(n));
  for (int i = 0; i < n; ++i) {
    tokens.push_back(static_cast<int32_t>(rng.NextU64() % static_cast<uint64_t>(model.config().vocab_size)));
  }
  std::vector<float> logits;
  const SequenceChunk chunk{.tokens = tokens, .cache = &cache};
  return model.Forward({&chunk, 1}, workspace, pool, logits);
}

absl::StatusOr<nlohmann::json> Run(const Options& options) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(options.model));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, Model::Load(files));
  ThreadPool pool(options.threads);
  Workspace workspace;
  RETURN_IF_ERROR(Decode(*model, std::min(options.tokens, 16), workspace, pool));  // pages in, caches warm
  const bool prefill = options.prefill > 0;
  const int tokens = prefill ? options.prefill : options.tokens;
  if (prefill) RETURN_IF_ERROR(Prefill(*model, tokens, workspace, pool));
  std::vector<double> rates;
  for (int i = 0; i < options.repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(prefill ? Prefill(*model, tokens, workspace, pool) : Decode(*model, tokens, workspace, pool));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    rates.push_back(tokens / seconds.count());
  }
  std::vector<double> sorted = rates;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  const double bytes_per_second = median * static_cast<double>(model->bytes_per_token());
  const double read = MeasureReadBandwidth(options.bandwidth_bytes, 5, pool);
  return nlohmann::json{{"tokens_per_second", rates},
                        {"median_tokens_per_second", median},
                        {"bytes_per_token", model->bytes_per_token()},
                        {"weight_bytes", model->weight_bytes()},
                        {"gb_per_second", bytes_per_second / 1e9},
                        {"read_gb_per_second", read / 1e9},
                        {"bandwidth_fraction", bytes_per_second / read},
                        {"kernel", model->kernel_name()},
                        {"threads", options.threads}};
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Measures batch-1 decoding of an artifact or a checkpoint.");
  app.add_option("--model", options.model, "Artifact folder, Hugging Face folder or GGUF file")->required();
  app.add_option("--tokens", options.tokens, "Tokens of a repetition")->check(CLI::Range(1, 100000));
  app.add_option("--prefill", options.prefill, "Tokens of a prompt, fed at once")->check(CLI::Range(1, 100000));
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
