// A model under a name: its state, its engine, and the requests that are under way. Thread-safe.
// Requests hold a shared_ptr to it; the engine itself is freed only by Drain and FreeFailed (or the destructor), never
// by the engine's own thread.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "server/serving/constraint_cache.h"
#include "server/serving/generator.h"
#include "server/serving/served_model_state.h"

namespace qamserve {

// One moment of a served model.
struct ServedModelView {
  std::string name;
  std::string source;  // "artifacts/{digest}" or "checkpoints/{digest}"
  ServedModelState state = ServedModelState::kLoading;
  absl::Status error;  // why it FAILED
  int64_t memory_bytes = 0;
  int64_t context_tokens = 0;
  int32_t running = 0;
  int32_t waiting = 0;
  double kv_used_ratio = 0;
  int64_t kv_blocks_total = 0;
  int64_t kv_blocks_used = 0;
  int64_t kv_blocks_cached = 0;
  int64_t decode_steps = 0;  // these three as EngineStats has them
  double decode_seconds = 0;
  int64_t decode_weight_bytes = 0;
  int64_t graphs_refused = 0;  // EngineStats::graphs_refused_total
  bool chat = false;
  absl::Status chat_error;  // why not, if the model has a template that does not work
  int64_t ready_ms = 0;
  int32_t replicas = 1;        // that are wanted: on this many instances
  int32_t ready_replicas = 0;  // and READY on this many
};

class ServedModel {
 public:
  // `on_lost`, if there is one, is called when lost() has become an error, on the thread of the request that found it
  // out: from there nobody can free the engine, nor fail the model, which is then for the one who is told to do.
  ServedModel(std::string name, std::string source, const LoadPlan& plan, std::function<void()> on_lost = nullptr);
  ~ServedModel();

  const std::string& name() const { return name_; }
  const std::string& source() const { return source_; }
  const LoadPlan& plan() const { return plan_; }
  ServedModelState state() const;
  ServedModelView View() const;

  // LOADING -> READY. Called once, by the registry.
  absl::Status BecomeReady(LoadedModel model, int64_t now_ms);
  // LOADING, READY or DRAINING -> FAILED; FAILED_PRECONDITION (MODEL_STATE) from another state. No new request gets in.
  absl::Status Fail(const absl::Status& error, int64_t now_ms);
  // Frees the engine of a model that FAILED; requests that are left end as those of a drain whose time is over.
  void FreeFailed();
  // The first error of a request that said that the device is lost (IsCudaLost); OK if none has.
  absl::Status lost() const;

  // --- Requests. UNAVAILABLE (MODEL_NOT_READY) names the state unless it is READY. ---
  // `sink` is called from the engine's thread until its OnDone.
  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                  std::shared_ptr<TokenSink> sink, const RequestOptions& request = {});
  // Drops a request at the next step; unknown ids are ignored.
  void Cancel(uint64_t id);
  // These three block, and are those of Engine.
  absl::StatusOr<TextScores> Score(std::span<const int32_t> tokens, int32_t top = 0);
  absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens);
  absl::StatusOr<std::vector<TokenComparison>> Compare(ServedModel& other, std::span<const int32_t> tokens,
                                                       int64_t first);
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer() const;
  // For SamplingParams::constraint. The errors of Constraint::Compile.
  absl::StatusOr<std::shared_ptr<const Constraint>> constraint(const ConstraintSpec& spec) const;
  // FAILED_PRECONDITION: CHAT_TEMPLATE_MISSING if the model has none; if it has one that does not work, the reason is
  // that of ChatTemplate (CHAT_TEMPLATE_INVALID, ..._REFUSED, ..._BUDGET) and the message says why.
  absl::StatusOr<std::shared_ptr<const ChatTemplate>> chat_template() const;

  // READY -> DRAINING at once: no new request gets in.
  absl::Status BeginDrain(int64_t now_ms);
  // Waits until no request is left or `deadline`, then cancels those that are, frees the engine: -> UNLOADED.
  // A FAILED model is UNLOADED at once.
  void FinishDrain(absl::Time deadline, int64_t now_ms);

 private:
  class Requests;
  class CountingSink;
  class Reading;

  absl::StatusOr<std::shared_ptr<Generator>> ReadyGenerator() const;

  const std::string name_;
  const std::string source_;
  const LoadPlan plan_;
  const std::shared_ptr<Requests> requests_;
  mutable absl::Mutex mutex_;
  ServedModelMachine machine_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Generator> generator_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Tokenizer> tokenizer_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const ChatTemplate> chat_template_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<ConstraintCache> constraints_ ABSL_GUARDED_BY(mutex_);  // while it is READY
  absl::Status chat_error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve
