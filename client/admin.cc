// Calls of AdminService.
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "client/client.h"
#include "client/stubs.h"
#include "core/base/digest.h"
#include "core/base/file.h"

namespace qamserve {
namespace {

using nlohmann::json;

// Checks the lines of a backup as they come in pieces: all but the last are summed up, and the last one tells how many
// rows there are and what the sum is. The header is no row.
class BackupCheck {
 public:
  void Add(std::string_view piece) {
    rest_ += piece;
    size_t begin = 0;
    for (size_t end = rest_.find('\n'); end != std::string::npos; end = rest_.find('\n', begin)) {
      if (!last_.empty()) {
        digest_.Update(last_);
        digest_.Update("\n");
        ++lines_;
      }
      last_ = rest_.substr(begin, end - begin);
      begin = end + 1;
    }
    rest_.erase(0, begin);
  }

  absl::StatusOr<int64_t> Finish() {
    const json last = json::parse(last_, nullptr, /*allow_exceptions=*/false);
    const std::string sha256 = digest_.Finish();
    if (!rest_.empty() || !last.is_object() || !last.contains("rows") || !last["rows"].is_number_integer() ||
        !last.contains("sha256")) {
      return DataLoss("BACKUP_CORRUPT", "the backup ends after {} lines without its last one; try again", lines_);
    }
    const auto rows = last["rows"].get<int64_t>();
    if (last["sha256"] != sha256 || rows != lines_ - 1) {
      return DataLoss("BACKUP_CORRUPT", "the backup has {} rows with SHA-256 {}; its last line tells other ones",
                      lines_ - 1, sha256);
    }
    return rows;
  }

 private:
  Sha256 digest_;
  std::string rest_;  // of a line that has not ended yet
  std::string last_;  // line, which may be the closing one
  int64_t lines_ = 0;
};

}  // namespace

absl::StatusOr<v1::ListInstancesResponse> Client::ListInstances() {
  v1::ListInstancesResponse response;
  RETURN_IF_ERROR(CallOnce(options_, CallKind::kQuick, *stubs_->admin, &v1::AdminService::Stub::ListInstances,
                           v1::ListInstancesRequest(), response));
  return response;
}

absl::StatusOr<v1::Instance> Client::DrainInstance(const std::string& name, bool undo) {
  v1::DrainInstanceRequest request;
  request.set_name(name);
  request.set_undo(undo);
  v1::Instance response;
  RETURN_IF_ERROR(
      CallOnce(options_, CallKind::kQuick, *stubs_->admin, &v1::AdminService::Stub::DrainInstance, request, response));
  return response;
}

absl::StatusOr<v1::ListLeasesResponse> Client::ListLeases() {
  v1::ListLeasesResponse response;
  RETURN_IF_ERROR(CallOnce(options_, CallKind::kQuick, *stubs_->admin, &v1::AdminService::Stub::ListLeases,
                           v1::ListLeasesRequest(), response));
  return response;
}

absl::Status Client::ReleaseLease(const std::string& job, int32_t task) {
  v1::ReleaseLeaseRequest request;
  request.set_job(job);
  request.set_task(task);
  v1::ReleaseLeaseResponse response;
  return CallOnce(options_, CallKind::kQuick, *stubs_->admin, &v1::AdminService::Stub::ReleaseLease, request, response);
}

absl::StatusOr<v1::Queue> Client::GetQueue() {
  v1::Queue response;
  RETURN_IF_ERROR(CallOnce(options_, CallKind::kQuick, *stubs_->admin, &v1::AdminService::Stub::GetQueue,
                           v1::GetQueueRequest(), response));
  return response;
}

absl::StatusOr<v1::Garbage> Client::CollectGarbage(bool dry_run) {
  v1::CollectGarbageRequest request;
  request.set_dry_run(dry_run);
  v1::Garbage response;
  RETURN_IF_ERROR(
      CallOnce(options_, CallKind::kSlow, *stubs_->admin, &v1::AdminService::Stub::CollectGarbage, request, response));
  return response;
}

absl::StatusOr<v1::Schema> Client::GetSchema() {
  v1::Schema response;
  RETURN_IF_ERROR(CallOnce(options_, CallKind::kQuick, *stubs_->admin, &v1::AdminService::Stub::GetSchema,
                           v1::GetSchemaRequest(), response));
  return response;
}

absl::StatusOr<int64_t> Client::BackupMetadata(const std::string& path, Cancellation* cancellation) {
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  grpc::ClientContext context;
  PrepareCall(options_, CallKind::kStream, context);
  CancellableCall guard(cancellation, context);
  const auto reader = stubs_->admin->BackupMetadata(&context, v1::BackupMetadataRequest());
  v1::BackupChunk chunk;
  BackupCheck check;
  absl::Status status;
  while (status.ok() && reader->Read(&chunk)) {
    check.Add(chunk.data());
    status = file.Append(std::string_view(chunk.data()));
  }
  if (!status.ok()) context.TryCancel();
  const absl::Status stream_status = FromGrpc(reader->Finish());
  RETURN_IF_ERROR(status);
  RETURN_IF_ERROR(stream_status);
  ASSIGN_OR_RETURN(const int64_t rows, check.Finish());
  RETURN_IF_ERROR(file.Commit());
  return rows;
}

}  // namespace qamserve
