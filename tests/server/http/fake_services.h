// A gRPC server without a port whose services do as tests tell them, and what they were asked.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>
#include <grpcpp/grpcpp.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qamserve/v1/artifact.grpc.pb.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/job.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"

namespace qamserve {

// What the services share. Thread-safe.
class FakeBackend {
 public:
  // --- Calls as they came ---
  void Record(const grpc::CallbackServerContext& call, const google::protobuf::Message& request);
  // Of the last call.
  std::string last_request() const;  // text format on one line
  std::string last_metadata(const std::string& key) const;

  // --- WatchJob: the messages of a stream, from the test ---
  void Push(const std::string& display_name);
  void EndWatch(const grpc::Status& status);
  // How many messages gRPC has taken, and whether the call was cancelled; waits for it up to 30 seconds.
  bool WaitForCancelled();
  int sent() const;

  // --- UploadFile: what has arrived; a piece waits while `hold_uploads` is set ---
  void HoldUploads(bool hold);
  std::string uploaded() const;
  size_t largest_piece() const;
  size_t pieces() const;
  bool WaitForUploaded(size_t bytes);
  // From now on the upload ends with it after this many bytes.
  void FailUploadAfter(size_t bytes, const grpc::Status& status);

  // --- DownloadFile ---
  std::string file;  // the content of "model.bin"; const while calls run
  bool lie_about_size = false;

  struct State;
  State& state() { return *state_; }
  FakeBackend();
  ~FakeBackend();

 private:
  const std::unique_ptr<State> state_;
};

class FakeServer {
 public:
  FakeServer();
  ~FakeServer();

  FakeBackend& backend() { return backend_; }
  std::shared_ptr<grpc::Channel> channel();
  // Full names of the services that it has.
  static std::vector<std::string> services();
  void Shutdown();

 private:
  FakeBackend backend_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<grpc::Server> server_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
};

}  // namespace qamserve
