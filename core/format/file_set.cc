#include "core/format/file_set.h"

#include <algorithm>
#include <filesystem>

#include "core/base/file.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

// The largest published checkpoints have a few hundred shards.
constexpr size_t kMaxFiles = 10'000;

absl::Status PathError(const std::error_code& error, std::string_view action, const std::string& path) {
  errno = error.value();
  return ErrnoToStatus(action, path);
}

}  // namespace

FileSet::FileSet(std::string origin, std::vector<FileEntry> files)
    : origin_(std::move(origin)), files_(std::move(files)) {
  std::sort(files_.begin(), files_.end(), [](const FileEntry& a, const FileEntry& b) { return a.name < b.name; });
}

absl::StatusOr<FileSet> FileSet::FromPath(const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (status.type() == fs::file_type::not_found) {
    return NotFound("FILE_NOT_FOUND", "{}: there is no such file or folder", path);
  }
  if (error) return PathError(error, "look at", path);

  std::vector<FileEntry> files;
  if (fs::is_regular_file(status)) {
    const uint64_t size = fs::file_size(path, error);
    if (error) return PathError(error, "stat", path);
    files.push_back({fs::path(path).filename().string(), path, size});
    return FileSet(path, std::move(files));
  }
  if (!fs::is_directory(status)) {
    return InvalidArgument("FILE_NOT_REGULAR", "{} is neither a regular file nor a folder", path);
  }
  fs::directory_iterator entry(path, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    // A dangling link or an entry that vanished meanwhile is not a regular file.
    std::error_code ignored;
    if (name.starts_with(".") || !entry->is_regular_file(ignored)) continue;
    if (files.size() == kMaxFiles) {
      return ResourceExhausted("CHECKPOINT_TOO_MANY_FILES", "{} has more than {} files", path, kMaxFiles);
    }
    const uint64_t size = entry->file_size(error);
    if (error) return PathError(error, "stat", entry->path().string());
    files.push_back({name, entry->path().string(), size});
  }
  if (error) return PathError(error, "list", path);
  return FileSet(path, std::move(files));
}

const FileEntry* FileSet::Find(std::string_view name) const {
  for (const FileEntry& file : files_) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

const FileEntry* FileSet::FindGguf() const {
  const FileEntry* found = nullptr;
  for (const FileEntry& file : files_) {
    if (!file.name.ends_with(".gguf")) continue;
    if (found != nullptr) return nullptr;
    found = &file;
  }
  return found;
}

absl::StatusOr<std::string> FileSet::ReadText(std::string_view name, uint64_t max_bytes) const {
  const FileEntry* file = Find(name);
  if (file == nullptr) return NotFound("CHECKPOINT_FILE_MISSING", "{}: {} is missing", origin_, name);
  return ReadFile(file->path, max_bytes);
}

}  // namespace qamserve
