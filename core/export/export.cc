#include "core/export/export.h"

#include <cerrno>
#include <filesystem>

#include "core/base/file.h"
#include "core/export/internal.h"
#include "core/model/checkpoint.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

constexpr char kPartialSuffix[] = ".export-partial";

// A folder that is removed with all that is in it. What a killed export left there goes first.
class PartialFolder {
 public:
  static absl::StatusOr<PartialFolder> Create(const std::string& path) {
    RETURN_IF_ERROR(RemoveAll(path));
    RETURN_IF_ERROR(CreateDirectories(path));
    return PartialFolder(path);
  }
  PartialFolder(PartialFolder&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  PartialFolder& operator=(PartialFolder&&) = delete;
  ~PartialFolder() {
    if (!path_.empty()) RemoveAll(path_).IgnoreError();
  }
  const std::string& path() const { return path_; }

 private:
  explicit PartialFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

absl::Status CheckTarget(ExportFormat format, const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (!fs::exists(status)) return absl::OkStatus();
  if (format == ExportFormat::kHuggingFace && fs::is_directory(status) && fs::is_empty(path, error) && !error) {
    return absl::OkStatus();
  }
  return AlreadyExists("EXPORT_EXISTS", "{} is there already; give another path or remove it", path);
}

absl::Status Rename(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (!error) return absl::OkStatus();
  errno = error.value();
  return ErrnoToStatus("rename to", to);
}

std::string WithoutTrailingSlash(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path;
}

// Opens what was written as any checkpoint is opened: config, every tensor's shape, tokenizer. Our reader of GGUF finds
// fewer of the rope scalings that the format can hold than other readers do; that is no fault of the file.
absl::Status OpenAgain(const std::string& path) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(path));
  const absl::Status opened = Checkpoint::Open(files).status();
  if (!opened.ok() && ReasonOf(opened) != "ARCHITECTURE_UNSUPPORTED") return opened;
  ASSIGN_OR_RETURN(const TokenizerFiles tokenizer, ReadTokenizerFiles(files));
  return Tokenizer::Create(tokenizer, files.origin()).status();
}

}  // namespace

absl::StatusOr<ExportOptions> ParseExportOptions(std::string_view format, std::string_view dtype) {
  ExportOptions options;
  if (format == "gguf") {
    options.format = ExportFormat::kGguf;
  } else if (format != "hf") {
    return InvalidArgument("EXPORT_FORMAT", "format \"{}\"; hf and gguf are known", format);
  }
  if (dtype == "f32") {
    options.dtype = DType::kF32;
  } else if (dtype == "f16") {
    options.dtype = DType::kF16;
  } else if (dtype != "bf16") {
    return InvalidArgument("EXPORT_DTYPE", "dtype \"{}\"; bf16, f16 and f32 are known", dtype);
  }
  return options;
}

absl::Status CheckSpace(const std::string& folder, uint64_t bytes) {
  ASSIGN_OR_RETURN(const uint64_t free_bytes, FreeDiskBytes(folder));
  if (bytes <= free_bytes) return absl::OkStatus();
  return ResourceExhausted("DISK_FULL", "the export needs {} bytes in {}, where {} are free", bytes, folder,
                           free_bytes);
}

absl::Status ExportArtifact(const FileSet& artifact, const ExportOptions& options, ThreadPool& pool,
                            ProgressFn progress, const std::string& out_path) {
  if (options.dtype != DType::kF32 && options.dtype != DType::kF16 && options.dtype != DType::kBF16) {
    return InvalidArgument("EXPORT_DTYPE", "{}; F32, F16 and BF16 are known", DTypeName(options.dtype));
  }
  const std::string target = WithoutTrailingSlash(out_path);
  if (target.empty()) return InvalidArgument("EXPORT_PATH", "the path to export to is empty");
  RETURN_IF_ERROR(CheckTarget(options.format, target));
  ASSIGN_OR_RETURN(const auto reader, ArtifactReader::Open(artifact));
  std::string parent = fs::path(target).parent_path().string();
  if (parent.empty()) parent = ".";
  RETURN_IF_ERROR(CreateDirectories(parent));
  ASSIGN_OR_RETURN(const PartialFolder partial, PartialFolder::Create(target + kPartialSuffix));
  const ExportSource source{artifact, *reader, options, pool, progress};
  std::string result = partial.path();
  if (options.format == ExportFormat::kHuggingFace) {
    RETURN_IF_ERROR(WriteHuggingFace(source, partial.path()));
    RETURN_IF_ERROR(SyncDirectory(partial.path()));
  } else {
    RETURN_IF_ERROR(WriteGguf(source, partial.path()));
    result += fmt::format("/{}", kGgufName);
  }
  RETURN_IF_ERROR(OpenAgain(result));
  RETURN_IF_ERROR(Rename(result, target));
  return SyncDirectory(parent);
}

}  // namespace qamserve
