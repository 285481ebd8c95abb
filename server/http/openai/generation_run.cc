#include "server/http/openai/generation_run.h"

#include <absl/time/clock.h>

#include <utility>

namespace qamserve::openai {
namespace {

constexpr std::string_view kDone = "[DONE]";

}  // namespace

void GenerationRun::Start(std::shared_ptr<Session> session, std::unique_ptr<AnswerFormat> format,
                          std::vector<Generation> generations, RunOptions options) {
  const auto run = std::shared_ptr<GenerationRun>(new GenerationRun(std::move(session), std::move(format), options));
  if (generations.empty()) return run->Finish();
  run->StartCalls(generations);
  if (options.stream) run->SetAlarm();
  for (size_t i = 0; i < generations.size(); ++i) run->ReadNext(i);
}

void GenerationRun::StartCalls(const std::vector<Generation>& generations) {
  {
    absl::MutexLock lock(&mutex_);
    running_ = generations.size();
  }
  streams_.reserve(generations.size());
  for (const Generation& generation : generations) {
    streams_.push_back(session_->Stream(generation.method, *generation.request));
  }
}

void GenerationRun::SetAlarm() {
  auto alarm = std::make_unique<grpc::Alarm>();
  grpc::Alarm& set = *alarm;
  {
    absl::MutexLock lock(&mutex_);
    alarm_ = std::move(alarm);
  }
  set.Set(absl::ToChronoTime(absl::Now() + session_->options().ping_interval), [weak = weak_from_this()](bool expired) {
    const std::shared_ptr<GenerationRun> self = expired ? weak.lock() : nullptr;
    if (self == nullptr) return;
    absl::MutexLock lock(&self->mutex_);
    if (!self->ended_) self->Events();
  });
}

void GenerationRun::ReadNext(size_t index) {
  streams_[index]->Read([self = shared_from_this(), index](std::unique_ptr<google::protobuf::Message> message,
                                                           const grpc::Status& status) {
    if (message != nullptr) {
      self->OnMessage(index, static_cast<const v1::GenerateResponse&>(*message));
    } else {
      self->OnEnd(status);
    }
  });
}

// The stream of the answer, begun if it is not; null if it may not begin any more.
std::shared_ptr<EventStream> GenerationRun::Events() {
  if (events_ == nullptr && session_->BeginAnswer()) {
    events_ = EventStream::Begin(session_->exchange(), HttpAnswerHead{}, session_->options().ping_interval);
  }
  return events_;
}

void GenerationRun::OnMessage(size_t index, const v1::GenerateResponse& message) {
  std::vector<Json> chunks;
  std::shared_ptr<EventStream> events;
  {
    absl::MutexLock lock(&mutex_);
    if (ended_) return;
    if (!std::exchange(heard_, true)) format_->head.fingerprint = session_->options().fingerprint(message.model());
    format_->Add(index, message, options_.stream ? &chunks : nullptr);
    if (options_.stream) events = Events();
  }
  if (events == nullptr) return ReadNext(index);
  for (const Json& chunk : chunks) events->Send(TextOf(chunk));
  events->WhenDrained([self = shared_from_this(), index] { self->ReadNext(index); });
}

void GenerationRun::OnEnd(const grpc::Status& status) {
  if (!status.ok()) return Fail(session_->ErrorOf(status));
  {
    absl::MutexLock lock(&mutex_);
    if (ended_ || --running_ > 0) return;
  }
  Finish();
}

void GenerationRun::Finish() {
  std::vector<Json> chunks;
  std::shared_ptr<EventStream> events;
  {
    absl::MutexLock lock(&mutex_);
    ended_ = true;
    if (!options_.stream) {
      session_->Respond(format_->Whole());
      return;
    }
    events = Events();
    format_->AddSilent(&chunks);
    if (options_.include_usage) chunks.push_back(format_->UsageChunk());
  }
  if (events == nullptr) return;
  for (const Json& chunk : chunks) events->Send(TextOf(chunk));
  events->Send(kDone);
  events->End();
}

void GenerationRun::Fail(const ApiError& error) {
  std::shared_ptr<EventStream> events;
  {
    absl::MutexLock lock(&mutex_);
    if (std::exchange(ended_, true)) return;
    events = events_;
  }
  session_->CancelCalls();
  if (events == nullptr) return session_->RespondError(error);
  events->Send(TextOf(ToJson(error)));
  events->Send(kDone);
  events->End();
}

}  // namespace qamserve::openai
