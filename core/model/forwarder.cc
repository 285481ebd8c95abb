#include "core/model/forwarder.h"

#include <algorithm>
#include <new>

namespace qamserve {

absl::Status CpuForwarder::KeepLogits(const float* hidden, int64_t n) {
  logits_.resize(static_cast<size_t>(n * model_->config().vocab_size));
  return Head(hidden, n, logits_.data());
}

absl::Status CpuForwarder::Sample(std::span<const SampleRow> rows, std::span<SampleResult> results) {
  constexpr int64_t kRangesOfThread = 4;  // rows differ in what they cost, and each range has its own scratch memory
  const auto vocab = static_cast<size_t>(model_->config().vocab_size);
  const auto n = static_cast<int64_t>(rows.size());
  const int64_t ranges = kRangesOfThread * pool_.threads(), grain = std::max<int64_t>(1, (n + ranges - 1) / ranges);
  if (scratch_.empty()) scratch_.resize(static_cast<size_t>(ranges));
  const Kernels& kernels = BestKernels();
  pool_.ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
    SampleScratch& scratch = scratch_[static_cast<size_t>(begin / grain)];
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
      const auto first = static_cast<size_t>(rows[i].row) * vocab;
      try {
        results[i] = SampleLogits(kernels, std::span(logits_).subspan(first, vocab), rows[i], scratch);
      } catch (const std::bad_alloc&) {
        results[i] = SampleResult();
        results[i].outcome = SampleOutcome::kNoMemory;
      }
    }
  });
  return absl::OkStatus();
}

}  // namespace qamserve
