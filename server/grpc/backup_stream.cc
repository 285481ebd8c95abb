#include "server/grpc/backup_stream.h"

#include <algorithm>
#include <optional>
#include <span>
#include <string>

#include "core/base/file.h"
#include "server/grpc/converters.h"
#include "server/grpc/piece_stream.h"

namespace qamserve {
namespace {

class BackupStream final : public PieceStream<v1::BackupChunk> {
 public:
  BackupStream(ServiceContext& context, const grpc::CallbackServerContext& call)
      : PieceStream(context, call, {"AdminService", "BackupMetadata"}),
        path_(fmt::format("{}/work/backup-{}.partial", context.system.data_dir, RandomId())) {
    Start(context.transfers);
  }

 private:
  absl::Status Begin() override {
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

  void Send() override {
    const uint64_t left = file_->size() - offset_;
    if (left == 0) return End(absl::OkStatus());
    std::string* piece = message_.mutable_data();
    piece->resize(static_cast<size_t>(std::min(left, kPieceBytes)));
    const absl::Status read =
        file_->ReadAt(offset_, std::as_writable_bytes(std::span(piece->data(), piece->size())));
    if (!read.ok()) return End(read);
    offset_ += piece->size();
    SendMessage();
  }

  const std::string path_;
  std::optional<File> file_;
  uint64_t offset_ = 0;
};

}  // namespace

grpc::ServerWriteReactor<v1::BackupChunk>* StartBackupStream(ServiceContext& context,
                                                             const grpc::CallbackServerContext& call) {
  return new BackupStream(context, call);
}

}  // namespace qamserve
