#include "core/model/forwarder.h"

#include <algorithm>
#include <new>

namespace qamserve {

absl::Status CheckHiddenRows(std::span<const int32_t> rows, int64_t held) {
  if (static_cast<int64_t>(rows.size()) > held) {
    return FailedPrecondition("NO_HIDDEN_STATES", "logits of {} hidden states are wanted; there are {}", rows.size(),
                              held);
  }
  for (const int32_t row : rows) {
    if (row >= 0 && row < held) continue;
    return FailedPrecondition("NO_HIDDEN_STATES", "logits of hidden state {} are wanted; there are {}", row, held);
  }
  return absl::OkStatus();
}

bool AreFirst(std::span<const int32_t> rows) {
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] != static_cast<int32_t>(i)) return false;
  }
  return true;
}

absl::Status CpuForwarder::KeepLogits(const float* hidden, int64_t n) {
  logits_.resize(static_cast<size_t>(n * model_->config().vocab_size));
  return Head(hidden, n, logits_.data());
}

absl::Status CpuForwarder::Forward(std::span<const SequenceChunk> chunks) {
  const absl::Status status = model_->ForwardHidden(chunks, workspace_, pool_, hidden_);
  if (!status.ok()) hidden_.clear();
  return status;
}

absl::Status CpuForwarder::KeepLogitsOf(std::span<const int32_t> rows) {
  const auto width = static_cast<size_t>(model_->config().hidden_size);
  RETURN_IF_ERROR(CheckHiddenRows(rows, static_cast<int64_t>(hidden_.size() / width)));
  const float* from = hidden_.data();
  if (!AreFirst(rows)) {
    chosen_.resize(rows.size() * width);
    for (size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(hidden_.data() + static_cast<size_t>(rows[i]) * width, width, chosen_.data() + i * width);
    }
    from = chosen_.data();
  }
  const auto n = static_cast<int64_t>(rows.size());
  logits_.resize(static_cast<size_t>(n * model_->config().vocab_size));
  model_->Head(from, n, pool_, logits_.data());
  return absl::OkStatus();
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
