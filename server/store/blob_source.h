// Where a blob is read from that is not on this machine. Internal to server/store.
#pragma once

#include <cstdint>

#include "core/base/status.h"
#include "server/fetch/http_client.h"

namespace qamserve {

// Thread-safe; calls block.
class BlobSource {
 public:
  using Piece = HttpClient::Piece;
  virtual ~BlobSource() = default;
  virtual absl::StatusOr<uint64_t> Size() = 0;
  // Hands `size` bytes (>= 1) from `offset` to `piece`, in order; an error of `piece` ends it.
  virtual absl::Status Read(uint64_t offset, uint64_t size, const Piece& piece) = 0;
};

}  // namespace qamserve
