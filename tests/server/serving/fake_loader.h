// A ModelLoader without weights: a real tokenizer and chat template, and a generator that says "a", "a", ... from a
// thread of its own, as an engine does.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "server/serving/generator.h"
#include "tests/support/tiny_tokenizer.h"

namespace qamserve {

// What a test sets and sees. Shared by loader, generators and test; guarded by its mutex.
struct FakeState {
  std::mutex mutex;
  std::condition_variable changed;
  LoadPlan plan = {.context_tokens = 128, .weight_bytes = 1000, .kv_bytes = 100, .scratch_bytes = 10};
  absl::Status load_status;
  // Of models that are loaded from now on.
  absl::Status chat_error;
  std::string chat_template = TinyChatTemplate();
  bool hold = false;            // submitted requests get no token until this is false
  std::string token_text = "a";
  int loads = 0;
  int frees = 0;
  int running = 0;
  int cancelled = 0;            // requests that ended as kCancelled
  bool expire = false;          // requests with a deadline end with it at their next step
  absl::Status error;           // if not OK, what all requests end with and readings return
  RequestOptions last_request;  // as submitted, as the next two
  std::vector<int32_t> last_prompt;
  SamplingParams last_params;
  std::shared_ptr<const Constraint> last_constraint;

  template <typename Predicate>
  bool WaitUntil(Predicate predicate) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, std::chrono::seconds(20), predicate);
  }
  template <typename Change>
  void Set(Change change) {
    {
      std::lock_guard lock(mutex);
      change();
    }
    changed.notify_all();
  }
};

class FakeGenerator final : public Generator {
 public:
  explicit FakeGenerator(std::shared_ptr<FakeState> state) : state_(std::move(state)), thread_([this] { Loop(); }) {}
  ~FakeGenerator() override {
    state_->Set([this] { stopping_ = true; });
    thread_.join();
    state_->Set([this] { ++state_->frees; });
  }

  absl::StatusOr<uint64_t> Submit(std::vector<int32_t> prompt, const SamplingParams& params,
                                  std::shared_ptr<TokenSink> sink, const RequestOptions& request) override {
    if (prompt.empty()) return InvalidArgument("PROMPT_EMPTY", "the prompt is empty");
    uint64_t id = 0;
    state_->Set([&] {
      id = next_id_++;
      requests_[id] = {static_cast<int32_t>(prompt.size()), params.max_tokens, 0, false, request, std::move(sink)};
      state_->last_request = request;
      state_->last_prompt = std::move(prompt);
      state_->last_params = params;
      state_->last_constraint = params.constraint;
      state_->running = static_cast<int>(requests_.size());
    });
    return id;
  }
  void Cancel(uint64_t id) override {
    state_->Set([&] {
      if (const auto it = requests_.find(id); it != requests_.end()) it->second.cancelled = true;
    });
  }
  absl::StatusOr<TextScores> Score(std::span<const int32_t> tokens, int32_t top) override {
    TextScores scores;
    scores.logprobs.assign(tokens.size() - 1, -0.5f);
    // The best of them is the token that comes, then those behind it.
    for (size_t i = 1; top > 0 && i < tokens.size(); ++i) {
      auto& best = scores.top.emplace_back();
      for (int32_t k = 0; k < top; ++k) best.push_back({tokens[i] + k, -0.5f - static_cast<float>(k)});
    }
    return scores;
  }
  // (number of tokens, the last of them).
  absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens) override {
    {
      std::lock_guard lock(state_->mutex);
      RETURN_IF_ERROR(state_->error);
    }
    if (static_cast<int64_t>(tokens.size()) > context_tokens()) {
      return InvalidArgument("PROMPT_TOO_LONG", "the prompt has {} tokens; at most {} fit the context", tokens.size(),
                             context_tokens());
    }
    return std::vector<float>{static_cast<float>(tokens.size()), static_cast<float>(tokens.back())};
  }
  // The first token of a comparison agrees, the others do not.
  absl::StatusOr<std::vector<TokenComparison>> Compare(Generator&, std::span<const int32_t> tokens,
                                                       int64_t first) override {
    std::vector<TokenComparison> out;
    for (const int32_t token : tokens.subspan(static_cast<size_t>(first))) {
      const bool same = out.empty();
      out.push_back({.base_nll = 1, .other_nll = 2, .kl = 0.25, .same_top = same, .base_top = token,
                     .other_top = same ? token : token + 1});
    }
    return out;
  }
  EngineStats stats() const override {
    std::lock_guard lock(state_->mutex);
    return {.running = static_cast<int32_t>(requests_.size())};
  }
  int64_t context_tokens() const override { return 128; }

 private:
  struct Request {
    int32_t prompt_tokens = 0;
    int32_t max_tokens = 0;
    int32_t done = 0;
    bool cancelled = false;
    RequestOptions options;
    std::shared_ptr<TokenSink> sink;
  };

  bool HasWork() const {
    return stopping_ || std::any_of(requests_.begin(), requests_.end(), [this](const auto& entry) {
             return entry.second.cancelled || !state_->hold || !state_->error.ok() ||
                    (state_->expire && entry.second.options.deadline);
           });
  }

  void Loop() {
    std::unique_lock lock(state_->mutex);
    while (true) {
      state_->changed.wait(lock, [this] { return HasWork(); });
      if (stopping_ && requests_.empty()) return;
      std::vector<uint64_t> ids;
      for (const auto& [id, request] : requests_) ids.push_back(id);
      for (const uint64_t id : ids) Step(id, lock);
      state_->changed.notify_all();
    }
  }

  void Step(uint64_t id, std::unique_lock<std::mutex>& lock) {
    Request& request = requests_.at(id);
    const std::shared_ptr<TokenSink> sink = request.sink;
    if (!request.cancelled && !stopping_ && !state_->hold && state_->error.ok()) {
      TokenEvent event = {.token = kTinySpecials, .text = state_->token_text};
      ++request.done;
      lock.unlock();
      const bool go_on = sink->OnToken(event);
      lock.lock();
      request.cancelled = request.cancelled || !go_on;
    }
    const bool dropped = request.cancelled || stopping_;
    const bool expired = state_->expire && request.options.deadline.has_value();
    const absl::Status error = state_->error;
    if (!dropped && !expired && error.ok() && request.done < request.max_tokens) return;
    GenerationSummary summary;
    summary.reason = dropped ? FinishReason::kCancelled : FinishReason::kLength;
    if (expired) {
      summary.reason = FinishReason::kDeadline;
      summary.status = MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE", "too late");
    } else if (!dropped && !error.ok()) {
      summary.reason = FinishReason::kError;
      summary.status = error;
    }
    summary.cached_prompt_tokens = 1;
    summary.prompt_tokens = request.prompt_tokens;
    summary.completion_tokens = request.done;
    requests_.erase(id);
    state_->running = static_cast<int>(requests_.size());
    if (dropped) ++state_->cancelled;
    lock.unlock();
    sink->OnDone(summary);
    lock.lock();
  }

  const std::shared_ptr<FakeState> state_;
  bool stopping_ = false;                  // guarded by state_->mutex, as are the next two
  uint64_t next_id_ = 1;
  std::map<uint64_t, Request> requests_;
  std::thread thread_;
};

class FakeLoader final : public ModelLoader {
 public:
  explicit FakeLoader(std::shared_ptr<FakeState> state) : state_(std::move(state)) {}

  absl::StatusOr<LoadPlan> Plan(const FileSet&, int64_t context_tokens) override {
    std::lock_guard lock(state_->mutex);
    LoadPlan plan = state_->plan;
    if (context_tokens > 0) plan.context_tokens = context_tokens;
    return plan;
  }

  absl::StatusOr<LoadedModel> Load(const FileSet&, const LoadPlan&) override {
    absl::Status status;
    state_->Set([&] {
      ++state_->loads;
      status = state_->load_status;
    });
    RETURN_IF_ERROR(status);
    LoadedModel model;
    const TokenizerFiles files = {TinyTokenizerJson(MakeTinyVocabulary(300)), TinyTokenizerConfigJson(), ""};
    ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Create(files, "fake"));
    {
      std::lock_guard lock(state_->mutex);
      model.chat_error = state_->chat_error;
      ASSIGN_OR_RETURN(model.chat_template, ChatTemplate::Parse(state_->chat_template, "", ""));
    }
    if (!model.chat_error.ok()) model.chat_template = nullptr;
    model.generator = std::make_unique<FakeGenerator>(state_);
    return model;
  }

 private:
  const std::shared_ptr<FakeState> state_;
};

}  // namespace qamserve
