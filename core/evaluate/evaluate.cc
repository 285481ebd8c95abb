#include "core/evaluate/evaluate.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/evaluate/compare.h"
#include "core/model/stream.h"
#include "core/model/weights.h"

namespace qamserve {
namespace {

absl::StatusOr<Linear> LoadHead(const Checkpoint& checkpoint) {
  return LoadDense(checkpoint, HeadName(checkpoint.config()));
}

// Whether `head` is the checkpoint's, to the last bit: most artifacts keep it as it was. Heads of large vocabularies
// are hundreds of megabytes, so one that is there already is not loaded again.
absl::StatusOr<bool> IsHeadOf(const Checkpoint& checkpoint, const Linear& head) {
  const char* name = HeadName(checkpoint.config());
  const TensorInfo& info = checkpoint.Info(name);
  const bool dense = !head.dense16.empty() || !head.dense32.empty();
  if (!dense || head.rows != info.rows() || head.cols != info.cols() || head.dense_type != DenseTypeOf(info.dtype)) {
    return false;
  }
  constexpr int64_t kRowsAtOnce = 64;
  const auto cols = static_cast<size_t>(head.cols);
  std::vector<float> rows(static_cast<size_t>(kRowsAtOnce) * cols), own(cols);
  for (int64_t row = 0; row < head.rows; row += kRowsAtOnce) {
    const int64_t end = std::min(head.rows, row + kRowsAtOnce);
    RETURN_IF_ERROR(checkpoint.ReadRows(name, row, end, std::span(rows).first(static_cast<size_t>(end - row) * cols)));
    for (int64_t i = row; i < end; ++i) {
      ReadRow(head, i, BestKernels(), own.data());
      if (std::memcmp(own.data(), rows.data() + static_cast<size_t>(i - row) * cols, cols * sizeof(float)) != 0) {
        return false;
      }
    }
  }
  return true;
}

// Progress of one part of a call that is made of several.
struct Part {
  ProgressFn progress;
  double begin, end;
  absl::Status operator()(double fraction) const { return progress(begin + (end - begin) * fraction); }
};

absl::Status CheckWindows(const std::vector<std::vector<int32_t>>& windows) {
  for (const auto& window : windows) {
    if (window.size() < 2 || window.size() != windows.front().size()) {
      return InvalidArgument("SPEC_FIELD", "windows must have one length of at least 2 tokens; got {} and {}",
                             windows.front().size(), window.size());
    }
  }
  if (windows.empty()) return InvalidArgument("SPEC_FIELD", "there are no windows to evaluate");
  return absl::OkStatus();
}

std::vector<int32_t> TargetsOf(const std::vector<int32_t>& window) { return {window.begin() + 1, window.end()}; }

// Two-sided 95 % quantile of Student's t.
double StudentQuantile(size_t degrees) {
  constexpr double kTable[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                               2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086};
  if (degrees == 0) return 0;
  if (degrees <= std::size(kTable)) return kTable[degrees - 1];
  return 1.96 + 2.4 / static_cast<double>(degrees);  // within 0.003 of the quantile from 21 on
}

struct MeanAndError {
  double mean = 0, error = 0;
};

MeanAndError OverWindows(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  MeanAndError out;
  for (double v : values) out.mean += v / n;
  double squares = 0;
  for (double v : values) squares += (v - out.mean) * (v - out.mean);
  if (values.size() > 1) out.error = std::sqrt(squares / (n - 1) / n);
  return out;
}

double Percentile(const std::vector<double>& sorted, double p) {
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

}  // namespace

QualityReport Summarize(const WindowComparisons& windows) {
  QualityReport report;
  report.kernels = kKernelsVersion;
  report.windows = static_cast<int64_t>(windows.size());
  report.window_tokens = static_cast<int64_t>(windows.front().size()) + 1;
  std::vector<double> kl_by_window, change_by_window, kls;
  double base = 0, other = 0, second_half = 0;
  int64_t agree = 0, second_half_tokens = 0;
  for (const std::vector<TokenComparison>& window : windows) {
    double kl = 0, change = 0;
    for (size_t i = 0; i < window.size(); ++i) {
      const TokenComparison& t = window[i];
      kl += t.kl;
      change += t.other_nll - t.base_nll;
      base += t.base_nll;
      other += t.other_nll;
      agree += t.same_top;
      kls.push_back(t.kl);
      if (i >= (window.size() + 1) / 2) second_half += t.kl, ++second_half_tokens;
    }
    kl_by_window.push_back(kl / static_cast<double>(window.size()));
    change_by_window.push_back(change / static_cast<double>(window.size()));
  }
  const auto n = static_cast<double>(kls.size());
  report.scored_tokens = static_cast<int64_t>(kls.size());
  report.base_perplexity = std::exp(base / n);
  report.quantized_perplexity = std::exp(other / n);
  const MeanAndError change = OverWindows(change_by_window), kl = OverWindows(kl_by_window);
  report.perplexity_change = std::expm1(change.mean);
  report.perplexity_change_stderr = change.error * std::exp(change.mean);
  report.kl_mean = kl.mean;
  report.kl_stderr = kl.error;
  const double half_width = StudentQuantile(windows.size() - 1) * kl.error;
  report.kl_ci95_low = std::max(0.0, kl.mean - half_width);
  report.kl_ci95_high = kl.mean + half_width;
  std::sort(kls.begin(), kls.end());
  report.kl_p50 = Percentile(kls, 0.5);
  report.kl_p90 = Percentile(kls, 0.9);
  report.kl_p99 = Percentile(kls, 0.99);
  report.kl_p999 = Percentile(kls, 0.999);
  report.kl_max = kls.back();
  report.top1_agreement = static_cast<double>(agree) / n;
  report.second_half_kl_mean = second_half_tokens > 0 ? second_half / static_cast<double>(second_half_tokens) : 0;
  return report;
}

absl::StatusOr<BaseReference> RunBase(const Checkpoint& base, const std::vector<std::vector<int32_t>>& windows,
                                      ThreadPool& pool, ProgressFn progress) {
  RETURN_IF_ERROR(CheckWindows(windows));
  BaseReference reference{.windows = windows, .hidden = {}};
  RETURN_IF_ERROR(StreamForward(base, windows, pool, nullptr, progress, &reference.hidden));
  return reference;
}

absl::StatusOr<WindowComparisons> CompareWindows(const Checkpoint& base, const BaseReference& reference,
                                                 const Model& quantized, ThreadPool& pool, ProgressFn progress,
                                                 const KvFormat& kv) {
  if (base.config().vocab_size != quantized.config().vocab_size ||
      base.config().hidden_size != quantized.config().hidden_size) {
    return InvalidArgument("MODEL_MISMATCH",
                           "{} and {} are not the same model: vocabulary {} and {}, hidden size {} and {}",
                           base.origin(), quantized.origin(), base.config().vocab_size, quantized.config().vocab_size,
                           base.config().hidden_size, quantized.config().hidden_size);
  }
  const std::vector<std::vector<int32_t>>& windows = reference.windows;
  ASSIGN_OR_RETURN(const bool same_head, IsHeadOf(base, quantized.head()));
  Linear loaded;
  if (!same_head) {
    ASSIGN_OR_RETURN(loaded, LoadHead(base));
  }
  const Linear& base_head = same_head ? quantized.head() : loaded;

  Workspace workspace;
  workspace.DropWeightsAfterUse();
  WindowComparisons compared;
  const int64_t hidden_size = base.config().hidden_size;
  const float* base_rows = reference.hidden.data();
  for (size_t i = 0; i < windows.size(); ++i) {
    KvCache cache(quantized.config(), static_cast<int64_t>(windows[i].size()), kv);
    const SequenceChunk chunk{windows[i], &cache, /*all_logits=*/true};
    std::vector<float> hidden;
    RETURN_IF_ERROR(quantized.ForwardHidden({&chunk, 1}, workspace, pool, hidden));
    compared.push_back(CompareTokens(base_head, base_rows, &quantized.head(), hidden.data(), TargetsOf(windows[i]),
                                     BestKernels(), pool));
    base_rows += static_cast<int64_t>(windows[i].size()) * hidden_size;
    RETURN_IF_ERROR(progress(static_cast<double>(i + 1) / static_cast<double>(windows.size())));
  }
  return compared;
}

absl::StatusOr<QualityReport> Compare(const Checkpoint& base, const BaseReference& reference, const Model& quantized,
                                      ThreadPool& pool, ProgressFn progress, const KvFormat& kv) {
  ASSIGN_OR_RETURN(const WindowComparisons compared, CompareWindows(base, reference, quantized, pool, progress, kv));
  QualityReport report = Summarize(compared);
  report.text_digest = TokensDigest(reference.windows);
  return report;
}

absl::StatusOr<QualityReport> Evaluate(const Checkpoint& base, const Model& quantized,
                                       const std::vector<std::vector<int32_t>>& windows, ThreadPool& pool,
                                       ProgressFn progress) {
  ASSIGN_OR_RETURN(const BaseReference reference, RunBase(base, windows, pool, Part{progress, 0.0, 0.5}));
  return Compare(base, reference, quantized, pool, Part{progress, 0.5, 1.0});
}

absl::StatusOr<Perplexity> EvaluateBase(const Checkpoint& base, const std::vector<std::vector<int32_t>>& windows,
                                        ThreadPool& pool, ProgressFn progress) {
  RETURN_IF_ERROR(CheckWindows(windows));
  std::vector<float> hidden;
  RETURN_IF_ERROR(StreamForward(base, windows, pool, nullptr, Part{progress, 0.0, 0.8}, &hidden));
  ASSIGN_OR_RETURN(const Linear head, LoadHead(base));
  Perplexity out;
  double sum = 0, second_half = 0;
  int64_t second_half_tokens = 0;
  const float* rows = hidden.data();
  for (const std::vector<int32_t>& window : windows) {
    const auto tokens = CompareTokens(head, rows, nullptr, nullptr, TargetsOf(window), BestKernels(), pool);
    for (size_t i = 0; i < tokens.size(); ++i) {
      sum += tokens[i].base_nll;
      if (i >= window.size() / 2) second_half += tokens[i].base_nll, ++second_half_tokens;
    }
    out.scored_tokens += static_cast<int64_t>(tokens.size());
    rows += static_cast<int64_t>(window.size()) * base.config().hidden_size;
  }
  out.perplexity = std::exp(sum / static_cast<double>(out.scored_tokens));
  if (second_half_tokens > 0)
    out.second_half_perplexity = std::exp(second_half / static_cast<double>(second_half_tokens));
  RETURN_IF_ERROR(progress(1.0));
  return out;
}

}  // namespace qamserve
