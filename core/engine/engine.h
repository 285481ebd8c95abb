// Generation for several requests at once on one model. Start here for core/engine.
// One thread runs steps; a step feeds each running sequence either its next token or a piece of its prompt. Sequences
// join and leave between steps (scheduler.h). What a sequence yields does not depend on what else is in the batch, on
// what was found in the prefix cache, on preemptions, nor on guesses (prompt_lookup.h): all that only changes when.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/constraint/constraint.h"
#include "core/evaluate/compare.h"
#include "core/model/cuda/open.h"
#include "core/model/forwarder.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

namespace qamserve {

struct SamplingParams {
  int32_t max_tokens = 256;
  double temperature = 1;         // 0 = the most likely token
  int32_t top_k = 0;              // 0 = off
  double top_p = 1;               // (0, 1]
  double min_p = 0;               // [0, 1)
  double repetition_penalty = 1;  // (0, 10]; divides positive and multiplies negative logits of tokens seen
  uint64_t seed = 0;
  std::vector<std::string> stop;  // texts that end the generation; not part of what is sent
  bool ignore_eos = false;
  int32_t logprobs = -1;  // -1 = none, n = the chosen token and the n best
  // Of tokens that the answer (not the prompt) has already: -2 to 2, taken off the logit of each, and off it once for
  // each time that it is there.
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::map<int32_t, double> logit_bias;  // by token: what is added to its logit, -100 to 100; at most 1024
  // What the answer must be, of the engine's own tokenizer; null for anything. Tokens that cannot lead there are never
  // chosen (log-probabilities stay the model's), and it ends when nothing can follow: kStop, unless a stop string, the
  // last token or ignore_eos, with which it goes on while anything can follow, come first.
  std::shared_ptr<const Constraint> constraint;
};

// INVALID_ARGUMENT (SAMPLING_PARAM) names the field and its limits. Whether the tokens of logit_bias are ones that the
// model has is for Engine::Submit to say.
absl::Status ValidateSamplingParams(const SamplingParams& params);

inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr int32_t kMaxPriority = 100;

// What a request is to other requests.
struct RequestOptions {
  int32_t priority = 0;  // -kMaxPriority to kMaxPriority; higher goes first
  // The request ends with kDeadline at the first step after it.
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

enum class FinishReason { kStop, kLength, kCancelled, kError, kDeadline };

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;
};

struct TokenEvent {
  int32_t token = 0;
  std::string text;               // whole characters that this token completed; may be empty
  float logprob = 0;              // only if asked for
  std::vector<TokenLogprob> top;  // only if asked for, best first
};

struct GenerationSummary {
  FinishReason reason = FinishReason::kStop;
  // Not OK only for kDeadline: DEADLINE_EXCEEDED (DEADLINE), and kError: RESOURCE_EXHAUSTED (KV_MEMORY, STEP_MEMORY) if
  // the system has less memory than it had when the model was loaded, INTERNAL (LOGITS_NOT_FINITE), those of
  // ConstraintMatcher, or the model's.
  absl::Status status;
  std::string trailing_text;  // text held back until the end: it could have begun a stop string
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;      // calls of OnToken; a stop token is not sent
  int32_t cached_prompt_tokens = 0;   // of the prompt's, those that the prefix cache had
  int32_t preemptions = 0;            // times that its memory was taken for others
  int32_t draft_tokens = 0;           // guesses that were checked
  int32_t accepted_draft_tokens = 0;  // of these, right
  double queue_seconds = 0;
  double time_to_first_token_seconds = 0;
  double total_seconds = 0;
};

// Where one request's answer goes. Called from the engine's thread; must not block for long, nor call Score and its
// like.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // False cancels the request.
  virtual bool OnToken(const TokenEvent& event) = 0;
  // Once, last.
  virtual void OnDone(const GenerationSummary& summary) = 0;
};

// Of a text: log p(tokens[i + 1] | tokens[0..i]) for every i.
struct TextScores {
  std::vector<float> logprobs;
  std::vector<std::vector<TokenLogprob>> top;  // for each of them the best tokens, best first; empty if not asked for
};

struct EngineOptions {
  int32_t max_running = 16;             // sequences in a step
  int32_t max_waiting = 256;            // requests queued; more is RESOURCE_EXHAUSTED (QUEUE_FULL)
  int64_t context_tokens = 0;           // per sequence, prompt and answer; 0 = min(model, 8192, what kv_bytes can hold)
  int64_t kv_bytes = int64_t{2} << 30;  // all sequences together
  int32_t prefill_tokens = 256;         // of all prompts together in a step, so that running answers do not wait long
  int threads = 0;                      // 0 = all cores
  std::string device = "cpu";           // or "cuda:0", ...: where the model runs and kv_bytes are
  KvFormat kv;                          // blocks of 8 to 1024 tokens
  bool prefix_cache = true;             // prompts that begin alike share memory and work
  int64_t quantum_tokens = 512;         // a running request that is so far ahead of a waiting one gives way to it
  int32_t draft_tokens = 0;             // most guesses that are checked in one step of a request; 0 = none
};

// What the steps of an engine with these options have at most, of a model of this shape: the next token of every
// sequence with guesses, and tokens of prompts.
StepLimits StepLimitsOf(const EngineOptions& options, const ModelConfig& config);

struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  double kv_used_ratio = 0;
  int64_t kv_blocks_total = 0;
  int64_t kv_blocks_used = 0;       // by requests
  int64_t kv_blocks_cached = 0;     // by nobody, but kept for prompts that begin alike
  int64_t prompt_tokens_total = 0;  // fed, those that were fed again after a preemption too
  int64_t generation_tokens_total = 0;
  int64_t preemptions_total = 0;
  int64_t prefix_lookup_tokens_total = 0;  // prompt tokens of admitted requests
  int64_t prefix_hit_tokens_total = 0;     // of these, found in the prefix cache
  int64_t draft_tokens_total = 0;
  int64_t accepted_draft_tokens_total = 0;
  // Steps that fed no part of a prompt: their time in the model, and the bytes of weights that they read.
  int64_t decode_steps_total = 0;
  double decode_seconds_total = 0;
  int64_t decode_weight_bytes_total = 0;
  int64_t graphs_refused_total = 0;  // Forwarder::graphs_refused
};

// Thread-safe.
class Engine {
 public:
  // As OpenForwarder, for tests that bring a device of their own.
  using ForwarderFactory = std::function<absl::StatusOr<std::unique_ptr<Forwarder>>(
      std::string_view device, std::shared_ptr<const Model> model, const KvLayout& layout, int64_t blocks,
      ThreadPool& pool)>;
  // INVALID_ARGUMENT (ENGINE_OPTION) names an option and its limits; (TOKENIZER_MISMATCH) if the tokenizer has ids
  // of text that the model lacks. The errors of OpenForwarder: no such device, or too little memory on it.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(std::shared_ptr<const Model> model,
                                                        std::shared_ptr<const Tokenizer> tokenizer,
                                                        const EngineOptions& options,
                                                        const ForwarderFactory& open = OpenForwarder);
  // Stops at the next step; requests that have not ended get kCancelled. Not from a sink.
  ~Engine();

  // Checks and queues. INVALID_ARGUMENT (PROMPT_EMPTY, PROMPT_TOO_LONG, PROMPT_TOKEN, SAMPLING_PARAM, REQUEST_OPTION;
  // CONSTRAINT_TOKENIZER for a constraint of another tokenizer) and RESOURCE_EXHAUSTED (QUEUE_FULL) at once; later
  // trouble arrives at the sink.
  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                  std::shared_ptr<TokenSink> sink, const RequestOptions& request = {});
  // At the next step; unknown ids are ignored.
  void Cancel(uint64_t id);

  // --- Texts that are only read. These block. Errors are those of Submit; the text may fill the whole context. ---
  absl::StatusOr<std::vector<float>> Score(std::span<const int32_t> tokens);
  // With the `top` best tokens at each place, 0 (none) to kMaxTopLogprobs.
  absl::StatusOr<TextScores> ScoreWithTop(std::span<const int32_t> tokens, int32_t top);
  // The mean over the tokens of the last hidden states, after the final norm: [hidden_size].
  absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens);
  // This model beside `other` at each of tokens[first..], given those before it: KL(this || other). Memory is that of
  // the hidden states, 4 (hidden_size + other's) bytes a token. REQUIRES: 1 <= first < tokens.size().
  // FAILED_PRECONDITION (VOCABULARY_DIFFERS) if a token does not mean the same to both.
  absl::StatusOr<std::vector<TokenComparison>> Compare(Engine& other, std::span<const int32_t> tokens, int64_t first);

  EngineStats stats() const;
  int64_t context_tokens() const;
  const Model& model() const;
  const Tokenizer& tokenizer() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  absl::Status CheckText(std::span<const int32_t> tokens) const;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qamserve
