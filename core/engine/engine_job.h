// Work of a caller who waits for it while the engine's thread does it, a piece after each step, so that generation goes
// on beside a long text: texts that are read for their log-probabilities or hidden states, and pairs of models that are
// compared. Not thread-safe; made by the caller, run by the engine, read by the caller again once it is done.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/engine/engine.h"
#include "core/evaluate/compare.h"
#include "core/model/forwarder.h"

namespace qamserve {

// What a piece is made with: the engine's own.
struct JobTools {
  Forwarder& forwarder;
  ThreadPool& pool;
  const ModelConfig& config;
  int64_t most_tokens;  // of one piece
};

class EngineJob {
 public:
  virtual ~EngineJob() = default;
  // Tokens that `cache` must have room for before the first piece; 0 = it needs none.
  virtual int64_t kv_tokens() const { return 0; }
  // The next piece. True if it was the last one. May throw std::bad_alloc.
  virtual absl::StatusOr<bool> Piece(const JobTools& tools) = 0;

  std::unique_ptr<KvCache> cache;  // the engine's
  absl::Status status;             // both guarded by the engine's lock
  bool done = false;
};

// Feeds a text to the model and sees the normalized last hidden states of each token.
class ReadingJob : public EngineJob {
 public:
  explicit ReadingJob(std::span<const int32_t> tokens) : tokens_(tokens) {}
  int64_t kv_tokens() const override { return static_cast<int64_t>(tokens_.size()); }
  absl::StatusOr<bool> Piece(const JobTools& tools) override;

 protected:
  // `hidden` [rows][hidden_size] of the tokens from `first` on.
  virtual absl::Status Read(const JobTools& tools, size_t first, std::span<const float> hidden, size_t rows) = 0;

 private:
  std::span<const int32_t> tokens_;
  size_t read_ = 0;
};

// log p of each token but the first, given those before it, and the `top` best ones there.
class ScoreJob final : public ReadingJob {
 public:
  // `tokens` has at least 2.
  ScoreJob(std::span<const int32_t> tokens, int32_t top)
      : ReadingJob(tokens.first(tokens.size() - 1)), tokens_(tokens), top_(top) {}
  TextScores scores;

 private:
  absl::Status Read(const JobTools& tools, size_t first, std::span<const float> hidden, size_t rows) override;
  void ScoreRow(size_t position, std::span<const float> logits);

  std::span<const int32_t> tokens_;
  int32_t top_;
};

// The mean of the hidden states. Sums are double and in order of the tokens, so pieces do not change it.
class MeanJob final : public ReadingJob {
 public:
  explicit MeanJob(std::span<const int32_t> tokens) : ReadingJob(tokens), tokens_(tokens.size()) {}
  std::vector<float> Mean() const;

 private:
  absl::Status Read(const JobTools& tools, size_t first, std::span<const float> hidden, size_t rows) override;

  size_t tokens_;
  std::vector<double> sums_;
};

// The hidden states of the tokens from `first` on.
class HiddenJob final : public ReadingJob {
 public:
  HiddenJob(std::span<const int32_t> tokens, size_t first) : ReadingJob(tokens), first_(first) {}
  std::vector<float> hidden;  // [tokens - first][hidden_size]

 private:
  absl::Status Read(const JobTools& tools, size_t first, std::span<const float> hidden, size_t rows) override;

  size_t first_;
};

// Two models' distributions after the same tokens, from their hidden states. Both heads are those in this machine's
// memory, wherever the models run.
class CompareJob final : public EngineJob {
 public:
  struct Side {
    const Linear& head;
    std::vector<float> hidden;  // [targets][cols of head]
  };
  CompareJob(Side base, Side other, std::span<const int32_t> targets)
      : base_(std::move(base)), other_(std::move(other)), targets_(targets) {}
  absl::StatusOr<bool> Piece(const JobTools& tools) override;
  std::vector<TokenComparison> tokens;

 private:
  Side base_;
  Side other_;
  std::span<const int32_t> targets_;
};

}  // namespace qamserve
