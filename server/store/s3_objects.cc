#include "server/store/s3_objects.h"

#include <algorithm>
#include <charconv>
#include <chrono>

#include "core/base/digest.h"
#include "server/store/parallel.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxParts = 9'000;
constexpr uint64_t kMib = uint64_t{1} << 20;
// Some stores date an object that came in parts from the beginning of its upload. One that took longer is renewed.
constexpr std::chrono::seconds kSlowUpload{60};

absl::Status NoBlob(const std::string& digest) { return NotFound("BLOB_NOT_FOUND", "there is no blob {}", digest); }

}  // namespace

S3Objects::S3Objects(S3ObjectsOptions options, S3ClientOptions client)
    : options_(std::move(options)), client_(std::move(client)) {}

uint64_t S3Objects::PartBytes(uint64_t size) const {
  const uint64_t least = (size / kMaxParts / kMib + 1) * kMib;
  return std::max(options_.part_bytes, size > options_.part_bytes * kMaxParts ? least : 0);
}

std::string S3Objects::PieceKey(const std::string& digest, uint64_t offset) const {
  return fmt::format("{}{:013}", PartialPrefix(digest), offset);
}

// --- Blobs ---

absl::StatusOr<S3Object> S3Objects::Head(const std::string& digest, S3Patience patience) {
  absl::StatusOr<S3Object> object = client_.Head(BlobKey(digest), patience);
  if (absl::IsNotFound(object.status())) return NoBlob(digest);
  return object;
}

absl::Status S3Objects::Read(const std::string& digest, uint64_t offset, uint64_t size, const S3Client::Piece& piece) {
  const absl::Status status = client_.Get(BlobKey(digest), offset, size, piece);
  return ReasonOf(status) == "S3_KEY" ? NoBlob(digest) : status;
}

absl::Status S3Objects::PutRenewed(const std::string& digest) {
  return client_.Put(RenewedKey(digest), S3BodyOf(""), false).status();
}

absl::StatusOr<bool> S3Objects::Renew(const std::string& digest, uint64_t size) {
  const auto look = [&]() -> absl::StatusOr<int64_t> {  // when it was put; -1 if it is not there, or is not whole
    const absl::StatusOr<S3Object> object = Head(digest);
    if (absl::IsNotFound(object.status())) return -1;
    RETURN_IF_ERROR(object.status());
    return object->size == size ? object->modified_ms : -1;
  };
  ASSIGN_OR_RETURN(const int64_t modified_ms, look());
  if (modified_ms < 0) return false;
  if (modified_ms > client_.options().now_ms() - options_.renew_after_ms) return true;
  bool there = false;
  RETURN_IF_ERROR(options_.exclusive([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t still_ms, look());
    there = still_ms >= 0;
    return there ? PutRenewed(digest) : absl::OkStatus();
  }));
  return there;
}

absl::Status S3Objects::Upload(const std::string& digest, int fd, const std::string& path, uint64_t size,
                               const std::vector<S3Piece>& pieces) {
  if (size <= options_.single_put_bytes && pieces.empty()) {
    ASSIGN_OR_RETURN(const S3Body body, S3BodyOfFile(fd, 0, size, path));
    // It was read twice: what lies there under the name must be what the name says.
    if (body.sha256 != digest) return DataLoss("BLOB_CHANGED", "{} was changed while it was committed", path);
    return client_.Put(BlobKey(digest), body, false).status();
  }
  const auto begin = std::chrono::steady_clock::now();
  ASSIGN_OR_RETURN(const std::string upload, client_.BeginUpload(BlobKey(digest)));
  const absl::Status status = UploadParts(digest, upload, fd, path, size, pieces);
  if (!status.ok()) {
    // Best effort: SweepLeftovers finds what stays.
    (void)client_.AbortUpload(BlobKey(digest), upload);
    return status;
  }
  return std::chrono::steady_clock::now() - begin > kSlowUpload ? PutRenewed(digest) : absl::OkStatus();
}

absl::Status S3Objects::UploadParts(const std::string& digest, const std::string& upload, int fd,
                                    const std::string& path, uint64_t size, const std::vector<S3Piece>& pieces) {
  const uint64_t part_bytes = PartBytes(size);
  const auto count = static_cast<size_t>((size + part_bytes - 1) / part_bytes);
  std::vector<S3Part> parts(count);
  std::atomic<bool> stopped{false};
  const auto upload_part = [&](size_t i) -> absl::Status {
    const uint64_t offset = i * part_bytes;
    ASSIGN_OR_RETURN(const S3Body body, S3BodyOfFile(fd, offset, std::min(part_bytes, size - offset), path));
    ASSIGN_OR_RETURN(parts[i], client_.UploadPart(BlobKey(digest), upload, static_cast<int>(i) + 1, body));
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(ForEachAtOnce(options_.transfers, count, stopped, [&](size_t i) -> absl::Status {
    if (i >= pieces.size() || !copies_) return upload_part(i);
    absl::StatusOr<S3Part> copied =
        client_.CopyPart(BlobKey(digest), upload, static_cast<int>(i) + 1, PieceKey(digest, pieces[i].offset));
    if (absl::IsUnimplemented(copied.status())) copies_ = false;
    // The server cannot copy, or another process has removed the piece: the bytes are here as well.
    if (absl::IsUnimplemented(copied.status()) || absl::IsNotFound(copied.status())) return upload_part(i);
    ASSIGN_OR_RETURN(parts[i], std::move(copied));
    return absl::OkStatus();
  }));
  RETURN_IF_ERROR(ForEachChangedPiece(digest, pieces, upload_part));
  return client_.CompleteUpload(BlobKey(digest), upload, parts, size);
}

// A piece that another process has replaced meanwhile may have been copied with bytes of that one's.
absl::Status S3Objects::ForEachChangedPiece(const std::string& digest, const std::vector<S3Piece>& pieces,
                                            absl::FunctionRef<absl::Status(size_t)> body) {
  if (pieces.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Pieces found, ListPieces(digest));
  for (size_t i = 0; i < pieces.size(); ++i) {
    const bool same = i < found.whole.size() && found.whole[i].etag == pieces[i].etag;
    if (!same) RETURN_IF_ERROR(body(i));
  }
  return absl::OkStatus();
}

absl::Status S3Objects::Delete(const std::string& digest, S3Patience patience) {
  RETURN_IF_ERROR(client_.Delete(BlobKey(digest), patience));
  return client_.Delete(RenewedKey(digest), patience);
}

absl::StatusOr<bool> S3Objects::DeleteIfOlder(const std::string& digest, int64_t before_ms) {
  constexpr S3Patience kOnce = S3Patience::kOnce;
  bool deleted = false;
  RETURN_IF_ERROR(options_.exclusive([&]() -> absl::Status {
    const absl::StatusOr<S3Object> object = Head(digest, kOnce);
    if (absl::IsNotFound(object.status())) return absl::OkStatus();
    RETURN_IF_ERROR(object.status());
    if (object->modified_ms >= before_ms) return absl::OkStatus();
    const absl::StatusOr<S3Object> renewed = client_.Head(RenewedKey(digest), kOnce);
    if (!renewed.ok() && !absl::IsNotFound(renewed.status())) return renewed.status();
    if (renewed.ok() && renewed->modified_ms >= before_ms) return absl::OkStatus();
    RETURN_IF_ERROR(Delete(digest, kOnce));
    deleted = true;
    return absl::OkStatus();
  }));
  return deleted;
}

absl::StatusOr<std::vector<BlobInfo>> S3Objects::List() {
  std::map<std::string, BlobInfo> blobs;
  const std::string prefix = BlobKey("");
  RETURN_IF_ERROR(client_.List(prefix, [&](const S3Object& object) {
    const std::string digest = object.key.substr(prefix.size());
    if (!IsSha256(digest)) return;
    blobs[digest] = {.digest = digest, .size = object.size, .modified_ms = object.modified_ms};
  }));
  const std::string renewed = RenewedKey("");
  RETURN_IF_ERROR(client_.List(renewed, [&](const S3Object& object) {
    const auto blob = blobs.find(object.key.substr(renewed.size()));
    if (blob != blobs.end()) blob->second.modified_ms = std::max(blob->second.modified_ms, object.modified_ms);
  }));
  std::vector<BlobInfo> list;
  list.reserve(blobs.size());
  for (auto& [digest, blob] : blobs) list.push_back(std::move(blob));
  return list;
}

absl::Status S3Objects::SweepLeftovers(int64_t before_ms) {
  ASSIGN_OR_RETURN(const std::vector<S3Upload> uploads, client_.ListUploads(BlobKey("")));
  for (const S3Upload& upload : uploads) {
    if (upload.begun_ms < before_ms) RETURN_IF_ERROR(client_.AbortUpload(upload.key, upload.id));
  }
  std::vector<std::string> old;
  const std::string prefix = RenewedKey("");
  RETURN_IF_ERROR(client_.List(prefix, [&](const S3Object& object) {
    if (object.modified_ms < before_ms) old.push_back(object.key.substr(prefix.size()));
  }));
  for (const std::string& digest : old) {
    const absl::Status there = Head(digest).status();
    if (!absl::IsNotFound(there)) continue;
    RETURN_IF_ERROR(client_.Delete(RenewedKey(digest)));
  }
  return absl::OkStatus();
}

// --- Pieces ---

absl::StatusOr<S3Objects::Pieces> S3Objects::ListPieces(const std::string& digest) {
  Pieces pieces;
  const std::string prefix = PartialPrefix(digest);
  RETURN_IF_ERROR(client_.List(prefix, [&](S3Object object) {
    S3Piece piece{.offset = 0, .size = object.size, .etag = std::move(object.etag)};
    const std::string_view name = std::string_view(object.key).substr(prefix.size());
    const auto read = std::from_chars(name.data(), name.data() + name.size(), piece.offset);
    const bool plain = read.ec == std::errc() && read.ptr == name.data() + name.size();
    if (plain && piece.offset == pieces.end() && piece.size > 0) {
      pieces.whole.push_back(std::move(piece));
    } else {
      pieces.strays.push_back(std::move(object.key));
    }
  }));
  return pieces;
}

absl::StatusOr<std::string> S3Objects::PutPiece(const std::string& digest, uint64_t offset, const S3Body& body) {
  absl::StatusOr<std::string> etag = client_.Put(PieceKey(digest, offset), body, true);
  if (absl::IsAlreadyExists(etag.status()) || absl::IsNotFound(etag.status())) {
    return Aborted("UPLOAD_BUSY", "file {}: another process is writing it, too; ask where it stands", digest);
  }
  return etag;
}

absl::Status S3Objects::ReadPiece(const std::string& digest, const S3Piece& piece, const S3Client::Piece& sink) {
  return client_.Get(PieceKey(digest, piece.offset), 0, piece.size, sink);
}

absl::StatusOr<std::string> S3Objects::PieceSha256(const std::string& digest, uint64_t offset) {
  ASSIGN_OR_RETURN(S3Object object, client_.Head(PieceKey(digest, offset)));
  return std::move(object.sha256);
}

absl::Status S3Objects::DeleteKeys(const std::vector<std::string>& keys) {
  std::atomic<bool> stopped{false};
  return ForEachAtOnce(options_.transfers, keys.size(), stopped, [&](size_t i) { return client_.Delete(keys[i]); });
}

absl::Status S3Objects::DeletePieces(const std::string& digest) {
  std::vector<std::string> keys;
  RETURN_IF_ERROR(client_.List(PartialPrefix(digest), [&](S3Object object) { keys.push_back(std::move(object.key)); }));
  return DeleteKeys(keys);
}

absl::StatusOr<std::vector<BlobInfo>> S3Objects::ListPartials() {
  const std::string prefix = options_.prefix + "partial/";
  std::vector<BlobInfo> partials;
  RETURN_IF_ERROR(client_.List(prefix, [&](const S3Object& object) {
    const std::string digest = object.key.substr(prefix.size(), object.key.find('/', prefix.size()) - prefix.size());
    if (!IsSha256(digest)) return;
    if (partials.empty() || partials.back().digest != digest) partials.push_back({.digest = digest});
    partials.back().size += object.size;
    partials.back().modified_ms = std::max(partials.back().modified_ms, object.modified_ms);
  }));
  return partials;
}

}  // namespace qamserve
