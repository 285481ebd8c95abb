#include "server/grpc/generate_stream.h"

#include <random>
#include <utility>

#include "server/grpc/converters.h"
#include "server/grpc/generation_signals.h"

namespace qamserve {
namespace {

uint64_t RandomSeed() {
  std::random_device device;
  const uint64_t seed = (static_cast<uint64_t>(device()) << 32) | device();
  return seed == 0 ? 1 : seed;
}

// What a token adds to the unsent text, roughly: the id, the text, and 24 bytes for each log-probability.
size_t SizeOf(const TokenEvent& event) { return 8 + event.text.size() + 24 * event.top.size(); }

// Kept alive by gRPC (until OnDone) through self_, by the executor's task and by the engine through its Sink. gRPC's
// Start* and Finish are called without the lock; `writing_` and `finished_` make sure that no two run at once.
class GenerateStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  GenerateStream(ServiceContext& context, const grpc::CallbackServerContext& call, CallName name,
                 std::string_view requested)
      : context_(context), guard_(context, call, name), model_name_(WithoutCollection(kServedModels, requested)) {}

  void Start(RouteFn route, PrepareFn prepare) {
    self_ = shared_from_this();
    if (!guard_.admitted().ok()) return End("refused", guard_.admitted());
    const absl::Status queued = context_.quick.Run([self = shared_from_this(), route = std::move(route),
                                                    prepare = std::move(prepare)] { self->Submit(route, prepare); });
    if (!queued.ok()) End("refused", queued);
  }

  // --- From gRPC ---
  void OnWriteDone(bool ok) override {
    {
      absl::MutexLock lock(&mutex_);
      writing_ = false;
      if (!ok) reader_gone_ = true;
    }
    if (!ok) CancelSequence();
    Advance();
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mutex_);
      reader_gone_ = true;
    }
    CancelSequence();
  }

  void OnDone() override { const std::shared_ptr<GenerateStream> self = std::move(self_); }

  // --- From the engine's thread ---
  bool AddToken(const TokenEvent& event) {
    CountToken();
    {
      absl::MutexLock lock(&mutex_);
      if (reader_gone_ || too_slow_) return false;
      unsent_bytes_ += SizeOf(event);
      if (unsent_bytes_ > context_.limits.max_unsent_bytes) {
        too_slow_ = true;
        return false;
      }
      pending_.mutable_text()->append(ValidUtf8(event.text));
      pending_.add_tokens(event.token);
      if (with_logprobs_) *pending_.add_logprobs() = LogprobToProto(event, *tokenizer_);
      has_pending_ = true;
    }
    Advance();
    return true;
  }

  void Complete(const GenerationSummary& summary) {
    const std::string_view outcome = OutcomeOf(summary);
    CountSummary(summary, outcome);
    TellGeneration(context_, guard_, model_name_, outcome, summary);
    guard_.CountTokens(int64_t{summary.prompt_tokens} + summary.completion_tokens);
    {
      absl::MutexLock lock(&mutex_);
      ended_ = true;
      end_status_ = EndStatus(summary);
      // A reader that is too far behind is told so at once instead of being sent the rest.
      has_pending_ = !too_slow_ && summary.reason != FinishReason::kError;
      pending_.mutable_text()->append(ValidUtf8(summary.trailing_text));
      pending_.set_finish_reason(ToProto(summary.reason));
      v1::Usage* usage = pending_.mutable_usage();
      usage->set_prompt_tokens(summary.prompt_tokens);
      usage->set_completion_tokens(summary.completion_tokens);
      usage->set_seed(seed_);
      usage->set_time_to_first_token_seconds(summary.time_to_first_token_seconds);
      usage->set_total_seconds(summary.total_seconds);
      usage->set_cached_prompt_tokens(summary.cached_prompt_tokens);
    }
    Advance();
  }

 private:
  class Sink final : public TokenSink {
   public:
    explicit Sink(std::shared_ptr<GenerateStream> stream) : stream_(std::move(stream)) {}
    bool OnToken(const TokenEvent& event) override { return stream_->AddToken(event); }
    void OnDone(const GenerationSummary& summary) override { stream_->Complete(summary); }

   private:
    const std::shared_ptr<GenerateStream> stream_;
  };

  void Submit(const RouteFn& route, const PrepareFn& prepare) {
    if (IsReaderGone()) return End("cancelled", Cancelled("CANCELLED", "the call was cancelled before it began"));
    const absl::StatusOr<std::shared_ptr<ServedModel>> model = route();
    if (!model.ok()) return End("refused", model.status());
    model_name_ = (*model)->name();
    absl::StatusOr<GenerateInput> input = prepare(**model);
    if (!input.ok()) return End("refused", input.status());
    if (input->params.seed == 0) input->params.seed = RandomSeed();
    {
      absl::MutexLock lock(&mutex_);
      seed_ = input->params.seed;
      with_logprobs_ = input->params.logprobs >= 0;
      tokenizer_ = input->tokenizer;
      model_ = *model;
    }
    const absl::StatusOr<uint64_t> id =
        (*model)->Submit(std::move(input->prompt), input->params, std::make_shared<Sink>(shared_from_this()),
                         input->request);
    if (!id.ok()) return End("refused", id.status());
    {
      absl::MutexLock lock(&mutex_);
      id_ = *id;
    }
    // OnCancel may have come before the id was known.
    if (IsReaderGone()) CancelSequence();
  }

  bool IsReaderGone() {
    absl::MutexLock lock(&mutex_);
    return reader_gone_;
  }

  void CancelSequence() {
    std::shared_ptr<ServedModel> model;
    uint64_t id;
    {
      absl::MutexLock lock(&mutex_);
      model = model_;
      id = id_;
    }
    if (model != nullptr && id != 0) model->Cancel(id);
  }

  absl::Status EndStatus(const GenerationSummary& summary) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (too_slow_) {
      return ResourceExhausted("SLOW_READER", "more than {} bytes were waiting for the reader of this stream",
                               context_.limits.max_unsent_bytes);
    }
    if (summary.reason == FinishReason::kError || summary.reason == FinishReason::kDeadline) return summary.status;
    if (summary.reason != FinishReason::kCancelled) return absl::OkStatus();
    if (reader_gone_) return Cancelled("CANCELLED", "the call was cancelled");
    return Unavailable("MODEL_DRAINED", "model \"{}\" was unloaded before the generation ended", model_name_);
  }

  // Starts the next write or the end, if it is time.
  void Advance() {
    absl::Status status;
    bool write = false;
    {
      absl::MutexLock lock(&mutex_);
      if (writing_ || finished_) return;
      if (has_pending_ && !reader_gone_) {
        message_.Clear();
        message_.Swap(&pending_);
        message_.set_model(ResourceName(kServedModels, model_name_));
        has_pending_ = false;
        unsent_bytes_ = 0;
        write = writing_ = true;
      } else if (ended_) {
        finished_ = true;
        status = end_status_;
      } else {
        return;
      }
    }
    if (write) {
      StartWrite(&message_);
    } else {
      Close(status);
    }
  }

  // Before anything was submitted, or if nothing could be.
  void End(std::string_view outcome, const absl::Status& status) {
    context_.metrics.Add(Metric::kRequestsTotal, {model_name_, outcome});
    {
      absl::MutexLock lock(&mutex_);
      finished_ = true;
    }
    Close(status);
  }

  void Close(const absl::Status& status) {
    guard_.Finished(status);
    Finish(ToGrpcStatus(status));
  }

  void CountToken() {
    const absl::Time now = absl::Now();
    if (last_token_ != absl::InfinitePast()) {
      context_.metrics.Observe(Metric::kInterTokenSeconds, {model_name_}, absl::ToDoubleSeconds(now - last_token_));
    }
    last_token_ = now;
    context_.metrics.Add(Metric::kGenerationTokensTotal, {model_name_});
  }

  std::string_view OutcomeOf(const GenerationSummary& summary) {
    switch (summary.reason) {
      case FinishReason::kStop: return "stop";
      case FinishReason::kLength: return "length";
      case FinishReason::kCancelled: return IsTooSlow() ? "slow_reader" : "cancelled";
      case FinishReason::kDeadline: return "deadline";
      case FinishReason::kError: break;
    }
    return "error";
  }

  void CountSummary(const GenerationSummary& summary, std::string_view outcome) {
    Metrics& metrics = context_.metrics;
    metrics.Add(Metric::kRequestsTotal, {model_name_, outcome});
    metrics.Add(Metric::kPromptTokensTotal, {model_name_}, summary.prompt_tokens);
    metrics.Add(Metric::kPrefixCacheHitTokensTotal, {model_name_}, summary.cached_prompt_tokens);
    metrics.Add(Metric::kPreemptionsTotal, {model_name_}, summary.preemptions);
    metrics.Add(Metric::kDraftTokensTotal, {model_name_}, summary.draft_tokens);
    metrics.Add(Metric::kAcceptedDraftTokensTotal, {model_name_}, summary.accepted_draft_tokens);
    metrics.Observe(Metric::kRequestQueueSeconds, {model_name_}, summary.queue_seconds);
    metrics.Observe(Metric::kRequestSeconds, {model_name_}, summary.total_seconds);
    if (summary.completion_tokens > 0) {
      metrics.Observe(Metric::kTimeToFirstTokenSeconds, {model_name_}, summary.time_to_first_token_seconds);
    }
  }

  bool IsTooSlow() {
    absl::MutexLock lock(&mutex_);
    return too_slow_;
  }

  ServiceContext& context_;
  CallGuard guard_;
  std::string model_name_;  // set before the engine knows the request, const from then on
  std::shared_ptr<GenerateStream> self_;
  v1::GenerateResponse message_;  // gRPC's while writing_
  absl::Time last_token_ = absl::InfinitePast();  // engine's thread only

  absl::Mutex mutex_;
  std::shared_ptr<ServedModel> model_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Tokenizer> tokenizer_ ABSL_GUARDED_BY(mutex_);
  uint64_t id_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t seed_ ABSL_GUARDED_BY(mutex_) = 0;
  bool with_logprobs_ ABSL_GUARDED_BY(mutex_) = false;
  v1::GenerateResponse pending_ ABSL_GUARDED_BY(mutex_);
  size_t unsent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool has_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool reader_gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool too_slow_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // the engine is done
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // Finish is called, or about to be
  absl::Status end_status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerateStream(ServiceContext& context,
                                                                    const grpc::CallbackServerContext& call,
                                                                    CallName name, std::string_view requested,
                                                                    RouteFn route, PrepareFn prepare) {
  const auto stream = std::make_shared<GenerateStream>(context, call, name, requested);
  stream->Start(std::move(route), std::move(prepare));
  return stream.get();
}

}  // namespace qamserve
