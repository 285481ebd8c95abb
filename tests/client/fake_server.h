// A qamserve that keeps everything in memory and fails when told to. It speaks the generated services, so that a test
// of the client is a test of what goes over the wire.
#pragma once

#include <grpcpp/server.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "qamserve/v1/admin.grpc.pb.h"
#include "qamserve/v1/artifact.grpc.pb.h"
#include "qamserve/v1/checkpoint.grpc.pb.h"
#include "qamserve/v1/inference.grpc.pb.h"
#include "qamserve/v1/job.grpc.pb.h"
#include "qamserve/v1/serving.grpc.pb.h"
#include "tests/client/fake_access.h"

namespace qamserve {

// A grpc::Status with a google.rpc.ErrorInfo, as the server sends it.
grpc::Status ErrorWithReason(grpc::StatusCode code, const std::string& reason, const std::string& message);

// What a test sets before and reads after. Guarded by `mutex` while calls run.
struct FakeState {
  std::mutex mutex;
  // Uploads.
  std::map<std::string, std::string> received;  // by digest: the bytes so far
  v1::CreateUploadRequest upload;               // the last that was opened
  std::vector<int64_t> offsets;                 // each UploadFile began here
  int64_t upload_bytes = 0;                     // all that UploadFile was sent
  int64_t drop_upload_after = -1;               // once this many bytes have come, UNAVAILABLE; then never again
  int busy_uploads = 0;                         // this many UploadFile calls answer UPLOAD_BUSY
  bool corrupt_upload = false;                  // answer UPLOAD_DIGEST at the end of a file
  v1::ImportCheckpointRequest import;
  // What is stored.
  std::vector<v1::Checkpoint> checkpoints;
  std::vector<v1::Artifact> artifacts;
  std::vector<v1::Job> jobs;
  std::vector<v1::ServedModel> models;
  std::vector<v1::Instance> instances;
  // Downloads: content by file name.
  std::map<std::string, std::string> files;
  std::vector<int64_t> download_offsets;
  int64_t drop_download_after = -1;  // once
  // Jobs.
  v1::CreateQuantizeJobRequest quantize;
  v1::CreateStudyJobRequest study;
  v1::GetStudyRequest study_table;
  v1::CreateEvaluateJobRequest evaluate;
  std::vector<v1::Job> watch;  // what WatchJob sends
  int drop_watch_after = -1;   // messages; once
  bool watch_hangs = false;    // after `watch`, until the client goes
  v1::Report report;
  // Serving and inference.
  v1::LoadModelRequest load;
  v1::UnloadModelRequest unload;
  std::vector<v1::Alias> aliases;
  v1::UpdateAliasRequest update_alias;
  v1::GenerateRequest generate;
  std::vector<v1::ChatRequest> chats;
  v1::ScoreRequest score;
  v1::EmbedRequest embed;
  v1::CompareRequest compare;
  std::vector<std::string> answer = {"Hello", ", ", "world"};
};

// Listens on a port of its own choice while it lives.
class FakeServer {
 public:
  FakeServer();
  ~FakeServer();
  std::string address() const;
  FakeState& state() { return state_; }
  FakeAccessState& access() { return access_; }

 private:
  struct Services;
  FakeState state_;
  FakeAccessState access_;
  std::unique_ptr<Services> services_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace qamserve
