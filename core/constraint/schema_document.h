// A JSON schema as it was sent: its text checked, its references found, and several schemas made one where a value must
// satisfy them all (allOf, and whatever stands beside $ref, anyOf and oneOf). Const after Parse.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve::constraint {

// Members keep their order: it is that of the properties in an answer.
using Schema = nlohmann::ordered_json;

inline constexpr size_t kMaxSchemaMembers = 2048;  // of one object

// Keywords that say nothing about which values are valid, and such as no known dialect has.
bool IsAnnotation(std::string_view keyword);
// INVALID_ARGUMENT (CONSTRAINT_INVALID) names a keyword that restricts values and is not supported, or one whose value
// has the wrong type. `where` is the JSON pointer of `schema`, which must be an object or a boolean.
absl::Status CheckKeywords(const Schema& schema, const std::string& where);

class SchemaDocument {
 public:
  // INVALID_ARGUMENT (CONSTRAINT_INVALID) if `text` is not JSON or nests deeper than 64 levels, with the byte;
  // RESOURCE_EXHAUSTED (CONSTRAINT_SIZE) for more than kMaxSchemaMembers.
  static absl::StatusOr<SchemaDocument> Parse(std::string_view text);

  const Schema& root() const { return root_; }
  // What "#/..." points to. INVALID_ARGUMENT (CONSTRAINT_INVALID).
  absl::StatusOr<const Schema*> Resolve(const Schema& reference, const std::string& where) const;
  // One schema for what satisfies all of `schemas`, without $ref and allOf in itself; `false` where nothing does.
  // INVALID_ARGUMENT (CONSTRAINT_INVALID) if it cannot be written as one.
  absl::StatusOr<Schema> Merge(const std::vector<Schema>& schemas, const std::string& where) const;

 private:
  Schema root_;
};

}  // namespace qamserve::constraint
