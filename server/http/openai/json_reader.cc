#include "server/http/openai/json_reader.h"

#include <absl/strings/cord.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <optional>
#include <set>
#include <utility>

namespace qamserve::openai {
namespace {

constexpr char kParamUrl[] = "qamserve/openai-param";
// Doubles beyond it no longer tell neighbouring integers apart.
constexpr double kMaxExactInteger = 9007199254740992.0;

// The library begins its messages with an identifier in brackets that tells a client nothing.
std::string_view WithoutId(std::string_view message) {
  const size_t end = message.find("] ");
  return end == std::string_view::npos ? message : message.substr(end + 2);
}

// Builds the document and ends the parsing at the first thing that is wrong. (The library's own builder takes a time
// that grows with the square of an array's objects as soon as somebody watches it.)
class Builder final : public Json::json_sax_t {
 public:
  bool null() override { return Put(Json()); }
  bool boolean(bool value) override { return Put(Json(value)); }
  bool number_integer(int64_t value) override { return Put(Json(value)); }
  bool number_unsigned(uint64_t value) override { return Put(Json(value)); }
  bool number_float(double value, const std::string&) override { return Put(Json(value)); }
  bool string(std::string& value) override { return Put(Json(std::move(value))); }
  bool binary(Json::binary_t&) override { return false; }  // not in JSON
  bool start_object(size_t) override { return Open(Json(Json::value_t::object)); }
  bool start_array(size_t) override { return Open(Json(Json::value_t::array)); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& key) override {
    std::set<std::string>& keys = open_.back().keys;
    if (!keys.insert(key).second) {
      problem_ = FieldError("JSON_DUPLICATE", key, fmt::format("the member '{}' is there twice in one object", key));
      return false;
    }
    if (keys.size() > kMaxJsonMembers) {
      problem_ = InvalidArgument("JSON_LIMIT", "an object of the JSON has more than {} members", kMaxJsonMembers);
      return false;
    }
    open_.back().key = std::move(key);
    return Count();
  }
  bool parse_error(size_t, const std::string&, const Json::exception& error) override {
    problem_ = InvalidArgument("JSON_INVALID", "not JSON: {}", WithoutId(error.what()));
    return false;
  }

  absl::StatusOr<Json> Take() {
    if (!problem_.ok()) return problem_;
    return std::move(root_);
  }

 private:
  struct Level {
    Json* value;
    std::string key;
    std::set<std::string> keys;
  };

  Json* Add(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Level& level = open_.back();
    if (level.value->is_array()) {
      auto& elements = level.value->get_ref<Json::array_t&>();
      elements.push_back(std::move(value));
      return &elements.back();
    }
    // Not by operator[], which would look the key up among all others.
    auto& members = level.value->get_ref<Json::object_t&>();
    members.emplace_back(std::move(level.key), std::move(value));
    return &members.back().second;
  }
  bool Put(Json value) {
    Add(std::move(value));
    return true;
  }
  bool Open(Json value) {
    if (open_.size() >= kMaxJsonDepth) {
      problem_ = InvalidArgument("JSON_LIMIT", "the JSON nests deeper than {} levels", kMaxJsonDepth);
      return false;
    }
    open_.push_back({Add(std::move(value)), {}, {}});
    return Count();
  }
  bool Close() {
    open_.pop_back();
    return true;
  }
  bool Count() {
    if (++parts_ <= kMaxJsonParts) return true;
    problem_ = InvalidArgument("JSON_LIMIT", "the JSON has more than {} objects, arrays and members", kMaxJsonParts);
    return false;
  }

  Json root_;
  std::vector<Level> open_;
  size_t parts_ = 0;
  absl::Status problem_;
};

}  // namespace

absl::Status FieldError(std::string_view reason, std::string_view param, std::string message) {
  absl::Status status = MakeError(absl::StatusCode::kInvalidArgument, reason, std::move(message));
  status.SetPayload(kParamUrl, absl::Cord(absl::string_view(param.data(), param.size())));
  return status;
}

std::string ParamOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kParamUrl);
  return payload ? std::string(*payload) : std::string();
}

absl::StatusOr<Json> ParseJsonText(std::string_view text) {
  Builder builder;
  try {
    // False without a problem cannot be: what the parser finds wrong goes through parse_error.
    Json::sax_parse(text, &builder);
  } catch (const std::exception& error) {
    return InvalidArgument("JSON_INVALID", "not JSON: {}", error.what());
  }
  return builder.Take();
}

std::string_view TypeNameOf(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null:
      return "null";
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return "an array";
    case Json::value_t::string:
      return "a string";
    case Json::value_t::boolean:
      return "a boolean";
    case Json::value_t::number_float:
      return "a number with a fraction";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned:
      return "an integer";
    default:
      return "something else";
  }
}

absl::Status TypeError(std::string_view param, std::string_view wanted, const Json& value) {
  return FieldError("INVALID_TYPE", param,
                    fmt::format("Invalid type for '{}': expected {}, but got {}.", param, wanted, TypeNameOf(value)));
}

absl::StatusOr<int64_t> IntegerOf(const Json& value, std::string_view param, int64_t least, int64_t most) {
  std::optional<int64_t> number;
  bool fits = true;
  if (value.is_number_unsigned()) {
    const auto large = value.get<uint64_t>();
    fits = large <= static_cast<uint64_t>(INT64_MAX);
    if (fits) number = static_cast<int64_t>(large);
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const auto real = value.get<double>();
    if (real != std::floor(real)) return TypeError(param, "an integer", value);
    fits = std::abs(real) <= kMaxExactInteger;
    if (fits) number = static_cast<int64_t>(real);
  } else {
    return TypeError(param, "an integer", value);
  }
  if (number && *number >= least && *number <= most) return *number;
  return FieldError("INVALID_VALUE", param,
                    fmt::format("'{}' must be {} to {}; got {}.", param, least, most, TextOf(value)));
}

std::string TextOf(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

Members::Members(const Json& object, std::string path, absl::Status& status)
    : object_(object), path_(std::move(path)), status_(status) {
  if (!status_.ok() || object_.is_object()) return;
  status_ = TypeError(path_.empty() ? "body" : path_, "an object", object_);
}

std::string Members::PathOf(std::string_view name) const {
  return path_.empty() ? std::string(name) : fmt::format("{}.{}", path_, name);
}

void Members::Fail(std::string_view reason, std::string_view name, std::string message) {
  if (status_.ok()) status_ = FieldError(reason, PathOf(name), std::move(message));
}

const Json* Members::Find(std::string_view name) {
  if (!status_.ok()) return nullptr;
  known_.push_back(name);
  const auto it = object_.find(std::string(name));
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

const Json* Members::Require(std::string_view name) {
  const Json* value = Find(name);
  if (value == nullptr) {
    Fail("MISSING_REQUIRED_PARAMETER", name, fmt::format("Missing required parameter: '{}'.", PathOf(name)));
  }
  return value;
}

bool Members::Read(std::string_view name, std::string& out) {
  const Json* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_string()) {
    status_ = TypeError(PathOf(name), "a string", *value);
    return false;
  }
  out = value->get_ref<const std::string&>();
  return true;
}

bool Members::Read(std::string_view name, bool& out) {
  const Json* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_boolean()) {
    status_ = TypeError(PathOf(name), "a boolean", *value);
    return false;
  }
  out = value->get<bool>();
  return true;
}

bool Members::Read(std::string_view name, double& out) {
  const Json* value = Find(name);
  if (value == nullptr) return false;
  if (!value->is_number()) {
    status_ = TypeError(PathOf(name), "a number", *value);
    return false;
  }
  out = value->get<double>();
  return true;
}

bool Members::Read(std::string_view name, int64_t& out, int64_t least, int64_t most) {
  const Json* value = Find(name);
  if (value == nullptr) return false;
  const absl::StatusOr<int64_t> number = IntegerOf(*value, PathOf(name), least, most);
  if (!number.ok()) {
    status_ = number.status();
    return false;
  }
  out = *number;
  return true;
}

bool Members::ReadOneOf(std::string_view name, std::initializer_list<std::string_view> values, std::string& out) {
  std::string text;
  if (!Read(name, text)) return false;
  if (std::find(values.begin(), values.end(), text) == values.end()) {
    Fail("INVALID_VALUE", name,
         fmt::format("Invalid value: '{}'. Supported values of '{}' are: {}.", text, PathOf(name),
                     fmt::join(values, ", ")));
    return false;
  }
  out = std::move(text);
  return true;
}

std::string Members::RequireText(std::string_view name) {
  std::string text;
  if (Require(name) != nullptr) Read(name, text);
  return text;
}

void Members::Ignore(std::initializer_list<std::string_view> names) {
  known_.insert(known_.end(), names.begin(), names.end());
}

void Members::Refuse(std::string_view name, std::string_view why) {
  if (Find(name) == nullptr) return;
  Fail("UNSUPPORTED_PARAMETER", name, fmt::format("Unsupported parameter: '{}': {}.", PathOf(name), why));
}

void Members::RefuseOthers() {
  if (!status_.ok()) return;
  for (const auto& item : object_.items()) {
    if (std::find(known_.begin(), known_.end(), item.key()) != known_.end()) continue;
    Fail("UNKNOWN_PARAMETER", item.key(), fmt::format("Unknown parameter: '{}'.", PathOf(item.key())));
    return;
  }
}

}  // namespace qamserve::openai
