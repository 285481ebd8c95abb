#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <set>

#include "core/format/checks.h"
#include "core/format/safetensors.h"
#include "core/format/safetensors_header.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxAlignment = 4096;  // a page: more would only waste space

struct Layout {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  uint64_t data_bytes = 0;
};

absl::Status CheckDeclaration(const std::string& path, const SafetensorsWriter::Declaration& tensor) {
  RETURN_IF_ERROR(CheckTensorName(path, tensor.name, "SAFETENSORS_HEADER"));
  const std::string what = fmt::format("{}: tensor {}", path, Quoted(tensor.name));
  if (tensor.name == "__metadata__") {
    return InvalidArgument("SAFETENSORS_HEADER", "{}: the format keeps this name for itself", what);
  }
  if (SafetensorsDTypeName(tensor.dtype) == nullptr) {
    return InvalidArgument("TENSOR_DTYPE_UNSUPPORTED", "{}: safetensors has no type {}", what, DTypeName(tensor.dtype));
  }
  if (tensor.shape.size() > kMaxSafetensorsDimensions) {
    return InvalidArgument("TENSOR_SHAPE", "{}: {} dimensions; the limit is {}", what, tensor.shape.size(),
                           kMaxSafetensorsDimensions);
  }
  return absl::OkStatus();
}

absl::StatusOr<Layout> PlanLayout(const std::string& path, const std::vector<SafetensorsWriter::Declaration>& tensors,
                                  const std::map<std::string, std::string>& metadata, uint64_t alignment) {
  if (tensors.size() > kMaxTensors) {
    return InvalidArgument("SAFETENSORS_HEADER", "{}: {} tensors; the limit is {}", path, tensors.size(), kMaxTensors);
  }
  Layout layout;
  if (!metadata.empty()) layout.header["__metadata__"] = metadata;
  std::set<std::string_view> names;
  for (const SafetensorsWriter::Declaration& tensor : tensors) {
    RETURN_IF_ERROR(CheckDeclaration(path, tensor));
    const std::string what = fmt::format("{}: tensor {}", path, Quoted(tensor.name));
    if (!names.insert(tensor.name).second) {
      return InvalidArgument("SAFETENSORS_HEADER", "{} is declared twice", what);
    }
    ASSIGN_OR_RETURN(const uint64_t bytes, CheckedTensorBytes(what, tensor.dtype, tensor.shape, "TENSOR_SHAPE"));
    const uint64_t begin = layout.data_bytes;
    if (tensor.aligned && begin % alignment != 0) {
      return InvalidArgument("SAFETENSORS_OFFSETS", "{} would begin at {} of the data, not a multiple of {}", what,
                             begin, alignment);
    }
    layout.data_bytes += bytes;
    if (layout.data_bytes > static_cast<uint64_t>(INT64_MAX)) {
      return InvalidArgument("SAFETENSORS_OFFSETS", "{} ends beyond 2^63 bytes", what);
    }
    layout.header[tensor.name] = {{"dtype", SafetensorsDTypeName(tensor.dtype)},
                                  {"shape", tensor.shape},
                                  {"data_offsets", {begin, layout.data_bytes}}};
  }
  return layout;
}

struct Header {
  std::string json;  // padded, without the length before it
  uint64_t total_bytes = 0;
};

absl::StatusOr<Header> MakeHeader(const std::string& path, const std::vector<SafetensorsWriter::Declaration>& tensors,
                                  const std::map<std::string, std::string>& metadata, uint64_t alignment,
                                  uint64_t at_least_bytes) {
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
    return InvalidArgument("SAFETENSORS_OFFSETS", "{}: alignment {} is not a power of two up to {}", path, alignment,
                           kMaxAlignment);
  }
  Header header;
  uint64_t data_bytes = 0;
  try {
    ASSIGN_OR_RETURN(const Layout layout, PlanLayout(path, tensors, metadata, alignment));
    header.json = layout.header.dump();
    data_bytes = layout.data_bytes;
  } catch (const std::exception& error) {  // text that is not UTF-8
    return InvalidArgument("SAFETENSORS_HEADER", "{}: a name or metadata value cannot be JSON: {}", path, error.what());
  }
  const uint64_t least = sizeof(uint64_t) + header.json.size();
  const uint64_t end = std::max(least, at_least_bytes - std::min(at_least_bytes, data_bytes));
  header.json.append(end - least, ' ');
  header.json.append((alignment - end % alignment) % alignment, ' ');
  if (header.json.size() > kMaxSafetensorsHeaderBytes) {
    return InvalidArgument("SAFETENSORS_HEADER", "{}: a header of {} bytes; the limit is {}", path, header.json.size(),
                           kMaxSafetensorsHeaderBytes);
  }
  header.total_bytes = sizeof(uint64_t) + header.json.size() + data_bytes;
  return header;
}

}  // namespace

absl::StatusOr<uint64_t> SafetensorsWriter::TotalBytes(const std::vector<Declaration>& tensors,
                                                       const std::map<std::string, std::string>& metadata,
                                                       uint64_t alignment) {
  ASSIGN_OR_RETURN(const Header header, MakeHeader("safetensors", tensors, metadata, alignment, 0));
  return header.total_bytes;
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(const std::string& path,
                                                            const std::vector<Declaration>& tensors,
                                                            const std::map<std::string, std::string>& metadata,
                                                            uint64_t alignment, uint64_t at_least_bytes) {
  ASSIGN_OR_RETURN(const Header header, MakeHeader(path, tensors, metadata, alignment, at_least_bytes));
  const uint64_t length = header.json.size();
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  RETURN_IF_ERROR(file.Append(std::as_bytes(std::span(&length, 1))));
  RETURN_IF_ERROR(file.Append(std::string_view(header.json)));
  return SafetensorsWriter(path, std::move(file), header.total_bytes);
}

absl::Status SafetensorsWriter::Append(std::span<const std::byte> bytes) {
  RETURN_IF_ERROR(status_);
  if (bytes.size() > total_bytes_ - file_.size()) {
    return status_ = InvalidArgument("SAFETENSORS_OFFSETS", "{}: {} bytes appended where {} of the declared are left",
                                     path_, bytes.size(), total_bytes_ - file_.size());
  }
  return status_ = file_.Append(bytes);
}

absl::Status SafetensorsWriter::Commit() {
  RETURN_IF_ERROR(status_);
  if (file_.size() != total_bytes_) {
    return FailedPrecondition("SAFETENSORS_OFFSETS", "{}: {} bytes of {} were written", path_, file_.size(),
                              total_bytes_);
  }
  return file_.Commit();
}

}  // namespace qamserve
