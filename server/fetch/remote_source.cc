#include "server/fetch/remote_source.h"

#include <algorithm>
#include <array>
#include <utility>

namespace qamserve {
namespace {

bool EndsWithAny(std::string_view name, std::initializer_list<std::string_view> ends) {
  return std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return name.ends_with(end); });
}

bool IsWeights(std::string_view name) { return name.ends_with(".safetensors"); }
bool IsGguf(std::string_view name) { return name.ends_with(".gguf"); }

bool IsWanted(std::string_view name) {
  if (name.empty() || name.front() == '.') return false;
  if (name.find('.') == std::string_view::npos) return true;  // LICENSE
  return IsWeights(name) || IsGguf(name) ||
         EndsWithAny(name, {".json", ".model", ".txt", ".jinja", ".tiktoken", ".md", ".jsonl", ".raw"});
}

}  // namespace

bool IsRemoteSource(std::string_view uri) { return uri.find("://") != std::string_view::npos; }

absl::StatusOr<std::unique_ptr<RemoteSource>> OpenRemoteSource(const std::string& uri, const RemoteOptions& options,
                                                               const std::function<bool()>& cancelled) {
  if (uri.starts_with("hf://")) return OpenHubSource(uri, options, cancelled);
  if (uri.starts_with("s3://")) return OpenS3Source(uri, options, cancelled);
  return InvalidArgument("IMPORT_SOURCE_NAME", "source '{}' must begin with hf:// or s3://", uri.substr(0, 200));
}

absl::StatusOr<std::vector<RemoteFile>> ChooseFiles(std::vector<RemoteFile> files, std::string_view source) {
  std::erase_if(files, [](const RemoteFile& file) { return !IsWanted(file.name); });
  const auto is_copy = [](const RemoteFile& file) { return file.name.starts_with("consolidated"); };
  const bool has_weights = std::any_of(files.begin(), files.end(),
                                       [&](const RemoteFile& file) { return IsWeights(file.name) && !is_copy(file); });
  if (has_weights) {
    std::erase_if(files, [&](const RemoteFile& file) { return IsGguf(file.name) || is_copy(file); });
  }
  std::string ggufs;
  int count = 0;
  for (const RemoteFile& file : files) {
    if (!IsGguf(file.name)) continue;
    if (++count <= 8) ggufs += (ggufs.empty() ? "" : ", ") + file.name;
  }
  if (count > 1) {
    return InvalidArgument("IMPORT_AMBIGUOUS", "{} has {} GGUF files; name one of them at the end of the source: {}{}",
                           source, count, ggufs, count > 8 ? ", ..." : "");
  }
  std::sort(files.begin(), files.end(), [](const RemoteFile& a, const RemoteFile& b) { return a.name < b.name; });
  return files;
}

}  // namespace qamserve
