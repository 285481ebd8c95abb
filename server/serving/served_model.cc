#include "server/serving/served_model.h"

#include <map>
#include <utility>

#include "core/kernels/cuda/device.h"

namespace qamserve {

// The requests under way. Shared with the sinks that the engine holds, so that these need not keep the model (and with
// it the engine, whose thread calls them) alive.
class ServedModel::Requests {
 public:
  explicit Requests(std::function<void()> on_lost) : on_lost_(std::move(on_lost)) {}

  // How a request ended.
  void Note(const absl::Status& status) {
    if (!IsCudaLost(status)) return;
    {
      absl::MutexLock lock(&mutex_);
      if (!lost_.ok()) return;
      lost_ = status;
    }
    if (on_lost_) on_lost_();
  }
  absl::Status lost() {
    absl::MutexLock lock(&mutex_);
    return lost_;
  }

  uint64_t Begin() {
    absl::MutexLock lock(&mutex_);
    const uint64_t slot = next_slot_++;
    ids_[slot] = 0;
    return slot;
  }
  void SetId(uint64_t slot, uint64_t id) {
    absl::MutexLock lock(&mutex_);
    if (const auto it = ids_.find(slot); it != ids_.end()) it->second = id;
  }
  void End(uint64_t slot) {
    absl::MutexLock lock(&mutex_);
    ids_.erase(slot);
  }
  // True if none is left.
  bool WaitUntilEmpty(absl::Time deadline) {
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithDeadline(absl::Condition(this, &Requests::Empty), deadline);
  }
  std::vector<uint64_t> Ids() {
    absl::MutexLock lock(&mutex_);
    std::vector<uint64_t> ids;
    for (const auto& [slot, id] : ids_) {
      if (id != 0) ids.push_back(id);
    }
    return ids;
  }

 private:
  bool Empty() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return ids_.empty(); }

  const std::function<void()> on_lost_;
  absl::Mutex mutex_;
  absl::Status lost_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_slot_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, uint64_t> ids_ ABSL_GUARDED_BY(mutex_);  // slot -> engine's id, 0 before it is known
};

class ServedModel::CountingSink final : public TokenSink {
 public:
  CountingSink(std::shared_ptr<Requests> requests, uint64_t slot, std::shared_ptr<TokenSink> sink)
      : requests_(std::move(requests)), slot_(slot), sink_(std::move(sink)) {}

  bool OnToken(const TokenEvent& event) override { return sink_->OnToken(event); }
  void OnDone(const GenerationSummary& summary) override {
    requests_->Note(summary.status);
    sink_->OnDone(summary);
    requests_->End(slot_);
  }

 private:
  const std::shared_ptr<Requests> requests_;
  const uint64_t slot_;
  const std::shared_ptr<TokenSink> sink_;
};

ServedModel::ServedModel(std::string name, std::string source, const LoadPlan& plan, std::function<void()> on_lost)
    : name_(std::move(name)),
      source_(std::move(source)),
      plan_(plan),
      requests_(std::make_shared<Requests>(std::move(on_lost))) {}

ServedModel::~ServedModel() = default;

ServedModelState ServedModel::state() const {
  absl::MutexLock lock(&mutex_);
  return machine_.state();
}

ServedModelView ServedModel::View() const {
  ServedModelView view;
  view.name = name_;
  view.source = source_;
  view.context_tokens = plan_.context_tokens;
  std::shared_ptr<Generator> generator;
  {
    absl::MutexLock lock(&mutex_);
    view.state = machine_.state();
    view.error = machine_.error();
    view.ready_ms = machine_.ready_ms();
    view.chat = chat_template_ != nullptr;
    view.chat_error = chat_error_;
    generator = generator_;
  }
  const bool holds_memory = view.state != ServedModelState::kUnloaded && view.state != ServedModelState::kFailed;
  view.memory_bytes = holds_memory ? plan_.total_bytes() : 0;
  view.ready_replicas = view.state == ServedModelState::kReady ? 1 : 0;
  if (generator != nullptr) {
    const EngineStats stats = generator->stats();
    view.running = stats.running;
    view.waiting = stats.waiting;
    view.kv_used_ratio = stats.kv_used_ratio;
    view.kv_blocks_total = stats.kv_blocks_total;
    view.kv_blocks_used = stats.kv_blocks_used;
    view.kv_blocks_cached = stats.kv_blocks_cached;
    view.decode_steps = stats.decode_steps_total;
    view.decode_seconds = stats.decode_seconds_total;
    view.decode_weight_bytes = stats.decode_weight_bytes_total;
    view.graphs_refused = stats.graphs_refused_total;
  }
  return view;
}

absl::Status ServedModel::BecomeReady(LoadedModel model, int64_t now_ms) {
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(machine_.Apply(ServedModelEvent::kReady, now_ms));
  generator_ = std::move(model.generator);
  tokenizer_ = std::move(model.tokenizer);
  chat_template_ = std::move(model.chat_template);
  constraints_ = std::make_shared<ConstraintCache>(tokenizer_);
  chat_error_ = std::move(model.chat_error);
  return absl::OkStatus();
}

absl::Status ServedModel::Fail(const absl::Status& error, int64_t now_ms) {
  absl::MutexLock lock(&mutex_);
  return machine_.Apply(ServedModelEvent::kFail, now_ms, error);
}

void ServedModel::FreeFailed() {
  std::shared_ptr<Generator> generator;  // freed after the lock
  absl::MutexLock lock(&mutex_);
  if (machine_.state() != ServedModelState::kFailed) return;
  generator = std::move(generator_);
  constraints_ = nullptr;
}

absl::Status ServedModel::lost() const { return requests_->lost(); }

absl::StatusOr<std::shared_ptr<Generator>> ServedModel::ReadyGenerator() const {
  absl::MutexLock lock(&mutex_);
  if (machine_.state() != ServedModelState::kReady) {
    return Unavailable("MODEL_NOT_READY", "model \"{}\" is {}, not READY", name_,
                       ServedModelStateName(machine_.state()));
  }
  return generator_;
}

absl::StatusOr<uint64_t> ServedModel::Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                             std::shared_ptr<TokenSink> sink, const RequestOptions& request) {
  // Counted before the state is read: a drain that begins in between waits for this request.
  const uint64_t slot = requests_->Begin();
  const absl::StatusOr<std::shared_ptr<Generator>> generator = ReadyGenerator();
  if (!generator.ok()) {
    requests_->End(slot);
    return generator.status();
  }
  absl::StatusOr<uint64_t> id =
      (*generator)
          ->Submit(std::move(prompt), params, std::make_shared<CountingSink>(requests_, slot, std::move(sink)), request);
  if (id.ok()) {
    requests_->SetId(slot, *id);
  } else {
    requests_->End(slot);
  }
  return id;
}

void ServedModel::Cancel(uint64_t id) {
  std::shared_ptr<Generator> generator;
  {
    absl::MutexLock lock(&mutex_);
    generator = generator_;
  }
  if (generator != nullptr) generator->Cancel(id);
}

// A call that waits for the engine, counted as a request. The engine is let go before the request ends: Drain frees it
// once none is left.
class ServedModel::Reading {
 public:
  explicit Reading(const ServedModel& model)
      : requests_(*model.requests_), slot_(requests_.Begin()), generator_(model.ReadyGenerator()) {}
  ~Reading() {
    generator_ = absl::CancelledError();
    requests_.End(slot_);
  }
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  absl::Status status() const { return generator_.status(); }
  Generator& generator() const { return **generator_; }
  // The answer of the call, of which the requests are told.
  template <typename Answer>
  absl::StatusOr<Answer> Ended(absl::StatusOr<Answer> answer) const {
    requests_.Note(answer.status());
    return answer;
  }

 private:
  Requests& requests_;
  const uint64_t slot_;
  absl::StatusOr<std::shared_ptr<Generator>> generator_;
};

absl::StatusOr<TextScores> ServedModel::Score(std::span<const int32_t> tokens, int32_t top) {
  const Reading reading(*this);
  RETURN_IF_ERROR(reading.status());
  return reading.Ended(reading.generator().Score(tokens, top));
}

absl::StatusOr<std::vector<float>> ServedModel::Embed(std::span<const int32_t> tokens) {
  const Reading reading(*this);
  RETURN_IF_ERROR(reading.status());
  return reading.Ended(reading.generator().Embed(tokens));
}

absl::StatusOr<std::vector<TokenComparison>> ServedModel::Compare(ServedModel& other, std::span<const int32_t> tokens,
                                                                  int64_t first) {
  const Reading reading(*this), other_reading(other);
  RETURN_IF_ERROR(reading.status());
  RETURN_IF_ERROR(other_reading.status());
  return reading.Ended(reading.generator().Compare(other_reading.generator(), tokens, first));
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> ServedModel::tokenizer() const {
  RETURN_IF_ERROR(ReadyGenerator().status());
  absl::MutexLock lock(&mutex_);
  return tokenizer_;
}

absl::StatusOr<std::shared_ptr<const Constraint>> ServedModel::constraint(const ConstraintSpec& spec) const {
  RETURN_IF_ERROR(ReadyGenerator().status());
  std::shared_ptr<ConstraintCache> constraints;
  {
    absl::MutexLock lock(&mutex_);
    constraints = constraints_;
  }
  if (constraints == nullptr) return Unavailable("MODEL_NOT_READY", "model \"{}\" is being unloaded", name_);
  return constraints->Get(spec);
}

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ServedModel::chat_template() const {
  RETURN_IF_ERROR(ReadyGenerator().status());
  absl::MutexLock lock(&mutex_);
  if (!chat_error_.ok()) {
    return MakeError(absl::StatusCode::kFailedPrecondition, ReasonOf(chat_error_),
                     fmt::format("model \"{}\" offers no chat, as its template does not work; use Generate. {}", name_,
                                 MessageOf(chat_error_)));
  }
  if (chat_template_ == nullptr) {
    return FailedPrecondition("CHAT_TEMPLATE_MISSING", "model \"{}\" has no chat template; use Generate", name_);
  }
  return chat_template_;
}

absl::Status ServedModel::BeginDrain(int64_t now_ms) {
  absl::MutexLock lock(&mutex_);
  return machine_.Apply(ServedModelEvent::kDrain, now_ms);
}

void ServedModel::FinishDrain(absl::Time deadline, int64_t now_ms) {
  std::shared_ptr<Generator> generator;
  {
    absl::MutexLock lock(&mutex_);
    if (machine_.state() != ServedModelState::kDraining && machine_.state() != ServedModelState::kFailed) return;
    generator = generator_;
  }
  if (generator != nullptr && !requests_->WaitUntilEmpty(deadline)) {
    for (const uint64_t id : requests_->Ids()) generator->Cancel(id);
    // A step of a large batch takes seconds at most; a request whose sequence is dropped is done then.
    requests_->WaitUntilEmpty(absl::Now() + absl::Seconds(10));
  }
  {
    absl::MutexLock lock(&mutex_);
    generator_ = nullptr;
    // DRAINING and FAILED both have this arrow, so it cannot fail.
    machine_.Apply(ServedModelEvent::kUnload, now_ms).IgnoreError();
    constraints_ = nullptr;
  }
  generator = nullptr;  // frees the engine, unless a request that did not end in time still holds it
}

}  // namespace qamserve
