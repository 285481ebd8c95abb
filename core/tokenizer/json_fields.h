// Reading fields of a parsed JSON object with errors that name them. Nothing here throws.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

using Json = nlohmann::json;

// The member of an object; null if it is absent, a JSON null, or `object` is not an object.
const Json* FindField(const Json& object, std::string_view name);

// The "type" of a component such as a normalizer, or "" if it has none.
std::string TypeOf(const Json& component);

// Members with a default for absent or null ones; another type is INVALID_ARGUMENT (TOKENIZER_INVALID).
absl::StatusOr<bool> BoolField(const Json& object, std::string_view name, bool otherwise);
absl::StatusOr<std::string> StringField(const Json& object, std::string_view name, std::string_view otherwise);
absl::StatusOr<int64_t> IntField(const Json& object, std::string_view name, int64_t otherwise);

// The text of a token that is written "text" or {"content": "text"}; "" if it is neither.
std::string TokenText(const Json& value);

// "pattern": {"String": "x"} or {"Regex": "x"}.
struct PatternField {
  std::string text;
  bool is_regex = false;
};
absl::StatusOr<PatternField> ReadPattern(const Json& component);

}  // namespace qamserve
