#include "core/tokenizer/json_fields.h"

namespace qamserve {
namespace {

absl::Status WrongType(std::string_view name, std::string_view wanted, const Json& value) {
  return InvalidArgument("TOKENIZER_INVALID", "\"{}\" is a {}, not a {}", name, value.type_name(), wanted);
}

}  // namespace

const Json* FindField(const Json& object, std::string_view name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(std::string(name));
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string TypeOf(const Json& component) {
  const Json* type = FindField(component, "type");
  return type != nullptr && type->is_string() ? type->get<std::string>() : "";
}

absl::StatusOr<bool> BoolField(const Json& object, std::string_view name, bool otherwise) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) return WrongType(name, "boolean", *value);
  return value->get<bool>();
}

absl::StatusOr<std::string> StringField(const Json& object, std::string_view name, std::string_view otherwise) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return std::string(otherwise);
  if (!value->is_string()) return WrongType(name, "string", *value);
  return value->get<std::string>();
}

absl::StatusOr<int64_t> IntField(const Json& object, std::string_view name, int64_t otherwise) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return otherwise;
  if (!value->is_number_integer()) return WrongType(name, "integer", *value);
  return value->get<int64_t>();
}

std::string TokenText(const Json& value) {
  const Json* text = value.is_object() ? FindField(value, "content") : &value;
  return text != nullptr && text->is_string() ? text->get<std::string>() : "";
}

absl::StatusOr<PatternField> ReadPattern(const Json& component) {
  const Json* pattern = FindField(component, "pattern");
  for (const bool is_regex : {false, true}) {
    const Json* text = pattern == nullptr ? nullptr : FindField(*pattern, is_regex ? "Regex" : "String");
    if (text != nullptr && text->is_string()) return PatternField{text->get<std::string>(), is_regex};
  }
  return InvalidArgument("TOKENIZER_INVALID", "\"pattern\" of a {} holds neither \"String\" nor \"Regex\"",
                         TypeOf(component));
}

}  // namespace qamserve
