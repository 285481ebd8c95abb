// The writer of S3BlobStore: see "Uploads" in s3_blob_store.h. Internal to server/store.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/base/digest.h"
#include "server/store/s3_blob_store.h"

namespace qamserve {

class S3BlobWriter final : public BlobWriter {
 public:
  // `digest` is in shared->writing already; the writer takes it out when it goes.
  S3BlobWriter(std::shared_ptr<S3Shared> shared, std::string digest, uint64_t size);
  ~S3BlobWriter() override;

  // Goes on where this or another process ended. The errors of BlobStore::BeginWrite.
  absl::Status Open();

  uint64_t committed() const override { return committed_; }
  std::span<const std::byte> head() const override;
  absl::Status Append(uint64_t offset, std::span<const std::byte> bytes) override;
  absl::Status Commit() override;
  absl::Status Discard() override;

 private:
  // A piece of the store: read back, unless the file has the same bytes. `local` = bytes that the file has.
  absl::Status Recall(const S3Piece& piece, uint64_t local);
  // Feeds bytes of the file from committed_ up to `end`.
  absl::Status FeedFile(uint64_t end);
  void Feed(std::span<const std::byte> bytes);
  absl::Status PutFullPieces();
  // ABORTED (UPLOAD_BUSY) if the pieces in the store are not the ones that this writer knows.
  absl::Status CheckNobodyElse();
  absl::Status WriteFile(uint64_t offset, std::span<const std::byte> bytes);
  void Close();

  const std::shared_ptr<S3Shared> shared_;
  const std::string digest_;
  const uint64_t size_;
  const uint64_t piece_bytes_;
  const std::string path_;
  std::unique_ptr<BlobCache::Room> room_;
  int fd_ = -1;
  uint64_t committed_ = 0;
  std::vector<S3Piece> pieces_;  // in the store, from the beginning on
  std::array<std::byte, 16> head_{};
  Sha256 sha256_;
};

}  // namespace qamserve
