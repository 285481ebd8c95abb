// Whether a value satisfies a JSON schema: written from the specification, and knowing nothing of core/constraint.
#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

namespace qamserve {

class SchemaValidator {
 public:
  using Value = nlohmann::ordered_json;
  explicit SchemaValidator(const std::string& schema) : root_(Value::parse(schema)) {}
  bool Accepts(const Value& value) const { return Accepts(root_, value); }

 private:
  static bool IsType(const Value& value, const std::string& type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "null") return value.is_null();
    if (type == "boolean") return value.is_boolean();
    if (type == "number") return value.is_number();
    return value.is_number() && std::floor(value.get<double>()) == value.get<double>();
  }
  static size_t Length(const std::string& text) {
    size_t characters = 0;
    for (const char c : text) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80 ? 1 : 0;
    return characters;
  }

  // A character each, for expressions that count.
  static std::wstring Wide(const std::string& text) {
    std::wstring wide;
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      if ((byte & 0xC0) == 0x80) {
        wide.back() = static_cast<wchar_t>((static_cast<uint32_t>(wide.back()) << 6) | (byte & 0x3F));
      } else {
        wide += static_cast<wchar_t>(byte < 0x80   ? byte
                                     : byte < 0xE0 ? byte & 0x1F
                                     : byte < 0xF0 ? byte & 0xF
                                                   : byte & 7);
      }
    }
    return wide;
  }

  bool Accepts(const Value& schema, const Value& value) const {
    if (schema.is_boolean()) return schema.get<bool>();
    for (const auto& [keyword, argument] : schema.items()) {
      if (!Holds(keyword, argument, schema, value)) return false;
    }
    return true;
  }

  bool Holds(const std::string& keyword, const Value& argument, const Value& schema, const Value& value) const {
    if (keyword == "$ref") {
      return Accepts(root_.at(Value::json_pointer(argument.get<std::string>().substr(1))), value);
    }
    if (keyword == "type") {
      if (schema.value("nullable", false) && value.is_null()) return true;
      if (argument.is_string()) return IsType(value, argument);
      return std::any_of(argument.begin(), argument.end(), [&](const Value& t) { return IsType(value, t); });
    }
    if (keyword == "enum") return std::find(argument.begin(), argument.end(), value) != argument.end();
    if (keyword == "const") return argument == value;
    const auto accepts = [&](const Value& part) { return Accepts(part, value); };
    if (keyword == "anyOf" || keyword == "oneOf") return std::any_of(argument.begin(), argument.end(), accepts);
    if (keyword == "allOf") return std::all_of(argument.begin(), argument.end(), accepts);
    if (value.is_object()) return HoldsOfObject(keyword, argument, schema, value);
    if (value.is_array()) return HoldsOfArray(keyword, argument, schema, value);
    if (value.is_string()) {
      const std::string text = value;
      if (keyword == "minLength") return Length(text) >= argument.get<size_t>();
      if (keyword == "maxLength") return Length(text) <= argument.get<size_t>();
      if (keyword == "pattern") return std::regex_search(Wide(text), std::wregex(Wide(argument.get<std::string>())));
    }
    if (value.is_number()) {
      const double number = value, bound = argument.is_number() ? argument.get<double>() : 0;
      if (keyword == "minimum") return number >= bound;
      if (keyword == "maximum") return number <= bound;
      if (keyword == "exclusiveMinimum") return number > bound;
      if (keyword == "exclusiveMaximum") return number < bound;
    }
    return true;
  }

  bool HoldsOfObject(const std::string& keyword, const Value& argument, const Value& schema, const Value& value) const {
    if (keyword == "properties") {
      for (const auto& [name, property] : argument.items()) {
        if (value.contains(name) && !Accepts(property, value[name])) return false;
      }
    }
    if (keyword == "required") {
      for (const Value& name : argument) {
        if (!value.contains(name.get<std::string>())) return false;
      }
    }
    if (keyword == "additionalProperties") {
      for (const auto& [name, member] : value.items()) {
        if (schema.contains("properties") && schema["properties"].contains(name)) continue;
        if (!Accepts(argument, member)) return false;
      }
    }
    if (keyword == "minProperties") return value.size() >= argument.get<size_t>();
    if (keyword == "maxProperties") return value.size() <= argument.get<size_t>();
    return true;
  }

  bool HoldsOfArray(const std::string& keyword, const Value& argument, const Value& schema, const Value& value) const {
    const size_t fixed = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
    if (keyword == "minItems") return value.size() >= argument.get<size_t>();
    if (keyword == "maxItems") return value.size() <= argument.get<size_t>();
    for (size_t i = 0; i < value.size(); ++i) {
      if (keyword == "items" && i >= fixed && !Accepts(argument, value[i])) return false;
      if (keyword == "prefixItems" && i < fixed && !Accepts(argument[i], value[i])) return false;
    }
    return true;
  }

  const Value root_;
};

}  // namespace qamserve
