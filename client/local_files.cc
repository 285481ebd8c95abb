#include "client/local_files.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/digest.h"
#include "core/base/file.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

// Large enough that reading dominates the calls, small enough for smooth progress.
constexpr size_t kHashBlockBytes = 1 << 20;
constexpr uint64_t kMaxIndexBytes = 64 << 20;
// What CreateUpload takes at most.
constexpr size_t kMaxFiles = 4096;
constexpr char kIndexName[] = "model.safetensors.index.json";

constexpr std::array kSideFiles = {
    "config.json",       "generation_config.json",  "tokenizer.json",    "tokenizer_config.json",
    "tokenizer.model",   "special_tokens_map.json", "vocab.json",        "merges.txt",
    "added_tokens.json", "chat_template.jinja",     "chat_template.json"};

bool EndsWith(std::string_view text, std::string_view end) { return text.ends_with(end); }

absl::StatusOr<LocalFile> Describe(const std::string& path, std::string name) {
  ASSIGN_OR_RETURN(File file, File::OpenForRead(path));
  if (file.size() == 0) return InvalidArgument("UPLOAD_FILE_EMPTY", "{} is empty", path);
  return LocalFile{.name = std::move(name), .path = path, .size = file.size()};
}

absl::StatusOr<std::vector<std::string>> FileNames(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(folder, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    const std::string name = it->path().filename().string();
    std::error_code ignored;
    if (!name.starts_with('.') && it->is_regular_file(ignored)) names.push_back(name);
  }
  if (error) {
    errno = error.value();
    return ErrnoToStatus("list folder", folder);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// The shards that model.safetensors.index.json names.
absl::StatusOr<std::set<std::string>> ShardsOfIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxIndexBytes));
  const nlohmann::json index = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return InvalidArgument("UPLOAD_INDEX_INVALID", "{} is not JSON with an object \"weight_map\"", path);
  }
  std::set<std::string> shards;
  for (const auto& entry : index["weight_map"]) {
    if (!entry.is_string()) {
      return InvalidArgument("UPLOAD_INDEX_INVALID", "{}: a value of \"weight_map\" is not a file name", path);
    }
    shards.insert(entry.get_ref<const std::string&>());
  }
  return shards;
}

absl::StatusOr<std::set<std::string>> SafetensorsOf(const std::string& folder, const std::vector<std::string>& names) {
  const std::set<std::string> present(names.begin(), names.end());
  std::set<std::string> wanted;
  if (present.contains(kIndexName)) {
    ASSIGN_OR_RETURN(wanted, ShardsOfIndex((fs::path(folder) / kIndexName).string()));
    for (const std::string& shard : wanted) {
      if (!present.contains(shard)) {
        return InvalidArgument("UPLOAD_FILE_MISSING", "{} names {}, which is not in {}; fetch the missing file first",
                               kIndexName, shard, folder);
      }
    }
    wanted.insert(kIndexName);
  } else if (present.contains("model.safetensors")) {
    wanted.insert("model.safetensors");
  } else {
    for (const std::string& name : names) {
      if (EndsWith(name, ".safetensors")) wanted.insert(name);
    }
  }
  return wanted;
}

// A folder without config.json: one GGUF file, or an error that says what was looked for.
absl::StatusOr<std::vector<std::string>> OnlyGguf(const std::string& folder, const std::vector<std::string>& names) {
  std::vector<std::string> ggufs;
  for (const std::string& name : names) {
    if (EndsWith(name, ".gguf")) ggufs.push_back(name);
  }
  if (ggufs.size() > 1) {
    return InvalidArgument("UPLOAD_AMBIGUOUS", "{} has {} GGUF files ({}, {}, ...); name the one you want", folder,
                           ggufs.size(), ggufs[0], ggufs[1]);
  }
  if (ggufs.empty()) {
    return InvalidArgument("UPLOAD_NOT_A_MODEL",
                           "{} has neither config.json (a Hugging Face model) nor a .gguf file; give the folder that "
                           "holds config.json, or the GGUF file itself",
                           folder);
  }
  return ggufs;
}

absl::StatusOr<std::vector<std::string>> ModelFilesIn(const std::string& folder) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, FileNames(folder));
  if (!std::binary_search(names.begin(), names.end(), "config.json")) return OnlyGguf(folder, names);
  ASSIGN_OR_RETURN(std::set<std::string> wanted, SafetensorsOf(folder, names));
  if (wanted.empty()) {
    return InvalidArgument(
        "UPLOAD_FILE_MISSING",
        "{} has a config.json but no .safetensors; pickled weights (.bin, .pt) are not read: convert "
        "them to safetensors first",
        folder);
  }
  for (const char* side_file : kSideFiles) {
    if (std::binary_search(names.begin(), names.end(), side_file)) wanted.insert(side_file);
  }
  return std::vector<std::string>(wanted.begin(), wanted.end());
}

absl::Status Stat(const std::string& path, struct stat& info) {
  return ::stat(path.c_str(), &info) == 0 ? absl::OkStatus() : ErrnoToStatus("stat", path);
}

int64_t ModifiedNanos(const struct stat& info) {
  return static_cast<int64_t>(info.st_mtim.tv_sec) * 1'000'000'000 + info.st_mtim.tv_nsec;
}

std::string NameOf(const std::string& path) { return fs::path(path).filename().string(); }

}  // namespace

absl::StatusOr<std::vector<LocalFile>> FindModelFiles(const std::string& path) {
  struct stat info {};
  RETURN_IF_ERROR(Stat(path, info));
  std::vector<LocalFile> files;
  if (!S_ISDIR(info.st_mode)) {
    if (!EndsWith(path, ".gguf")) {
      return InvalidArgument("UPLOAD_NOT_A_MODEL",
                             "{} is neither a .gguf file nor a folder with config.json; for a text to calibrate or "
                             "evaluate on, say so (--text)",
                             path);
    }
    ASSIGN_OR_RETURN(LocalFile file, Describe(path, NameOf(path)));
    files.push_back(std::move(file));
    return files;
  }
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ModelFilesIn(path));
  if (names.size() > kMaxFiles) {
    return InvalidArgument("UPLOAD_TOO_MANY_FILES", "{} has {} model files; the limit is {}", path, names.size(),
                           kMaxFiles);
  }
  for (const std::string& name : names) {
    if (name.find('/') != std::string::npos) {
      return InvalidArgument("UPLOAD_INDEX_INVALID", "{} of {} names \"{}\", which is not a plain file name",
                             kIndexName, path, name);
    }
    ASSIGN_OR_RETURN(LocalFile file, Describe((fs::path(path) / name).string(), name));
    files.push_back(std::move(file));
  }
  return files;
}

absl::StatusOr<std::vector<LocalFile>> FindTextFile(const std::string& path) {
  ASSIGN_OR_RETURN(LocalFile file, Describe(path, NameOf(path)));
  return std::vector<LocalFile>{std::move(file)};
}

absl::Status HashFile(LocalFile& file, absl::FunctionRef<bool(uint64_t)> progress) {
  struct stat info {};
  RETURN_IF_ERROR(Stat(file.path, info));
  file.modified_nanos = ModifiedNanos(info);
  ASSIGN_OR_RETURN(File source, File::OpenForRead(file.path));
  Sha256 digest;
  std::vector<std::byte> block(kHashBlockBytes);
  for (uint64_t offset = 0; offset < file.size;) {
    const std::span<std::byte> part(block.data(), std::min<uint64_t>(block.size(), file.size - offset));
    RETURN_IF_ERROR(source.ReadAt(offset, part));
    digest.Update(part);
    offset += part.size();
    if (!progress(part.size())) return Cancelled("CANCELLED", "stopped while reading {}", file.path);
  }
  file.sha256 = digest.Finish();
  return absl::OkStatus();
}

bool ChangedSinceHashed(const LocalFile& file) {
  struct stat info {};
  if (!Stat(file.path, info).ok() || static_cast<uint64_t>(info.st_size) != file.size ||
      ModifiedNanos(info) != file.modified_nanos) {
    return true;
  }
  // The clock of modification times has ticks of milliseconds: a change within one shows in the bytes alone.
  const absl::StatusOr<std::string> now = Sha256OfFile(file.path);
  return !now.ok() || *now != file.sha256;
}

}  // namespace qamserve
