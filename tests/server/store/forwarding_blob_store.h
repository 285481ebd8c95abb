// A blob store whose calls another one answers, so that a test may stand in between.
#pragma once

#include "server/store/blob_store.h"

namespace qamserve {

class ForwardingBlobStore : public BlobStore {
 public:
  explicit ForwardingBlobStore(BlobStore& store) : store_(store) {}
  absl::StatusOr<bool> Has(const std::string& digest) override { return store_.Has(digest); }
  absl::StatusOr<uint64_t> Size(const std::string& digest) override { return store_.Size(digest); }
  absl::StatusOr<uint64_t> CommittedBytes(const std::string& digest) override { return store_.CommittedBytes(digest); }
  absl::StatusOr<std::unique_ptr<BlobWriter>> BeginWrite(const std::string& digest, uint64_t size) override {
    return store_.BeginWrite(digest, size);
  }
  absl::StatusOr<BlobInfo> CommitFile(const std::string& path) override { return store_.CommitFile(path); }
  absl::StatusOr<BlobInfo> CopyFile(const std::string& path) override { return store_.CopyFile(path); }
  absl::StatusOr<BlobInfo> CommitBytes(std::string_view bytes) override { return store_.CommitBytes(bytes); }
  bool IsHere(const std::string& digest) override { return store_.IsHere(digest); }
  absl::Status Read(const std::string& digest, uint64_t offset, std::span<std::byte> out) override {
    return store_.Read(digest, offset, out);
  }
  absl::StatusOr<std::string> LocalPath(const std::string& digest) override { return store_.LocalPath(digest); }
  absl::Status Delete(const std::string& digest) override { return store_.Delete(digest); }
  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, int64_t before_ms) override {
    return store_.DeleteIfOlder(digest, before_ms);
  }
  absl::StatusOr<std::vector<BlobInfo>> List() override { return store_.List(); }
  absl::StatusOr<std::vector<BlobInfo>> ListPartials() override { return store_.ListPartials(); }
  absl::Status DeletePartial(const std::string& digest) override { return store_.DeletePartial(digest); }
  absl::Status SweepLeftovers(int64_t before_ms) override { return store_.SweepLeftovers(before_ms); }
  absl::Status CheckSpace(uint64_t bytes) override { return store_.CheckSpace(bytes); }

 private:
  BlobStore& store_;
};

}  // namespace qamserve
