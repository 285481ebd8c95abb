#include "core/format/gguf_file_writer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "core/format/checks.h"

namespace qamserve {
namespace {

constexpr uint32_t kVersion = 3;
constexpr uint64_t kAlignment = 32;  // what a file without general.alignment has
constexpr size_t kMaxDimensions = 4;

// Numbers of ggml's enumerations gguf_type and ggml_type.
enum ValueType : uint32_t { kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9 };
constexpr uint32_t kGgmlF32 = 0;
constexpr uint32_t kGgmlF16 = 1;
constexpr uint32_t kGgmlBF16 = 30;

template <typename T>
void Put(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

void PutString(std::string& out, std::string_view text) {
  Put(out, static_cast<uint64_t>(text.size()));
  out.append(text);
}

uint64_t Padding(uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

absl::StatusOr<uint32_t> TypeNumber(const std::string& what, DType dtype) {
  if (dtype == DType::kF32) return kGgmlF32;
  if (dtype == DType::kF16) return kGgmlF16;
  if (dtype == DType::kBF16) return kGgmlBF16;
  return InvalidArgument("TENSOR_DTYPE_UNSUPPORTED", "{}: {} is not written; F32, F16 and BF16 are", what,
                         DTypeName(dtype));
}

struct Layout {
  std::string header;           // everything before the data, padded
  std::vector<uint64_t> sizes;  // of each tensor
  uint64_t total_bytes = 0;
};

absl::StatusOr<Layout> PlanLayout(const std::string& path, const GgufMetadata& metadata,
                                  std::span<const GgufFileWriter::Declaration> tensors) {
  Layout layout;
  std::string& out = layout.header;
  out = "GGUF";
  Put(out, kVersion);
  Put(out, static_cast<uint64_t>(tensors.size()));
  Put(out, metadata.keys());
  out += metadata.bytes();
  uint64_t offset = 0;
  std::set<std::string_view> names;
  for (const GgufFileWriter::Declaration& tensor : tensors) {
    RETURN_IF_ERROR(CheckTensorName(path, tensor.name, "GGUF_TENSOR"));
    const std::string what = fmt::format("{}: tensor {}", path, Quoted(tensor.name));
    if (!names.insert(tensor.name).second) return InvalidArgument("GGUF_TENSOR", "{} is declared twice", what);
    if (tensor.shape.empty() || tensor.shape.size() > kMaxDimensions) {
      return InvalidArgument("TENSOR_SHAPE", "{}: {} dimensions; 1 to {} are allowed", what, tensor.shape.size(),
                             kMaxDimensions);
    }
    ASSIGN_OR_RETURN(const uint32_t type, TypeNumber(what, tensor.dtype));
    ASSIGN_OR_RETURN(const uint64_t bytes, CheckedTensorBytes(what, tensor.dtype, tensor.shape, "TENSOR_SHAPE"));
    PutString(out, tensor.name);
    Put(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) Put(out, static_cast<uint64_t>(*dim));
    Put(out, type);
    Put(out, offset);
    layout.sizes.push_back(bytes);
    offset += bytes + Padding(bytes);
  }
  out.append(Padding(out.size()), '\0');
  layout.total_bytes = out.size() + offset;
  return layout;
}

}  // namespace

void GgufMetadata::AddKey(std::string_view key, uint32_t type) {
  PutString(bytes_, key);
  Put(bytes_, type);
  ++keys_;
}

void GgufMetadata::AddArray(std::string_view key, uint32_t type, uint64_t size) {
  AddKey(key, kArray);
  Put(bytes_, type);
  Put(bytes_, size);
}

void GgufMetadata::AddString(std::string_view key, std::string_view value) {
  AddKey(key, kString);
  PutString(bytes_, value);
}

void GgufMetadata::AddUint32(std::string_view key, uint32_t value) {
  AddKey(key, kUint32);
  Put(bytes_, value);
}

void GgufMetadata::AddFloat32(std::string_view key, float value) {
  AddKey(key, kFloat32);
  Put(bytes_, value);
}

void GgufMetadata::AddBool(std::string_view key, bool value) {
  AddKey(key, kBool);
  Put(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::AddStrings(std::string_view key, std::span<const std::string> values) {
  AddArray(key, kString, values.size());
  for (const std::string& value : values) PutString(bytes_, value);
}

void GgufMetadata::AddInt32s(std::string_view key, std::span<const int32_t> values) {
  AddArray(key, kInt32, values.size());
  for (const int32_t value : values) Put(bytes_, value);
}

void GgufMetadata::AddFloat32s(std::string_view key, std::span<const float> values) {
  AddArray(key, kFloat32, values.size());
  for (const float value : values) Put(bytes_, value);
}

absl::StatusOr<uint64_t> GgufFileWriter::TotalBytes(const GgufMetadata& metadata,
                                                    std::span<const Declaration> tensors) {
  ASSIGN_OR_RETURN(const Layout layout, PlanLayout("gguf", metadata, tensors));
  return layout.total_bytes;
}

absl::StatusOr<GgufFileWriter> GgufFileWriter::Create(const std::string& path, const GgufMetadata& metadata,
                                                      std::span<const Declaration> tensors) {
  ASSIGN_OR_RETURN(Layout layout, PlanLayout(path, metadata, tensors));
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file.Append(std::string_view(layout.header)));
  return GgufFileWriter(std::move(file), std::move(layout.sizes));
}

absl::Status GgufFileWriter::Append(std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(status_);
  if (tensor_ == sizes_.size() || bytes.size() > sizes_[tensor_] - written_) {
    return status_ = InvalidArgument("GGUF_TENSOR", "{} bytes appended to tensor {}, which has fewer left",
                                     bytes.size(), tensor_);
  }
  RETURN_IF_ERROR(status_ = file_.Append(bytes));
  written_ += bytes.size();
  if (written_ < sizes_[tensor_]) return absl::OkStatus();
  const std::array<std::byte, kAlignment> zeros{};
  status_ = file_.Append(std::span(zeros).first(Padding(written_)));
  ++tensor_;
  written_ = 0;
  return status_;
}

absl::Status GgufFileWriter::Commit() {
  RETURN_IF_ERROR(status_);
  if (tensor_ != sizes_.size()) {
    return FailedPrecondition("GGUF_TENSOR", "{} of {} tensors were written", tensor_, sizes_.size());
  }
  return file_.Commit();
}

}  // namespace qamserve
