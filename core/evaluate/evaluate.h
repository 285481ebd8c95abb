// Perplexity and paired KL of an artifact against the checkpoint it was made from. Start here for core/evaluate.
// The base model runs a block at a time, so memory is bounded as in core/quantize; the artifact runs on the kernels
// that serve it. Every position of every window is scored; windows are independent.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/evaluate/compare.h"
#include "core/model/checkpoint.h"
#include "core/model/model.h"
#include "core/quantize/quantize.h"

namespace qamserve {

// Names the arithmetic that scored the tokens; it is the same on every instruction set.
inline constexpr char kKernelsVersion[] = "cpu-int16-1";

struct QualityReport {
  int64_t windows = 0;
  int64_t window_tokens = 0;
  int64_t scored_tokens = 0;
  double base_perplexity = 0;
  double quantized_perplexity = 0;
  double perplexity_change = 0;              // quantized / base - 1
  double perplexity_change_stderr = 0;       // over windows
  double kl_mean = 0;                        // nats a token, KL(base || quantized)
  double kl_stderr = 0;                      // over windows
  double kl_ci95_low = 0, kl_ci95_high = 0;  // Student's t over windows
  double kl_p50 = 0, kl_p90 = 0, kl_p99 = 0, kl_p999 = 0, kl_max = 0;
  // Over positions window_tokens / 2 .. window_tokens - 2 of each window only: what llama-perplexity scores.
  double second_half_kl_mean = 0;
  double top1_agreement = 0;   // 0..1
  std::string text_source;     // "text", "built-in text" or "own samples"
  bool chat_template = false;  // the text was shaped by the model's chat template
  std::string text_digest;     // of the token ids
  std::string kernels;         // kKernelsVersion
};
std::string QualityReportToJson(const QualityReport& report);
absl::StatusOr<QualityReport> QualityReportFromJson(const std::string& json);

// What the unquantized model says of some windows, to compare any number of artifacts with: its last hidden states,
// normalized, [all tokens][hidden_size]. 600 times smaller than its log-probabilities.
struct BaseReference {
  std::vector<std::vector<int32_t>> windows;  // of exactly the same length, at least 2 tokens
  std::vector<float> hidden;
};
absl::StatusOr<BaseReference> RunBase(const Checkpoint& base, const std::vector<std::vector<int32_t>>& windows,
                                      ThreadPool& pool, ProgressFn progress);
// Both models on each position of the windows of `reference`, [windows][window_tokens - 1]. Windows are independent, so
// those of a text may be compared apart. `kv` is how `quantized` keeps keys and values; the base side always has
// floats.
using WindowComparisons = std::vector<std::vector<TokenComparison>>;
absl::StatusOr<WindowComparisons> CompareWindows(const Checkpoint& base, const BaseReference& reference,
                                                 const Model& quantized, ThreadPool& pool, ProgressFn progress,
                                                 const KvFormat& kv = {});
// Of all windows of a text, in order; at least one. Without what is known of the text itself.
QualityReport Summarize(const WindowComparisons& windows);
// CompareWindows, then Summarize.
absl::StatusOr<QualityReport> Compare(const Checkpoint& base, const BaseReference& reference, const Model& quantized,
                                      ThreadPool& pool, ProgressFn progress, const KvFormat& kv = {});

// RunBase, then Compare.
absl::StatusOr<QualityReport> Evaluate(const Checkpoint& base, const Model& quantized,
                                       const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
                                       ProgressFn progress);

struct Perplexity {
  double perplexity = 0;
  double second_half_perplexity = 0;  // only the second half of each window is scored, as llama-perplexity does
  int64_t scored_tokens = 0;
};
// Of the unquantized model, a block at a time.
absl::StatusOr<Perplexity> EvaluateBase(const Checkpoint& base, const std::vector<std::vector<int32_t>>& windows,
                                        ThreadPool& pool, ProgressFn progress);

// Consecutive windows of a token stream. If `bos` is given it replaces the first token of each window.
// INVALID_ARGUMENT (TEXT_TOO_SHORT) if there are not enough tokens; names both counts.
absl::StatusOr<std::vector<std::vector<int32_t>>> CutWindows(const std::vector<int32_t>& tokens, int32_t windows,
                                                             int32_t window_tokens, std::optional<int32_t> bos);
// The model's own samples at temperature 1, for data-free calibration and evaluation. A token takes a pass through all
// blocks; each lies in memory only while it runs (core/model/streamed_model.h), for as many windows at a time as have
// room for their keys and values. Tokens depend neither on that nor on how many windows there are.
struct SampleRequest {
  std::span<const int32_t> beginning;  // of every window
  int32_t windows = 0;
  int32_t window_tokens = 0;
  uint64_t seed = 0;
  std::string scratch;   // where a file may be made, as large as SampleScratchBytes; it is gone at the end
  int64_t kv_bytes = 0;  // keys and values of windows that run together, at least of one; 0 = SampleKvBytes
};
// INVALID_ARGUMENT (WINDOW_TOKENS_RANGE) if the beginning is empty or leaves no room in a window; the errors of
// StreamedModel.
absl::StatusOr<std::vector<std::vector<int32_t>>> SampleWindows(const Checkpoint& checkpoint,
                                                                const SampleRequest& request, ThreadPool& pool,
                                                                ProgressFn progress);
// A sixteenth of the model in 16 bits, or 128 MiB for small ones.
int64_t SampleKvBytes(const Checkpoint& checkpoint);
// Estimates of what SampleWindows takes of memory (all that counts as resident, the process itself left out), and
// exactly what of the disk: 0 unless the checkpoint has matrices that must be converted, as most GGUF files do.
int64_t SampleMemoryBytes(const Checkpoint& checkpoint, int32_t windows, int32_t window_tokens);
int64_t SampleScratchBytes(const Checkpoint& checkpoint);
// SHA-256 over the ids as little-endian int32.
std::string TokensDigest(const std::vector<std::vector<int32_t>>& windows);

// report.json of an artifact and its model card.
std::string ReportJson(const QuantizeSpec& spec, const QuantizePlan& plan, const ArtifactInputs& inputs,
                       const QualityReport& quality);
std::string ModelCard(const Checkpoint& checkpoint, const QuantizeSpec& spec, const QuantizePlan& plan,
                      const ArtifactInputs& inputs, const QualityReport& quality);

}  // namespace qamserve
