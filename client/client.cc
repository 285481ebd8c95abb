#include "client/client.h"

#include <absl/strings/ascii.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "client/stubs.h"

namespace qamserve {
namespace {

// Reports of large models run to megabytes; 64 MiB is far above and still bounds what a broken server can make us hold.
constexpr int kMaxMessageBytes = 64 << 20;
// Above the 5 minutes below which a gRPC server counts a ping as abuse; a dead peer is noticed within 6 minutes.
constexpr int kKeepaliveMs = 310'000;
constexpr int kKeepaliveTimeoutMs = 20'000;
// gRPC itself waits up to 2 minutes between connection attempts; a server that restarts should be found sooner.
constexpr int kMaxReconnectMs = 5'000;
constexpr int kPageSize = 1000;
// A server whose pages never end must not fill our memory.
constexpr int kMaxPages = 1000;
constexpr int64_t kQuickMs = 60'000;
constexpr int64_t kSlowMs = 3'600'000;

std::shared_ptr<grpc::ChannelCredentials> CredentialsOf(const ClientTls& tls) {
  if (tls.ca_pem.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = tls.ca_pem;
  ssl.pem_cert_chain = tls.certificate_pem;
  ssl.pem_private_key = tls.key_pem;
  return grpc::SslCredentials(ssl);
}

std::shared_ptr<grpc::Channel> Connect(const ClientOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, static_cast<int>(options.initial_backoff_ms));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  return grpc::CreateCustomChannel(options.address, CredentialsOf(options.tls), arguments);
}

// What no header can carry would end the process in gRPC. A key with such characters is no key anyway: the server is
// to say so.
ClientOptions WithDefaults(ClientOptions options) {
  for (char& c : options.api_key) {
    if (!absl::ascii_isgraph(static_cast<unsigned char>(c))) c = '?';
  }
  if (options.address.empty()) {
    const char* from_environment = std::getenv(kAddressVariable);
    options.address = from_environment != nullptr && *from_environment != '\0' ? from_environment : kDefaultAddress;
  }
  return options;
}

// The server still holds what a broken stream left, or has too much to do; or another client with the same content is
// ahead, and asking again tells how far.
bool Passes(const absl::Status& error) {
  const std::string reason = ReasonOf(error);
  return absl::IsUnavailable(error) || reason == "UPLOAD_BUSY" || reason == "UPLOAD_OFFSET" ||
         reason == "SERVER_BUSY" || reason == "QUEUE_FULL";
}

// A random (version 4) UUID, so that a call that was answered but whose answer was lost can be recognized.
std::string NewRequestId() {
  uint8_t bytes[16] = {};
  if (::getrandom(bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes))) return "";
  bytes[6] = static_cast<uint8_t>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<uint8_t>((bytes[8] & 0x3f) | 0x80);
  std::string text;
  for (size_t i = 0; i < sizeof(bytes); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

template <typename Request>
void AddRequestId(Request& request) {
  if (request.request_id().empty()) request.set_request_id(NewRequestId());
}

// A unary call whose answer is a value.
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> Call(const ClientOptions& options, CallKind kind, Stub& stub,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                              const Request& request) {
  Response response;
  RETURN_IF_ERROR(CallOnce(options, kind, stub, method, request, response));
  return response;
}

// Follows next_page_token and gathers all pages in one response.
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> AllPages(const ClientOptions& options, Stub& stub,
                                  grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                                  Request request) {
  Response all;
  request.set_page_size(kPageSize);
  for (int page = 0; page < kMaxPages; ++page) {
    ASSIGN_OR_RETURN(Response response, Call(options, CallKind::kQuick, stub, method, request));
    request.set_page_token(response.next_page_token());
    response.clear_next_page_token();
    all.MergeFrom(response);
    if (request.page_token().empty()) return all;
  }
  return ResourceExhausted("TOO_MANY_PAGES", "the list has more than {} pages of {}", kMaxPages, kPageSize);
}

// Reads a server stream to its end.
template <typename Reader, typename Response>
absl::Status ReadAll(Reader& reader, Response& response, absl::FunctionRef<void(const Response&)> on_response) {
  while (reader.Read(&response)) on_response(response);
  return FromGrpc(reader.Finish());
}

}  // namespace

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_SUCCEEDED || state == v1::JOB_STATE_REJECTED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

Client::Stubs::Stubs(const std::shared_ptr<grpc::Channel>& channel)
    : checkpoints(v1::CheckpointService::NewStub(channel)),
      jobs(v1::JobService::NewStub(channel)),
      artifacts(v1::ArtifactService::NewStub(channel)),
      serving(v1::ServingService::NewStub(channel)),
      inference(v1::InferenceService::NewStub(channel)),
      access(v1::AccessService::NewStub(channel)),
      system(v1::SystemService::NewStub(channel)),
      admin(v1::AdminService::NewStub(channel)) {}

void PrepareCall(const ClientOptions& options, CallKind kind, grpc::ClientContext& context) {
  if (!options.api_key.empty()) context.AddMetadata("authorization", "Bearer " + options.api_key);
  int64_t timeout_ms = options.timeout_ms;
  if (timeout_ms == 0 && kind == CallKind::kStream) return;
  if (timeout_ms == 0) timeout_ms = kind == CallKind::kSlow ? kSlowMs : kQuickMs;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
}

bool RetryPauses::ShouldRetry(const absl::Status& error) const {
  return Passes(error) && attempts_ < options_.retry_limit && (cancellation_ == nullptr || !cancellation_->cancelled());
}

int64_t RetryPauses::NextPauseMs() const {
  // 2^20 times any starting pause is above every sensible maximum.
  return std::min(options_.max_backoff_ms, options_.initial_backoff_ms << std::min(attempts_, 20));
}

bool RetryPauses::Pause() {
  const int64_t pause_ms = NextPauseMs();
  ++attempts_;
  if (cancellation_ != nullptr) return cancellation_->SleepFor(pause_ms);
  std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
  return true;
}

Client::Client(ClientOptions options)
    : options_(WithDefaults(std::move(options))), stubs_(std::make_unique<Stubs>(Connect(options_))) {}

Client::~Client() = default;

absl::StatusOr<v1::CompleteUploadResponse> Client::ImportCheckpoint(v1::ImportCheckpointRequest request) {
  AddRequestId(request);
  // A transfer from elsewhere takes as long as it takes.
  const CallKind kind = request.source().empty() ? CallKind::kSlow : CallKind::kStream;
  return Call(options_, kind, *stubs_->checkpoints, &v1::CheckpointService::Stub::ImportCheckpoint, request);
}

absl::StatusOr<v1::Checkpoint> Client::GetCheckpoint(const std::string& name) {
  v1::GetCheckpointRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->checkpoints, &v1::CheckpointService::Stub::GetCheckpoint, request);
}

absl::StatusOr<v1::ListCheckpointsResponse> Client::ListCheckpoints() {
  return AllPages(options_, *stubs_->checkpoints, &v1::CheckpointService::Stub::ListCheckpoints,
                  v1::ListCheckpointsRequest());
}

absl::Status Client::DeleteCheckpoint(const std::string& name) {
  v1::DeleteCheckpointRequest request;
  request.set_name(name);
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->checkpoints, &v1::CheckpointService::Stub::DeleteCheckpoint, request)
      .status();
}

absl::StatusOr<v1::Job> Client::CreateQuantizeJob(v1::CreateQuantizeJobRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::CreateQuantizeJob, request);
}

absl::StatusOr<v1::Job> Client::CreateEvaluateJob(v1::CreateEvaluateJobRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::CreateEvaluateJob, request);
}

absl::StatusOr<v1::Job> Client::CreateStudyJob(v1::CreateStudyJobRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::CreateStudyJob, request);
}

absl::StatusOr<v1::StudyTable> Client::GetStudy(const std::string& job, v1::StudyFormat format) {
  v1::GetStudyRequest request;
  request.set_job(job);
  request.set_format(format);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::GetStudy, request);
}

absl::StatusOr<v1::Job> Client::GetJob(const std::string& name) {
  v1::GetJobRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::GetJob, request);
}

absl::StatusOr<v1::ListJobsResponse> Client::ListJobs(v1::JobState state) {
  v1::ListJobsRequest request;
  request.set_state(state);
  return AllPages(options_, *stubs_->jobs, &v1::JobService::Stub::ListJobs, request);
}

absl::StatusOr<v1::Job> Client::CancelJob(const std::string& name) {
  v1::CancelJobRequest request;
  request.set_name(name);
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::CancelJob, request);
}

absl::StatusOr<v1::Job> Client::RetryJob(const std::string& name) {
  v1::RetryJobRequest request;
  request.set_name(name);
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::RetryJob, request);
}

absl::Status Client::DeleteJob(const std::string& name) {
  v1::DeleteJobRequest request;
  request.set_name(name);
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->jobs, &v1::JobService::Stub::DeleteJob, request).status();
}

absl::StatusOr<v1::Artifact> Client::GetArtifact(const std::string& name) {
  v1::GetArtifactRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->artifacts, &v1::ArtifactService::Stub::GetArtifact, request);
}

absl::StatusOr<v1::ListArtifactsResponse> Client::ListArtifacts(const std::string& checkpoint) {
  v1::ListArtifactsRequest request;
  request.set_checkpoint(checkpoint);
  return AllPages(options_, *stubs_->artifacts, &v1::ArtifactService::Stub::ListArtifacts, request);
}

absl::StatusOr<v1::Report> Client::GetReport(const std::string& artifact) {
  v1::GetReportRequest request;
  request.set_artifact(artifact);
  return Call(options_, CallKind::kQuick, *stubs_->artifacts, &v1::ArtifactService::Stub::GetReport, request);
}

absl::Status Client::DeleteArtifact(const std::string& name) {
  v1::DeleteArtifactRequest request;
  request.set_name(name);
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->artifacts, &v1::ArtifactService::Stub::DeleteArtifact, request)
      .status();
}

absl::StatusOr<v1::ServedModel> Client::LoadModel(v1::LoadModelRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kSlow, *stubs_->serving, &v1::ServingService::Stub::LoadModel, request);
}

absl::StatusOr<v1::ServedModel> Client::UnloadModel(v1::UnloadModelRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kSlow, *stubs_->serving, &v1::ServingService::Stub::UnloadModel, request);
}

absl::StatusOr<v1::ServedModel> Client::GetServedModel(const std::string& name) {
  v1::GetServedModelRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->serving, &v1::ServingService::Stub::GetServedModel, request);
}

absl::StatusOr<v1::ListServedModelsResponse> Client::ListServedModels() {
  return AllPages(options_, *stubs_->serving, &v1::ServingService::Stub::ListServedModels,
                  v1::ListServedModelsRequest());
}

absl::StatusOr<v1::Alias> Client::UpdateAlias(v1::UpdateAliasRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->serving, &v1::ServingService::Stub::UpdateAlias, request);
}

absl::StatusOr<v1::Alias> Client::GetAlias(const std::string& name) {
  v1::GetAliasRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->serving, &v1::ServingService::Stub::GetAlias, request);
}

absl::StatusOr<v1::ListAliasesResponse> Client::ListAliases() {
  return AllPages(options_, *stubs_->serving, &v1::ServingService::Stub::ListAliases, v1::ListAliasesRequest());
}

absl::Status Client::DeleteAlias(v1::DeleteAliasRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->serving, &v1::ServingService::Stub::DeleteAlias, request).status();
}

absl::StatusOr<v1::NewKey> Client::CreateKey(v1::CreateKeyRequest request) {
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->access, &v1::AccessService::Stub::CreateKey, request);
}

absl::StatusOr<v1::Key> Client::GetKey(const std::string& name) {
  v1::GetKeyRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->access, &v1::AccessService::Stub::GetKey, request);
}

absl::StatusOr<v1::ListKeysResponse> Client::ListKeys() {
  return AllPages(options_, *stubs_->access, &v1::AccessService::Stub::ListKeys, v1::ListKeysRequest());
}

absl::StatusOr<v1::NewKey> Client::RotateKey(const v1::RotateKeyRequest& request) {
  return Call(options_, CallKind::kQuick, *stubs_->access, &v1::AccessService::Stub::RotateKey, request);
}

absl::StatusOr<v1::Key> Client::RevokeKey(const std::string& name) {
  v1::RevokeKeyRequest request;
  request.set_name(name);
  AddRequestId(request);
  return Call(options_, CallKind::kQuick, *stubs_->access, &v1::AccessService::Stub::RevokeKey, request);
}

absl::Status Client::DeleteKey(const std::string& name) {
  v1::DeleteKeyRequest request;
  request.set_name(name);
  return Call(options_, CallKind::kQuick, *stubs_->access, &v1::AccessService::Stub::DeleteKey, request).status();
}

absl::StatusOr<v1::Caller> Client::GetCaller() {
  return Call(options_, CallKind::kQuick, *stubs_->access, &v1::AccessService::Stub::GetCaller, v1::GetCallerRequest());
}

absl::StatusOr<v1::ListAuditEventsResponse> Client::ListAuditEvents(const std::string& key, int limit) {
  v1::ListAuditEventsResponse all;
  v1::ListAuditEventsRequest request;
  request.set_key(key);
  while (all.events_size() < limit) {
    request.set_page_size(std::min(kPageSize, limit - all.events_size()));
    ASSIGN_OR_RETURN(v1::ListAuditEventsResponse page, Call(options_, CallKind::kQuick, *stubs_->access,
                                                            &v1::AccessService::Stub::ListAuditEvents, request));
    request.set_page_token(page.next_page_token());
    const bool empty = page.events().empty();
    all.mutable_events()->MergeFrom(page.events());
    if (empty || request.page_token().empty()) break;
  }
  return all;
}

absl::StatusOr<v1::System> Client::GetSystem() {
  return Call(options_, CallKind::kQuick, *stubs_->system, &v1::SystemService::Stub::GetSystem, v1::GetSystemRequest());
}

absl::Status Client::Generate(const v1::GenerateRequest& request, OnResponse on_response, Cancellation* cancellation) {
  grpc::ClientContext context;
  PrepareCall(options_, CallKind::kStream, context);
  CancellableCall guard(cancellation, context);
  v1::GenerateResponse response;
  return ReadAll(*stubs_->inference->Generate(&context, request), response, on_response);
}

absl::Status Client::Chat(const v1::ChatRequest& request, OnResponse on_response, Cancellation* cancellation) {
  grpc::ClientContext context;
  PrepareCall(options_, CallKind::kStream, context);
  CancellableCall guard(cancellation, context);
  v1::GenerateResponse response;
  return ReadAll(*stubs_->inference->Chat(&context, request), response, on_response);
}

absl::StatusOr<v1::ScoreResponse> Client::Score(const v1::ScoreRequest& request) {
  return Call(options_, CallKind::kSlow, *stubs_->inference, &v1::InferenceService::Stub::Score, request);
}

absl::StatusOr<v1::CompareResponse> Client::Compare(const v1::CompareRequest& request) {
  return Call(options_, CallKind::kSlow, *stubs_->inference, &v1::InferenceService::Stub::Compare, request);
}

absl::StatusOr<v1::EmbedResponse> Client::Embed(const v1::EmbedRequest& request) {
  return Call(options_, CallKind::kSlow, *stubs_->inference, &v1::InferenceService::Stub::Embed, request);
}

absl::StatusOr<v1::TokenizeResponse> Client::Tokenize(const v1::TokenizeRequest& request) {
  return Call(options_, CallKind::kQuick, *stubs_->inference, &v1::InferenceService::Stub::Tokenize, request);
}

absl::StatusOr<v1::DetokenizeResponse> Client::Detokenize(const v1::DetokenizeRequest& request) {
  return Call(options_, CallKind::kQuick, *stubs_->inference, &v1::InferenceService::Stub::Detokenize, request);
}

}  // namespace qamserve
