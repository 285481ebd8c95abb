#include "server/store/s3_blob_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/base/file.h"

namespace qamserve {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;

}  // namespace

S3BlobWriter::S3BlobWriter(std::shared_ptr<S3Shared> shared, std::string digest, uint64_t size)
    : shared_(std::move(shared)),
      digest_(std::move(digest)),
      size_(size),
      piece_bytes_(shared_->objects.PartBytes(size)),
      path_(shared_->cache->UploadPath(digest_)) {}

S3BlobWriter::~S3BlobWriter() {
  Close();
  absl::MutexLock lock(&shared_->mutex);
  shared_->writing.erase(digest_);
}

void S3BlobWriter::Close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  room_.reset();
}

std::span<const std::byte> S3BlobWriter::head() const {
  return {head_.data(), static_cast<size_t>(std::min<uint64_t>(committed_, head_.size()))};
}

absl::Status S3BlobWriter::Open() {
  ASSIGN_OR_RETURN(room_, shared_->cache->Reserve(path_, size_));
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) return ErrnoToStatus("open", path_);
  struct stat info {};
  if (::fstat(fd_, &info) != 0) return ErrnoToStatus("stat", path_);
  auto local = static_cast<uint64_t>(info.st_size);

  ASSIGN_OR_RETURN(const S3Objects::Pieces found, shared_->objects.ListPieces(digest_));
  // Pieces of another size were put for another declared size, or by a program that cuts differently.
  const bool usable = found.strays.empty() && found.end() <= size_ &&
                      std::all_of(found.whole.begin(), found.whole.end(),
                                  [&](const S3Piece& piece) { return piece.size == piece_bytes_; });
  if (!usable) RETURN_IF_ERROR(shared_->objects.DeletePieces(digest_));
  if (usable) {
    for (const S3Piece& piece : found.whole) RETURN_IF_ERROR(Recall(piece, local));
    pieces_ = found.whole;
  }
  // What the file has behind the last piece is the rest of an Append; more than was declared is not of this blob.
  if (local > size_ || local < committed_) local = committed_;
  RETURN_IF_ERROR(FeedFile(local));
  if (::ftruncate(fd_, static_cast<off_t>(committed_)) != 0) return ErrnoToStatus("truncate", path_);
  return PutFullPieces();
}

absl::Status S3BlobWriter::Recall(const S3Piece& piece, uint64_t local) {
  const uint64_t end = piece.offset + piece.size;
  if (end <= local) {
    ASSIGN_OR_RETURN(const S3Body here, S3BodyOfFile(fd_, piece.offset, piece.size, path_));
    ASSIGN_OR_RETURN(const std::string there, shared_->objects.PieceSha256(digest_, piece.offset));
    if (here.sha256 == there) return FeedFile(end);
  }
  uint64_t at = piece.offset;
  return shared_->objects.ReadPiece(digest_, piece, [&](std::span<const std::byte> bytes) -> absl::Status {
    RETURN_IF_ERROR(WriteFile(at, bytes));
    at += bytes.size();
    Feed(bytes);
    return absl::OkStatus();
  });
}

absl::Status S3BlobWriter::FeedFile(uint64_t end) {
  std::vector<std::byte> buffer(static_cast<size_t>(std::min<uint64_t>(kCopyBytes, end - std::min(end, committed_))));
  while (committed_ < end) {
    const size_t n = static_cast<size_t>(std::min<uint64_t>(buffer.size(), end - committed_));
    const ssize_t got = ::pread(fd_, buffer.data(), n, static_cast<off_t>(committed_));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoToStatus("read", path_);
    if (got == 0) return Unavailable("FILE_IO", "{} was cut short at byte {}", path_, committed_);
    Feed(std::span(buffer).first(static_cast<size_t>(got)));
  }
  return absl::OkStatus();
}

void S3BlobWriter::Feed(std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size() && committed_ + i < head_.size(); ++i) head_[committed_ + i] = bytes[i];
  sha256_.Update(bytes);
  committed_ += bytes.size();
}

absl::Status S3BlobWriter::WriteFile(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return ErrnoToStatus("write", path_);
    offset += static_cast<uint64_t>(wrote);
    bytes = bytes.subspan(static_cast<size_t>(wrote));
  }
  return absl::OkStatus();
}

absl::Status S3BlobWriter::CheckNobodyElse() {
  ASSIGN_OR_RETURN(const S3Objects::Pieces found, shared_->objects.ListPieces(digest_));
  const bool same =
      std::equal(found.whole.begin(), found.whole.end(), pieces_.begin(), pieces_.end(),
                 [](const S3Piece& a, const S3Piece& b) { return a.offset == b.offset && a.etag == b.etag; });
  if (same) return absl::OkStatus();
  return Aborted("UPLOAD_BUSY", "file {}: another process has gone on with it; ask where it stands", digest_);
}

absl::Status S3BlobWriter::Append(uint64_t offset, std::span<const std::byte> bytes) {
  if (offset != committed_) {
    RETURN_IF_ERROR(CheckNobodyElse());
    return OutOfRange("UPLOAD_OFFSET", "file {}: offset {} does not follow what is in; expected offset {}", digest_,
                      offset, committed_);
  }
  if (bytes.size() > size_ - committed_) {
    return InvalidArgument("UPLOAD_SIZE", "file {}: {} bytes at offset {} pass the declared size of {}", digest_,
                           bytes.size(), offset, size_);
  }
  if (const absl::Status written = WriteFile(committed_, bytes); !written.ok()) {
    if (::ftruncate(fd_, static_cast<off_t>(committed_)) != 0) return Annotate(written, "and could not be cut back");
    return written;
  }
  Feed(bytes);
  // The bytes are in, whatever comes of this: the next call tries again.
  return PutFullPieces();
}

absl::Status S3BlobWriter::PutFullPieces() {
  if (size_ <= piece_bytes_) return absl::OkStatus();
  for (uint64_t offset = pieces_.size() * piece_bytes_; offset + piece_bytes_ <= committed_; offset += piece_bytes_) {
    ASSIGN_OR_RETURN(const S3Body body, S3BodyOfFile(fd_, offset, piece_bytes_, path_));
    ASSIGN_OR_RETURN(std::string etag, shared_->objects.PutPiece(digest_, offset, body));
    pieces_.push_back({.offset = offset, .size = piece_bytes_, .etag = std::move(etag)});
  }
  return absl::OkStatus();
}

absl::Status S3BlobWriter::Commit() {
  if (committed_ != size_) {
    return OutOfRange("UPLOAD_INCOMPLETE", "file {}: {} of {} bytes are in", digest_, committed_, size_);
  }
  if (const std::string found = sha256_.Finish(); found != digest_) {
    RETURN_IF_ERROR(Discard());
    return DataLoss("UPLOAD_DIGEST", "file {}: the {} bytes that came have SHA-256 {}; send it again from offset 0",
                    digest_, size_, found);
  }
  ASSIGN_OR_RETURN(const bool there, shared_->objects.Renew(digest_, size_));
  if (!there) RETURN_IF_ERROR(shared_->objects.Upload(digest_, fd_, path_, size_, pieces_));
  Close();
  shared_->cache->Take(path_, digest_);
  // What stays of the pieces is garbage that the next collection finds.
  (void)shared_->objects.DeletePieces(digest_);
  return absl::OkStatus();
}

absl::Status S3BlobWriter::Discard() {
  committed_ = 0;
  sha256_ = Sha256();
  pieces_.clear();
  if (fd_ >= 0 && ::ftruncate(fd_, 0) != 0) return ErrnoToStatus("truncate", path_);
  Close();
  shared_->cache->RemoveUpload(digest_);
  return shared_->objects.DeletePieces(digest_);
}

}  // namespace qamserve
