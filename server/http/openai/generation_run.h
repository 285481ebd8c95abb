// The generations that one answer is made of, run side by side: reads their streams, gives what they say to the
// answer's format, and sends what comes of it, at once as events or at the end as one object. The first error ends all
// of them.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <grpcpp/alarm.h>

#include <memory>
#include <string_view>
#include <vector>

#include "qamserve/v1/inference.pb.h"
#include "server/http/openai/answer_json.h"
#include "server/http/openai/event_stream.h"
#include "server/http/openai/session.h"

namespace qamserve::openai {

// Makes an endpoint's JSON of what generations say. Called by one thread at a time.
class AnswerFormat {
 public:
  explicit AnswerFormat(AnswerHead answer_head) : head(std::move(answer_head)) {}
  virtual ~AnswerFormat() = default;
  // Takes in a message of generation `index`. With `chunks` it adds what is to be sent now; without, the format keeps
  // all until Whole.
  virtual void Add(size_t index, const v1::GenerateResponse& message, std::vector<Json>* chunks) = 0;
  // Chunks of choices that nothing was generated for.
  virtual void AddSilent(std::vector<Json>*) {}
  virtual Json Whole() = 0;
  // The last chunk: no choices, all tokens.
  virtual Json UsageChunk() = 0;

  AnswerHead head;  // its fingerprint is filled in before the first Add
};

struct Generation {
  std::string_view method;  // full name
  std::unique_ptr<google::protobuf::Message> request;
};

struct RunOptions {
  bool stream = false;
  bool include_usage = false;
};

class GenerationRun : public std::enable_shared_from_this<GenerationRun> {
 public:
  static void Start(std::shared_ptr<Session> session, std::unique_ptr<AnswerFormat> format,
                    std::vector<Generation> generations, RunOptions options);

 private:
  GenerationRun(std::shared_ptr<Session> session, std::unique_ptr<AnswerFormat> format, RunOptions options)
      : session_(std::move(session)), options_(options), format_(std::move(format)) {}
  void StartCalls(const std::vector<Generation>& generations);
  // Answers as a stream even before there is anything to say: nobody may wait for a head for ever.
  void SetAlarm();
  void ReadNext(size_t index);
  void OnMessage(size_t index, const v1::GenerateResponse& message);
  void OnEnd(const grpc::Status& status);
  void Finish();
  void Fail(const ApiError& error);
  std::shared_ptr<EventStream> Events() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<Session> session_;
  const RunOptions options_;
  std::vector<std::shared_ptr<LocalStream>> streams_;  // const once they are read
  absl::Mutex mutex_;
  std::unique_ptr<AnswerFormat> format_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<EventStream> events_ ABSL_GUARDED_BY(mutex_);  // null until the answer has begun
  std::unique_ptr<grpc::Alarm> alarm_ ABSL_GUARDED_BY(mutex_);
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool heard_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qamserve::openai
