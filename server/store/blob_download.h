// A blob from its source to a file of this machine, in ranges side by side, checked. Internal to server/store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/base/status.h"
#include "server/store/blob_source.h"

namespace qamserve {

struct BlobDownload {
  std::string path;    // of the file that is made
  std::string digest;  // that its bytes must have
  uint64_t size = 0;
  uint64_t part_bytes = uint64_t{8} << 20;
  size_t transfers = 4;  // parts at a time

  // Beside `path`: which parts are in. Both are there until it is done: a later call of the same size goes on.
  std::string parts_path() const { return path + ".parts"; }
};

// Makes the file at `path`, which is not synced yet. DATA_LOSS (BLOB_CORRUPT) if the bytes do not have the digest:
// nothing is left of them then. Errors of the source and of the disk; what came is kept.
absl::Status DownloadBlob(const BlobDownload& download, BlobSource& source);

}  // namespace qamserve
