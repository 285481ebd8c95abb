#include "core/engine/sequence.h"

#include <algorithm>
#include <bit>
#include <new>

namespace qamserve {
namespace {

double Seconds(Sequence::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

bool AllFinite(std::span<const float> values) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t worst = 0;
  for (const float value : values) worst = std::max(worst, std::bit_cast<uint32_t>(value) & kExponent);
  return worst != kExponent;
}

}  // namespace

Sequence::Sequence(uint64_t id, std::vector<int32_t> prompt, const SamplingParams& params,
                   std::shared_ptr<TokenSink> sink, const Tokenizer& tokenizer, const ModelConfig& config,
                   int64_t context)
    : id_(id),
      prompt_(std::move(prompt)),
      params_(params),
      sink_(std::move(sink)),
      tokenizer_(tokenizer),
      config_(config),
      max_completion_(std::min<int64_t>(params.max_tokens, context - static_cast<int64_t>(prompt_.size()))),
      sampler_(params_, prompt_, config.vocab_size),
      decoder_(tokenizer),
      stops_(params_.stop),
      chosen_(SampledToken()) {}

// The last token of an answer is never fed, so it needs no place.
int64_t Sequence::kv_bytes() const { return KvCache::BytesFor(config_, prompt_tokens() + max_completion_ - 1); }

absl::Status Sequence::Admit() {
  admitted_ = Clock::now();
  try {
    cache_ = std::make_unique<KvCache>(config_, prompt_tokens() + max_completion_ - 1);
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("KV_MEMORY", "no memory for the {} bytes of KV cache that {} tokens need", kv_bytes(),
                             prompt_tokens() + max_completion_ - 1);
  }
  return absl::OkStatus();
}

std::span<const int32_t> Sequence::NextTokens(int64_t prompt_budget) const {
  if (!in_prompt()) return std::span(&chosen_->token, 1);
  const auto rest = std::span(prompt_).subspan(fed_);
  return rest.first(std::min(rest.size(), static_cast<size_t>(prompt_budget)));
}

bool Sequence::Fed(int64_t n) {
  if (in_prompt()) fed_ += static_cast<size_t>(n);
  return !in_prompt();
}

void Sequence::Choose(std::span<float> logits) {
  if (!AllFinite(logits)) {
    chosen_ =
        Internal("LOGITS_NOT_FINITE", "the model gave logits that are not finite after {} tokens", cache_->length());
    return;
  }
  chosen_ = sampler_.Sample(logits);
}

bool Sequence::IsStopToken(int32_t token) const {
  const std::vector<int32_t>& ids = tokenizer_.stop_ids();
  return !params_.ignore_eos && std::find(ids.begin(), ids.end(), token) != ids.end();
}

bool Sequence::Deliver() {
  if (!first_token_.has_value()) first_token_ = Clock::now();
  if (!chosen_.ok()) {
    Finish(FinishReason::kError, chosen_.status());
    return false;
  }
  if (IsStopToken(chosen_->token)) {
    Finish(FinishReason::kStop, absl::OkStatus());
    return false;
  }
  ++completion_tokens_;
  TokenEvent event{.token = chosen_->token, .text = stops_.Add(decoder_.Add(chosen_->token))};
  event.logprob = chosen_->logprob;
  event.top = std::move(chosen_->top);
  if (!sink_->OnToken(event)) {
    Finish(FinishReason::kCancelled, absl::OkStatus());
    return false;
  }
  if (stops_.stopped()) {
    Finish(FinishReason::kStop, absl::OkStatus());
    return false;
  }
  if (completion_tokens_ >= max_completion_) {
    Finish(FinishReason::kLength, absl::OkStatus());
    return false;
  }
  return true;
}

void Sequence::Finish(FinishReason reason, absl::Status status) {
  const Clock::time_point now = Clock::now();
  GenerationSummary summary{.reason = reason, .status = std::move(status)};
  summary.trailing_text = stops_.Add(decoder_.Flush());
  summary.trailing_text += stops_.Flush();
  summary.prompt_tokens = static_cast<int32_t>(prompt_.size());
  summary.completion_tokens = completion_tokens_;
  summary.queue_seconds = Seconds(admitted_.value_or(now) - submitted_);
  if (first_token_.has_value()) summary.time_to_first_token_seconds = Seconds(*first_token_ - submitted_);
  summary.total_seconds = Seconds(now - submitted_);
  cache_.reset();
  sink_->OnDone(summary);
}

}  // namespace qamserve
