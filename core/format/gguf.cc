#include "core/format/gguf.h"

#include "core/format/checks.h"
#include "core/format/gguf_parser.h"

namespace qamserve {
namespace {

absl::StatusOr<const GgufValue*> FindValue(const GgufReader& reader, std::string_view key) {
  const auto found = reader.metadata().find(key);
  if (found != reader.metadata().end()) return &found->second;
  return NotFound("GGUF_KEY_MISSING", "{}: key {} is missing", reader.origin(), Quoted(key));
}

absl::Status WrongType(const GgufReader& reader, std::string_view key, std::string_view wanted) {
  return InvalidArgument("GGUF_KEY_TYPE", "{}: key {} is not {}", reader.origin(), Quoted(key), wanted);
}

template <typename T>
absl::StatusOr<T> GetExactly(const GgufReader& reader, std::string_view key, std::string_view wanted) {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(reader, key));
  if (const T* found = std::get_if<T>(value)) return *found;
  return WrongType(reader, key, wanted);
}

template <typename To, typename From>
std::vector<To> Converted(const std::vector<From>& values) {
  return std::vector<To>(values.begin(), values.end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Open(const FileEntry& entry) {
  ASSIGN_OR_RETURN(File file, File::OpenForRead(entry.path));
  ASSIGN_OR_RETURN(GgufHeader header, ParseGgufHeader(entry.name, file));
  std::unique_ptr<GgufReader> reader(new GgufReader(std::move(file)));
  reader->origin_ = entry.name;
  reader->metadata_ = std::move(header.metadata);
  reader->tensors_ = std::move(header.tensors);
  for (size_t i = 0; i < reader->tensors_.size(); ++i) reader->by_name_.emplace(reader->tensors_[i].name, i);
  return reader;
}

const TensorInfo* GgufReader::Find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

absl::Status GgufReader::ReadBytes(const TensorInfo& tensor, uint64_t offset, std::span<std::byte> out) const {
  RETURN_IF_ERROR(CheckByteRange(origin_, tensor, offset, out.size()));
  return file_.ReadAt(tensor.offset + offset, out);
}

absl::StatusOr<std::string> GgufReader::GetString(std::string_view key) const {
  return GetExactly<std::string>(*this, key, "a string");
}

absl::StatusOr<int64_t> GgufReader::GetInt(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(*this, key));
  if (const auto* number = std::get_if<int64_t>(value)) return *number;
  const auto* number = std::get_if<uint64_t>(value);
  if (number != nullptr && *number <= INT64_MAX) return static_cast<int64_t>(*number);
  return WrongType(*this, key, "an integer of at most 63 bits");
}

absl::StatusOr<double> GgufReader::GetFloat(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(*this, key));
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* number = std::get_if<int64_t>(value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<uint64_t>(value)) return static_cast<double>(*number);
  return WrongType(*this, key, "a number");
}

absl::StatusOr<bool> GgufReader::GetBool(std::string_view key) const {
  return GetExactly<bool>(*this, key, "a boolean");
}

absl::StatusOr<std::vector<std::string>> GgufReader::GetStrings(std::string_view key) const {
  return GetExactly<std::vector<std::string>>(*this, key, "an array of strings");
}

absl::StatusOr<std::vector<int64_t>> GgufReader::GetInts(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(*this, key));
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(value)) return *numbers;
  const auto* numbers = std::get_if<std::vector<uint64_t>>(value);
  if (numbers == nullptr) return WrongType(*this, key, "an array of integers");
  for (uint64_t number : *numbers) {
    if (number > INT64_MAX) return WrongType(*this, key, "an array of integers of at most 63 bits");
  }
  return Converted<int64_t>(*numbers);
}

absl::StatusOr<std::vector<double>> GgufReader::GetFloats(std::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(*this, key));
  if (const auto* numbers = std::get_if<std::vector<double>>(value)) return *numbers;
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(value)) return Converted<double>(*numbers);
  if (const auto* numbers = std::get_if<std::vector<uint64_t>>(value)) return Converted<double>(*numbers);
  return WrongType(*this, key, "an array of numbers");
}

}  // namespace qamserve
