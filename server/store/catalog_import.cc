#include <algorithm>
#include <filesystem>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/catalog.h"
#include "server/store/catalog_internal.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

// Whether `path` is `root` or below it; both are canonical.
bool IsWithin(const fs::path& root, const fs::path& path) {
  const auto [r, p] = std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return r == root.end();
}

// The canonical form of `path`, all links followed, if it lies within `root`.
absl::StatusOr<fs::path> CanonicalWithin(const fs::path& root, const fs::path& path, const std::string& asked) {
  std::error_code error;
  fs::path canonical = fs::canonical(path, error);
  if (error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory) {
    return NotFound("IMPORT_NOT_FOUND", "path '{}': there is no such file or folder under the import root", asked);
  }
  if (error || !IsWithin(root, canonical)) {
    return InvalidArgument("IMPORT_PATH", "path '{}' does not stay within the import root", asked);
  }
  return canonical;
}

absl::Status CheckImportPath(const std::string& path) {
  const fs::path relative(path);
  const bool climbs = std::any_of(relative.begin(), relative.end(), [](const fs::path& part) { return part == ".."; });
  if (path.empty() || path.size() > 4096 || relative.is_absolute() || climbs || path.find('\0') != std::string::npos) {
    return InvalidArgument("IMPORT_PATH",
                           "path '{}' must be relative to the import root, without '..', 1 to 4096 bytes",
                           path.substr(0, 200));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<FileRecord>> Catalog::ImportFiles(UploadKind kind, const std::string& path) {
  std::error_code error;
  const fs::path root = fs::canonical(options_.import_root, error);
  if (error) {
    return FailedPrecondition("IMPORT_DISABLED", "the import root {} cannot be read: {}", options_.import_root,
                              error.message());
  }
  ASSIGN_OR_RETURN(const fs::path source, CanonicalWithin(root, root / path, path));
  ASSIGN_OR_RETURN(const FileSet found, FileSet::FromPath(source.string()));
  std::vector<FileRecord> files;
  std::vector<std::string> paths;
  uint64_t bytes = 0;
  for (const FileEntry& entry : found.files()) {
    if (IsPickleName(entry.name)) continue;
    ASSIGN_OR_RETURN(const fs::path real, CanonicalWithin(root, entry.path, path + "/" + entry.name));
    // The digest is not known yet; the check wants one.
    files.push_back({.name = entry.name, .sha256 = std::string(64, '0'), .size_bytes = entry.size});
    RETURN_IF_ERROR(CheckUploadFiles(UploadKind::kCheckpoint, {files.back()}));
    paths.push_back(real.string());
    bytes += entry.size;
  }
  if (files.empty() || files.size() > kMaxFiles || (kind == UploadKind::kText && files.size() != 1)) {
    return InvalidArgument("IMPORT_PATH", "path '{}' has {} usable files; {} can be imported", path, files.size(),
                           kind == UploadKind::kText ? "one" : fmt::format("1 to {}", kMaxFiles));
  }
  if (options_.import_mode == ImportMode::kCopy) RETURN_IF_ERROR(blobs_.CheckSpace(bytes));
  for (size_t i = 0; i < files.size(); ++i) {
    FileRecord& file = files[i];
    if (options_.import_mode == ImportMode::kCopy) {
      ASSIGN_OR_RETURN(const BlobInfo blob, blobs_.CopyFile(paths[i]));
      file.sha256 = blob.digest;
      file.size_bytes = blob.size;
      continue;
    }
    struct stat info {};
    if (::stat(paths[i].c_str(), &info) != 0) return ErrnoToStatus("stat", paths[i]);
    file.external_path = paths[i];
    file.external_mtime_ns = MtimeNs(info);
    file.size_bytes = static_cast<uint64_t>(info.st_size);
    ASSIGN_OR_RETURN(file.sha256, Sha256OfFile(paths[i]));
  }
  return files;
}

absl::StatusOr<CheckpointOrText> Catalog::Import(UploadKind kind, const std::string& path,
                                                 const std::string& display_name, const std::string& request_id) {
  if (options_.import_root.empty()) {
    return FailedPrecondition("IMPORT_DISABLED", "this server has no import root; upload the files instead");
  }
  RETURN_IF_ERROR(CheckDisplayName(display_name));
  RETURN_IF_ERROR(CheckImportPath(path));
  auto action = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(std::vector<FileRecord> files, ImportFiles(kind, path));
    const std::string name = display_name.empty() ? fs::path(path).filename().string() : display_name;
    ASSIGN_OR_RETURN(const CheckpointOrText made, Finish(kind, name, std::move(files)));
    const auto* checkpoint = std::get_if<CheckpointRecord>(&made);
    return checkpoint != nullptr ? ResourceName("checkpoints", checkpoint->digest)
                                 : ResourceName("texts", std::get<TextRecord>(made).digest);
  };
  ASSIGN_OR_RETURN(const std::string name, RunOnce(store_, request_id, "ImportCheckpoint",
                                                   fmt::format("{} {} {}", static_cast<int>(kind), path, display_name),
                                                   options_.now_ms(), action));
  return ResultOf(name);
}

}  // namespace qamserve
