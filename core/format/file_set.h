// The files of one model under their names, wherever they lie: a folder, a single GGUF file, or blobs of a store.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct FileEntry {
  std::string name;  // as in a Hugging Face directory, or "something.gguf"
  std::string path;  // where its bytes are
  uint64_t size = 0;
};

class FileSet {
 public:
  FileSet(std::string origin, std::vector<FileEntry> files);
  // The regular files directly in a folder, sorted by name, or one file. Hidden files are left out.
  static absl::StatusOr<FileSet> FromPath(const std::string& path);

  const std::string& origin() const { return origin_; }
  const std::vector<FileEntry>& files() const { return files_; }
  const FileEntry* Find(std::string_view name) const;
  // The one file that ends in ".gguf", or null.
  const FileEntry* FindGguf() const;
  // The text of a file; NOT_FOUND (CHECKPOINT_FILE_MISSING) names it and the origin.
  absl::StatusOr<std::string> ReadText(std::string_view name, uint64_t max_bytes) const;

 private:
  std::string origin_;
  std::vector<FileEntry> files_;
};

}  // namespace qamserve
