// What the .cc files of Catalog share. Internal to server/store.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/store/records.h"

namespace qamserve {

inline int64_t MtimeNs(const struct stat& info) {
  return int64_t{info.st_mtim.tv_sec} * 1'000'000'000 + info.st_mtim.tv_nsec;
}

absl::Status CheckDisplayName(const std::string& display_name);
// INVALID_ARGUMENT (UPLOAD_FILES, FILE_TYPE_UNSUPPORTED): a name, digest or size is not valid; names file and limit.
absl::Status CheckUploadFiles(UploadKind kind, const std::vector<FileRecord>& files);
// Files that could run code when another program opens them. Never stored.
bool IsPickleName(std::string_view name);
// What the first bytes of a file, 16 at most, tell; `size` is that of the whole file. OK while they tell nothing yet.
absl::Status CheckFileHead(const std::string& name, uint64_t size, std::span<const std::byte> head);

}  // namespace qamserve
