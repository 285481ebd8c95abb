#include "server/grpc/backup_stream.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "core/base/file.h"
#include "server/grpc/call.h"
#include "server/grpc/converters.h"

namespace qamserve {
namespace {

constexpr uint64_t kPieceBytes = uint64_t{256} << 10;

// At any time either gRPC writes or a task on an executor works, never both, so no lock is needed.
class BackupStream final : public grpc::ServerWriteReactor<v1::BackupChunk> {
 public:
  BackupStream(ServiceContext& context, const grpc::CallbackServerContext& call)
      : context_(context),
        guard_(context, call, {"AdminService", "BackupMetadata"}),
        path_(fmt::format("{}/work/backup-{}.partial", context.system.data_dir, RandomId())) {
    if (guard_.admitted().ok()) {
      Next(context_.transfers, [this] { Begin(); });
    } else {
      End(guard_.admitted());
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(Cancelled("CANCELLED", "the reader is gone"));
    Next(context_.quick, [this] { Send(); });
  }

  void OnDone() override { delete this; }

 private:
  template <typename Task>
  void Next(Executor& executor, Task task) {
    const absl::Status queued = executor.RunNext(std::move(task));
    if (!queued.ok()) End(queued);
  }

  void Begin() {
    const absl::Status status = Write();
    if (!status.ok()) return End(status);
    Send();
  }

  absl::Status Write() {
    {
      ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path_));
      RETURN_IF_ERROR(context_.catalog.store().Backup([&](const std::string& line) -> absl::Status {
        RETURN_IF_ERROR(file.Append(line));
        return file.Append(std::string_view("\n"));
      }));
      RETURN_IF_ERROR(file.Commit());
    }
    ASSIGN_OR_RETURN(file_, File::OpenForRead(path_));
    // What is open is still there, and goes with the stream however it ends.
    return RemoveAll(path_);
  }

  void Send() {
    const uint64_t left = file_->size() - offset_;
    if (left == 0) return End(absl::OkStatus());
    std::string* piece = message_.mutable_data();
    piece->resize(static_cast<size_t>(std::min(left, kPieceBytes)));
    const absl::Status read =
        file_->ReadAt(offset_, std::as_writable_bytes(std::span(piece->data(), piece->size())));
    if (!read.ok()) return End(read);
    offset_ += piece->size();
    StartWrite(&message_);
  }

  void End(const absl::Status& status) {
    guard_.Finished(status);
    Finish(ToGrpcStatus(status));
  }

  ServiceContext& context_;
  CallGuard guard_;
  const std::string path_;
  std::optional<File> file_;
  v1::BackupChunk message_;
  uint64_t offset_ = 0;
};

}  // namespace

grpc::ServerWriteReactor<v1::BackupChunk>* StartBackupStream(ServiceContext& context,
                                                             const grpc::CallbackServerContext& call) {
  return new BackupStream(context, call);
}

}  // namespace qamserve
