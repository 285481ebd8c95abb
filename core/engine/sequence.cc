#include "core/engine/sequence.h"

#include <algorithm>
#include <new>

#include "core/base/digest.h"
#include "core/engine/prompt_lookup.h"

namespace qamserve {
namespace {

constexpr int64_t kFirstDraft = 4;
constexpr int64_t kLongestDraftPause = 16;

double Seconds(Sequence::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

Sequence::Sequence(uint64_t id, std::vector<int32_t> prompt, const SamplingParams& params,
                   const RequestOptions& request, std::shared_ptr<TokenSink> sink, const Tokenizer& tokenizer,
                   int64_t vocab_size, int64_t context, KvPool& pool)
    : id_(id),
      params_(params),
      request_(request),
      sink_(std::move(sink)),
      tokenizer_(tokenizer),
      prompt_tokens_(static_cast<int64_t>(prompt.size())),
      max_completion_(std::min<int64_t>(params.max_tokens, context - prompt_tokens_)),
      tokens_(std::move(prompt)),
      cache_(pool),
      draft_limit_(kFirstDraft),
      sampler_(params_, tokens_, vocab_size),
      decoder_(tokenizer),
      stops_(params_.stop),
      vocab_size_(vocab_size) {}

const std::string& Sequence::BlockName(int64_t index) {
  const auto size = static_cast<size_t>(cache_.layout().block_tokens());
  for (size_t i = block_names_.size(); i <= static_cast<size_t>(index); ++i) {
    Sha256 digest;
    if (i > 0) digest.Update(block_names_.back());
    digest.Update(std::as_bytes(std::span(tokens_).subspan(i * size, size)));
    block_names_.push_back(digest.Finish());
  }
  return block_names_[static_cast<size_t>(index)];
}

bool Sequence::Admitted(int64_t found) {
  if (admitted_.has_value()) return false;
  admitted_ = Clock::now();
  summary_.cached_prompt_tokens = static_cast<int32_t>(found);
  return true;
}

void Sequence::Preempt() {
  cache_.Clear();
  ++summary_.preemptions;
}

void Sequence::PlanFeed(int64_t tokens) {
  draft_.clear();
  feed_ = std::span(tokens_).subspan(static_cast<size_t>(cache_.length()), static_cast<size_t>(tokens));
}

int64_t Sequence::DraftLimit(int64_t most) const {
  if (draft_wait_ > 0) return 0;
  // The token that is chosen after the draft is one of the answer too.
  return std::min({most, draft_limit_, max_completion_ - (tokens() - prompt_tokens_) - 1});
}

void Sequence::PlanDraft(int64_t most) {
  PlanFeed(1);
  const std::span<const int32_t> guess = LookUpDraft(tokens_, most);
  if (guess.empty()) return;
  draft_.assign(guess.begin(), guess.end());
  draft_feed_.assign(1, tokens_.back());
  draft_feed_.insert(draft_feed_.end(), draft_.begin(), draft_.end());
  feed_ = draft_feed_;
}

int64_t Sequence::Fed() {
  const int64_t fed = std::min(cache_.length(), tokens());
  service_ += std::max<int64_t>(0, fed - most_fed_);
  most_fed_ = std::max(most_fed_, fed);
  if (draft_wait_ > 0) --draft_wait_;
  return unfed() > 0 ? 0 : 1 + static_cast<int64_t>(draft_.size());
}

void Sequence::BeginChoices() { chosen_.clear(); }

// Guesses are only looked at: each token is chosen from its own logits with its own draw, as if there were none.
bool Sequence::PlanChoice(SampleRow& row) {
  const size_t next = chosen_.size();
  if (!choice_.ok() || is_over_ || next > draft_.size()) return false;
  if (next > 0 && chosen_.back().token != draft_[next - 1]) return false;
  try {
    const absl::StatusOr<bool> goes_on = PlanOne(row);
    choice_ = goes_on.status();
    return goes_on.ok() && *goes_on;
  } catch (const std::bad_alloc&) {
    choice_ = ResourceExhausted("STEP_MEMORY", "the system has no memory to choose a token among {}", vocab_size_);
    return false;
  }
}

// False if the answer is over without another token.
absl::StatusOr<bool> Sequence::PlanOne(SampleRow& row) {
  if (params_.constraint != nullptr) {
    if (!matcher_.has_value()) matcher_.emplace(params_.constraint);
    ASSIGN_OR_RETURN(const bool goes_on,
                     matcher_->AllowedBits(static_cast<size_t>(vocab_size_), allowed_, params_.ignore_eos));
    is_over_ = !goes_on;
    if (is_over_) return false;
    row.allowed = allowed_.data();
  }
  sampler_.Plan(row);
  return true;
}

void Sequence::TakeChoice(const absl::Status& status, const SampleResult& result) {
  choice_ = status;
  if (!choice_.ok()) return;
  try {
    choice_ = TakeOne(result);
  } catch (const std::bad_alloc&) {
    choice_ = ResourceExhausted("STEP_MEMORY", "the system has no memory for a chosen token");
  }
}

// Adds to chosen_.
absl::Status Sequence::TakeOne(const SampleResult& result) {
  switch (result.outcome) {
    case SampleOutcome::kChosen:
      break;
    case SampleOutcome::kNotFinite:
      return Internal("LOGITS_NOT_FINITE", "the model gave logits that are not finite after {} tokens",
                      tokens_.size() + chosen_.size());
    case SampleOutcome::kNoMemory:
      return ResourceExhausted("STEP_MEMORY", "the system has no memory to choose a token among {}", vocab_size_);
    case SampleOutcome::kNothing:
    case SampleOutcome::kUndecided:
      return Internal("NO_TOKEN", "no token among {} can be chosen after {} tokens", vocab_size_,
                      tokens_.size() + chosen_.size());
  }
  SampledToken chosen = sampler_.Take(result);
  if (matcher_.has_value()) {
    RETURN_IF_ERROR(matcher_->Accept(chosen.token));
    is_over_ = matcher_->IsOver();
  }
  chosen_.push_back(std::move(chosen));
  return absl::OkStatus();
}

void Sequence::EndChoices() {
  const auto right = std::max<int64_t>(0, static_cast<int64_t>(chosen_.size()) - (choice_.ok() ? 1 : 0));
  cache_.SetLength(tokens() + right);
  CountDraft(right);
}

// A draft that was right is followed by a longer one; one that was wrong from the start by a pause, longer each time.
void Sequence::CountDraft(int64_t accepted) {
  const auto guessed = static_cast<int64_t>(draft_.size());
  if (guessed == 0) return;
  summary_.draft_tokens += static_cast<int32_t>(guessed);
  summary_.accepted_draft_tokens += static_cast<int32_t>(accepted);
  if (accepted == guessed) draft_limit_ *= 2;
  if (accepted < guessed) draft_limit_ = std::max<int64_t>(1, std::min(draft_limit_, 2 * accepted));
  draft_pause_ = accepted > 0 ? 0 : std::min(kLongestDraftPause, std::max<int64_t>(1, 2 * draft_pause_));
  draft_wait_ = draft_pause_;
  draft_limit_ = std::min<int64_t>(draft_limit_, int64_t{1} << 20);
}

bool Sequence::IsStopToken(int32_t token) const {
  const std::vector<int32_t>& ids = tokenizer_.stop_ids();
  return !params_.ignore_eos && std::find(ids.begin(), ids.end(), token) != ids.end();
}

bool Sequence::Deliver() {
  if (!first_token_.has_value()) first_token_ = Clock::now();
  for (SampledToken& chosen : chosen_) {
    if (!DeliverOne(chosen, /*is_last=*/&chosen == &chosen_.back())) return false;
  }
  if (choice_.ok() && !is_over_) return true;
  Finish(choice_.ok() ? FinishReason::kStop : FinishReason::kError, choice_);
  return false;
}

bool Sequence::DeliverOne(SampledToken& chosen, bool is_last) {
  if (IsStopToken(chosen.token)) {
    Finish(FinishReason::kStop, absl::OkStatus());
    return false;
  }
  ++summary_.completion_tokens;
  tokens_.push_back(chosen.token);
  TokenEvent event{.token = chosen.token, .text = stops_.Add(decoder_.Add(chosen.token))};
  event.logprob = chosen.logprob;
  event.top = std::move(chosen.top);
  if (!sink_->OnToken(event)) {
    Finish(FinishReason::kCancelled, absl::OkStatus());
    return false;
  }
  if (stops_.stopped() || (is_last && choice_.ok() && is_over_)) {
    Finish(FinishReason::kStop, absl::OkStatus());
    return false;
  }
  if (summary_.completion_tokens >= max_completion_) {
    Finish(FinishReason::kLength, absl::OkStatus());
    return false;
  }
  return true;
}

void Sequence::Finish(FinishReason reason, absl::Status status) {
  const Clock::time_point now = Clock::now();
  summary_.reason = reason;
  summary_.status = std::move(status);
  summary_.trailing_text = stops_.Add(decoder_.Flush());
  summary_.trailing_text += stops_.Flush();
  summary_.prompt_tokens = static_cast<int32_t>(prompt_tokens_);
  summary_.queue_seconds = Seconds(admitted_.value_or(now) - submitted_);
  if (first_token_.has_value()) summary_.time_to_first_token_seconds = Seconds(*first_token_ - submitted_);
  summary_.total_seconds = Seconds(now - submitted_);
  cache_.Clear();
  sink_->OnDone(summary_);
}

}  // namespace qamserve
