#include "core/engine/engine_job.h"

#include <algorithm>

#include "core/engine/sampler.h"
#include "core/kernels/kernels.h"

namespace qamserve {
namespace {

// Logits of so many positions are held at once while scoring: 32 MB with a vocabulary of 262144.
constexpr size_t kHeadRows = 32;
// Rows of a comparison in one piece, a thread: both heads are gone through for them, which takes as long as reading a
// few hundred tokens.
constexpr size_t kCompareRows = 16;

}  // namespace

absl::StatusOr<bool> ReadingJob::Piece(const JobTools& tools) {
  const size_t rows = std::min(static_cast<size_t>(tools.most_tokens), tokens_.size() - read_);
  const SequenceChunk chunk{tokens_.subspan(read_, rows), cache.get(), /*all_logits=*/true};
  std::vector<float> hidden;
  RETURN_IF_ERROR(tools.forwarder.ForwardHidden(std::span(&chunk, 1), hidden));
  RETURN_IF_ERROR(Read(tools, read_, hidden, rows));
  read_ += rows;
  return read_ == tokens_.size();
}

absl::Status ScoreJob::Read(const JobTools& tools, size_t first, std::span<const float> hidden, size_t rows) {
  const auto width = static_cast<size_t>(tools.config.hidden_size);
  const auto vocab = static_cast<size_t>(tools.config.vocab_size);
  std::vector<float> logits;
  for (size_t row = 0; row < rows; row += kHeadRows) {
    const size_t some = std::min(kHeadRows, rows - row);
    logits.resize(some * vocab);
    RETURN_IF_ERROR(tools.forwarder.Head(hidden.data() + row * width, static_cast<int64_t>(some), logits.data()));
    scores.logprobs.resize(first + row + some);
    if (top_ > 0) scores.top.resize(first + row + some);
    tools.pool.ParallelFor(static_cast<int64_t>(some), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        ScoreRow(first + row + i, std::span(logits).subspan(i * vocab, vocab));
      }
    });
  }
  return absl::OkStatus();
}

void ScoreJob::ScoreRow(size_t position, std::span<const float> logits) {
  const double log_sum = LogSumExp(logits);
  const auto next = static_cast<size_t>(tokens_[position + 1]);
  scores.logprobs[position] = static_cast<float>(logits[next] - log_sum);
  if (top_ > 0) scores.top[position] = BestTokens(logits, log_sum, top_);
}

absl::Status MeanJob::Read(const JobTools& tools, size_t, std::span<const float> hidden, size_t rows) {
  const auto width = static_cast<size_t>(tools.config.hidden_size);
  sums_.resize(width);
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < width; ++i) sums_[i] += static_cast<double>(hidden[row * width + i]);
  }
  return absl::OkStatus();
}

std::vector<float> MeanJob::Mean() const {
  std::vector<float> mean(sums_.size());
  for (size_t i = 0; i < mean.size(); ++i) mean[i] = static_cast<float>(sums_[i] / static_cast<double>(tokens_));
  return mean;
}

absl::Status HiddenJob::Read(const JobTools& tools, size_t first, std::span<const float> rows_hidden, size_t rows) {
  const auto width = static_cast<size_t>(tools.config.hidden_size);
  hidden.reserve((static_cast<size_t>(kv_tokens()) - first_) * width);
  const size_t skipped = std::min(rows, first_ - std::min(first, first_));
  hidden.insert(hidden.end(), rows_hidden.begin() + static_cast<ptrdiff_t>(skipped * width),
                rows_hidden.begin() + static_cast<ptrdiff_t>(rows * width));
  return absl::OkStatus();
}

absl::StatusOr<bool> CompareJob::Piece(const JobTools& tools) {
  const size_t at = tokens.size();
  const size_t rows = std::min(kCompareRows * static_cast<size_t>(tools.pool.threads()), targets_.size() - at);
  const auto wanted = targets_.subspan(at, rows);
  const auto hidden_of = [at](const Side& side) {
    return side.hidden.data() + at * static_cast<size_t>(side.head.cols);
  };
  const std::vector<TokenComparison> compared =
      CompareTokens(base_.head, hidden_of(base_), &other_.head, hidden_of(other_), {wanted.begin(), wanted.end()},
                    BestKernels(), tools.pool);
  tokens.insert(tokens.end(), compared.begin(), compared.end());
  return tokens.size() == targets_.size();
}

}  // namespace qamserve
