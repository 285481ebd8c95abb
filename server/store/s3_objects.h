// How blobs lie in a bucket, and what is done with them there. Internal to server/store. Thread-safe; the errors of
// S3Client. Below the store's prefix:
//   blobs/DIGEST             a blob
//   renewed/DIGEST           empty: the blob was committed again when this was put, so its age starts there. S3 changes
//                            no object in place, and copying one onto itself takes long where it is large
//   partial/DIGEST/OFFSET    pieces of a blob on its way in, 13 digits each, put only where there was none
// Any process may go on with what another one has begun.
#pragma once

#include <absl/functional/function_ref.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/store/blob_store.h"
#include "server/store/s3_client.h"

namespace qamserve {

// Runs a body while no other process does with the same store.
using ExclusiveFn = std::function<absl::Status(absl::FunctionRef<absl::Status()>)>;

struct S3ObjectsOptions {
  std::string prefix;  // "" or "some/folder/"
  // Of pieces and of parts of uploads, at least; servers want 5 MiB. Larger where 9,000 of them would not do: S3 takes
  // 10,000 parts.
  uint64_t part_bytes = uint64_t{8} << 20;
  uint64_t single_put_bytes = uint64_t{16} << 20;  // what is larger goes in parts, side by side
  size_t transfers = 4;                            // parts at a time
  int64_t renew_after_ms = int64_t{10} * 60 * 1000;
  ExclusiveFn exclusive;
};

struct S3Piece {
  uint64_t offset = 0;
  uint64_t size = 0;
  std::string etag;
};

class S3Objects {
 public:
  S3Objects(S3ObjectsOptions options, S3ClientOptions client);

  S3Client& client() { return client_; }
  uint64_t PartBytes(uint64_t size) const;

  // --- Blobs ---
  // NOT_FOUND (BLOB_NOT_FOUND).
  absl::StatusOr<S3Object> Head(const std::string& digest, S3Patience patience = S3Patience::kFull);
  // Hands `size` bytes from `offset` to `piece`. NOT_FOUND (BLOB_NOT_FOUND), OUT_OF_RANGE (S3_RANGE).
  absl::Status Read(const std::string& digest, uint64_t offset, uint64_t size, const S3Client::Piece& piece);
  // Whether the blob is there with this size; if so it is not older than renew_after_ms afterwards, and cannot have
  // been collected in between.
  absl::StatusOr<bool> Renew(const std::string& digest, uint64_t size);
  // From the open file `fd` at `path`, whose first `size` bytes are the blob. Parts that `pieces` has, each of
  // PartBytes(size) from the blob's beginning, are copied within the store where it can do that and they are still what
  // they were when they were put.
  absl::Status Upload(const std::string& digest, int fd, const std::string& path, uint64_t size,
                      const std::vector<S3Piece>& pieces);
  absl::Status Delete(const std::string& digest, S3Patience patience = S3Patience::kFull);
  // Decided and done while no other process renews it. Nothing is tried a second time.
  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, int64_t before_ms);
  absl::StatusOr<std::vector<BlobInfo>> List();  // by digest
  // Multipart uploads, and renewals of blobs that are gone, older than that.
  absl::Status SweepLeftovers(int64_t before_ms);

  // --- Pieces ---
  struct Pieces {
    std::vector<S3Piece> whole;       // from the beginning on, without a gap
    std::vector<std::string> strays;  // keys of others

    uint64_t end() const { return whole.empty() ? 0 : whole.back().offset + whole.back().size; }
  };
  absl::StatusOr<Pieces> ListPieces(const std::string& digest);
  // The etag. ABORTED (UPLOAD_BUSY) if another piece with other bytes is there.
  absl::StatusOr<std::string> PutPiece(const std::string& digest, uint64_t offset, const S3Body& body);
  absl::Status ReadPiece(const std::string& digest, const S3Piece& piece, const S3Client::Piece& sink);
  // SHA-256 of a piece, as its writer told it.
  absl::StatusOr<std::string> PieceSha256(const std::string& digest, uint64_t offset);
  absl::Status DeletePieces(const std::string& digest);
  absl::Status DeleteKeys(const std::vector<std::string>& keys);
  absl::StatusOr<std::vector<BlobInfo>> ListPartials();  // by digest

 private:
  std::string BlobKey(const std::string& digest) const { return options_.prefix + "blobs/" + digest; }
  std::string RenewedKey(const std::string& digest) const { return options_.prefix + "renewed/" + digest; }
  std::string PartialPrefix(const std::string& digest) const { return options_.prefix + "partial/" + digest + "/"; }
  std::string PieceKey(const std::string& digest, uint64_t offset) const;
  absl::Status PutRenewed(const std::string& digest);
  absl::Status ForEachChangedPiece(const std::string& digest, const std::vector<S3Piece>& pieces,
                                   absl::FunctionRef<absl::Status(size_t)> body);
  absl::Status UploadParts(const std::string& digest, const std::string& upload, int fd, const std::string& path,
                           uint64_t size, const std::vector<S3Piece>& pieces);

  const S3ObjectsOptions options_;
  S3Client client_;
  std::atomic<bool> copies_{true};  // until the server says that it copies no parts
};

}  // namespace qamserve
