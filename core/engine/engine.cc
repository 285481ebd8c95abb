#include "core/engine/engine.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <algorithm>
#include <deque>
#include <new>
#include <set>
#include <thread>

#include "core/engine/sequence.h"

namespace qamserve {
namespace {

constexpr int64_t kDefaultContext = 8192;
// Logits of so many positions are held at once while scoring: 32 MB with a vocabulary of 262144.
constexpr int64_t kScoreHeadRows = 32;

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
  // Two tokens: one to read and one to say.
  return CheckOption("kv_bytes", options.kv_bytes,
                     KvCache::BytesFor(config, std::max<int64_t>(2, options.context_tokens)), INT64_MAX);
}

// The most tokens a sequence may have: what is asked for, or what fits.
int64_t ContextFor(const EngineOptions& options, const ModelConfig& config) {
  if (options.context_tokens > 0) return options.context_tokens;
  int64_t context = std::min(config.context_length, kDefaultContext);
  while (context > 2 && KvCache::BytesFor(config, context) > options.kv_bytes)
    context -= std::max<int64_t>(1, context / 16);
  return context;
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

// A call of Score, which waits for `done` on its own thread.
struct ScoreJob {
  std::span<const int32_t> tokens;
  std::vector<float> logprobs;
  std::unique_ptr<KvCache> cache;
  absl::Status status;
  bool done = false;
};

}  // namespace

struct Engine::Impl {
  Impl(std::shared_ptr<const Model> model, std::shared_ptr<const Tokenizer> tokenizer, const EngineOptions& options,
       int threads)
      : model(std::move(model)),
        tokenizer(std::move(tokenizer)),
        options(options),
        context(ContextFor(options, this->model->config())),
        pool(threads) {}

  void Run();
  bool Collect(std::vector<std::unique_ptr<Sequence>>& cancelled);
  void TakeCancelled(std::vector<std::unique_ptr<Sequence>>& cancelled) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void AdmitWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void PrepareAdmitted();
  void Step();
  absl::Status Feed(std::vector<Sequence*>& choosing, std::vector<float>& logits);
  void Remove(const Sequence* sequence);
  void StartScore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void ScoreStep();
  absl::Status ScorePiece(ScoreJob& job);
  void FinishScore(ScoreJob& job, absl::Status status);
  void CancelAll();

  const std::shared_ptr<const Model> model;
  const std::shared_ptr<const Tokenizer> tokenizer;
  const EngineOptions options;
  const int64_t context;

  mutable absl::Mutex mutex;
  absl::CondVar work_arrived;
  absl::CondVar score_done;
  std::deque<std::unique_ptr<Sequence>> waiting ABSL_GUARDED_BY(mutex);
  std::deque<ScoreJob*> score_waiting ABSL_GUARDED_BY(mutex);
  std::set<uint64_t> cancels ABSL_GUARDED_BY(mutex);
  EngineStats stats ABSL_GUARDED_BY(mutex);
  uint64_t next_id ABSL_GUARDED_BY(mutex) = 1;
  bool stopping ABSL_GUARDED_BY(mutex) = false;

  // Of the engine's thread alone.
  ThreadPool pool;
  Workspace workspace;
  std::vector<std::unique_ptr<Sequence>> running;
  std::vector<std::unique_ptr<Sequence>> admitted;  // since the last step; without a cache yet
  ScoreJob* scoring = nullptr;
  int64_t kv_used = 0;  // bytes, of running, admitted and scoring
  int64_t prompt_tokens_fed = 0;
  int64_t tokens_generated = 0;

  std::thread thread;  // last: starts when all else is there
};

void Engine::Impl::Run() {
  std::vector<std::unique_ptr<Sequence>> cancelled;
  while (Collect(cancelled)) {
    // Sinks are called without the lock, so that they may call the engine.
    for (const auto& sequence : cancelled) sequence->Finish(FinishReason::kCancelled, absl::OkStatus());
    cancelled.clear();
    PrepareAdmitted();
    Step();
    ScoreStep();
  }
  CancelAll();
}

// Waits for something to do. False when the engine is to stop.
bool Engine::Impl::Collect(std::vector<std::unique_ptr<Sequence>>& cancelled) {
  absl::MutexLock lock(&mutex);
  stats.prompt_tokens_total = prompt_tokens_fed;
  stats.generation_tokens_total = tokens_generated;
  while (true) {
    if (stopping) return false;
    TakeCancelled(cancelled);
    StartScore();
    AdmitWaiting();
    stats.running = static_cast<int32_t>(running.size() + admitted.size());
    stats.kv_used_ratio = static_cast<double>(kv_used) / static_cast<double>(options.kv_bytes);
    if (!running.empty() || !admitted.empty() || !cancelled.empty() || scoring != nullptr) return true;
    work_arrived.Wait(&mutex);
  }
}

void Engine::Impl::TakeCancelled(std::vector<std::unique_ptr<Sequence>>& cancelled) {
  if (cancels.empty()) return;
  const auto take = [&](auto& from) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    for (auto& sequence : from) {
      if (cancels.count(sequence->id()) != 0) cancelled.push_back(std::move(sequence));
    }
    std::erase_if(from, [](const auto& sequence) { return sequence == nullptr; });
  };
  take(running);
  for (const auto& sequence : cancelled) kv_used -= sequence->kv_bytes();
  take(waiting);
  cancels.clear();
}

// First come, first served: a long request at the head is not overtaken, or it might wait for ever. A Score that
// waits for memory goes before all requests, which leave it none otherwise.
void Engine::Impl::AdmitWaiting() {
  const bool score_lacks_memory = scoring == nullptr && !score_waiting.empty();
  while (!score_lacks_memory && !waiting.empty() &&
         running.size() + admitted.size() < static_cast<size_t>(options.max_running) &&
         kv_used + waiting.front()->kv_bytes() <= options.kv_bytes) {
    kv_used += waiting.front()->kv_bytes();
    admitted.push_back(std::move(waiting.front()));
    waiting.pop_front();
  }
}

void Engine::Impl::PrepareAdmitted() {
  for (auto& sequence : admitted) {
    const absl::Status status = sequence->Admit();
    if (status.ok()) {
      running.push_back(std::move(sequence));
      continue;
    }
    kv_used -= sequence->kv_bytes();
    sequence->Finish(FinishReason::kError, status);
  }
  admitted.clear();
}

// Feeds one batch. `choosing` gets the sequences whose logits, [choosing][vocab], choose a token.
absl::Status Engine::Impl::Feed(std::vector<Sequence*>& choosing, std::vector<float>& logits) {
  std::vector<SequenceChunk> chunks;
  std::vector<Sequence*> fed;
  int64_t prompt_budget = options.prefill_tokens;
  for (const auto& sequence : running) {
    const auto tokens = sequence->NextTokens(prompt_budget);
    if (tokens.empty()) continue;
    if (sequence->in_prompt()) prompt_budget -= static_cast<int64_t>(tokens.size());
    chunks.push_back({tokens, sequence->cache()});
    fed.push_back(sequence.get());
  }
  std::vector<float> hidden;
  RETURN_IF_ERROR(model->ForwardHidden(chunks, workspace, pool, hidden));
  prompt_tokens_fed += options.prefill_tokens - prompt_budget;
  // One row for each chunk; those in the middle of a prompt need no head.
  const auto width = static_cast<size_t>(model->config().hidden_size);
  for (size_t i = 0; i < fed.size(); ++i) {
    if (!fed[i]->Fed(static_cast<int64_t>(chunks[i].tokens.size()))) continue;
    std::copy_n(hidden.begin() + static_cast<ptrdiff_t>(i * width), width,
                hidden.begin() + static_cast<ptrdiff_t>(choosing.size() * width));
    choosing.push_back(fed[i]);
  }
  logits.resize(choosing.size() * static_cast<size_t>(model->config().vocab_size));
  if (!choosing.empty()) model->Head(hidden.data(), static_cast<int64_t>(choosing.size()), pool, logits.data());
  return absl::OkStatus();
}

void Engine::Impl::Step() {
  if (running.empty()) return;
  std::vector<Sequence*> choosing;
  std::vector<float> logits;
  if (const absl::Status status = Feed(choosing, logits); !status.ok()) {
    for (const auto& sequence : running) {
      kv_used -= sequence->kv_bytes();
      sequence->Finish(FinishReason::kError, status);
    }
    running.clear();
    return;
  }
  const auto vocab = static_cast<size_t>(model->config().vocab_size);
  pool.ParallelFor(static_cast<int64_t>(choosing.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto row = static_cast<size_t>(i);
      choosing[row]->Choose(std::span(logits).subspan(row * vocab, vocab));
    }
  });
  for (Sequence* sequence : choosing) {
    ++tokens_generated;
    if (!sequence->Deliver()) Remove(sequence);
  }
}

void Engine::Impl::Remove(const Sequence* sequence) {
  kv_used -= sequence->kv_bytes();
  std::erase_if(running, [&](const auto& other) { return other.get() == sequence; });
}

// ---- Score ----

void Engine::Impl::StartScore() {
  if (scoring != nullptr || score_waiting.empty()) return;
  ScoreJob* job = score_waiting.front();
  const int64_t bytes = KvCache::BytesFor(model->config(), static_cast<int64_t>(job->tokens.size()));
  if (kv_used + bytes > options.kv_bytes) return;
  score_waiting.pop_front();
  kv_used += bytes;
  scoring = job;
}

// One piece, so that generation goes on beside a long text.
void Engine::Impl::ScoreStep() {
  if (scoring == nullptr) return;
  const absl::Status status = ScorePiece(*scoring);
  if (status.ok() && scoring->logprobs.size() + 1 < scoring->tokens.size()) return;
  FinishScore(*scoring, status);
}

absl::Status Engine::Impl::ScorePiece(ScoreJob& job) {
  const ModelConfig& config = model->config();
  if (job.cache == nullptr) {
    try {
      job.cache = std::make_unique<KvCache>(config, static_cast<int64_t>(job.tokens.size()));
    } catch (const std::bad_alloc&) {
      return ResourceExhausted("KV_MEMORY", "no memory for the KV cache of {} tokens", job.tokens.size());
    }
  }
  const size_t at = job.logprobs.size();
  const size_t n = std::min(static_cast<size_t>(options.prefill_tokens), job.tokens.size() - 1 - at);
  const SequenceChunk chunk{job.tokens.subspan(at, n), job.cache.get(), /*all_logits=*/true};
  std::vector<float> hidden;
  RETURN_IF_ERROR(model->ForwardHidden(std::span(&chunk, 1), workspace, pool, hidden));
  const auto vocab = static_cast<size_t>(config.vocab_size);
  std::vector<float> logits;
  for (size_t row = 0; row < n; row += kScoreHeadRows) {
    const size_t rows = std::min<size_t>(kScoreHeadRows, n - row);
    logits.resize(rows * vocab);
    model->Head(hidden.data() + row * static_cast<size_t>(config.hidden_size), static_cast<int64_t>(rows), pool,
                logits.data());
    job.logprobs.resize(at + row + rows);
    pool.ParallelFor(static_cast<int64_t>(rows), 1, [&](int64_t begin, int64_t end) {
      for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
        const auto one = std::span(logits).subspan(i * vocab, vocab);
        const size_t position = at + row + i;
        const auto next = static_cast<size_t>(job.tokens[position + 1]);
        job.logprobs[position] = static_cast<float>(one[next] - LogSumExp(one));
      }
    });
  }
  return absl::OkStatus();
}

void Engine::Impl::FinishScore(ScoreJob& job, absl::Status status) {
  kv_used -= KvCache::BytesFor(model->config(), static_cast<int64_t>(job.tokens.size()));
  scoring = nullptr;
  absl::MutexLock lock(&mutex);
  job.cache.reset();
  job.status = std::move(status);
  job.done = true;  // the job may be gone once the lock is
  score_done.SignalAll();
}

void Engine::Impl::CancelAll() {
  std::deque<std::unique_ptr<Sequence>> left;
  {
    absl::MutexLock lock(&mutex);
    left.swap(waiting);
    if (scoring != nullptr) score_waiting.push_back(scoring);
    for (ScoreJob* job : score_waiting) {
      job->status = Cancelled("ENGINE_STOPPED", "the engine stopped before the text was scored");
      job->done = true;
    }
    score_waiting.clear();
    score_done.SignalAll();
  }
  for (auto& sequence : running) sequence->Finish(FinishReason::kCancelled, absl::OkStatus());
  for (auto& sequence : left) sequence->Finish(FinishReason::kCancelled, absl::OkStatus());
  running.clear();
}

// ---- the public face ----

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(std::shared_ptr<const Model> model,
                                                       std::shared_ptr<const Tokenizer> tokenizer,
                                                       const EngineOptions& options) {
  const ModelConfig& config = model->config();
  RETURN_IF_ERROR(CheckOptions(options, config));
  RETURN_IF_ERROR(CheckTokenizer(*tokenizer, *model));
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  auto impl = std::make_unique<Impl>(std::move(model), std::move(tokenizer), options,
                                     options.threads > 0 ? options.threads : cores);
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
                                        std::shared_ptr<TokenSink> sink) {
  const ModelConfig& config = impl_->model->config();
  RETURN_IF_ERROR(ValidateSamplingParams(params));
  RETURN_IF_ERROR(CheckPrompt(prompt, impl_->context - 1, config.vocab_size));
  absl::MutexLock lock(&impl_->mutex);
  // What can start at the next step does not count as waiting.
  const int32_t free = std::max(0, impl_->options.max_running - impl_->stats.running);
  if (impl_->waiting.size() >= static_cast<size_t>(impl_->options.max_waiting) + static_cast<size_t>(free)) {
    return ResourceExhausted("QUEUE_FULL", "{} requests run and {} wait; the limits are {} and {}",
                             impl_->stats.running, impl_->waiting.size(), impl_->options.max_running,
                             impl_->options.max_waiting);
  }
  const uint64_t id = impl_->next_id++;
  impl_->waiting.push_back(std::make_unique<Sequence>(id, std::move(prompt), params, std::move(sink), *impl_->tokenizer,
                                                      config, impl_->context));
  impl_->work_arrived.Signal();
  return id;
}

void Engine::Cancel(uint64_t id) {
  absl::MutexLock lock(&impl_->mutex);
  impl_->cancels.insert(id);
  impl_->work_arrived.Signal();
}

absl::StatusOr<std::vector<float>> Engine::Score(std::span<const int32_t> tokens) {
  RETURN_IF_ERROR(CheckPrompt(tokens, impl_->context, impl_->model->config().vocab_size));
  if (tokens.size() == 1) return std::vector<float>();
  ScoreJob job{.tokens = tokens};
  absl::MutexLock lock(&impl_->mutex);
  if (impl_->score_waiting.size() >= static_cast<size_t>(std::max(1, impl_->options.max_waiting))) {
    return ResourceExhausted("QUEUE_FULL", "{} texts wait to be scored; the limit is {}", impl_->score_waiting.size(),
                             impl_->options.max_waiting);
  }
  impl_->score_waiting.push_back(&job);
  impl_->work_arrived.Signal();
  while (!job.done) impl_->score_done.Wait(&impl_->mutex);
  RETURN_IF_ERROR(job.status);
  return std::move(job.logprobs);
}

EngineStats Engine::stats() const {
  absl::MutexLock lock(&impl_->mutex);
  EngineStats stats = impl_->stats;
  stats.waiting = static_cast<int32_t>(impl_->waiting.size());
  return stats;
}

int64_t Engine::context_tokens() const { return impl_->context; }
const Model& Engine::model() const { return *impl_->model; }
const Tokenizer& Engine::tokenizer() const { return *impl_->tokenizer; }

}  // namespace qamserve
