// The C++ client of qamserve. Start here: one class, a method for each call, absl::Status instead of grpc::Status.
//
// Errors keep the server's code, message and reason (ReasonOf). A server that cannot be reached is UNAVAILABLE with
// reason kServerUnreachable (client/rpc_status.h). Upload, DownloadArtifact and WatchJob go on after UNAVAILABLE or a
// busy server, with growing pauses; every other call is tried once.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/cancellation.h"
#include "client/credentials.h"
#include "core/base/status.h"
#include "qamserve/v1/access.pb.h"
#include "qamserve/v1/admin.pb.h"
#include "qamserve/v1/artifact.pb.h"
#include "qamserve/v1/checkpoint.pb.h"
#include "qamserve/v1/inference.pb.h"
#include "qamserve/v1/job.pb.h"
#include "qamserve/v1/serving.pb.h"
#include "qamserve/v1/system.pb.h"

namespace qamserve {

inline constexpr char kAddressVariable[] = "QAMSERVE_ADDRESS";
inline constexpr char kDefaultAddress[] = "127.0.0.1:50051";

struct ClientOptions {
  std::string address;               // host:port; empty: QAMSERVE_ADDRESS, else kDefaultAddress
  int64_t timeout_ms = 0;            // of one call; 0: 1 minute, 1 hour for loads, imports and checks, none for streams
  int retry_limit = 10;              // attempts in a row without progress before a transfer or a watch gives up
  int64_t initial_backoff_ms = 250;  // doubles with each attempt
  int64_t max_backoff_ms = 10'000;
  ClientTls tls;        // see ReadClientTls
  std::string api_key;  // goes along with each call; empty = none. One that CheckApiKey refuses is never right
};

struct UploadOptions {
  std::string path;  // a GGUF file, a Hugging Face folder, or a text file
  v1::UploadKind kind = v1::UPLOAD_KIND_CHECKPOINT;
  std::string display_name;  // empty: the name of the file or folder
};

// Where a transfer stands.
struct TransferProgress {
  enum class Phase { kHash, kTransfer, kCheck, kRetry };
  Phase phase = Phase::kHash;
  std::string file;         // being read or sent
  uint64_t done_bytes = 0;  // of total_bytes, skipped_bytes included
  uint64_t total_bytes = 0;
  uint64_t skipped_bytes = 0;  // were there already: not sent
  absl::Status error;          // kRetry: what broke
  int64_t retry_in_ms = 0;     // kRetry
};

// Thread-safe, but a Cancellation may guard only one call at a time. `cancellation` may be null everywhere; a cancelled
// call returns CANCELLED. Callbacks run on the calling thread.
class Client {
 public:
  explicit Client(ClientOptions options = {});
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  const std::string& address() const { return options_.address; }

  // Digests the files, asks which bytes the server lacks, sends those, and has the whole checked. Safe to repeat: what
  // is there is not sent again. DATA_LOSS (UPLOAD_DIGEST) says whether the file changed on disk meanwhile.
  absl::StatusOr<v1::CompleteUploadResponse> Upload(const UploadOptions& upload,
                                                    absl::FunctionRef<void(const TransferProgress&)> progress,
                                                    Cancellation* cancellation = nullptr);
  absl::StatusOr<v1::CompleteUploadResponse> ImportCheckpoint(v1::ImportCheckpointRequest request);
  absl::StatusOr<v1::Checkpoint> GetCheckpoint(const std::string& name);
  absl::StatusOr<v1::ListCheckpointsResponse> ListCheckpoints();  // every page
  absl::Status DeleteCheckpoint(const std::string& name);

  absl::StatusOr<v1::Job> CreateQuantizeJob(v1::CreateQuantizeJobRequest request);
  absl::StatusOr<v1::Job> CreateEvaluateJob(v1::CreateEvaluateJobRequest request);
  absl::StatusOr<v1::Job> CreateStudyJob(v1::CreateStudyJobRequest request);
  absl::StatusOr<v1::StudyTable> GetStudy(const std::string& job, v1::StudyFormat format);
  absl::StatusOr<v1::Job> GetJob(const std::string& name);
  absl::StatusOr<v1::ListJobsResponse> ListJobs(v1::JobState state);  // UNSPECIFIED: all; every page
  absl::StatusOr<v1::Job> CancelJob(const std::string& name);
  absl::StatusOr<v1::Job> RetryJob(const std::string& name);
  absl::Status DeleteJob(const std::string& name);
  // Calls `on_change` with the job now and on each change, each tensor once, and returns the job in its final state. A
  // server that restarts is waited for: `on_retry` is told what broke.
  absl::StatusOr<v1::Job> WatchJob(const std::string& name, absl::FunctionRef<void(const v1::Job&)> on_change,
                                   absl::FunctionRef<void(const absl::Status&)> on_retry,
                                   Cancellation* cancellation = nullptr);

  absl::StatusOr<v1::Artifact> GetArtifact(const std::string& name);
  absl::StatusOr<v1::ListArtifactsResponse> ListArtifacts(const std::string& checkpoint);  // empty: all; every page
  absl::StatusOr<v1::Report> GetReport(const std::string& artifact);
  absl::Status DeleteArtifact(const std::string& name);
  // Fetches every file into `folder` as NAME.partial, goes on where an earlier attempt stopped, checks each digest and
  // only then gives the files their names. DATA_LOSS (DOWNLOAD_DIGEST) removes the file that was wrong.
  absl::StatusOr<v1::Artifact> DownloadArtifact(const std::string& name, const std::string& folder,
                                                absl::FunctionRef<void(const TransferProgress&)> progress,
                                                Cancellation* cancellation = nullptr);

  absl::StatusOr<v1::ServedModel> LoadModel(v1::LoadModelRequest request);
  absl::StatusOr<v1::ServedModel> UnloadModel(v1::UnloadModelRequest request);
  absl::StatusOr<v1::ServedModel> GetServedModel(const std::string& name);
  absl::StatusOr<v1::ListServedModelsResponse> ListServedModels();  // every page
  absl::StatusOr<v1::Alias> UpdateAlias(v1::UpdateAliasRequest request);
  absl::StatusOr<v1::Alias> GetAlias(const std::string& name);
  absl::StatusOr<v1::ListAliasesResponse> ListAliases();  // every page
  absl::Status DeleteAlias(v1::DeleteAliasRequest request);

  absl::StatusOr<v1::NewKey> CreateKey(v1::CreateKeyRequest request);
  absl::StatusOr<v1::Key> GetKey(const std::string& name);
  absl::StatusOr<v1::ListKeysResponse> ListKeys();  // every page
  absl::StatusOr<v1::NewKey> RotateKey(const v1::RotateKeyRequest& request);
  absl::StatusOr<v1::Key> RevokeKey(const std::string& name);
  absl::Status DeleteKey(const std::string& name);
  absl::StatusOr<v1::Caller> GetCaller();
  // The newest `limit` events; `key`: only of this one, if not empty.
  absl::StatusOr<v1::ListAuditEventsResponse> ListAuditEvents(const std::string& key, int limit);
  absl::StatusOr<v1::System> GetSystem();

  absl::StatusOr<v1::ListInstancesResponse> ListInstances();
  absl::StatusOr<v1::Instance> DrainInstance(const std::string& name, bool undo);
  absl::StatusOr<v1::ListLeasesResponse> ListLeases();
  absl::Status ReleaseLease(const std::string& job, int32_t task);
  absl::StatusOr<v1::Queue> GetQueue();
  absl::StatusOr<v1::Garbage> CollectGarbage(bool dry_run);
  absl::StatusOr<v1::Schema> GetSchema();
  // Writes the metadata as `path`, which appears only when all of it is there and its digest is right. DATA_LOSS
  // (BACKUP_CORRUPT) otherwise. Returns the number of rows.
  absl::StatusOr<int64_t> BackupMetadata(const std::string& path, Cancellation* cancellation = nullptr);

  using OnResponse = absl::FunctionRef<void(const v1::GenerateResponse&)>;
  absl::Status Generate(const v1::GenerateRequest& request, OnResponse on_response,
                        Cancellation* cancellation = nullptr);
  absl::Status Chat(const v1::ChatRequest& request, OnResponse on_response, Cancellation* cancellation = nullptr);
  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request);
  absl::StatusOr<v1::CompareResponse> Compare(const v1::CompareRequest& request);
  absl::StatusOr<v1::EmbedResponse> Embed(const v1::EmbedRequest& request);
  absl::StatusOr<v1::TokenizeResponse> Tokenize(const v1::TokenizeRequest& request);
  absl::StatusOr<v1::DetokenizeResponse> Detokenize(const v1::DetokenizeRequest& request);

 private:
  friend class Uploader;
  friend class Downloader;
  struct Stubs;

  ClientOptions options_;
  std::unique_ptr<Stubs> stubs_;
};

// SUCCEEDED, REJECTED, FAILED or CANCELLED.
bool IsFinal(v1::JobState state);

}  // namespace qamserve
