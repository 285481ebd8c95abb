// The road from checkpoint to measured artifact through the core library alone, each stage timed. Prints one JSON
// object. Four subcommands:
//   quality   calibrate, quantize, assemble, then perplexity and paired KL on an evaluation text
//   quantize  the same without the measurement, and with random tokens to calibrate on: for time and memory of models
//             that have no sense
//   kv        paired KL of the unquantized model with an 8-bit KV cache from itself with floats
//   base      perplexity of the unquantized model, also over second halves of windows as llama-perplexity scores
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "core/base/file.h"
#include "core/base/rng.h"
#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/evaluate/evaluate.h"
#include "core/format/file_set.h"
#include "core/model/checkpoint.h"
#include "core/model/model.h"
#include "core/quantize/quantize.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxTextBytes = uint64_t{64} << 20;

using Windows = std::vector<std::vector<int32_t>>;

struct Options {
  std::string model;
  std::string eval_text;
  std::string calibration_text;
  std::string work_dir;  // packed tensors, statistics and the artifact go here
  QuantizeSpec spec;
  std::vector<double> rates;  // spec.bpw, one after the other
  int32_t windows = 8;
  int32_t window_tokens = 1024;
  bool bos = false;  // the first token of each window is replaced by BOS
  int threads = 2;
  bool quiet = false;
};

// Seconds since it was made, or since the last Lap.
class Stopwatch {
 public:
  double Lap() {
    const auto now = std::chrono::steady_clock::now();
    const std::chrono::duration<double> seconds = now - last_;
    last_ = now;
    return seconds.count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// A stage's progress as one line on the terminal.
class StageLine {
 public:
  StageLine(std::string stage, bool quiet) : stage_(std::move(stage)), quiet_(quiet) {}
  absl::Status operator()(double fraction) const {
    if (!quiet_) fmt::print(stderr, "\r{:<12}{:5.1f} %{}", stage_, 100 * fraction, fraction >= 1 ? "\n" : "");
    return absl::OkStatus();
  }

 private:
  std::string stage_;
  bool quiet_;
};

absl::StatusOr<std::shared_ptr<const Tokenizer>> OpenTokenizer(const FileSet& files) {
  if (const FileEntry* gguf = files.FindGguf()) {
    ASSIGN_OR_RETURN(const std::unique_ptr<GgufReader> reader, GgufReader::Open(*gguf));
    ASSIGN_OR_RETURN(const TokenizerFiles texts, TokenizerFilesFromGguf(*reader));
    return Tokenizer::Create(texts, files.origin());
  }
  ASSIGN_OR_RETURN(const TokenizerFiles texts, ReadTokenizerFiles(files));
  return Tokenizer::Create(texts, files.origin());
}

// The text as one string, no special tokens, cut into the first `windows` windows.
absl::StatusOr<Windows> ReadWindows(const Tokenizer& tokenizer, const std::string& path, int32_t windows,
                                    const Options& options) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxTextBytes));
  const std::optional<int32_t> bos = options.bos ? tokenizer.bos_id() : std::nullopt;
  if (options.bos && !bos) return InvalidArgument("NO_BOS", "{}: --bos, but the tokenizer has no BOS", options.model);
  return CutWindows(tokenizer.Encode(text, {}), windows, options.window_tokens, bos);
}

Windows RandomWindows(int64_t vocab_size, int32_t windows, int32_t window_tokens) {
  Rng rng(1);
  Windows out(static_cast<size_t>(windows));
  for (std::vector<int32_t>& window : out) {
    window.resize(static_cast<size_t>(window_tokens));
    for (int32_t& token : window) {
      token = static_cast<int32_t>(rng.NextU64() % static_cast<uint64_t>(vocab_size));
    }
  }
  return out;
}

// The most memory this process ever held.
int64_t PeakResidentBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

struct Quantized {
  QuantizePlan plan;
  std::string artifact;
};

// Tensors are independent tasks: one thread each, as so many workers of one core would run them.
absl::Status QuantizeTensors(const Quantizer& quantizer, const Options& options,
                             const std::vector<std::string>& statistics, ArtifactInputs& inputs) {
  const size_t n = quantizer.plan().tensors.size();
  auto no_progress = [](double) { return absl::OkStatus(); };
  for (size_t i = 0; i < n; ++i) inputs.packed.push_back(fmt::format("{}/{}.packed", options.work_dir, i));
  inputs.outcomes.resize(n);
  std::vector<absl::Status> statuses(n);
  std::atomic<size_t> next{0}, done{0};
  const StageLine line("quantize", options.quiet);
  auto work = [&] {
    ThreadPool alone(1);
    for (size_t i = next++; i < n; i = next++) {
      auto outcome = quantizer.QuantizeTensor(i, statistics, alone, no_progress, inputs.packed[i]);
      statuses[i] = outcome.status();
      if (outcome.ok()) inputs.outcomes[i] = *std::move(outcome);
      line(static_cast<double>(++done) / static_cast<double>(n)).IgnoreError();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 1; i < options.threads; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// What all rates share.
struct Calibrated {
  std::vector<std::string> statistics;
  std::string source, digest;
  double seconds = 0;
};

absl::StatusOr<Calibrated> Calibrate(const Checkpoint& checkpoint, const Options& options, const Windows& calibration,
                                     ThreadPool& pool) {
  RETURN_IF_ERROR(RemoveAll(options.work_dir));
  RETURN_IF_ERROR(CreateDirectories(options.work_dir));
  Calibrated out{.source = "none", .digest = TokensDigest(calibration)};
  if (!NeedsStatistics(options.spec)) return out;
  out.source = options.calibration_text.empty() ? "random" : "text";
  out.statistics.push_back(options.work_dir + "/statistics");
  Stopwatch watch;
  RETURN_IF_ERROR(CalibrateShard(checkpoint, options.spec, calibration, pool, StageLine("calibrate", options.quiet),
                                 out.statistics.back()));
  out.seconds = watch.Lap();
  return out;
}

// All stages from the statistics to the artifact folder, as a job runs them; their times go to `out`.
absl::StatusOr<Quantized> QuantizeCheckpoint(const std::shared_ptr<const Checkpoint>& checkpoint,
                                             const Options& options, const Calibrated& calibrated,
                                             nlohmann::json& out) {
  RETURN_IF_ERROR(ValidateQuantizeSpec(options.spec));
  Quantized result{.artifact = options.work_dir + "/artifact"};
  RETURN_IF_ERROR(RemoveAll(result.artifact));
  ASSIGN_OR_RETURN(result.plan, PlanQuantization(*checkpoint, options.spec, options.threads));
  ASSIGN_OR_RETURN(const auto quantizer, Quantizer::Create(checkpoint, options.spec));
  Stopwatch watch;
  ArtifactInputs inputs{.display_name = "benchmark", .checkpoint_digest = std::string(64, '0')};
  inputs.calibration_source = calibrated.source;
  inputs.calibration_digest = calibrated.digest;
  RETURN_IF_ERROR(QuantizeTensors(*quantizer, options, calibrated.statistics, inputs));
  double squared = 0, output_error = 0;
  for (const TensorOutcome& t : inputs.outcomes) squared += t.distortion * static_cast<double>(t.rows * t.cols);
  for (const TensorOutcome& t : inputs.outcomes) output_error += t.output_error;
  const double quantize_seconds = watch.Lap();
  RETURN_IF_ERROR(AssembleArtifact(*checkpoint, options.spec, result.plan, inputs, StageLine("assemble", options.quiet),
                                   result.artifact));
  const double assemble_seconds = watch.Lap();
  const auto weights = static_cast<double>(result.plan.weights);
  out["calibrate_seconds"] = calibrated.seconds;
  out["quantize_seconds"] = quantize_seconds;
  out["assemble_seconds"] = assemble_seconds;
  out["total_seconds"] = calibrated.seconds + quantize_seconds + assemble_seconds;
  out["weights"] = result.plan.weights;
  out["weights_per_second_per_core"] = weights / quantize_seconds / options.threads;
  out["bpw"] = result.plan.bpw;
  out["mean_distortion"] = squared / weights;
  out["output_error"] = output_error;
  out["artifact_bytes"] = result.plan.artifact_bytes;
  out["artifact"] = result.artifact;
  out["planned_peak_bytes"] = result.plan.peak_memory_bytes;
  return result;
}

// One object, or a list of them if several rates were asked for.
absl::StatusOr<nlohmann::json> RunQuality(Options options) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(options.model));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, OpenTokenizer(files));
  ASSIGN_OR_RETURN(const Windows windows, ReadWindows(*tokenizer, options.eval_text, options.windows, options));
  Windows calibration;
  if (NeedsStatistics(options.spec)) {
    ASSIGN_OR_RETURN(calibration,
                     ReadWindows(*tokenizer, options.calibration_text, options.spec.calibration_windows, options));
  }
  ThreadPool pool(options.threads);
  ASSIGN_OR_RETURN(const Calibrated calibrated, Calibrate(*checkpoint, options, calibration, pool));
  Stopwatch watch;
  ASSIGN_OR_RETURN(const BaseReference reference,
                   RunBase(*checkpoint, windows, pool, StageLine("base", options.quiet)));
  const double base_seconds = watch.Lap();
  nlohmann::json list = nlohmann::json::array();
  for (double rate : options.rates) {
    options.spec.bpw = rate;
    nlohmann::json& out = list.emplace_back();
    ASSIGN_OR_RETURN(const Quantized quantized, QuantizeCheckpoint(checkpoint, options, calibrated, out));
    ASSIGN_OR_RETURN(const FileSet artifact_files, FileSet::FromPath(quantized.artifact));
    ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, Model::Load(artifact_files));
    watch.Lap();
    ASSIGN_OR_RETURN(const QualityReport report,
                     Compare(*checkpoint, reference, *model, pool, StageLine("evaluate", options.quiet)));
    out["evaluate_seconds"] = base_seconds + watch.Lap();
    // Parsed without exceptions: our own report is always JSON.
    out["quality"] = nlohmann::json::parse(QualityReportToJson(report), nullptr, /*allow_exceptions=*/false);
    out["kl_mean"] = report.kl_mean;
    out["second_half_kl_mean"] = report.second_half_kl_mean;
    out["peak_rss_bytes"] = PeakResidentBytes();
  }
  return list.size() == 1 ? list.front() : list;
}

absl::StatusOr<nlohmann::json> RunQuantize(const Options& options) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(options.model));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  const Windows calibration =
      RandomWindows(checkpoint->config().vocab_size, options.spec.calibration_windows, options.window_tokens);
  ThreadPool pool(options.threads);
  nlohmann::json out;
  ASSIGN_OR_RETURN(const Calibrated calibrated, Calibrate(*checkpoint, options, calibration, pool));
  ASSIGN_OR_RETURN(const Quantized quantized, QuantizeCheckpoint(checkpoint, options, calibrated, out));
  out["layers"] = checkpoint->config().num_layers;
  out["tensors"] = quantized.plan.tensors.size();
  out["peak_rss_bytes"] = PeakResidentBytes();
  return out;
}

// The same with floats on both sides must give nothing at all, which shows that it is the cache that is measured.
absl::StatusOr<nlohmann::json> MeasureKv(const Options& options) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(options.model));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, OpenTokenizer(files));
  ASSIGN_OR_RETURN(const Windows windows, ReadWindows(*tokenizer, options.eval_text, options.windows, options));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Model> model, Model::Load(files));
  ThreadPool pool(options.threads);
  Stopwatch watch;
  ASSIGN_OR_RETURN(const BaseReference reference,
                   RunBase(*checkpoint, windows, pool, StageLine("base", options.quiet)));
  nlohmann::json out{{"windows", windows.size()}};
  for (const KvType type : {KvType::kF32, KvType::kInt8}) {
    const KvFormat format{.type = type};
    ASSIGN_OR_RETURN(const QualityReport report,
                     Compare(*checkpoint, reference, *model, pool, StageLine(KvTypeName(type), options.quiet), format));
    out[KvTypeName(type)] = {{"kl_mean", report.kl_mean},
                             {"kl_max", report.kl_max},
                             {"kl_ci95_high", report.kl_ci95_high},
                             {"perplexity_change", report.perplexity_change},
                             {"top1_agreement", report.top1_agreement},
                             {"bytes_per_token", KvCache::BytesFor(model->config(), 1024, format) / 1024}};
  }
  out["seconds"] = watch.Lap();
  return out;
}

absl::StatusOr<nlohmann::json> MeasureBase(const Options& options) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(options.model));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Checkpoint> checkpoint, Checkpoint::Open(files));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Tokenizer> tokenizer, OpenTokenizer(files));
  ASSIGN_OR_RETURN(const Windows windows, ReadWindows(*tokenizer, options.eval_text, options.windows, options));
  ThreadPool pool(options.threads);
  Stopwatch watch;
  ASSIGN_OR_RETURN(const Perplexity perplexity,
                   EvaluateBase(*checkpoint, windows, pool, StageLine("base", options.quiet)));
  return nlohmann::json{{"perplexity", perplexity.perplexity},
                        {"second_half_perplexity", perplexity.second_half_perplexity},
                        {"scored_tokens", perplexity.scored_tokens},
                        {"windows", windows.size()},
                        {"seconds", watch.Lap()}};
}

void AddCommon(CLI::App& command, Options& options) {
  command.add_option("--model", options.model, "Hugging Face folder or GGUF file")->required();
  command.add_option("--window-tokens", options.window_tokens)->check(CLI::Range(2, 131072));
  command.add_option("--threads", options.threads)->check(CLI::Range(1, 1024));
  command.add_flag("--quiet", options.quiet, "No progress on stderr");
}

void AddText(CLI::App& command, Options& options) {
  command.add_option("--eval-text", options.eval_text, "Text file that is scored")->required();
  command.add_option("--windows", options.windows, "Windows of it, from the beginning")->check(CLI::Range(1, 100000));
  command.add_flag("--bos", options.bos, "Replace the first token of each window by BOS");
}

void AddSpec(CLI::App& command, Options& options) {
  command.add_option("--work-dir", options.work_dir, "Emptied first, then holds the artifact")->required();
  command.add_option("--bpw", options.rates, "Several share one calibration and one run of the base model")
      ->delimiter(',');
  std::map<std::string, Codec> codecs;
  for (Codec codec : kCodecs) codecs[std::string(CodecName(codec))] = codec;
  command.add_option("--codec", options.spec.codec)->transform(CLI::CheckedTransformer(codecs));
  std::map<std::string, RotationKind> rotations;
  for (RotationKind kind : {RotationKind::kFull, RotationKind::kBlock, RotationKind::kNone}) {
    rotations[RotationKindName(kind)] = kind;
  }
  command.add_option("--rotation", options.spec.rotation)->transform(CLI::CheckedTransformer(rotations));
  command.add_flag("--error-feedback", options.spec.error_feedback);
  command.add_flag("--channel-scale,!--no-channel-scale", options.spec.channel_scale);
  command.add_option("--embedding-bits", options.spec.embedding_bits, "8 or 16, of embedding and head");
  command.add_option("--calibration-windows", options.spec.calibration_windows);
}

int Print(const absl::StatusOr<nlohmann::json>& result) {
  if (!result.ok()) {
    fmt::print(stderr, "error: {}: {}\n", ReasonOf(result.status()), MessageOf(result.status()));
    return 1;
  }
  fmt::print("{}\n", result->dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
  return 0;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) {
  qamserve::Options options;
  CLI::App app("Quantizes and measures a checkpoint through the core library.");
  app.require_subcommand(1);
  CLI::App* quality = app.add_subcommand("quality", "Quantize, then perplexity and paired KL");
  AddCommon(*quality, options);
  AddText(*quality, options);
  AddSpec(*quality, options);
  quality->add_option("--calibration-text", options.calibration_text, "Needed with channel scales");
  CLI::App* quantize = app.add_subcommand("quantize", "Quantize only, calibrated on random tokens");
  AddCommon(*quantize, options);
  AddSpec(*quantize, options);
  CLI::App* base = app.add_subcommand("base", "Perplexity of the unquantized model");
  AddCommon(*base, options);
  AddText(*base, options);
  CLI::App* kv = app.add_subcommand("kv", "KL of an 8-bit KV cache, with the unquantized model");
  AddCommon(*kv, options);
  AddText(*kv, options);
  CLI11_PARSE(app, argc, argv);
  options.spec.window_tokens = options.window_tokens;
  if (options.rates.empty()) options.rates.push_back(options.spec.bpw);
  options.spec.bpw = options.rates.front();
  if (*quality) return qamserve::Print(qamserve::RunQuality(options));
  if (*kv) return qamserve::Print(qamserve::MeasureKv(options));
  if (*quantize) return qamserve::Print(qamserve::RunQuantize(options));
  return qamserve::Print(qamserve::MeasureBase(options));
}
