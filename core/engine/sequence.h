// One request on its way through the engine: what of its prompt has been fed, its KV cache, what it has said so far.
// Not thread-safe; belongs to the engine's thread once it is admitted.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/engine/engine.h"
#include "core/engine/sampler.h"
#include "core/engine/stop_matcher.h"
#include "core/model/kv_cache.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {

class Sequence {
 public:
  using Clock = std::chrono::steady_clock;

  // `context` is the most tokens that prompt and answer may have together; the prompt has fewer.
  Sequence(uint64_t id, std::vector<int32_t> prompt, const SamplingParams& params, std::shared_ptr<TokenSink> sink,
           const Tokenizer& tokenizer, const ModelConfig& config, int64_t context);

  uint64_t id() const { return id_; }
  int64_t prompt_tokens() const { return static_cast<int64_t>(prompt_.size()); }
  // Memory that Admit takes.
  int64_t kv_bytes() const;

  // Makes the cache. RESOURCE_EXHAUSTED (KV_MEMORY) if the system has no memory for it.
  absl::Status Admit();
  // What to feed next: the last token chosen, or up to `prompt_budget` tokens of the prompt. Empty if that is 0.
  std::span<const int32_t> NextTokens(int64_t prompt_budget) const;
  bool in_prompt() const { return fed_ < prompt_.size(); }
  KvCache* cache() { return cache_.get(); }
  // NextTokens' first `n` tokens are in the cache. True if the logits after them choose a token.
  bool Fed(int64_t n);

  // The arithmetic of choosing, which may run beside that of other sequences; then Deliver sends it.
  // `logits` is used as scratch. INTERNAL (LOGITS_NOT_FINITE) if they hold NaN or infinity.
  void Choose(std::span<float> logits);
  // False once the sequence has ended; OnDone has then been called.
  bool Deliver();
  // Ends the sequence early.
  void Finish(FinishReason reason, absl::Status status);

 private:
  bool IsStopToken(int32_t token) const;

  const uint64_t id_;
  const std::vector<int32_t> prompt_;
  const SamplingParams params_;
  const std::shared_ptr<TokenSink> sink_;
  const Tokenizer& tokenizer_;
  const ModelConfig& config_;
  const int64_t max_completion_;  // the smaller of max_tokens and what the context leaves

  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stops_;
  std::unique_ptr<KvCache> cache_;
  size_t fed_ = 0;  // tokens of the prompt
  absl::StatusOr<SampledToken> chosen_;
  int32_t completion_tokens_ = 0;

  const Clock::time_point submitted_ = Clock::now();
  std::optional<Clock::time_point> admitted_;
  std::optional<Clock::time_point> first_token_;
};

}  // namespace qamserve
