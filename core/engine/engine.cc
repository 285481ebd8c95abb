#include "core/engine/engine.h"

#include <absl/base/thread_annotations.h>
#include <absl/functional/function_ref.h>
#include <absl/synchronization/mutex.h>

#include <algorithm>
#include <deque>
#include <limits>
#include <new>
#include <set>
#include <thread>

#include "core/engine/engine_job.h"
#include "core/engine/scheduler.h"

namespace qamserve {
namespace {

constexpr int64_t kDefaultContext = 8192;

absl::Status CheckOption(std::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return InvalidArgument("ENGINE_OPTION", "engine option {} is {}; allowed are {} to {}", name, value, low, high);
}

absl::Status CheckOptions(const EngineOptions& options, const ModelConfig& config) {
  RETURN_IF_ERROR(CheckOption("max_running", options.max_running, 1, 4096));
  RETURN_IF_ERROR(CheckOption("max_waiting", options.max_waiting, 0, 1 << 20));
  RETURN_IF_ERROR(CheckOption("prefill_tokens", options.prefill_tokens, 1, 1 << 16));
  RETURN_IF_ERROR(CheckOption("threads", options.threads, 0, 1024));
  RETURN_IF_ERROR(CheckOption("context_tokens", options.context_tokens, 0, config.context_length));
  RETURN_IF_ERROR(CheckOption("quantum_tokens", options.quantum_tokens, 1, INT32_MAX));
  RETURN_IF_ERROR(CheckOption("draft_tokens", options.draft_tokens, 0, 1024));
  RETURN_IF_ERROR(CheckOption("kv.block_tokens", options.kv.block_tokens, 8, 1024));
  if (options.kv.block_tokens % 8 != 0) {
    return InvalidArgument("ENGINE_OPTION", "engine option kv.block_tokens is {}; it must be a multiple of 8",
                           options.kv.block_tokens);
  }
  // Two tokens: one to read and one to say.
  return CheckOption("kv_bytes", options.kv_bytes,
                     KvCache::BytesFor(config, std::max<int64_t>(2, options.context_tokens), options.kv), INT64_MAX);
}

absl::Status CheckRequest(const RequestOptions& request) {
  if (request.priority >= -kMaxPriority && request.priority <= kMaxPriority) return absl::OkStatus();
  return InvalidArgument("REQUEST_OPTION", "priority is {}; allowed are {} to {}", request.priority, -kMaxPriority,
                         kMaxPriority);
}

absl::Status CheckConstraint(const SamplingParams& params, const Tokenizer& tokenizer) {
  if (params.constraint == nullptr) return absl::OkStatus();
  const Tokenizer& own = params.constraint->vocabulary().tokenizer();
  if (&own == &tokenizer || own.digest() == tokenizer.digest()) return absl::OkStatus();
  return InvalidArgument("CONSTRAINT_TOKENIZER", "the constraint was compiled for another tokenizer than the model's");
}

// The most tokens a sequence may have: what is asked for, or what fits.
int64_t ContextFor(const EngineOptions& options, const ModelConfig& config) {
  if (options.context_tokens > 0) return options.context_tokens;
  const int64_t context = std::min(config.context_length, kDefaultContext);
  const KvLayout layout(config, config.num_layers, options.kv);
  return std::min(context, options.kv_bytes / layout.block_bytes() * layout.block_tokens());
}

int64_t BlocksFor(const EngineOptions& options, const KvLayout& layout) {
  return std::min<int64_t>(options.kv_bytes / layout.block_bytes(), std::numeric_limits<KvPool::Block>::max());
}

absl::Status CheckPrompt(std::span<const int32_t> prompt, int64_t limit, int64_t vocab_size) {
  if (prompt.empty()) return InvalidArgument("PROMPT_EMPTY", "the prompt has no tokens; at least 1 is needed");
  if (static_cast<int64_t>(prompt.size()) > limit) {
    return InvalidArgument("PROMPT_TOO_LONG", "the prompt has {} tokens; at most {} fit the context", prompt.size(),
                           limit);
  }
  for (const int32_t token : prompt) {
    if (token >= 0 && token < vocab_size) continue;
    return InvalidArgument("PROMPT_TOKEN", "the prompt has token {}; ids are 0 to {}", token, vocab_size - 1);
  }
  return absl::OkStatus();
}

// Gemma 3's text models come with a tokenizer that has a special token (for images) more than the vocabulary, so only
// ids that plain text can produce are a mismatch.
absl::Status CheckTokenizer(const Tokenizer& tokenizer, const Model& model) {
  const int64_t vocab_size = model.config().vocab_size;
  for (int64_t id = vocab_size; id < tokenizer.size(); ++id) {
    if (tokenizer.IsSpecial(static_cast<int32_t>(id))) continue;
    return InvalidArgument("TOKENIZER_MISMATCH", "{}: the tokenizer has {} ids, the model's vocab_size is {}",
                           model.origin(), tokenizer.size(), vocab_size);
  }
  return absl::OkStatus();
}

// The system may have less memory than was promised, or others may have taken it. What then throws is caught here, so
// that only who asked for too much ends.
template <typename Fn>
absl::Status WithMemoryErrors(std::string_view what, Fn fn) {
  try {
    return fn();
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("STEP_MEMORY", "the system has no memory for {}", what);
  }
}

absl::Status CheckBias(const SamplingParams& params, int64_t vocab_size) {
  for (const auto& [token, bias] : params.logit_bias) {
    if (token >= 0 && token < vocab_size) continue;
    return InvalidArgument("SAMPLING_PARAM", "logit_bias has token {}; ids are 0 to {}", token, vocab_size - 1);
  }
  return absl::OkStatus();
}

// Whether each token is the same bytes for both, so that their distributions are over the same things.
absl::Status CheckSameVocabulary(const Engine& base, const Engine& other) {
  const Tokenizer& ours = base.tokenizer();
  const Tokenizer& theirs = other.tokenizer();
  const int64_t rows = base.model().config().vocab_size, other_rows = other.model().config().vocab_size;
  if (rows != other_rows || ours.size() != theirs.size()) {
    return FailedPrecondition("VOCABULARY_DIFFERS", "{} has {} tokens ({} rows of its head), {} has {} ({})",
                              base.model().origin(), ours.size(), rows, other.model().origin(), theirs.size(),
                              other_rows);
  }
  if (ours.digest() == theirs.digest()) return absl::OkStatus();
  for (int32_t id = 0; id < ours.size(); ++id) {
    if (ours.TokenBytes(id) == theirs.TokenBytes(id) && ours.IsSpecial(id) == theirs.IsSpecial(id)) continue;
    return FailedPrecondition("VOCABULARY_DIFFERS", "token {} is not the same to {} and {}", id, base.model().origin(),
                              other.model().origin());
  }
  return absl::OkStatus();
}

}  // namespace

struct Engine::Impl {
  Impl(std::shared_ptr<const Model> model, std::shared_ptr<const Tokenizer> tokenizer, const EngineOptions& options,
       const KvLayout& layout, int64_t block_count, std::unique_ptr<ThreadPool> threads,
       std::unique_ptr<Forwarder> forwarder)
      : model(std::move(model)),
        tokenizer(std::move(tokenizer)),
        options(options),
        context(ContextFor(options, this->model->config())),
        threads(std::move(threads)),
        pool(*this->threads),
        forwarder(std::move(forwarder)),
        blocks(layout, block_count, this->forwarder->kv_memory()),
        scheduler({.max_running = options.max_running,
                   .prefill_tokens = options.prefill_tokens,
                   .quantum_tokens = options.quantum_tokens,
                   .draft_tokens = options.draft_tokens,
                   .prefix_cache = options.prefix_cache},
                  blocks) {
    const auto most = static_cast<size_t>(options.max_running);
    choices.reserve(most);
    rows.reserve(most);
    results.reserve(most);
  }

  using Ended = std::vector<std::unique_ptr<Sequence>>;

  void Run();
  bool Collect(Ended& cancelled, Ended& expired);
  void TakeCancelled(Ended& cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void PublishStats() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Step();
  absl::Status Feed(const std::vector<Sequence*>& step, std::vector<Sequence*>& choosing,
                    std::vector<int64_t>& first_rows);
  void Choose(const std::vector<Sequence*>& choosing, const std::vector<int64_t>& first_rows);
  void FailStep(const std::vector<Sequence*>& step, const absl::Status& status);
  absl::Status Wait(EngineJob& job);
  void StartJob() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void JobStep();
  absl::StatusOr<bool> JobPiece(EngineJob& job);
  void FinishJob(EngineJob& job, absl::Status status);
  void CancelAll();

  const std::shared_ptr<const Model> model;
  const std::shared_ptr<const Tokenizer> tokenizer;
  const EngineOptions options;
  const int64_t context;

  mutable absl::Mutex mutex;
  absl::CondVar work_arrived;
  absl::CondVar job_done;
  std::vector<std::unique_ptr<Sequence>> arrived ABSL_GUARDED_BY(mutex);  // since the last step
  std::deque<EngineJob*> jobs_waiting ABSL_GUARDED_BY(mutex);
  std::set<uint64_t> cancels ABSL_GUARDED_BY(mutex);
  EngineStats stats ABSL_GUARDED_BY(mutex);
  uint64_t next_id ABSL_GUARDED_BY(mutex) = 1;
  bool stopping ABSL_GUARDED_BY(mutex) = false;

  // Of the engine's thread alone.
  const std::unique_ptr<ThreadPool> threads;
  ThreadPool& pool;
  const std::unique_ptr<Forwarder> forwarder;
  std::vector<int32_t> hidden_rows;  // hidden states of a step whose logits choose tokens
  // Of a step's choices, with room for all sequences that one can have, so that no memory is asked for in between.
  struct Choice {
    Sequence* sequence = nullptr;
    int64_t row = 0;
    bool is_planned = false;
  };
  std::vector<Choice> choices;
  std::vector<SampleRow> rows;
  std::vector<SampleResult> results;
  KvPool blocks;
  Scheduler scheduler;
  EngineJob* job = nullptr;  // the one that is under way
  bool job_lacks_memory = false;
  int64_t prompt_tokens_fed = 0;
  int64_t tokens_generated = 0;
  int64_t draft_tokens = 0;
  int64_t accepted_draft_tokens = 0;
  int64_t decode_steps = 0;
  double decode_seconds = 0;

  std::thread thread;  // last: starts when all else is there
};

void Engine::Impl::Run() {
  Ended cancelled, expired;
  while (Collect(cancelled, expired)) {
    // Sinks are called without the lock, so that they may call the engine.
    for (const auto& sequence : cancelled) sequence->Finish(FinishReason::kCancelled, absl::OkStatus());
    for (const auto& sequence : expired) {
      sequence->Finish(FinishReason::kDeadline, MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE",
                                                          "the request's deadline passed before its answer ended"));
    }
    cancelled.clear();
    expired.clear();
    Step();
    JobStep();
  }
  CancelAll();
}

// Waits for something to do. False when the engine is to stop.
bool Engine::Impl::Collect(Ended& cancelled, Ended& expired) {
  absl::MutexLock lock(&mutex);
  while (true) {
    if (stopping) return false;
    for (auto& sequence : arrived) scheduler.Add(std::move(sequence));
    arrived.clear();
    TakeCancelled(cancelled);
    expired = scheduler.RemoveExpired(Sequence::Clock::now());
    StartJob();
    PublishStats();
    if (!scheduler.empty() || !cancelled.empty() || !expired.empty() || job != nullptr) return true;
    work_arrived.Wait(&mutex);
  }
}

void Engine::Impl::PublishStats() {
  stats.running = scheduler.running();
  stats.waiting = scheduler.waiting();
  stats.kv_blocks_total = blocks.total();
  stats.kv_blocks_used = blocks.used();
  stats.kv_blocks_cached = blocks.cached();
  stats.kv_used_ratio = static_cast<double>(blocks.used()) / static_cast<double>(blocks.total());
  stats.prompt_tokens_total = prompt_tokens_fed;
  stats.generation_tokens_total = tokens_generated;
  stats.preemptions_total = scheduler.totals().preemptions;
  stats.prefix_lookup_tokens_total = scheduler.totals().prompt_tokens;
  stats.prefix_hit_tokens_total = scheduler.totals().prompt_tokens_found;
  stats.draft_tokens_total = draft_tokens;
  stats.accepted_draft_tokens_total = accepted_draft_tokens;
  stats.decode_steps_total = decode_steps;
  stats.decode_seconds_total = decode_seconds;
  stats.decode_weight_bytes_total = decode_steps * model->bytes_per_token();
  stats.graphs_refused_total = forwarder->graphs_refused();
}

void Engine::Impl::TakeCancelled(Ended& cancelled) {
  for (const uint64_t id : cancels) {
    if (std::unique_ptr<Sequence> sequence = scheduler.Remove(id)) cancelled.push_back(std::move(sequence));
  }
  cancels.clear();
}

// Feeds one batch. `choosing` gets the sequences whose logits choose tokens, and the first of their rows of the logits
// that the forwarder keeps; the number of all rows stands behind the last.
absl::Status Engine::Impl::Feed(const std::vector<Sequence*>& step, std::vector<Sequence*>& choosing,
                                std::vector<int64_t>& first_rows) {
  std::vector<SequenceChunk> chunks;
  chunks.reserve(step.size());
  for (Sequence* sequence : step) {
    chunks.push_back({sequence->feed(), &sequence->cache(), /*all_logits=*/sequence->has_draft()});
  }
  RETURN_IF_ERROR(forwarder->Forward(chunks));
  // One row for each chunk, or one for each of its tokens; those in the middle of a prompt need no head.
  hidden_rows.clear();
  int64_t from = 0;
  for (size_t i = 0; i < step.size(); ++i) {
    const int64_t given = chunks[i].all_logits ? static_cast<int64_t>(chunks[i].tokens.size()) : 1;
    const int64_t wanted = step[i]->Fed();
    if (wanted > 0) {
      choosing.push_back(step[i]);
      first_rows.push_back(static_cast<int64_t>(hidden_rows.size()));
      for (int64_t row = from; row < from + wanted; ++row) hidden_rows.push_back(static_cast<int32_t>(row));
    }
    from += given;
  }
  first_rows.push_back(static_cast<int64_t>(hidden_rows.size()));
  return hidden_rows.empty() ? absl::OkStatus() : forwarder->KeepLogitsOf(hidden_rows);
}

// One token of each sequence at a time: whether a guess's row is chosen from depends on the one before. Without guesses
// that is one round.
void Engine::Impl::Choose(const std::vector<Sequence*>& choosing, const std::vector<int64_t>& first_rows) {
  choices.clear();
  for (size_t i = 0; i < choosing.size(); ++i) {
    choosing[i]->BeginChoices();
    choices.push_back({choosing[i], first_rows[i]});
  }
  const auto for_all = [&](absl::FunctionRef<void(size_t)> body) {
    pool.ParallelFor(static_cast<int64_t>(choices.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(static_cast<size_t>(i));
    });
  };
  while (!choices.empty()) {
    rows.assign(choices.size(), SampleRow());
    for_all([&](size_t i) {
      rows[i].row = choices[i].row++;
      choices[i].is_planned = choices[i].sequence->PlanChoice(rows[i]);
    });
    size_t kept = 0;
    for (size_t i = 0; i < choices.size(); ++i) {
      if (!choices[i].is_planned) continue;
      choices[kept] = choices[i];
      rows[kept++] = rows[i];
    }
    choices.resize(kept);
    rows.resize(kept);
    if (kept == 0) break;
    results.resize(kept);
    const absl::Status status = WithMemoryErrors("choosing tokens", [&] { return forwarder->Sample(rows, results); });
    for_all([&](size_t i) { choices[i].sequence->TakeChoice(status, results[i]); });
  }
  for (Sequence* sequence : choosing) sequence->EndChoices();
}

void Engine::Impl::Step() {
  if (scheduler.empty()) return;
  Ended hopeless;
  // A job that waits for memory goes before requests that have none yet, which leave it none otherwise.
  const std::vector<Sequence*> step = scheduler.Plan(/*admit=*/!job_lacks_memory, hopeless);
  for (const auto& sequence : hopeless) {
    sequence->Finish(
        FinishReason::kError,
        ResourceExhausted("KV_MEMORY", "the system has no memory for the KV cache of {} tokens", sequence->tokens()));
  }
  {
    absl::MutexLock lock(&mutex);
    PublishStats();
  }
  if (step.empty()) return;
  std::vector<Sequence*> choosing;
  std::vector<int64_t> first_rows;
  std::vector<int64_t> lengths;
  lengths.reserve(step.size());
  for (const Sequence* sequence : step) lengths.push_back(sequence->cache().length());
  const auto start = std::chrono::steady_clock::now();
  const absl::Status status = WithMemoryErrors("a step", [&] { return Feed(step, choosing, first_rows); });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (!status.ok()) {
    for (size_t i = 0; i < step.size(); ++i) step[i]->cache().SetLength(lengths[i]);
    return FailStep(step, status);
  }
  int64_t prompt_tokens = 0;
  for (size_t i = 0; i < step.size(); ++i) {
    const int64_t fed = step[i]->cache().length() - lengths[i];
    prompt_tokens += std::clamp<int64_t>(step[i]->prompt_tokens() - lengths[i], 0, fed);
  }
  prompt_tokens_fed += prompt_tokens;
  if (prompt_tokens == 0) {
    ++decode_steps;
    decode_seconds += seconds.count();
  }
  Choose(choosing, first_rows);
  for (size_t i = 0; i < choosing.size(); ++i) {
    draft_tokens += first_rows[i + 1] - first_rows[i] - 1;
    accepted_draft_tokens += std::max<int64_t>(0, choosing[i]->chosen() - 1);
    tokens_generated += choosing[i]->chosen();
  }
  // Before answers are sent: whoever ends now leaves what it knows to others.
  scheduler.NameFullBlocks();
  for (Sequence* sequence : choosing) {
    if (!sequence->Deliver()) scheduler.Remove(sequence->id());
  }
}

// A step that lacked memory is tried again without the sequence that fed most; any other error ends all of its
// sequences.
void Engine::Impl::FailStep(const std::vector<Sequence*>& step, const absl::Status& status) {
  const auto end = [&](const Sequence& sequence) {
    scheduler.Remove(sequence.id())->Finish(FinishReason::kError, status);
  };
  if (!absl::IsResourceExhausted(status)) {
    for (const Sequence* sequence : step) end(*sequence);
    return;
  }
  const auto feeds_less = [](const Sequence* a, const Sequence* b) {
    return std::make_tuple(a->feed().size(), -a->priority(), a->id()) <
           std::make_tuple(b->feed().size(), -b->priority(), b->id());
  };
  end(**std::max_element(step.begin(), step.end(), feeds_less));
}

// ---- Jobs of callers who wait ----

absl::Status Engine::Impl::Wait(EngineJob& waiting) {
  absl::MutexLock lock(&mutex);
  if (jobs_waiting.size() >= static_cast<size_t>(std::max(1, options.max_waiting))) {
    return ResourceExhausted("QUEUE_FULL", "{} texts wait to be read; the limit is {}", jobs_waiting.size(),
                             options.max_waiting);
  }
  jobs_waiting.push_back(&waiting);
  work_arrived.Signal();
  while (!waiting.done) job_done.Wait(&mutex);
  return waiting.status;
}

void Engine::Impl::StartJob() {
  job_lacks_memory = false;
  if (job != nullptr || jobs_waiting.empty()) return;
  EngineJob* next = jobs_waiting.front();
  if (next->kv_tokens() > 0) {
    next->cache = std::make_unique<KvCache>(blocks);
    if (!next->cache->Reserve(next->kv_tokens()) && blocks.used() > 0) {
      job_lacks_memory = true;
      return;
    }
  }
  jobs_waiting.pop_front();
  job = next;
}

void Engine::Impl::JobStep() {
  if (job == nullptr) return;
  bool last = false;
  const absl::Status status = WithMemoryErrors("a piece of the text", [&]() -> absl::Status {
    ASSIGN_OR_RETURN(last, JobPiece(*job));
    return absl::OkStatus();
  });
  if (!status.ok() || last) FinishJob(*job, status);
}

absl::StatusOr<bool> Engine::Impl::JobPiece(EngineJob& one) {
  if (one.kv_tokens() > 0 && one.cache->capacity() == 0) {
    return ResourceExhausted("KV_MEMORY", "the system has no memory for the KV cache of {} tokens", one.kv_tokens());
  }
  return one.Piece({*forwarder, pool, model->config(), options.prefill_tokens});
}

void Engine::Impl::FinishJob(EngineJob& ended, absl::Status status) {
  ended.cache.reset();
  job = nullptr;
  absl::MutexLock lock(&mutex);
  ended.status = std::move(status);
  ended.done = true;  // the job may be gone once the lock is
  job_done.SignalAll();
}

void Engine::Impl::CancelAll() {
  {
    absl::MutexLock lock(&mutex);
    for (auto& sequence : arrived) scheduler.Add(std::move(sequence));
    arrived.clear();
    if (job != nullptr) jobs_waiting.push_back(job);
    for (EngineJob* waiting : jobs_waiting) {
      waiting->cache.reset();  // before the pool
      waiting->status = Cancelled("ENGINE_STOPPED", "the engine stopped before the text was read");
      waiting->done = true;
    }
    jobs_waiting.clear();
    job_done.SignalAll();
  }
  for (const auto& sequence : scheduler.RemoveAll()) sequence->Finish(FinishReason::kCancelled, absl::OkStatus());
}

// ---- the public face ----

StepLimits StepLimitsOf(const EngineOptions& options, const ModelConfig& config) {
  const int64_t logits = int64_t{options.max_running} * (1 + options.draft_tokens);
  return {options.prefill_tokens + logits, logits, ContextFor(options, config)};
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(std::shared_ptr<const Model> model,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       const EngineOptions& options, const ForwarderFactory& open) {
  const ModelConfig& config = model->config();
  RETURN_IF_ERROR(CheckOptions(options, config));
  RETURN_IF_ERROR(CheckTokenizer(*tokenizer, *model));
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const KvLayout layout(config, config.num_layers, options.kv);
  const int64_t blocks = BlocksFor(options, layout);
  auto threads = std::make_unique<ThreadPool>(options.threads > 0 ? options.threads : cores);
  ASSIGN_OR_RETURN(std::unique_ptr<Forwarder> forwarder, open(options.device, model, layout, blocks, *threads));
  RETURN_IF_ERROR(forwarder->Reserve(StepLimitsOf(options, config)));
  auto impl = std::make_unique<Impl>(std::move(model), std::move(tokenizer), options, layout, blocks,
                                     std::move(threads), std::move(forwarder));
  impl->thread = std::thread([state = impl.get()] { state->Run(); });
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::~Engine() {
  {
    absl::MutexLock lock(&impl_->mutex);
    impl_->stopping = true;
    impl_->work_arrived.Signal();
  }
  impl_->thread.join();
}

absl::StatusOr<uint64_t> Engine::Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                        std::shared_ptr<TokenSink> sink, const RequestOptions& request) {
  const ModelConfig& config = impl_->model->config();
  RETURN_IF_ERROR(ValidateSamplingParams(params));
  RETURN_IF_ERROR(CheckBias(params, config.vocab_size));
  RETURN_IF_ERROR(CheckRequest(request));
  RETURN_IF_ERROR(CheckConstraint(params, *impl_->tokenizer));
  RETURN_IF_ERROR(CheckPrompt(prompt, impl_->context - 1, config.vocab_size));
  absl::MutexLock lock(&impl_->mutex);
  // What can start at the next step does not count as waiting.
  const int32_t free = std::max(0, impl_->options.max_running - impl_->stats.running);
  const int64_t waiting = impl_->stats.waiting + static_cast<int64_t>(impl_->arrived.size());
  if (waiting >= int64_t{impl_->options.max_waiting} + free) {
    return ResourceExhausted("QUEUE_FULL", "{} requests run and {} wait; the limits are {} and {}",
                             impl_->stats.running, waiting, impl_->options.max_running, impl_->options.max_waiting);
  }
  const uint64_t id = impl_->next_id++;
  impl_->arrived.push_back(std::make_unique<Sequence>(id, std::move(prompt), params, request, std::move(sink),
                                                      *impl_->tokenizer, config.vocab_size, impl_->context,
                                                      impl_->blocks));
  impl_->work_arrived.Signal();
  return id;
}

void Engine::Cancel(uint64_t id) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->cancels.insert(id);
  impl_->work_arrived.Signal();
}

absl::Status Engine::CheckText(std::span<const int32_t> tokens) const {
  return CheckPrompt(tokens, impl_->context, impl_->model->config().vocab_size);
}

absl::StatusOr<std::vector<float>> Engine::Score(std::span<const int32_t> tokens) {
  ASSIGN_OR_RETURN(TextScores scores, ScoreWithTop(tokens, 0));
  return std::move(scores.logprobs);
}

absl::StatusOr<TextScores> Engine::ScoreWithTop(std::span<const int32_t> tokens, int32_t top) {
  RETURN_IF_ERROR(CheckText(tokens));
  if (top < 0 || top > kMaxTopLogprobs) {
    return InvalidArgument("SAMPLING_PARAM", "top is {}; allowed are 0 to {}", top, kMaxTopLogprobs);
  }
  if (tokens.size() == 1) return TextScores();
  ScoreJob job(tokens, top);
  RETURN_IF_ERROR(impl_->Wait(job));
  return std::move(job.scores);
}

absl::StatusOr<std::vector<float>> Engine::Embed(std::span<const int32_t> tokens) {
  RETURN_IF_ERROR(CheckText(tokens));
  MeanJob job(tokens);
  RETURN_IF_ERROR(impl_->Wait(job));
  return job.Mean();
}

absl::StatusOr<std::vector<TokenComparison>> Engine::Compare(Engine& other, std::span<const int32_t> tokens,
                                                             int64_t first) {
  RETURN_IF_ERROR(CheckSameVocabulary(*this, other));
  RETURN_IF_ERROR(CheckText(tokens));
  if (const absl::Status status = other.CheckText(tokens); !status.ok()) {
    return Annotate(status, other.model().origin());
  }
  // The last token is only looked for. What the one before tokens[first] leaves behind is where that was drawn from.
  const auto fed = tokens.first(tokens.size() - 1);
  const auto from = static_cast<size_t>(first - 1);
  HiddenJob base_job(fed, from), other_job(fed, from);
  RETURN_IF_ERROR(impl_->Wait(base_job));
  RETURN_IF_ERROR(other.impl_->Wait(other_job));
  CompareJob job({model().head(), std::move(base_job.hidden)}, {other.model().head(), std::move(other_job.hidden)},
                 tokens.subspan(static_cast<size_t>(first)));
  RETURN_IF_ERROR(impl_->Wait(job));
  return std::move(job.tokens);
}

EngineStats Engine::stats() const {
  absl::MutexLock lock(&impl_->mutex);
  EngineStats stats = impl_->stats;
  stats.waiting += static_cast<int32_t>(impl_->arrived.size());
  return stats;
}

int64_t Engine::context_tokens() const { return impl_->context; }
const Model& Engine::model() const { return *impl_->model; }
const Tokenizer& Engine::tokenizer() const { return *impl_->tokenizer; }

}  // namespace qamserve
