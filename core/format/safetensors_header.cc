#include "core/format/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/format/checks.h"

namespace qamserve {
namespace {

using nlohmann::json;

constexpr DType kPlainTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8,
                                 DType::kU8,  DType::kI16, DType::kI32,  DType::kI64};

// Parse events that are all refused unless a subclass takes them. Events, not a tree: no depth of nesting costs memory,
// and a duplicate key is seen.
class StrictEvents : public nlohmann::json_sax<json> {
 public:
  explicit StrictEvents(std::string_view where) : where_(where) {}
  absl::Status status() const { return status_; }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return Unexpected("a negative number"); }
  bool number_unsigned(number_unsigned_t) override { return Unexpected("a number"); }
  bool number_float(number_float_t, const string_t&) override {
    return Unexpected("a fraction or a number above 2^64");
  }
  bool string(string_t&) override { return Unexpected("a string"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }
  bool start_object(std::size_t) override { return Unexpected("an object"); }
  bool key(string_t&) override { return Unexpected("a key"); }
  bool end_object() override { return Unexpected("the end of an object"); }
  bool start_array(std::size_t) override { return Unexpected("an array"); }
  bool end_array() override { return Unexpected("the end of an array"); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Fail(DataLoss("SAFETENSORS_HEADER", "{}: JSON is broken at byte {} of it{}", where_, position, Here()));
  }

 protected:
  bool Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
    return false;
  }
  bool Unexpected(std::string_view what) {
    return Fail(InvalidArgument("SAFETENSORS_HEADER", "{}: {} is not allowed{}", where_, what, Here()));
  }
  // Where in the document the parser stands: empty or " in ...".
  virtual std::string Here() const = 0;

  std::string where_;

 private:
  absl::Status status_;
};

class HeaderEvents : public StrictEvents {
 public:
  using StrictEvents::StrictEvents;
  SafetensorsHeader& header() { return header_; }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kRoot;
        return true;
      case Place::kRoot:
        return BeginMember();
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& name) override {
    key_ = name;
    switch (place_) {
      case Place::kRoot:
        return true;
      case Place::kMetadata:
        return !header_.metadata.contains(name) ||
               Fail(InvalidArgument("SAFETENSORS_HEADER", "{}: key {} is twice in __metadata__", where_, Quoted(name)));
      default:
        return BeginField();
    }
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadata) {
      header_.metadata.emplace(key_, value);
      return true;
    }
    if (place_ != Place::kTensor || key_ != "dtype") return Unexpected("a string");
    for (DType dtype : kPlainTypes) {
      if (value != DTypeName(dtype)) continue;
      tensor_.dtype = dtype;
      return true;
    }
    return Fail(InvalidArgument("TENSOR_DTYPE_UNSUPPORTED", "{}: tensor {} has the unsupported dtype {}", where_,
                                Quoted(tensor_.name), Quoted(value)));
  }

  bool start_array(std::size_t) override {
    if (place_ != Place::kTensor || key_ == "dtype") return Unexpected("an array");
    place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShape) {
      if (value > INT64_MAX || tensor_.shape.size() == kMaxSafetensorsDimensions) {
        return Fail(InvalidArgument("TENSOR_SHAPE", "{}: tensor {} has more than {} dimensions, or one above 2^63",
                                    where_, Quoted(tensor_.name), kMaxSafetensorsDimensions));
      }
      tensor_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (place_ != Place::kOffsets || offsets_.size() == 2) return Unexpected("a number");
    offsets_.push_back(value);
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_.size() != 2) return Unexpected("a data_offsets that is not a pair");
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    switch (place_) {
      case Place::kTensor:
        place_ = Place::kRoot;
        return EndTensor();
      case Place::kMetadata:
        place_ = Place::kRoot;
        return true;
      default:
        place_ = Place::kEnd;
        return true;
    }
  }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kEnd };

  bool BeginMember() {
    if (key_ == "__metadata__") {
      place_ = Place::kMetadata;
      return !std::exchange(metadata_seen_, true) || Unexpected("a second __metadata__");
    }
    place_ = Place::kTensor;
    tensor_ = TensorInfo{.name = key_};
    offsets_.clear();
    fields_.clear();
    if (absl::Status status = CheckTensorName(where_, key_, "SAFETENSORS_HEADER"); !status.ok()) return Fail(status);
    if (header_.tensors.size() == kMaxTensors) {
      return Fail(InvalidArgument("SAFETENSORS_HEADER", "{}: more than {} tensors", where_, kMaxTensors));
    }
    return names_.insert(key_).second ||
           Fail(InvalidArgument("SAFETENSORS_HEADER", "{}: tensor {} is declared twice", where_, Quoted(key_)));
  }

  bool BeginField() {
    if (key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") {
      return Unexpected(fmt::format("the field {}", Quoted(key_)));
    }
    return fields_.insert(key_).second || Unexpected(fmt::format("a second {}", key_));
  }

  bool EndTensor() {
    for (const char* field : {"dtype", "shape", "data_offsets"}) {
      if (fields_.contains(field)) continue;
      return Fail(
          InvalidArgument("SAFETENSORS_HEADER", "{}: tensor {} has no {}", where_, Quoted(tensor_.name), field));
    }
    const std::string what = fmt::format("{}: tensor {}", where_, Quoted(tensor_.name));
    if (offsets_[1] < offsets_[0]) {
      return Fail(InvalidArgument("SAFETENSORS_OFFSETS", "{} ends at {}, before its start at {}", what, offsets_[1],
                                  offsets_[0]));
    }
    tensor_.offset = offsets_[0];
    tensor_.bytes = offsets_[1] - offsets_[0];
    const absl::StatusOr<uint64_t> needed = CheckedTensorBytes(what, tensor_.dtype, tensor_.shape, "TENSOR_SHAPE");
    if (!needed.ok()) return Fail(needed.status());
    if (*needed != tensor_.bytes) {
      return Fail(InvalidArgument("TENSOR_SHAPE", "{}: {} of shape {} is {} bytes, but its data_offsets hold {}", what,
                                  DTypeName(tensor_.dtype), tensor_.ShapeString(), *needed, tensor_.bytes));
    }
    header_.tensors.push_back(std::move(tensor_));
    return true;
  }

  std::string Here() const override {
    switch (place_) {
      case Place::kStart:
        return " at the start of the header";
      case Place::kRoot:
        return fmt::format(" at {} of the header", Quoted(key_));
      case Place::kMetadata:
        return fmt::format(" at {} of __metadata__", Quoted(key_));
      case Place::kEnd:
        return " after the header";
      default:
        return fmt::format(" at {} of tensor {}", Quoted(key_), Quoted(tensor_.name));
    }
  }

  Place place_ = Place::kStart;
  std::string key_;
  TensorInfo tensor_;
  std::vector<uint64_t> offsets_;
  std::set<std::string, std::less<>> fields_;
  std::set<std::string> names_;
  bool metadata_seen_ = false;
  SafetensorsHeader header_;
};

class IndexEvents : public StrictEvents {
 public:
  using StrictEvents::StrictEvents;
  std::map<std::string, std::string, std::less<>>& weight_map() { return weight_map_; }
  bool found() const { return found_; }

  bool null() override { return Skip("null"); }
  bool boolean(bool) override { return Skip("a boolean"); }
  bool number_integer(number_integer_t) override { return Skip("a number"); }
  bool number_unsigned(number_unsigned_t) override { return Skip("a number"); }
  bool number_float(number_float_t, const string_t&) override { return Skip("a number"); }
  bool start_array(std::size_t) override { return Skip("an array") && Deeper(); }
  bool end_array() override { return Shallower(); }
  bool end_object() override { return Shallower(); }

  bool start_object(std::size_t) override {
    if (depth_ == 1 && key_ == "weight_map") {
      if (std::exchange(found_, true)) return Unexpected("a second weight_map");
      in_map_ = true;
      return Deeper();
    }
    return !in_map_ ? Deeper() : Unexpected("an object");
  }

  bool key(string_t& name) override {
    key_ = name;
    if (!in_map_) return true;
    if (weight_map_.size() == kMaxTensors) return Unexpected("another tensor (the limit is 1000000)");
    if (weight_map_.contains(name)) return Unexpected("a second entry");
    absl::Status status = CheckTensorName(where_, name, "SAFETENSORS_HEADER");
    return status.ok() || Fail(status);
  }

  bool string(string_t& value) override {
    if (!in_map_) return Skip("a string");
    weight_map_.emplace(key_, value);
    return true;
  }

 private:
  static constexpr int kMaxDepth = 16;  // of the members that are skipped

  bool Skip(std::string_view what) { return (!in_map_ && depth_ > 0) || Unexpected(what); }
  bool Deeper() { return ++depth_ <= kMaxDepth || Unexpected("nesting deeper than 16"); }
  bool Shallower() {
    --depth_;
    if (depth_ == 1) in_map_ = false;
    return true;
  }
  std::string Here() const override { return fmt::format(" at {}{}", Quoted(key_), in_map_ ? " of weight_map" : ""); }

  int depth_ = 0;
  std::string key_;
  bool in_map_ = false;
  bool found_ = false;
  std::map<std::string, std::string, std::less<>> weight_map_;
};

absl::Status Parse(std::string_view where, std::string_view text, StrictEvents& events) {
  try {
    if (json::sax_parse(text, &events)) return absl::OkStatus();
  } catch (const std::exception& error) {
    return DataLoss("SAFETENSORS_HEADER", "{}: JSON: {}", where, error.what());
  }
  return events.status().ok() ? DataLoss("SAFETENSORS_HEADER", "{}: JSON is broken", where) : events.status();
}

// Sorts by offset, checks that the tensors lie end to end over [0, data_bytes), and moves the offsets to the file.
absl::Status PlaceTensors(std::string_view where, uint64_t data_start, uint64_t data_bytes,
                          std::vector<TensorInfo>& tensors) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes);
  });
  uint64_t end = 0;
  for (TensorInfo& tensor : tensors) {
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
      return DataLoss("SAFETENSORS_OFFSETS", "{}: tensor {} is {} bytes at {} of the data, which has {}", where,
                      Quoted(tensor.name), tensor.bytes, tensor.offset, data_bytes);
    }
    if (tensor.offset != end) {
      return InvalidArgument("SAFETENSORS_OFFSETS",
                             "{}: tensor {} begins at {} of the data, but the one before it ends at {}", where,
                             Quoted(tensor.name), tensor.offset, end);
    }
    end += tensor.bytes;
    tensor.offset += data_start;
  }
  if (end != data_bytes) {
    return InvalidArgument("SAFETENSORS_OFFSETS", "{}: the tensors{} end at {} of the data, which has {} bytes", where,
                           tensors.empty() ? "" : fmt::format(" (the last is {})", Quoted(tensors.back().name)), end,
                           data_bytes);
  }
  return absl::OkStatus();
}

}  // namespace

const char* SafetensorsDTypeName(DType dtype) {
  return std::find(std::begin(kPlainTypes), std::end(kPlainTypes), dtype) != std::end(kPlainTypes) ? DTypeName(dtype)
                                                                                                   : nullptr;
}

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view where, std::string_view json,
                                                         uint64_t data_start, uint64_t data_bytes) {
  if (!json.starts_with('{')) {
    return DataLoss("SAFETENSORS_HEADER", "{}: the header does not begin with an opening brace", where);
  }
  HeaderEvents events(where);
  RETURN_IF_ERROR(Parse(where, json, events));
  SafetensorsHeader header = std::move(events.header());
  RETURN_IF_ERROR(PlaceTensors(where, data_start, data_bytes, header.tensors));
  return header;
}

absl::StatusOr<std::map<std::string, std::string, std::less<>>> ParseSafetensorsIndex(std::string_view where,
                                                                                      std::string_view json) {
  IndexEvents events(where);
  RETURN_IF_ERROR(Parse(where, json, events));
  if (!events.found()) return InvalidArgument("SAFETENSORS_HEADER", "{}: there is no weight_map", where);
  return std::move(events.weight_map());
}

}  // namespace qamserve
