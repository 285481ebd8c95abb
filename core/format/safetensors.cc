#include "core/format/safetensors.h"

#include <cstring>
#include <set>

#include "core/format/checks.h"
#include "core/format/safetensors_header.h"

namespace qamserve {
namespace {

constexpr char kIndexName[] = "model.safetensors.index.json";
// A line of about 100 bytes for each tensor; the largest published index has 10 MB.
constexpr uint64_t kMaxIndexBytes = 100'000'000;
// Each shard holds an open file descriptor, of which a process often has 1024. Published models have 200 shards.
constexpr size_t kMaxShards = 512;

using WeightMap = std::map<std::string, std::string, std::less<>>;

absl::StatusOr<SafetensorsHeader> ReadHeader(const std::string& where, const File& file) {
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    return DataLoss("SAFETENSORS_HEADER", "{}: {} bytes are too few for the 8-byte header length", where, file.size());
  }
  RETURN_IF_ERROR(file.ReadAt(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("SAFETENSORS_HEADER", "{}: a header of {} bytes; the limit is {}", where, length,
                           kMaxSafetensorsHeaderBytes);
  }
  if (length > file.size() - sizeof(length)) {
    return DataLoss("SAFETENSORS_HEADER", "{}: a header of {} bytes in a file of {}", where, length, file.size());
  }
  std::string json(length, '\0');
  RETURN_IF_ERROR(file.ReadAt(sizeof(length), std::as_writable_bytes(std::span(json.data(), json.size()))));
  const uint64_t data_start = sizeof(length) + length;
  return ParseSafetensorsHeader(where, json, data_start, file.size() - data_start);
}

// The shards to read: those that the index names, or without an index every "*.safetensors".
absl::StatusOr<std::vector<FileEntry>> FindShards(const FileSet& files, const WeightMap* index) {
  std::vector<FileEntry> shards;
  if (index == nullptr) {
    for (const FileEntry& file : files.files()) {
      if (file.name.ends_with(".safetensors")) shards.push_back(file);
    }
  } else {
    std::map<std::string_view, std::string_view> tensor_of_shard;
    for (const auto& [tensor, shard] : *index) tensor_of_shard.emplace(shard, tensor);
    for (const auto& [shard, tensor] : tensor_of_shard) {
      const FileEntry* file = files.Find(shard);
      if (file == nullptr) {
        return NotFound("CHECKPOINT_FILE_MISSING", "{}: {} is missing; {} places tensor {} in it", files.origin(),
                        Quoted(shard), kIndexName, Quoted(tensor));
      }
      shards.push_back(*file);
    }
  }
  if (shards.empty()) {
    return NotFound("CHECKPOINT_FILE_MISSING", "{}: there is no *.safetensors file", files.origin());
  }
  if (shards.size() > kMaxShards) {
    return InvalidArgument("SAFETENSORS_HEADER", "{}: {} shards; the limit is {}", files.origin(), shards.size(),
                           kMaxShards);
  }
  return shards;
}

// Both ways: each tensor lies where the index says, and the index knows each tensor.
absl::Status CheckIndex(const std::string& origin, const WeightMap& index, const std::vector<TensorInfo>& tensors,
                        const std::vector<FileEntry>& shards) {
  for (const TensorInfo& tensor : tensors) {
    const std::string& shard = shards[static_cast<size_t>(tensor.file)].name;
    const auto entry = index.find(tensor.name);
    if (entry == index.end() || entry->second != shard) {
      return InvalidArgument("SAFETENSORS_HEADER", "{}: tensor {} is in {}, but {} {}", origin, Quoted(tensor.name),
                             shard, kIndexName,
                             entry == index.end() ? "does not have it" : "places it in " + Quoted(entry->second));
    }
  }
  if (tensors.size() == index.size()) return absl::OkStatus();
  std::set<std::string_view> present;
  for (const TensorInfo& tensor : tensors) present.insert(tensor.name);
  for (const auto& [tensor, shard] : index) {
    if (present.contains(tensor)) continue;
    return DataLoss("SAFETENSORS_HEADER", "{}: {} places tensor {} in {}, which does not have it", origin, kIndexName,
                    Quoted(tensor), Quoted(shard));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(const FileSet& files) {
  std::unique_ptr<SafetensorsReader> reader(new SafetensorsReader);
  reader->origin_ = files.origin();
  WeightMap index;
  const bool indexed = files.Find(kIndexName) != nullptr;
  if (indexed) {
    ASSIGN_OR_RETURN(const std::string text, files.ReadText(kIndexName, kMaxIndexBytes));
    ASSIGN_OR_RETURN(index, ParseSafetensorsIndex(fmt::format("{}: {}", files.origin(), kIndexName), text));
  }
  ASSIGN_OR_RETURN(const std::vector<FileEntry> shards, FindShards(files, indexed ? &index : nullptr));
  for (const FileEntry& shard : shards) {
    const std::string where = fmt::format("{}: {}", files.origin(), shard.name);
    ASSIGN_OR_RETURN(File file, File::OpenForRead(shard.path));
    ASSIGN_OR_RETURN(SafetensorsHeader header, ReadHeader(where, file));
    for (auto& [key, value] : header.metadata) reader->metadata_.insert_or_assign(key, std::move(value));
    for (TensorInfo& tensor : header.tensors) {
      tensor.file = static_cast<int>(reader->files_.size());
      const auto [other, is_new] = reader->by_name_.emplace(tensor.name, reader->tensors_.size());
      if (!is_new) {
        const int first = reader->tensors_[other->second].file;
        return InvalidArgument("SAFETENSORS_HEADER", "{}: tensor {} is also in {}", where, Quoted(tensor.name),
                               shards[static_cast<size_t>(first)].name);
      }
      reader->tensors_.push_back(std::move(tensor));
    }
    reader->files_.push_back(std::move(file));
  }
  if (indexed) RETURN_IF_ERROR(CheckIndex(files.origin(), index, reader->tensors_, shards));
  return reader;
}

const TensorInfo* SafetensorsReader::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

absl::Status SafetensorsReader::ReadBytes(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
  RETURN_IF_ERROR(CheckByteRange(origin_, tensor, offset, out.size()));
  if (tensor.file < 0 || static_cast<size_t>(tensor.file) >= files_.size()) {
    return OutOfRange("TENSOR_RANGE", "{}: tensor {} is in file {} of {}", origin_, Quoted(tensor.name), tensor.file,
                      files_.size());
  }
  return file(tensor.file).ReadAt(tensor.offset + offset, out);
}

}  // namespace qamserve
