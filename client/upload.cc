// Client::Upload: digest, ask, send what is missing, check.
#include <algorithm>
#include <map>

#include "client/client.h"
#include "client/local_files.h"
#include "client/stubs.h"
#include "core/base/file.h"

namespace qamserve {
namespace {

// Half of what one message may carry: a dropped stream loses little, and the overhead of a message is lost in the
// noise.
constexpr size_t kChunkBytes = 512 << 10;

std::string BaseName(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path.substr(path.find_last_of('/') + 1);
}

}  // namespace

// One upload from beginning to end. Used once, by one thread.
class Uploader {
 public:
  using Progress = absl::FunctionRef<void(const TransferProgress&)>;
  Uploader(Client& client, const UploadOptions& upload, Progress progress, Cancellation* cancellation)
      : client_(client),
        upload_(upload),
        report_(progress),
        cancellation_(cancellation),
        backoff_(client.options_, cancellation) {}

  absl::StatusOr<v1::CompleteUploadResponse> Run() {
    ASSIGN_OR_RETURN(files_,
                     upload_.kind == v1::UPLOAD_KIND_TEXT ? FindTextFile(upload_.path) : FindModelFiles(upload_.path));
    for (const LocalFile& file : files_) progress_.total_bytes += file.size;
    RETURN_IF_ERROR(HashAll());
    ASSIGN_OR_RETURN(v1::Upload state, WithRetries<v1::Upload>([&] { return Create(); }));
    CountSkipped(state);
    ASSIGN_OR_RETURN(state, SendAll(std::move(state)));
    Announce(TransferProgress::Phase::kCheck, "");
    return WithRetries<v1::CompleteUploadResponse>([&] { return Complete(state.name()); });
  }

 private:
  using Stub = v1::CheckpointService::Stub;
  Stub& stub() { return *client_.stubs_->checkpoints; }
  bool cancelled() const { return cancellation_ != nullptr && cancellation_->cancelled(); }

  void Announce(TransferProgress::Phase phase, const std::string& file) {
    progress_.phase = phase;
    progress_.file = file;
    report_(progress_);
  }

  absl::Status HashAll() {
    for (LocalFile& file : files_) {
      RETURN_IF_ERROR(HashFile(file, [&](uint64_t bytes) {
        progress_.done_bytes += bytes;
        Announce(TransferProgress::Phase::kHash, file.name);
        return !cancelled();
      }));
    }
    progress_.done_bytes = 0;
    return absl::OkStatus();
  }

  absl::StatusOr<v1::Upload> Create() {
    // No request_id: the content names the upload, and a repeated call must tell how much has arrived since.
    v1::CreateUploadRequest request;
    request.set_kind(upload_.kind);
    request.set_display_name(upload_.display_name.empty() ? BaseName(upload_.path) : upload_.display_name);
    for (const LocalFile& file : files_) {
      v1::FileInfo* info = request.add_files();
      info->set_name(file.name);
      info->set_sha256(file.sha256);
      info->set_size_bytes(static_cast<int64_t>(file.size));
    }
    v1::Upload response;
    RETURN_IF_ERROR(
        CallOnce(client_.options_, CallKind::kSlow, stub(), &Stub::CreateUpload, request, response, cancellation_));
    return response;
  }

  absl::StatusOr<v1::Upload> Query(const std::string& name) {
    v1::QueryUploadRequest request;
    request.set_name(name);
    v1::Upload response;
    RETURN_IF_ERROR(
        CallOnce(client_.options_, CallKind::kQuick, stub(), &Stub::QueryUpload, request, response, cancellation_));
    return response;
  }

  absl::StatusOr<v1::CompleteUploadResponse> Complete(const std::string& name) {
    v1::CompleteUploadRequest request;
    request.set_name(name);
    v1::CompleteUploadResponse response;
    RETURN_IF_ERROR(
        CallOnce(client_.options_, CallKind::kSlow, stub(), &Stub::CompleteUpload, request, response, cancellation_));
    return response;
  }

  void CountSkipped(const v1::Upload& state) {
    uint64_t committed = 0;
    for (const auto& file : state.files()) committed += Committed(file);
    progress_.skipped_bytes = std::min(committed, progress_.total_bytes);
  }

  static uint64_t Committed(const v1::UploadFileState& file) {
    return static_cast<uint64_t>(file.complete() ? file.file().size_bytes() : file.committed_bytes());
  }

  const LocalFile* Local(const v1::FileInfo& info) const {
    for (const LocalFile& file : files_) {
      if (file.sha256 == info.sha256()) return &file;
    }
    return nullptr;
  }

  // Sends until the server has every byte; after a break asks again where each file stands.
  absl::StatusOr<v1::Upload> SendAll(v1::Upload state) {
    while (true) {
      const absl::Status status = SendMissing(state);
      if (status.ok()) return state;
      if (!backoff_.ShouldRetry(status)) return Explain(status);
      RETURN_IF_ERROR(PauseAfter(status));
      ASSIGN_OR_RETURN(state, WithRetries<v1::Upload>([&] { return Query(state.name()); }));
    }
  }

  absl::Status SendMissing(const v1::Upload& state) {
    std::map<std::string, uint64_t> committed;
    for (const auto& file : state.files()) {
      uint64_t& bytes = committed[file.file().sha256()];
      bytes = std::max(bytes, Committed(file));
    }
    progress_.done_bytes = 0;
    for (const LocalFile& file : files_) progress_.done_bytes += std::min(committed[file.sha256], file.size);
    for (const auto& file : state.files()) {
      // The same content under two names is sent once.
      uint64_t& offset = committed[file.file().sha256()];
      const LocalFile* local = Local(file.file());
      if (file.complete() || local == nullptr || (offset == local->size && !NeedsFinish(file))) continue;
      RETURN_IF_ERROR(SendFile(state.name(), *local, offset));
      offset = local->size;
    }
    return absl::OkStatus();
  }

  // All bytes are there but the server never checked them: an empty message at the end makes it do so.
  static bool NeedsFinish(const v1::UploadFileState& file) {
    return !file.complete() && file.committed_bytes() == file.file().size_bytes();
  }

  absl::Status SendFile(const std::string& upload, const LocalFile& file, uint64_t offset) {
    ASSIGN_OR_RETURN(File source, File::OpenForRead(file.path));
    grpc::ClientContext context;
    PrepareCall(client_.options_, CallKind::kStream, context);
    CancellableCall guard(cancellation_, context);
    v1::UploadFileResponse response;
    const auto writer = stub().UploadFile(&context, &response);
    v1::UploadFileRequest request;
    request.set_upload(upload);
    request.set_sha256(file.sha256);
    request.set_offset(static_cast<int64_t>(offset));
    absl::Status read_status;
    do {
      std::string& data = *request.mutable_data();
      data.resize(std::min<uint64_t>(kChunkBytes, file.size - std::min(offset, file.size)));
      read_status = source.ReadAt(offset, std::as_writable_bytes(std::span(data.data(), data.size())));
      if (!read_status.ok()) {
        context.TryCancel();
        break;
      }
      if (!writer->Write(request)) break;
      offset += data.size();
      progress_.done_bytes += data.size();
      Announce(TransferProgress::Phase::kTransfer, file.name);
      request.Clear();
    } while (offset < file.size);
    writer->WritesDone();
    const absl::Status status = FromGrpc(writer->Finish());
    RETURN_IF_ERROR(read_status);
    RETURN_IF_ERROR(status);
    if (!response.complete()) {
      return Unavailable("UPLOAD_SHORT", "{}: the server has {} of {} bytes", file.name, response.committed_bytes(),
                         file.size);
    }
    backoff_.Reset();
    return absl::OkStatus();
  }

  absl::Status Explain(const absl::Status& status) const {
    if (ReasonOf(status) != "UPLOAD_DIGEST") return status;
    for (const LocalFile& file : files_) {
      if (file.name == progress_.file && ChangedSinceHashed(file)) {
        return Annotate(status,
                        fmt::format("{} was changed while it was sent; upload it again when it is still", file.path));
      }
    }
    return Annotate(status,
                    fmt::format("{} arrived damaged although it is unchanged here; upload it again", progress_.file));
  }

  absl::Status PauseAfter(const absl::Status& status) {
    progress_.error = status;
    progress_.retry_in_ms = backoff_.NextPauseMs();
    Announce(TransferProgress::Phase::kRetry, progress_.file);
    progress_.error = absl::OkStatus();
    return backoff_.Pause() ? absl::OkStatus() : Cancelled("CANCELLED", "upload of {} stopped", upload_.path);
  }

  template <typename Response, typename Step>
  absl::StatusOr<Response> WithRetries(Step step) {
    while (true) {
      absl::StatusOr<Response> result = step();
      // Before the first answer nothing is worth waiting for: the server is not there.
      if (result.ok() || !connected_ || !backoff_.ShouldRetry(result.status())) {
        connected_ = connected_ || result.ok();
        return result;
      }
      RETURN_IF_ERROR(PauseAfter(result.status()));
    }
  }

  Client& client_;
  const UploadOptions& upload_;
  Progress report_;
  Cancellation* cancellation_;
  RetryPauses backoff_;
  std::vector<LocalFile> files_;
  TransferProgress progress_;
  bool connected_ = false;
};

absl::StatusOr<v1::CompleteUploadResponse> Client::Upload(const UploadOptions& upload,
                                                          absl::FunctionRef<void(const TransferProgress&)> progress,
                                                          Cancellation* cancellation) {
  return Uploader(*this, upload, progress, cancellation).Run();
}

}  // namespace qamserve
