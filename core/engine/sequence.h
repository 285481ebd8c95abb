// One request on its way through the engine: its tokens, which of them are in its KV cache, what it has said so far.
// Prompt and answer are one row of tokens of which some are not fed yet: many while the prompt is read, or read again
// after its blocks were taken away, and one while it answers.
// Not thread-safe; belongs to the engine's thread once it is scheduled.
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

  // `context` is the most tokens that prompt and answer may have together; the prompt has fewer. `pool` must outlive
  // this.
  Sequence(uint64_t id, std::vector<int32_t> prompt, const SamplingParams& params, const RequestOptions& request,
           std::shared_ptr<TokenSink> sink, const Tokenizer& tokenizer, int64_t vocab_size, int64_t context,
           KvPool& pool);

  uint64_t id() const { return id_; }
  int32_t priority() const { return request_.priority; }
  const std::optional<Clock::time_point>& deadline() const { return request_.deadline; }

  // --- For the scheduler ---
  KvCache& cache() { return cache_; }
  const KvCache& cache() const { return cache_; }
  bool holds_blocks() const { return !cache_.blocks().empty(); }
  int64_t tokens() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  int64_t unfed() const { return tokens() - cache_.length(); }
  // The name of full block `index`: a digest of all tokens up to its end.
  const std::string& BlockName(int64_t index);
  // Tokens that were computed for this sequence, on top of what it began with; those that were computed again, after
  // the sequence had been preempted, count once.
  int64_t service() const { return service_; }
  void BeginService(int64_t service) { service_ = service; }
  // Notes the time of the first admission, when `found` tokens were in the pool already. False for a later one.
  bool Admitted(int64_t found);
  // Gives all blocks back; all tokens are to be fed again.
  void Preempt();

  // --- A step ---
  // Plans to feed the next `tokens` of those that are not fed.
  void PlanFeed(int64_t tokens);
  // The last token is fed together with up to `most` guesses of what follows. REQUIRES: unfed() is 1.
  void PlanDraft(int64_t most);
  // How many guesses are worth a try now.
  int64_t DraftLimit(int64_t most) const;
  std::span<const int32_t> feed() const { return feed_; }
  bool has_draft() const { return !draft_.empty(); }
  // What was planned is in the cache. Rows of logits, one for each of the last tokens fed, that choose tokens; 0 in the
  // middle of a prompt.
  int64_t Fed();

  // Tokens are chosen from the rows of logits one after the other, while guesses are right: BeginChoices, then for each
  // row PlanChoice, which fills all of a SampleRow but the number of its logits or says that no more are to be chosen,
  // and TakeChoice of what came of it (a status that is not OK ends the sequence with it), then EndChoices. They may
  // run beside those of other sequences; then Deliver sends what was chosen. The sequence ends with INTERNAL
  // (LOGITS_NOT_FINITE) if logits hold NaN or infinity, with RESOURCE_EXHAUSTED (STEP_MEMORY) if the system has no
  // memory to choose, with the errors of ConstraintMatcher.
  void BeginChoices();
  bool PlanChoice(SampleRow& row);
  void TakeChoice(const absl::Status& status, const SampleResult& result);
  void EndChoices();
  int64_t chosen() const { return static_cast<int64_t>(chosen_.size()); }
  // False once the sequence has ended; OnDone has then been called.
  bool Deliver();
  // Ends the sequence early.
  void Finish(FinishReason reason, absl::Status status);

 private:
  bool IsStopToken(int32_t token) const;
  absl::StatusOr<bool> PlanOne(SampleRow& row);
  absl::Status TakeOne(const SampleResult& result);
  bool DeliverOne(SampledToken& chosen, bool is_last);
  void CountDraft(int64_t accepted);

  const uint64_t id_;
  const SamplingParams params_;
  const RequestOptions request_;
  const std::shared_ptr<TokenSink> sink_;
  const Tokenizer& tokenizer_;
  const int64_t prompt_tokens_;
  const int64_t max_completion_;  // the smaller of max_tokens and what the context leaves

  std::vector<int32_t> tokens_;  // prompt and answer
  KvCache cache_;
  std::vector<std::string> block_names_;
  int64_t service_ = 0;
  int64_t most_fed_ = 0;  // longest that the cache ever was

  std::span<const int32_t> feed_;
  std::vector<int32_t> draft_;       // guesses that this step checks
  std::vector<int32_t> draft_feed_;  // the last token and the draft
  int64_t draft_limit_;
  int64_t draft_pause_ = 0;  // steps without a draft after one that was wrong from the start
  int64_t draft_wait_ = 0;   // steps of it that are left

  Sampler sampler_;
  StreamDecoder decoder_;
  StopMatcher stops_;
  const int64_t vocab_size_;
  std::vector<SampledToken> chosen_;
  absl::Status choice_;                       // why no further token could be chosen
  std::optional<ConstraintMatcher> matcher_;  // behind what was chosen; from the first choice on, if constrained
  bool is_over_ = false;                      // by the constraint, nothing can follow what was chosen
  std::vector<uint64_t> allowed_;             // by it, of the row that is chosen from
  GenerationSummary summary_;

  const Clock::time_point submitted_ = Clock::now();
  std::optional<Clock::time_point> admitted_;
  std::optional<Clock::time_point> first_token_;
};

}  // namespace qamserve
