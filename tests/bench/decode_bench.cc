// Tokens a second of one sequence from an empty cache: fed one token at a time, as llama-bench -p 0 -n N does, or all
// at once (--prefill N), as -p N -n 0; on the processor's cores or on a GPU (--device cuda:0), of which --batch
// sequences decode at a time. With --sample each step also chooses the most likely tokens, where the logits are, which
// must be finite. --pin holds each thread to a core of its own. Prints one JSON object: tokens_per_second (a number for
// each repetition), bytes_per_token, gb_per_second, read_gb_per_second (measured here: of the processor with the same
// threads, or of the GPU), bandwidth_fraction, kernel, threads; of the processor also last_level_cache_bytes, since
// of weights that are not much larger a part is read from there, and read_loop, which reads fastest.
#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/format/file_set.h"
#include "core/model/cuda/open.h"
#include "core/model/model.h"
#include "tests/bench/gpu_measure.h"
#include "tests/bench/read_bandwidth.h"

namespace qamserve {
namespace {

struct Options {
  std::string model;
  int tokens = 128;
  int prefill = 0;  // tokens of a prompt; 0 = decode
  int batch = 1;    // sequences that decode together
  int repetitions = 3;
  int threads = 2;
  bool sample = false;
  bool pin = false;
  std::string device = "cpu";
};

class Bench {
 public:
  Bench(const ModelConfig& config, Forwarder& forwarder, KvPool& blocks, bool sample)
      : config_(config), forwarder_(forwarder), blocks_(blocks), sample_(sample) {}

  // Feeds `n` tokens to each of `batch` sequences, one after another.
  absl::Status Decode(int n, int batch) {
    std::vector<std::unique_ptr<KvCache>> caches;
    caches.reserve(static_cast<size_t>(batch));
    for (int i = 0; i < batch; ++i) {
      caches.push_back(std::make_unique<KvCache>(blocks_));
      RETURN_IF_ERROR(Reserve(*caches.back(), n));
    }
    Rng rng(1);
    for (int i = 0; i < n; ++i) {
      const std::vector<int32_t> tokens = Tokens(rng, batch);
      std::vector<SequenceChunk> chunks;
      chunks.reserve(caches.size());
      for (size_t s = 0; s < caches.size(); ++s) chunks.push_back({std::span(tokens).subspan(s, 1), caches[s].get()});
      RETURN_IF_ERROR(Step(chunks));
    }
    return absl::OkStatus();
  }

  // Feeds a prompt and asks for the logits after it.
  absl::Status Prefill(int n) {
    KvCache cache(blocks_);
    RETURN_IF_ERROR(Reserve(cache, n));
    Rng rng(1);
    const std::vector<int32_t> tokens = Tokens(rng, n);
    const SequenceChunk chunk{.tokens = tokens, .cache = &cache};
    return Step(std::span(&chunk, 1));
  }

 private:
  // Which tokens does not matter to the time, as long as they are not all the same row of the embedding.
  std::vector<int32_t> Tokens(Rng& rng, int n) const {
    std::vector<int32_t> tokens;
    tokens.reserve(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      tokens.push_back(static_cast<int32_t>(rng.NextU64() % static_cast<uint64_t>(config_.vocab_size)));
    }
    return tokens;
  }
  absl::Status Reserve(KvCache& cache, int n) const {
    if (cache.Reserve(n)) return absl::OkStatus();
    return ResourceExhausted("KV_MEMORY", "there is no memory for the KV cache of {} tokens", n);
  }
  absl::Status Step(std::span<const SequenceChunk> chunks) {
    const size_t positions = chunks.size();
    if (!sample_) {
      RETURN_IF_ERROR(forwarder_.ForwardHidden(chunks, hidden_));
      logits_.resize(positions * static_cast<size_t>(config_.vocab_size));
      return forwarder_.Head(hidden_.data(), static_cast<int64_t>(positions), logits_.data());
    }
    RETURN_IF_ERROR(forwarder_.Forward(chunks));
    std::vector<int32_t> all(positions);
    std::iota(all.begin(), all.end(), 0);
    RETURN_IF_ERROR(forwarder_.KeepLogitsOf(all));
    rows_.assign(positions, SampleRow());
    results_.resize(positions);
    for (size_t i = 0; i < positions; ++i) rows_[i].row = static_cast<int64_t>(i);
    RETURN_IF_ERROR(forwarder_.Sample(rows_, results_));
    for (const SampleResult& result : results_) {
      if (result.outcome != SampleOutcome::kChosen) return Internal("LOGITS_NOT_FINITE", "the logits are not finite");
    }
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  Forwarder& forwarder_;
  KvPool& blocks_;
  const bool sample_;
  std::vector<float> hidden_, logits_;
  std::vector<SampleRow> rows_;
  std::vector<SampleResult> results_;
};

// Holds the threads of `pool` to one core each, of those that the process may use.
absl::Status Pin(ThreadPool& pool) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return Internal("BENCH", "sched_getaffinity fails");
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  if (static_cast<int>(cores.size()) < pool.threads()) {
    return InvalidArgument("BENCH", "{} threads cannot have a core each of {}", pool.threads(), cores.size());
  }
  // Who waits here takes no second range, so that each thread has one.
  std::barrier all(pool.threads());
  std::atomic<int> failures{0};
  pool.ParallelFor(pool.threads(), 1, [&](int64_t begin, int64_t) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cores[static_cast<size_t>(begin)], &one);
    if (sched_setaffinity(0, sizeof(one), &one) != 0) ++failures;
    all.arrive_and_wait();
  });
  if (failures > 0) return Internal("BENCH", "sched_setaffinity fails");
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> Run(const Options& options) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(options.model));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, Model::Load(files));
  ThreadPool pool(options.threads);
  const int64_t cache_bytes = LastLevelCacheBytes(), read_bytes = ReadBandwidthBytes();  // of all cores, before --pin
  if (options.pin) RETURN_IF_ERROR(Pin(pool));
  const bool prefill = options.prefill > 0;
  const int tokens = prefill ? options.prefill : options.tokens, batch = prefill ? 1 : options.batch;
  const KvLayout layout(model->config(), model->config().num_layers, {});
  const int64_t block_count = batch * layout.BlocksFor(std::max(tokens, 16));
  ASSIGN_OR_RETURN(const std::unique_ptr<Forwarder> forwarder,
                   OpenForwarder(options.device, model, layout, block_count, pool));
  KvPool blocks(layout, block_count, forwarder->kv_memory());
  Bench bench(model->config(), *forwarder, blocks, options.sample);
  RETURN_IF_ERROR(bench.Decode(std::min(options.tokens, 16), batch));  // pages in, caches warm
  if (prefill) RETURN_IF_ERROR(bench.Prefill(tokens));
  std::vector<double> rates;
  for (int i = 0; i < options.repetitions; ++i) {
    const auto start = std::chrono::steady_clock::now();
    RETURN_IF_ERROR(prefill ? bench.Prefill(tokens) : bench.Decode(tokens, batch));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    rates.push_back(tokens * batch / seconds.count());
  }
  std::vector<double> sorted = rates;
  std::sort(sorted.begin(), sorted.end());
  const double median = sorted[sorted.size() / 2];
  const double bytes_per_second = median / batch * static_cast<double>(model->bytes_per_token());
  ASSIGN_OR_RETURN(const int device, ParseDevice(options.device));
  double read = 0;
  nlohmann::json memory = nlohmann::json::object();
  if (device < 0) {
    std::string loop;
    read = MeasureReadBandwidth(read_bytes, 5, pool, &loop);
    memory = {{"last_level_cache_bytes", cache_bytes}, {"read_loop", loop}};
  } else {
    ASSIGN_OR_RETURN(read, MeasureGpuRead(device));
  }
  nlohmann::json result{{"tokens_per_second", rates},
                        {"median_tokens_per_second", median},
                        {"bytes_per_token", model->bytes_per_token()},
                        {"weight_bytes", model->weight_bytes()},
                        {"gb_per_second", bytes_per_second / 1e9},
                        {"read_gb_per_second", read / 1e9},
                        {"bandwidth_fraction", bytes_per_second / read},
                        {"kernel", model->kernel_name()},
                        {"device", forwarder->name()},
                        {"batch", batch},
                        {"threads", options.threads}};
  result.update(memory);
  return result;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Measures decoding of an artifact or a checkpoint.");
  app.add_option("--model", options.model, "Artifact folder, Hugging Face folder or GGUF file")->required();
  app.add_option("--tokens", options.tokens, "Tokens of a repetition")->check(CLI::Range(1, 100000));
  app.add_option("--prefill", options.prefill, "Tokens of a prompt, fed at once")->check(CLI::Range(1, 100000));
  app.add_option("--batch", options.batch, "Sequences that decode together")->check(CLI::Range(1, 1024));
  app.add_flag("--sample", options.sample, "Choose tokens, too");
  app.add_flag("--pin", options.pin, "Hold each thread to a core of its own");
  app.add_option("--device", options.device, "cpu, or cuda: and a number");
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
