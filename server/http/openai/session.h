// One request for one of the endpoints while it is answered: its exchange, the calls that it makes and how it ends. A
// client that goes away cancels the calls at once. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/http/local_calls.h"
#include "server/http/openai/answer_json.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/openai_part.h"

namespace qamserve::openai {

// What all requests share.
struct Endpoints {
  std::shared_ptr<LocalCalls> calls;
  OpenAiOptions options;
};

class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(std::shared_ptr<const Endpoints> endpoints, std::shared_ptr<HttpExchange> exchange, CallMetadata metadata)
      : endpoints_(std::move(endpoints)), exchange_(std::move(exchange)), metadata_(std::move(metadata)) {}
  // Once, before the first call.
  void WatchClient();

  // `method` is a full name such as "qamserve.v1.InferenceService.Score". `done` gets the answer, or null and why.
  template <typename Response>
  void Try(std::string_view method, const google::protobuf::Message& request,
           std::function<void(const Response*, const grpc::Status&)> done) {
    TryAny(method, request,
           [done = std::move(done)](const google::protobuf::Message* message, const grpc::Status& status) {
             done(static_cast<const Response*>(message), status);
           });
  }
  // As Try, but an error becomes the request's answer.
  template <typename Response>
  void Ask(std::string_view method, const google::protobuf::Message& request,
           std::function<void(const Response&)> done) {
    Try<Response>(method, request,
                  [this, done = std::move(done)](const Response* response, const grpc::Status& status) {
                    if (response != nullptr) return done(*response);
                    RespondError(ErrorOf(status));
                  });
  }
  std::shared_ptr<LocalStream> Stream(std::string_view method, const google::protobuf::Message& request);
  void CancelCalls();

  const OpenAiOptions& options() const { return endpoints_->options; }
  const std::shared_ptr<HttpExchange>& exchange() const { return exchange_; }
  // "chatcmpl-" and the like, the time, the model as it was asked for.
  AnswerHead NewAnswer(std::string_view id_prefix, std::string model) const;
  std::string NewId(std::string_view prefix) const;

  // What this request calls what errors are about; before the first call.
  void SetErrorParams(ErrorParams params) { error_params_ = std::move(params); }
  ApiError ErrorOf(const grpc::Status& status) const { return ToApiError(status, error_params_); }

  // The answer; only the first counts.
  void Respond(const Json& body);
  void RespondError(const ApiError& error);
  // Whether an answer may still begin; from then on it counts as begun.
  bool BeginAnswer();

 private:
  // The session lives until `done` has been called.
  void TryAny(std::string_view method, const google::protobuf::Message& request,
              std::function<void(const google::protobuf::Message*, const grpc::Status&)> done);
  // Keeps `call` until the session ends; cancels it if the client has gone.
  void Hold(std::shared_ptr<LocalCall> call);

  const std::shared_ptr<const Endpoints> endpoints_;
  const std::shared_ptr<HttpExchange> exchange_;
  const CallMetadata metadata_;
  ErrorParams error_params_;
  mutable absl::Mutex mutex_;
  std::vector<std::shared_ptr<LocalCall>> calls_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool answered_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qamserve::openai
