#include "server/http/rest/json.h"

#include <absl/strings/str_cat.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "server/grpc/status_conversion.h"
#include "server/http/rest/errors.h"

namespace qamserve::rest {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

enum class JsonKind { kNull, kScalar, kObject, kArray };

std::string_view NameOf(JsonKind kind) {
  switch (kind) {
    case JsonKind::kNull:
      return "null";
    case JsonKind::kScalar:
      return "a single value";
    case JsonKind::kObject:
      return "an object";
    case JsonKind::kArray:
      return "an array";
  }
  return "";
}

// Types with a JSON form of their own (timestamps are strings): the library checks them.
bool HasOwnForm(const Descriptor* message) {
  return message != nullptr && message->file()->package() == "google.protobuf";
}

// Goes through a text once, beside the descriptors of the message that it is to become. Protobuf's own parser accepts
// more than JSON, reports the last error and not the first, and takes single values for arrays.
class Checker final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit Checker(const Descriptor* root) : root_(root) {}
  const absl::Status& status() const { return status_; }

  bool null() override { return Value(JsonKind::kNull); }
  bool boolean(bool) override { return Value(JsonKind::kScalar); }
  bool number_integer(number_integer_t) override { return Value(JsonKind::kScalar); }
  bool number_unsigned(number_unsigned_t) override { return Value(JsonKind::kScalar); }
  bool number_float(number_float_t, const string_t& text) override {
    if (!Value(JsonKind::kScalar)) return false;
    if (text.size() <= kMaxNumberBytes) return true;
    return Fail("JSON_NUMBER", fmt::format("a number has at most {} characters", kMaxNumberBytes));
  }
  bool string(string_t&) override {
    if (!Value(JsonKind::kScalar)) return false;
    const FieldDescriptor* field = frames_.back().field;
    // Protobuf's parser takes "yes" and "1".
    if (field == nullptr || field->cpp_type() != FieldDescriptor::CPPTYPE_BOOL) return true;
    return Fail("JSON_FIELD", "it must be true or false");
  }
  bool binary(binary_t&) override { return Value(JsonKind::kScalar); }

  bool start_object(std::size_t) override { return Value(JsonKind::kObject) && Enter(JsonKind::kObject); }
  bool start_array(std::size_t) override { return Value(JsonKind::kArray) && Enter(JsonKind::kArray); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

  bool key(string_t& name) override {
    Frame& frame = frames_.back();
    frame.key = name;
    frame.field = frame.map;
    std::string id = name;
    if (frame.message != nullptr) {
      frame.field = FieldNamed(*frame.message, name);
      if (frame.field == nullptr) {
        return Fail("JSON_FIELD", fmt::format("{} has no such field", frame.message->full_name()));
      }
      id = frame.field->name();  // of both its names
    }
    if (frame.seen.insert(std::move(id)).second) return true;
    return Fail("JSON_FIELD", "it is given twice");
  }

  bool parse_error(std::size_t position, const std::string& token, const nlohmann::detail::exception& error) override {
    constexpr int kNumberOverflow = 406;
    if (error.id == kNumberOverflow) {
      if (!frames_.empty() && frames_.back().array) ++frames_.back().index;
      return Fail("JSON_NUMBER", fmt::format("{} is larger than any number", token.substr(0, 40)));
    }
    std::string_view why = error.what();
    if (const size_t end = why.find("] "); end != std::string_view::npos) why.remove_prefix(end + 2);
    status_ = InvalidArgument("JSON_SYNTAX", "the body is not JSON (byte {}): {}", position, ValidUtf8(why));
    return false;
  }

 private:
  struct Frame {
    bool array = false;
    const Descriptor* message = nullptr;     // whose fields the keys of an object are
    const FieldDescriptor* map = nullptr;    // of the values of a map
    const FieldDescriptor* field = nullptr;  // of the value that comes next; null = not ours to check
    std::string key;
    size_t index = 0;
    std::set<std::string> seen;
  };

  static const FieldDescriptor* FieldNamed(const Descriptor& message, const std::string& name) {
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor* field = message.field(i);
      if (field->json_name() == name || field->name() == name) return field;
    }
    return nullptr;
  }

  std::string Path() const {
    std::string path;
    for (const Frame& frame : frames_) {
      if (frame.array) {
        absl::StrAppend(&path, "[", frame.index, "]");
      } else {
        absl::StrAppend(&path, path.empty() ? "" : ".", frame.key);
      }
    }
    return path.substr(0, 200);
  }

  bool Fail(std::string_view reason, std::string_view why) {
    const std::string path = ValidUtf8(Path());
    status_ = path.empty() ? InvalidArgument(reason, "the body: {}", why)
                           : WithField(InvalidArgument(reason, "field '{}': {}", path, why), path);
    return false;
  }
  bool FailKind(JsonKind wanted, JsonKind got) {
    return Fail("JSON_FIELD", fmt::format("it must be {}, and is {}", NameOf(wanted), NameOf(got)));
  }

  // A value begins: whether it is of a kind that its place can have.
  bool Value(JsonKind kind) {
    if (frames_.empty()) return kind == JsonKind::kObject || FailKind(JsonKind::kObject, kind);
    const Frame& frame = frames_.back();
    if (frame.array) ++frames_.back().index;
    const FieldDescriptor* field = frame.field;
    if (field == nullptr || kind == JsonKind::kNull) return true;
    if (!frame.array && field != frame.map && field->is_map()) {
      return kind == JsonKind::kObject || FailKind(JsonKind::kObject, kind);
    }
    if (!frame.array && field->is_repeated()) return kind == JsonKind::kArray || FailKind(JsonKind::kArray, kind);
    if (HasOwnForm(field->message_type())) return true;
    const JsonKind wanted = field->message_type() != nullptr ? JsonKind::kObject : JsonKind::kScalar;
    return kind == wanted || FailKind(wanted, kind);
  }

  // An object or an array begins at a value that has passed Value.
  bool Enter(JsonKind kind) {
    if (frames_.size() == kMaxJsonDepth) {
      return Fail("JSON_DEPTH", fmt::format("it is nested deeper than {} levels", kMaxJsonDepth));
    }
    Frame frame;
    if (frames_.empty()) {
      frame.message = root_;
    } else if (const Frame& parent = frames_.back();
               parent.field != nullptr && !HasOwnForm(parent.field->message_type())) {
      if (kind == JsonKind::kArray) {
        frame.field = parent.field;
      } else if (!parent.array && parent.field != parent.map && parent.field->is_map()) {
        frame.map = parent.field->message_type()->map_value();
      } else {
        frame.message = parent.field->message_type();
      }
    }
    frame.array = kind == JsonKind::kArray;
    // The first value makes it 0.
    if (frame.array) frame.index = static_cast<size_t>(-1);
    frames_.push_back(std::move(frame));
    return true;
  }

  bool Leave() {
    frames_.pop_back();
    return true;
  }

  const Descriptor* const root_;
  std::vector<Frame> frames_;
  absl::Status status_;
};

// Of "(spec.rates[0].bpw): invalid value ..." what is between the parentheses.
absl::Status LibraryError(const google::protobuf::util::Status& status) {
  std::string text = ValidUtf8(status.message().ToString());
  if (text.rfind(": ", 0) == 0) text.erase(0, 2);  // no place: the whole
  const size_t end = text.empty() || text.front() != '(' ? std::string::npos : text.find("): ");
  if (end == std::string::npos) return InvalidArgument("JSON_FIELD", "the body: {}", text);
  const std::string field = text.substr(1, end - 1);
  return WithField(InvalidArgument("JSON_FIELD", "field '{}': {}", field, text.substr(end + 3)), field);
}

}  // namespace

absl::Status FromJson(std::string_view text, Message* message) {
  Checker checker(message->GetDescriptor());
  if (!nlohmann::json::sax_parse(text, &checker)) return checker.status();
  const auto status = google::protobuf::util::JsonStringToMessage(
      google::protobuf::StringPiece(text.data(), static_cast<ptrdiff_t>(text.size())), message);
  return status.ok() ? absl::OkStatus() : LibraryError(status);
}

absl::StatusOr<std::string> ToJson(const Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text, options);
  if (status.ok()) return text;
  return Internal("JSON_ANSWER", "the answer cannot be written as JSON: {}", status.message().ToString());
}

}  // namespace qamserve::rest
