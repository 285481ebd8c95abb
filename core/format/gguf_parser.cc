#include "core/format/gguf_parser.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <type_traits>

#include "core/format/checks.h"

namespace qamserve {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF" read as a little-endian word
constexpr uint64_t kMaxKeys = 1'000'000;
constexpr uint64_t kMaxKeyBytes = 65'535;  // the format's own limit
constexpr uint64_t kMaxStringBytes = 16 << 20;
constexpr uint64_t kMaxArrayElements = 16 << 20;
// A vocabulary of 256 Ki tokens with merges is about 10 MB.
constexpr uint64_t kMaxHeaderBytes = 256 << 20;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr uint32_t kMaxDimensions = 4;

// The least that a key with its value and a tensor without dimensions take in the file.
constexpr uint64_t kMinKeyBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

// Reads the file front to back through a buffer. The first bytes that are not there are an error which names the
// file and `what`, the thing that is being read.
class Cursor {
 public:
  Cursor(std::string_view where, const File& file)
      : where_(where), file_(file), end_(std::min(file.size(), kMaxHeaderBytes)) {}

  void set_what(std::string what) { what_ = std::move(what); }
  uint64_t position() const { return position_; }
  uint64_t remaining() const { return end_ - position_; }

  template <typename... Args>
  absl::Status Error(std::string_view reason, fmt::format_string<Args...> format, Args&&... args) const {
    return InvalidArgument(reason, "{}: {}: {}", where_, what_, fmt::format(format, std::forward<Args>(args)...));
  }

  absl::Status Read(std::span<std::byte> out) {
    if (out.size() > remaining()) return TooShort(out.size());
    while (!out.empty()) {
      if (used_ == buffer_.size()) RETURN_IF_ERROR(Fill());
      const size_t n = std::min(out.size(), buffer_.size() - used_);
      std::memcpy(out.data(), buffer_.data() + used_, n);
      used_ += n;
      position_ += n;
      out = out.subspan(n);
    }
    return absl::OkStatus();
  }

  template <typename T>
  absl::StatusOr<T> Read() {
    T value{};
    RETURN_IF_ERROR(Read(std::as_writable_bytes(std::span(&value, 1))));
    return value;
  }

  absl::StatusOr<std::string> ReadString(uint64_t max_bytes) {
    ASSIGN_OR_RETURN(const uint64_t size, Read<uint64_t>());
    if (size > remaining()) return TooShort(size);
    if (size > max_bytes) return Error("GGUF_METADATA", "a string of {} bytes; the limit is {}", size, max_bytes);
    std::string text(size, '\0');
    RETURN_IF_ERROR(Read(std::as_writable_bytes(std::span(text.data(), text.size()))));
    return text;
  }

  absl::Status TooShort(uint64_t wanted) const {
    if (end_ < file_.size()) {
      return Error("GGUF_HEADER", "{} bytes at {} lie beyond the header's limit of {}", wanted, position_,
                   kMaxHeaderBytes);
    }
    return DataLoss("GGUF_HEADER", "{}: {}: {} bytes at {} lie beyond the file's {}", where_, what_, wanted, position_,
                    file_.size());
  }

 private:
  absl::Status Fill() {
    constexpr uint64_t kBufferBytes = 256 << 10;
    buffer_.resize(std::min(kBufferBytes, remaining()));
    used_ = 0;
    return file_.ReadAt(position_, buffer_);
  }

  std::string where_;
  const File& file_;
  uint64_t end_;
  uint64_t position_ = 0;
  std::vector<std::byte> buffer_;
  size_t used_ = 0;
  std::string what_ = "header";
};

struct GgmlType {
  uint32_t number;  // in ggml's enum ggml_type
  DType dtype;
};
constexpr GgmlType kGgmlTypes[] = {
    {0, DType::kF32},   {1, DType::kF16},   {2, DType::kQ4_0},  {3, DType::kQ4_1},  {6, DType::kQ5_0},
    {7, DType::kQ5_1},  {8, DType::kQ8_0},  {10, DType::kQ2_K}, {11, DType::kQ3_K}, {12, DType::kQ4_K},
    {13, DType::kQ5_K}, {14, DType::kQ6_K}, {24, DType::kI8},   {25, DType::kI16},  {26, DType::kI32},
    {27, DType::kI64},  {30, DType::kBF16},
};

bool IsPrintableAscii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

absl::StatusOr<bool> ReadBool(Cursor& cursor) {
  ASSIGN_OR_RETURN(const uint8_t byte, cursor.Read<uint8_t>());
  if (byte > 1) return cursor.Error("GGUF_METADATA", "a boolean has the value {}", byte);
  return byte == 1;
}

// A value of `type` widened to what GgufValue holds; arrays are read by ReadArray.
absl::StatusOr<GgufValue> ReadScalar(Cursor& cursor, uint32_t type) {
  const auto read = [&cursor]<typename Stored, typename Wide>(Stored, Wide) -> absl::StatusOr<GgufValue> {
    ASSIGN_OR_RETURN(const Stored value, cursor.Read<Stored>());
    return GgufValue(static_cast<Wide>(value));
  };
  switch (type) {
    case kUint8:
      return read(uint8_t{}, uint64_t{});
    case kUint16:
      return read(uint16_t{}, uint64_t{});
    case kUint32:
      return read(uint32_t{}, uint64_t{});
    case kUint64:
      return read(uint64_t{}, uint64_t{});
    case kInt8:
      return read(int8_t{}, int64_t{});
    case kInt16:
      return read(int16_t{}, int64_t{});
    case kInt32:
      return read(int32_t{}, int64_t{});
    case kInt64:
      return read(int64_t{}, int64_t{});
    case kFloat32:
      return read(float{}, double{});
    case kFloat64:
      return read(double{}, double{});
    case kBool: {
      ASSIGN_OR_RETURN(const bool value, ReadBool(cursor));
      return GgufValue(value);
    }
    case kString: {
      ASSIGN_OR_RETURN(std::string value, cursor.ReadString(kMaxStringBytes));
      return GgufValue(std::move(value));
    }
    default:
      return cursor.Error("GGUF_METADATA", "value type {} is not known", type);
  }
}

template <typename T>
absl::StatusOr<GgufValue> ReadElements(Cursor& cursor, uint32_t type, uint64_t count) {
  std::vector<T> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(GgufValue value, ReadScalar(cursor, type));
    values.push_back(std::get<T>(std::move(value)));
  }
  return GgufValue(std::move(values));
}

uint64_t MinBytesOf(uint32_t type) {
  switch (type) {
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
    case kString:
      return 8;
    default:
      return 1;
  }
}

// `elements_left` is what the limit on array elements still allows this file.
absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, uint64_t& elements_left) {
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>());
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>());
  if (count > elements_left) {
    return cursor.Error("GGUF_METADATA", "an array of {} elements; the limit for all arrays is {}", count,
                        kMaxArrayElements);
  }
  if (count * MinBytesOf(type) > cursor.remaining()) return cursor.TooShort(count * MinBytesOf(type));
  elements_left -= count;
  switch (type) {
    case kBool:
      return ReadElements<bool>(cursor, type, count);
    case kUint8:
    case kUint16:
    case kUint32:
    case kUint64:
      return ReadElements<uint64_t>(cursor, type, count);
    case kInt8:
    case kInt16:
    case kInt32:
    case kInt64:
      return ReadElements<int64_t>(cursor, type, count);
    case kFloat32:
    case kFloat64:
      return ReadElements<double>(cursor, type, count);
    case kString:
      return ReadElements<std::string>(cursor, type, count);
    default:
      return cursor.Error("GGUF_METADATA", "an array of value type {} is not supported", type);
  }
}

absl::Status ReadMetadata(Cursor& cursor, uint64_t count, GgufHeader& header) {
  uint64_t elements_left = kMaxArrayElements;
  for (uint64_t i = 0; i < count; ++i) {
    cursor.set_what(fmt::format("metadata key {} of {}", i + 1, count));
    ASSIGN_OR_RETURN(const std::string key, cursor.ReadString(kMaxKeyBytes));
    cursor.set_what(fmt::format("key {}", Quoted(key)));
    if (key.empty() || !IsPrintableAscii(key)) return cursor.Error("GGUF_METADATA", "a key must be printable ASCII");
    ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>());
    absl::StatusOr<GgufValue> value = type == kArray ? ReadArray(cursor, elements_left) : ReadScalar(cursor, type);
    RETURN_IF_ERROR(value.status());
    if (!header.metadata.emplace(key, *std::move(value)).second) {
      return cursor.Error("GGUF_METADATA", "the key is there twice");
    }
  }
  return absl::OkStatus();
}

// "general.alignment" (uint32), or the format's default of 32.
absl::StatusOr<uint64_t> AlignmentOf(const Cursor& cursor, const GgufHeader& header) {
  const auto found = header.metadata.find("general.alignment");
  if (found == header.metadata.end()) return 32;
  const uint64_t* value = std::get_if<uint64_t>(&found->second);
  if (value == nullptr || !std::has_single_bit(*value) || *value > kMaxAlignment) {
    return cursor.Error("GGUF_METADATA", "the value is not a power of two up to {}", kMaxAlignment);
  }
  return *value;
}

// One row of the tensor table; its offset still counts from the start of the data.
absl::StatusOr<TensorInfo> ReadTensorInfo(std::string_view where, Cursor& cursor) {
  TensorInfo tensor;
  ASSIGN_OR_RETURN(tensor.name, cursor.ReadString(kMaxTensorNameBytes));
  RETURN_IF_ERROR(CheckTensorName(where, tensor.name, "GGUF_TENSOR"));
  const std::string what = fmt::format("tensor {}", Quoted(tensor.name));
  cursor.set_what(what);
  // Names travel in messages and JSON, which must be UTF-8; no published file needs more than ASCII.
  if (!IsPrintableAscii(tensor.name)) return cursor.Error("GGUF_TENSOR", "a tensor name must be printable ASCII");
  ASSIGN_OR_RETURN(const uint32_t dimensions, cursor.Read<uint32_t>());
  if (dimensions > kMaxDimensions) {
    return cursor.Error("GGUF_TENSOR", "{} dimensions; the limit is {}", dimensions, kMaxDimensions);
  }
  for (uint32_t i = 0; i < dimensions; ++i) {
    ASSIGN_OR_RETURN(const int64_t dimension, cursor.Read<int64_t>());
    if (dimension <= 0) return cursor.Error("GGUF_TENSOR", "dimension {} is {}", i, static_cast<uint64_t>(dimension));
    tensor.shape.insert(tensor.shape.begin(), dimension);  // the file has the innermost first
  }
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>());
  const auto* known = std::find_if(std::begin(kGgmlTypes), std::end(kGgmlTypes),
                                   [type](const GgmlType& candidate) { return candidate.number == type; });
  if (known == std::end(kGgmlTypes)) {
    return cursor.Error("TENSOR_DTYPE_UNSUPPORTED", "ggml type {} is not supported", type);
  }
  tensor.dtype = known->dtype;
  ASSIGN_OR_RETURN(tensor.bytes,
                   CheckedTensorBytes(fmt::format("{}: {}", where, what), tensor.dtype, tensor.shape, "GGUF_TENSOR"));
  ASSIGN_OR_RETURN(tensor.offset, cursor.Read<uint64_t>());
  return tensor;
}

absl::Status ReadTensorTable(std::string_view where, Cursor& cursor, uint64_t count, GgufHeader& header) {
  std::set<std::string_view> names;
  header.tensors.reserve(count);  // keeps the names in place for the views
  for (uint64_t i = 0; i < count; ++i) {
    cursor.set_what(fmt::format("tensor {} of {}", i + 1, count));
    ASSIGN_OR_RETURN(TensorInfo tensor, ReadTensorInfo(where, cursor));
    header.tensors.push_back(std::move(tensor));
    if (!names.insert(header.tensors.back().name).second) {
      return cursor.Error("GGUF_TENSOR", "the name is there twice");
    }
  }
  return absl::OkStatus();
}

// Sorts by offset, checks that the tensors lie within the file, aligned and apart, and moves the offsets to the file.
absl::Status PlaceTensors(std::string_view where, uint64_t data_start, uint64_t file_bytes, uint64_t alignment,
                          std::vector<TensorInfo>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) { return a.offset < b.offset; });
  const uint64_t data_bytes = data_start <= file_bytes ? file_bytes - data_start : 0;
  const TensorInfo* previous = nullptr;
  for (TensorInfo& tensor : tensors) {
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
      return DataLoss("GGUF_TENSOR", "{}: tensor {} ({} {}) is {} bytes at {} of the data, which has {}", where,
                      Quoted(tensor.name), DTypeName(tensor.dtype), tensor.ShapeString(), tensor.bytes, tensor.offset,
                      data_bytes);
    }
    if (tensor.offset % alignment != 0) {
      return InvalidArgument("GGUF_TENSOR", "{}: tensor {} begins at {} of the data, not a multiple of {}", where,
                             Quoted(tensor.name), tensor.offset, alignment);
    }
    tensor.offset += data_start;
    if (previous != nullptr && previous->offset + previous->bytes > tensor.offset) {
      return InvalidArgument("GGUF_TENSOR", "{}: tensor {} begins inside tensor {}", where, Quoted(tensor.name),
                             Quoted(previous->name));
    }
    previous = &tensor;
  }
  return absl::OkStatus();
}

absl::Status CheckVersion(const Cursor& cursor, uint32_t magic, uint32_t version) {
  if (magic != kMagic) return cursor.Error("GGUF_HEADER", "the file does not begin with \"GGUF\"");
  if (version == 2 || version == 3) return absl::OkStatus();
  if ((version & 0xffffu) == 0) return cursor.Error("GGUF_HEADER", "a big-endian file is not supported");
  return cursor.Error("GGUF_HEADER", "version {}; supported are 2 and 3", version);
}

}  // namespace

absl::StatusOr<GgufHeader> ParseGgufHeader(std::string_view where, const File& file) {
  Cursor cursor(where, file);
  ASSIGN_OR_RETURN(const uint32_t magic, cursor.Read<uint32_t>());
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>());
  RETURN_IF_ERROR(CheckVersion(cursor, magic, version));
  ASSIGN_OR_RETURN(const uint64_t tensor_count, cursor.Read<uint64_t>());
  ASSIGN_OR_RETURN(const uint64_t key_count, cursor.Read<uint64_t>());
  if (tensor_count > std::min<uint64_t>(kMaxTensors, cursor.remaining() / kMinTensorBytes)) {
    return cursor.Error("GGUF_HEADER", "{} tensors in a file of {} bytes; the limit is {}", tensor_count, file.size(),
                        kMaxTensors);
  }
  if (key_count > std::min<uint64_t>(kMaxKeys, cursor.remaining() / kMinKeyBytes)) {
    return cursor.Error("GGUF_HEADER", "{} metadata keys in a file of {} bytes; the limit is {}", key_count,
                        file.size(), kMaxKeys);
  }
  GgufHeader header;
  RETURN_IF_ERROR(ReadMetadata(cursor, key_count, header));
  RETURN_IF_ERROR(ReadTensorTable(where, cursor, tensor_count, header));
  cursor.set_what("key \"general.alignment\"");
  ASSIGN_OR_RETURN(const uint64_t alignment, AlignmentOf(cursor, header));
  const uint64_t data_start = (cursor.position() + alignment - 1) / alignment * alignment;
  RETURN_IF_ERROR(PlaceTensors(where, data_start, file.size(), alignment, header.tensors));
  return header;
}

}  // namespace qamserve
