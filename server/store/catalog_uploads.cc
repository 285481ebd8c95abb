#include <algorithm>
#include <atomic>
#include <set>

#include "core/base/digest.h"
#include "core/tokenizer/utf8.h"
#include "server/store/catalog.h"
#include "server/store/catalog_internal.h"
#include "server/store/parallel.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

// Uploads that go on at the same time; beyond that a digest is computed again from the partial file.
constexpr size_t kMaxKeptWriters = 16;
constexpr std::chrono::minutes kMaxIdle{10};  // a client that lost its connection is back before that
// Files of an upload that are looked for at a time.
constexpr size_t kLookups = 8;
// As core/format/safetensors.h allows.
constexpr uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

absl::Status CheckFileName(const std::string& name) {
  const bool plain = std::none_of(name.begin(), name.end(),
                                  [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '/' || c == '\\'; });
  if (name.empty() || name.size() > kMaxFileNameBytes || !plain || name[0] == '.') {
    return InvalidArgument("UPLOAD_FILES",
                           "'{}' is not a file name: 1 to {} bytes, no '/', '\\' or control characters, "
                           "not starting with '.'",
                           name.substr(0, kMaxFileNameBytes), kMaxFileNameBytes);
  }
  if (IsPickleName(name)) {
    return InvalidArgument("FILE_TYPE_UNSUPPORTED", "{}: pickle files are not accepted; convert to safetensors or GGUF",
                           name);
  }
  return absl::OkStatus();
}

// A text of UTF-16 has zero bytes wherever its letters are ASCII, and is valid UTF-8 then.
absl::Status CheckUtf8(const std::string& name, std::string_view text) {
  constexpr char kHint[] = "a text must be UTF-8, such as `iconv -t UTF-8 -f ENCODING` makes of it";
  const size_t valid = RepairedPrefix(text);
  if (valid < text.size()) {
    return InvalidArgument("TEXT_NOT_UTF8", "{}: byte {} (0x{:02x}) is not UTF-8; {}", name, valid,
                           static_cast<unsigned char>(text[valid]), kHint);
  }
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    return InvalidArgument("TEXT_NOT_UTF8", "{}: byte {} is zero, as in UTF-16 or in binary data; {}", name, zero,
                           kHint);
  }
  if (HasSurrogates(text)) {
    return InvalidArgument("TEXT_NOT_UTF8", "{}: the text has halves of UTF-16 pairs as characters; {}", name, kHint);
  }
  return absl::OkStatus();
}

}  // namespace

bool IsPickleName(std::string_view name) {
  for (std::string_view end : {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}) {
    if (EndsWith(name, end)) return true;
  }
  return false;
}

absl::Status CheckUploadFiles(UploadKind kind, const std::vector<FileRecord>& files) {
  if (files.empty() || files.size() > kMaxFiles) {
    return InvalidArgument("UPLOAD_FILES", "files: {} are named; 1 to {} are possible", files.size(), kMaxFiles);
  }
  if (kind == UploadKind::kText && files.size() != 1) {
    return InvalidArgument("UPLOAD_FILES", "files: {} are named; a text is one file", files.size());
  }
  std::map<std::string, uint64_t> sizes;
  std::set<std::string> names;
  for (const FileRecord& file : files) {
    RETURN_IF_ERROR(CheckFileName(file.name));
    if (!names.insert(file.name).second) {
      return InvalidArgument("UPLOAD_FILES", "file {} is named twice", file.name);
    }
    if (!IsSha256(file.sha256)) {
      return InvalidArgument("UPLOAD_FILES", "file {}: sha256 is not 64 lower-case hex digits", file.name);
    }
    const uint64_t limit = kind == UploadKind::kText ? kMaxTextBytes : kMaxFileBytes;
    if (file.size_bytes > limit) {
      return InvalidArgument("UPLOAD_FILES", "file {} has {} bytes; the limit is {}", file.name, file.size_bytes,
                             limit);
    }
    if (sizes.emplace(file.sha256, file.size_bytes).first->second != file.size_bytes) {
      return InvalidArgument("UPLOAD_FILES", "file {}: sha256 {} is named with two sizes", file.name, file.sha256);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckFileHead(const std::string& name, uint64_t size, std::span<const std::byte> head) {
  if (EndsWith(name, ".gguf")) {
    constexpr std::string_view kMagic = "GGUF";
    const size_t n = std::min(kMagic.size(), head.size());
    const std::string_view found(reinterpret_cast<const char*>(head.data()), n);
    if (found != kMagic.substr(0, n)) {
      return InvalidArgument("GGUF_HEADER", "{}: the file does not begin with \"GGUF\"", name);
    }
  }
  if (EndsWith(name, ".safetensors") && head.size() >= 8) {
    uint64_t header = 0;
    for (int i = 7; i >= 0; --i) header = header << 8 | std::to_integer<uint64_t>(head[static_cast<size_t>(i)]);
    const uint64_t limit = std::min(kMaxSafetensorsHeaderBytes, size < 8 ? 0 : size - 8);
    if (header < 2 || header > limit) {
      return InvalidArgument("SAFETENSORS_HEADER", "{}: the header claims {} bytes; 2 to {} are possible", name, header,
                             limit);
    }
    if (head.size() > 8 && head[8] != std::byte{'{'}) {
      return InvalidArgument("SAFETENSORS_HEADER", "{}: the header does not begin with '{{'", name);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<UploadView> Catalog::ViewOf(const UploadRecord& upload) {
  UploadView view{.id = upload.id,
                  .kind = upload.kind,
                  .display_name = upload.display_name,
                  .files = {},
                  .result = upload.result,
                  .created_ms = upload.created_ms};
  view.files.resize(upload.files.size());
  // Side by side, since each may be a request to another machine.
  std::atomic<bool> stopped{false};
  RETURN_IF_ERROR(ForEachAtOnce(kLookups, upload.files.size(), stopped, [&](size_t i) -> absl::Status {
    const FileRecord& file = upload.files[i];
    ASSIGN_OR_RETURN(const uint64_t committed, blobs_.CommittedBytes(file.sha256));
    bool complete = false;
    if (committed == file.size_bytes) {
      ASSIGN_OR_RETURN(complete, blobs_.Has(file.sha256));
    }
    view.files[i] = {.file = file, .committed_bytes = committed, .complete = complete};
    return absl::OkStatus();
  }));
  return view;
}

absl::Status Catalog::CheckUploadFits(const UploadRecord& upload) {
  DropIdleWriters();
  ASSIGN_OR_RETURN(const UploadView view, ViewOf(upload));
  uint64_t missing = 0;
  for (const UploadFileState& file : view.files) {
    missing += file.file.size_bytes - std::min(file.committed_bytes, file.file.size_bytes);
  }
  return blobs_.CheckSpace(missing);
}

absl::StatusOr<UploadView> Catalog::CreateUpload(UploadKind kind, const std::vector<FileRecord>& files,
                                                 const std::string& display_name, const std::string& request_id) {
  RETURN_IF_ERROR(CheckDisplayName(display_name));
  RETURN_IF_ERROR(CheckUploadFiles(kind, files));
  const std::string content_key = Sha256Hex(fmt::format("{} {}", static_cast<int>(kind), ManifestJson(files)));
  auto action = [&]() -> absl::StatusOr<std::string> {
    UploadRecord upload{.id = RandomId(),
                        .kind = kind,
                        .display_name = display_name,
                        .content_key = content_key,
                        .result = "",
                        .files = files,
                        .created_ms = options_.now_ms()};
    ASSIGN_OR_RETURN(const auto known, store_.FindOpenUpload(content_key));
    if (!known) RETURN_IF_ERROR(CheckUploadFits(upload));
    // Once the row is there, none of its blobs is collected; how much of them there is, is looked at after that.
    RETURN_IF_ERROR(WithoutCollection([&]() -> absl::Status {
      ASSIGN_OR_RETURN(const auto open, store_.FindOpenUpload(content_key));
      if (!open) return store_.PutUpload(upload);
      upload.id = open->id;
      return absl::OkStatus();
    }));
    // No message would ever bring the last byte of an empty file.
    const bool has_empty = std::any_of(files.begin(), files.end(), [](const FileRecord& file) {
      return file.size_bytes == 0 && file.sha256 == Sha256Hex("");
    });
    if (has_empty) RETURN_IF_ERROR(blobs_.CommitBytes("").status());
    return upload.id;
  };
  ASSIGN_OR_RETURN(const std::string id,
                   RunOnce(store_, request_id, "CreateUpload", content_key + display_name, options_.now_ms(), action));
  return QueryUpload(id);
}

absl::StatusOr<UploadView> Catalog::QueryUpload(const std::string& id) {
  ASSIGN_OR_RETURN(const UploadRecord upload, store_.GetUpload(id));
  return ViewOf(upload);
}

absl::StatusOr<std::unique_ptr<BlobWriter>> Catalog::TakeWriter(const FileRecord& file) {
  {
    std::lock_guard lock(writers_mutex_);
    for (auto it = writers_.begin(); it != writers_.end(); ++it) {
      if (it->digest != file.sha256) continue;
      std::unique_ptr<BlobWriter> writer = std::move(it->writer);
      writers_.erase(it);
      return writer;
    }
  }
  return blobs_.BeginWrite(file.sha256, file.size_bytes);
}

void Catalog::KeepWriter(const std::string& digest, std::unique_ptr<BlobWriter> writer) {
  DropIdleWriters();
  std::lock_guard lock(writers_mutex_);
  writers_.push_front({digest, std::move(writer), std::chrono::steady_clock::now()});
  if (writers_.size() > kMaxKeptWriters) writers_.pop_back();
}

void Catalog::DropIdleWriters() {
  const auto oldest = std::chrono::steady_clock::now() - kMaxIdle;
  std::lock_guard lock(writers_mutex_);
  writers_.remove_if([&](const OpenWriter& open) { return open.used < oldest; });
}

void Catalog::DropWriter(const std::string& digest) {
  std::lock_guard lock(writers_mutex_);
  writers_.remove_if([&](const OpenWriter& open) { return open.digest == digest; });
}

absl::StatusOr<UploadFileState> Catalog::Append(const std::string& upload_id, const std::string& sha256,
                                                uint64_t offset, std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxAppendBytes) {
    return InvalidArgument("UPLOAD_CHUNK", "data has {} bytes; the limit of a message is {}", bytes.size(),
                           kMaxAppendBytes);
  }
  ASSIGN_OR_RETURN(const UploadRecord upload, store_.GetUpload(upload_id));
  const auto it = std::find_if(upload.files.begin(), upload.files.end(),
                               [&](const FileRecord& file) { return file.sha256 == sha256; });
  if (it == upload.files.end()) {
    return NotFound("UPLOAD_FILE_NOT_FOUND", "upload {} has no file with sha256 '{}'", upload_id, sha256.substr(0, 80));
  }
  const FileRecord& file = *it;
  auto writer = TakeWriter(file);
  if (absl::IsAlreadyExists(writer.status())) {
    return UploadFileState{.file = file, .committed_bytes = file.size_bytes, .complete = true};
  }
  RETURN_IF_ERROR(writer.status());

  // The first 16 bytes, those in and those that come, before anything is written.
  std::vector<std::byte> head((*writer)->head().begin(), (*writer)->head().end());
  if (offset == head.size()) {
    head.insert(head.end(), bytes.begin(),
                bytes.begin() + static_cast<ptrdiff_t>(std::min(bytes.size(), 16 - head.size())));
  }
  for (const FileRecord& named : upload.files) {
    if (named.sha256 != sha256) continue;
    if (absl::Status status = CheckFileHead(named.name, named.size_bytes, head); !status.ok()) {
      RETURN_IF_ERROR((*writer)->Discard());
      return status;
    }
  }

  absl::Status status = (*writer)->Append(offset, bytes);
  const uint64_t committed = (*writer)->committed();
  if (status.ok() && committed == file.size_bytes) {
    RETURN_IF_ERROR(Annotate((*writer)->Commit(), file.name));
    return UploadFileState{.file = file, .committed_bytes = committed, .complete = true};
  }
  // One whose place another process has taken is of no use: the next call begins where the file stands by now.
  if (!absl::IsAborted(status)) KeepWriter(sha256, *std::move(writer));
  RETURN_IF_ERROR(Annotate(status, file.name));
  return UploadFileState{.file = file, .committed_bytes = committed, .complete = false};
}

absl::StatusOr<CheckpointOrText> Catalog::ResultOf(const std::string& name) {
  if (auto digest = ParseResourceName("texts", name); digest.ok()) {
    ASSIGN_OR_RETURN(TextRecord text, store_.GetText(*digest));
    return CheckpointOrText(std::move(text));
  }
  ASSIGN_OR_RETURN(const std::string digest, ParseResourceName("checkpoints", name));
  ASSIGN_OR_RETURN(CheckpointRecord checkpoint, store_.GetCheckpoint(digest));
  return CheckpointOrText(std::move(checkpoint));
}

absl::StatusOr<CheckpointOrText> Catalog::CompleteUpload(const std::string& id, const std::string& request_id) {
  auto action = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(UploadRecord upload, store_.GetUpload(id));
    // Deleted since, perhaps: then it is made again, if the blobs are still there.
    if (!upload.result.empty() && ResultOf(upload.result).ok()) return upload.result;
    for (const FileRecord& file : upload.files) {
      ASSIGN_OR_RETURN(const bool there, blobs_.Has(file.sha256));
      if (there) continue;
      ASSIGN_OR_RETURN(const uint64_t committed, blobs_.CommittedBytes(file.sha256));
      return FailedPrecondition("UPLOAD_INCOMPLETE", "file {}: {} of {} bytes are in", file.name, committed,
                                file.size_bytes);
    }
    ASSIGN_OR_RETURN(const CheckpointOrText made, Finish(upload.kind, upload.display_name, upload.files));
    const auto* checkpoint = std::get_if<CheckpointRecord>(&made);
    upload.result = checkpoint != nullptr ? ResourceName("checkpoints", checkpoint->digest)
                                          : ResourceName("texts", std::get<TextRecord>(made).digest);
    RETURN_IF_ERROR(store_.PutUpload(upload));
    return upload.result;
  };
  ASSIGN_OR_RETURN(const std::string name,
                   RunOnce(store_, request_id, "CompleteUpload", id, options_.now_ms(), action));
  return ResultOf(name);
}

absl::Status Catalog::CancelUpload(const std::string& id) {
  auto upload = store_.GetUpload(id);
  if (absl::IsNotFound(upload.status())) return absl::OkStatus();
  RETURN_IF_ERROR(upload.status());
  const absl::Status deleted = store_.DeleteUpload(id);
  if (!deleted.ok() && !absl::IsNotFound(deleted)) return deleted;
  // Bytes on their way go at once, unless another open upload wants them too.
  return WithoutCollection([&]() -> absl::Status {
    ASSIGN_OR_RETURN(const auto referenced, store_.ReferencedBlobs(0));
    for (const FileRecord& file : upload->files) {
      if (referenced.contains(file.sha256)) continue;
      DropWriter(file.sha256);
      const absl::Status status = blobs_.DeletePartial(file.sha256);
      if (!status.ok() && !absl::IsAborted(status)) return status;
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<CheckpointOrText> Catalog::Finish(UploadKind kind, const std::string& display_name,
                                                 std::vector<FileRecord> files) {
  std::sort(files.begin(), files.end(), [](const FileRecord& a, const FileRecord& b) { return a.name < b.name; });
  const std::string origin = display_name.empty() ? files.front().name : display_name;
  ASSIGN_OR_RETURN(const FileSet set, FileSetOf(origin, files));
  if (kind == UploadKind::kText) {
    const FileRecord& file = files.front();
    ASSIGN_OR_RETURN(const std::string text, set.ReadText(file.name, kMaxTextBytes));
    RETURN_IF_ERROR(CheckUtf8(file.name, text));
    TextRecord record{.digest = file.sha256, .display_name = origin, .file = file, .created_ms = options_.now_ms()};
    RETURN_IF_ERROR(store_.PutText(record));
    return CheckpointOrText(std::move(record));
  }
  ASSIGN_OR_RETURN(const CheckpointFacts facts, options_.inspect(set));
  std::string digest = Sha256Hex(ManifestJson(files));
  CheckpointRecord record{.digest = std::move(digest),
                          .display_name = origin,
                          .architecture = facts.architecture,
                          .parameters = facts.parameters,
                          .size_bytes = 0,
                          .files = std::move(files),
                          .created_ms = options_.now_ms()};
  for (const FileRecord& file : record.files) record.size_bytes += file.size_bytes;
  RETURN_IF_ERROR(store_.PutCheckpoint(record));
  return CheckpointOrText(std::move(record));
}

}  // namespace qamserve
