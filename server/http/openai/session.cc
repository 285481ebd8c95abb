#include "server/http/openai/session.h"

#include <google/protobuf/descriptor.h>

#include <utility>

namespace qamserve::openai {
namespace {

const google::protobuf::MethodDescriptor& MethodOf(std::string_view name) {
  return *google::protobuf::DescriptorPool::generated_pool()->FindMethodByName(std::string(name));
}

}  // namespace

void Session::WatchClient() {
  exchange_->OnGone([weak = weak_from_this()] {
    if (const std::shared_ptr<Session> self = weak.lock()) self->CancelCalls();
  });
}

void Session::TryAny(std::string_view method, const google::protobuf::Message& request,
                     std::function<void(const google::protobuf::Message*, const grpc::Status&)> done) {
  Hold(endpoints_->calls->Unary(MethodOf(method), request, metadata_,
                                [self = shared_from_this(), done = std::move(done)](
                                    const std::unique_ptr<google::protobuf::Message>& message,
                                    const grpc::Status& status) { done(message.get(), status); }));
}

std::shared_ptr<LocalStream> Session::Stream(std::string_view method, const google::protobuf::Message& request) {
  std::shared_ptr<LocalStream> stream = endpoints_->calls->ServerStream(MethodOf(method), request, metadata_);
  Hold(stream);
  return stream;
}

void Session::Hold(std::shared_ptr<LocalCall> call) {
  {
    absl::MutexLock lock(&mutex_);
    calls_.push_back(call);
    if (!cancelled_) return;
  }
  call->Cancel();
}

void Session::CancelCalls() {
  std::vector<std::shared_ptr<LocalCall>> calls;
  {
    absl::MutexLock lock(&mutex_);
    cancelled_ = true;
    calls = calls_;
  }
  for (const std::shared_ptr<LocalCall>& call : calls) call->Cancel();
}

AnswerHead Session::NewAnswer(std::string_view id_prefix, std::string model) const {
  return {.id = NewId(id_prefix), .created = options().unix_seconds(), .model = std::move(model)};
}

std::string Session::NewId(std::string_view prefix) const { return fmt::format("{}{}", prefix, options().new_id()); }

bool Session::BeginAnswer() {
  absl::MutexLock lock(&mutex_);
  return !std::exchange(answered_, true);
}

void Session::Respond(const Json& body) {
  if (!BeginAnswer()) return;
  HttpAnswerHead head;
  head.fields = {{"Content-Type", "application/json; charset=utf-8"}};
  exchange_->Respond(std::move(head), TextOf(body));
}

void Session::RespondError(const ApiError& error) {
  if (!BeginAnswer()) return;
  exchange_->Respond(HeadOf(error), TextOf(ToJson(error)));
}

}  // namespace qamserve::openai
