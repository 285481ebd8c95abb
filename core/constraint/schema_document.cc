#include "core/constraint/schema_document.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <utility>

#include "core/format/json_text.h"

namespace qamserve::constraint {
namespace {

constexpr int kMaxMergeDepth = 200;

// Looks at sizes before anything is built.
class SizeCheck : public nlohmann::json_sax<Schema> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return Open(); }
  bool key(string_t&) override {
    if (++members_.back() <= kMaxSchemaMembers) return true;
    status =
        ResourceExhausted("CONSTRAINT_SIZE", "an object of the schema has more than {} members", kMaxSchemaMembers);
    return false;
  }
  bool end_object() override { return Close(); }
  bool start_array(size_t) override { return Open(); }
  bool end_array() override { return Close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (status.ok()) status = InvalidArgument("CONSTRAINT_INVALID", "byte {} of the schema: not JSON", position);
    return false;
  }

  absl::Status status;

 private:
  bool Open() {
    members_.push_back(0);
    if (members_.size() <= static_cast<size_t>(kMaxJsonDepth)) return true;
    status = InvalidArgument("CONSTRAINT_INVALID", "the schema nests deeper than {} levels", kMaxJsonDepth);
    return false;
  }
  bool Close() {
    members_.pop_back();
    return true;
  }
  std::vector<size_t> members_;
};

enum class ValueType { kObject, kArray, kString, kNumber, kCount, kBool, kNames, kSchema, kAny };

struct Keyword {
  std::string_view name;
  ValueType type;
};

constexpr Keyword kKeywords[] = {{"type", ValueType::kAny},
                                 {"nullable", ValueType::kBool},
                                 {"enum", ValueType::kArray},
                                 {"const", ValueType::kAny},
                                 {"anyOf", ValueType::kArray},
                                 {"oneOf", ValueType::kArray},
                                 {"allOf", ValueType::kArray},
                                 {"$ref", ValueType::kString},
                                 {"properties", ValueType::kObject},
                                 {"required", ValueType::kNames},
                                 {"additionalProperties", ValueType::kSchema},
                                 {"minProperties", ValueType::kCount},
                                 {"maxProperties", ValueType::kCount},
                                 {"items", ValueType::kAny},
                                 {"prefixItems", ValueType::kArray},
                                 {"additionalItems", ValueType::kSchema},
                                 {"minItems", ValueType::kCount},
                                 {"maxItems", ValueType::kCount},
                                 {"minLength", ValueType::kCount},
                                 {"maxLength", ValueType::kCount},
                                 {"pattern", ValueType::kString},
                                 {"format", ValueType::kString},
                                 {"minimum", ValueType::kNumber},
                                 {"maximum", ValueType::kNumber},
                                 {"exclusiveMinimum", ValueType::kNumber},
                                 {"exclusiveMaximum", ValueType::kNumber}};

constexpr std::string_view kUnsupported[] = {"not",
                                             "if",
                                             "then",
                                             "else",
                                             "patternProperties",
                                             "propertyNames",
                                             "dependencies",
                                             "dependentRequired",
                                             "dependentSchemas",
                                             "contains",
                                             "minContains",
                                             "maxContains",
                                             "unevaluatedItems",
                                             "unevaluatedProperties",
                                             "$dynamicRef",
                                             "$recursiveRef"};

const Keyword* FindKeyword(std::string_view name) {
  const auto* found = std::ranges::find(kKeywords, name, &Keyword::name);
  return found == std::end(kKeywords) ? nullptr : found;
}

bool HasType(const Schema& value, ValueType type) {
  switch (type) {
    case ValueType::kObject:
      return value.is_object();
    case ValueType::kArray:
      return value.is_array();
    case ValueType::kString:
      return value.is_string();
    case ValueType::kNumber:
      return value.is_number();
    // A count may be written 1.0.
    case ValueType::kCount:
      return value.is_number() && value.get<double>() >= 0 && std::trunc(value.get<double>()) == value.get<double>();
    case ValueType::kBool:
      return value.is_boolean();
    case ValueType::kNames:
      return value.is_array() && std::ranges::all_of(value, [](const Schema& s) { return s.is_string(); });
    case ValueType::kSchema:
      return value.is_object() || value.is_boolean();
    case ValueType::kAny:
      return true;
  }
  return false;
}

constexpr std::string_view kTypeNames[] = {
    "an object",           "an array", "a string", "a number", "a whole number from 0 on", "true or false",
    "an array of strings", "a schema", "any value"};

bool HasNoEffect(const Schema& schema, std::string_view keyword, const Schema& value) {
  if (keyword == "uniqueItems") return value == false;
  if (keyword == "multipleOf") return value == 1 && schema.value("type", Schema()) == "integer";
  if (keyword == "unevaluatedItems" || keyword == "unevaluatedProperties") return value == true;
  return false;
}

bool IsRestrictive(std::string_view keyword) {
  return keyword == "uniqueItems" || keyword == "multipleOf" ||
         std::ranges::find(kUnsupported, keyword) != std::end(kUnsupported);
}

std::string Unescaped(std::string_view token) {
  std::string out;
  for (size_t i = 0; i < token.size(); ++i) {
    unsigned code = 0;
    if (token[i] == '%' && i + 2 < token.size() &&
        std::from_chars(token.data() + i + 1, token.data() + i + 3, code, 16).ptr == token.data() + i + 3) {
      out += static_cast<char>(code);
      i += 2;
    } else {
      out += token[i];
    }
  }
  // ~1 is '/', ~0 is '~' (RFC 6901).
  std::string plain;
  for (size_t i = 0; i < out.size(); ++i) {
    const bool escape = out[i] == '~' && i + 1 < out.size() && (out[i + 1] == '0' || out[i + 1] == '1');
    plain += escape ? (out[i + 1] == '1' ? '/' : '~') : out[i];
    if (escape) ++i;
  }
  return plain;
}

// Makes one object schema of several, keyword by keyword.
class Merger {
 public:
  Merger(const SchemaDocument& document, const std::string& where) : document_(document), where_(where) {}

  absl::Status Add(const Schema& schema, int depth = 0);
  absl::StatusOr<Schema> Finish();

 private:
  // What one of the schemas says about members.
  struct Members {
    std::set<std::string> names;
    Schema additional;  // null if it does not say
  };

  absl::Status AddKeyword(const std::string& keyword, const Schema& value);
  void Require(bool holds) { impossible_ = impossible_ || !holds; }
  void AddTypes(const Schema& value);
  void AddValues(const Schema& values);
  static void AddSchema(Schema& to, const Schema& schema);

  const SchemaDocument& document_;
  const std::string& where_;
  Schema merged_ = Schema::object();
  std::vector<Members> members_;
  std::set<std::string> resolved_;
  bool impossible_ = false;
};

absl::Status Merger::Add(const Schema& schema, int depth) {
  if (depth > kMaxMergeDepth) {
    return ResourceExhausted("CONSTRAINT_SIZE", "{}: more than {} references and \"allOf\" within one another", where_,
                             kMaxMergeDepth);
  }
  RETURN_IF_ERROR(CheckKeywords(schema, where_));
  if (schema.is_boolean()) {
    Require(schema.get<bool>());
    return absl::OkStatus();
  }
  // What refers to itself says nothing more the second time.
  if (const auto reference = schema.find("$ref"); reference != schema.end()) {
    if (resolved_.insert(reference->get<std::string>()).second) {
      ASSIGN_OR_RETURN(const Schema* target, document_.Resolve(*reference, where_));
      RETURN_IF_ERROR(Add(*target, depth + 1));
    }
  }
  if (const auto all = schema.find("allOf"); all != schema.end()) {
    for (const Schema& part : *all) RETURN_IF_ERROR(Add(part, depth + 1));
  }
  Members members;
  if (const auto properties = schema.find("properties"); properties != schema.end()) {
    for (const auto& [name, value] : properties->items()) members.names.insert(name);
  }
  if (const auto more = schema.find("additionalProperties"); more != schema.end()) members.additional = *more;
  members_.push_back(std::move(members));
  for (const auto& [keyword, value] : schema.items()) RETURN_IF_ERROR(AddKeyword(keyword, value));
  return absl::OkStatus();
}

// Both must hold: a list in allOf that grows, or the schema alone.
void Merger::AddSchema(Schema& to, const Schema& schema) {
  if (to.is_null()) {
    to = schema;
    return;
  }
  if (to == schema) return;
  const bool is_list = to.is_object() && to.size() == 1 && to.contains("allOf");
  if (!is_list) to = Schema{{"allOf", Schema::array({to})}};
  Schema& list = to["allOf"];
  if (std::ranges::find(list, schema) == list.end()) list.push_back(schema);
}

void Merger::AddTypes(const Schema& value) {
  const Schema own = value.is_array() ? value : Schema::array({value});
  if (!merged_.contains("type")) {
    merged_["type"] = own;
    return;
  }
  Schema both = Schema::array();
  for (const Schema& type : merged_["type"]) {
    for (const Schema& other : own) {
      if (type == other) both.push_back(type);
      if ((type == "number" && other == "integer") || (type == "integer" && other == "number"))
        both.push_back("integer");
    }
  }
  Require(!both.empty());
  merged_["type"] = std::move(both);
}

void Merger::AddValues(const Schema& values) {
  if (!merged_.contains("enum")) {
    merged_["enum"] = values;
    return;
  }
  Schema both = Schema::array();
  for (const Schema& value : merged_["enum"]) {
    if (std::ranges::find(values, value) != values.end()) both.push_back(value);
  }
  Require(!both.empty());
  merged_["enum"] = std::move(both);
}

absl::Status Merger::AddKeyword(const std::string& keyword, const Schema& value) {
  if (keyword == "$ref" || keyword == "allOf" || keyword == "additionalProperties" || IsAnnotation(keyword)) {
    return absl::OkStatus();
  }
  if (keyword == "type") {
    AddTypes(value);
  } else if (keyword == "enum") {
    AddValues(value);
  } else if (keyword == "const") {
    AddValues(Schema::array({value}));
  } else if (keyword == "properties") {
    for (const auto& [name, schema] : value.items()) AddSchema(merged_["properties"][name], schema);
  } else if (keyword == "required") {
    Schema& names = merged_["required"];
    if (names.is_null()) names = Schema::array();
    for (const Schema& name : value) {
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  } else if (!merged_.contains(keyword)) {
    merged_[keyword] = value;
  } else if (merged_[keyword] == value) {
    // It says the same.
  } else if (keyword.starts_with("min") || keyword == "exclusiveMinimum") {
    if (merged_[keyword] < value) merged_[keyword] = value;
  } else if (keyword.starts_with("max") || keyword == "exclusiveMaximum") {
    if (merged_[keyword] > value) merged_[keyword] = value;
  } else if (keyword == "items" && value.is_object() && merged_[keyword].is_object()) {
    AddSchema(merged_[keyword], value);
  } else {
    return InvalidArgument("CONSTRAINT_INVALID",
                           "{}: two schemas that must both hold have \"{}\"; that is not supported", where_, keyword);
  }
  return absl::OkStatus();
}

absl::StatusOr<Schema> Merger::Finish() {
  if (impossible_) return Schema(false);
  const auto count = [&](const char* keyword) { return merged_.contains(keyword); };
  if (count("prefixItems") && members_.size() > 1 && count("items") && merged_["items"].is_object()) {
    return InvalidArgument("CONSTRAINT_INVALID",
                           "{}: \"prefixItems\" and \"items\" of schemas that must both hold are not supported",
                           where_);
  }
  Schema additional;
  for (const Members& members : members_) {
    if (!members.additional.is_null()) AddSchema(additional, members.additional);
  }
  // A property that one schema names is an additional one to those that do not.
  if (merged_.contains("properties")) {
    Schema kept = Schema::object();
    for (const auto& [name, schema] : merged_["properties"].items()) {
      Schema all = schema;
      for (const Members& members : members_) {
        if (!members.additional.is_null() && !members.names.contains(name)) AddSchema(all, members.additional);
      }
      kept[name] = std::move(all);
    }
    merged_["properties"] = std::move(kept);
  }
  if (!additional.is_null()) merged_["additionalProperties"] = std::move(additional);
  return std::move(merged_);
}

}  // namespace

bool IsAnnotation(std::string_view keyword) { return FindKeyword(keyword) == nullptr && !IsRestrictive(keyword); }

absl::Status CheckKeywords(const Schema& schema, const std::string& where) {
  if (schema.is_boolean()) return absl::OkStatus();
  if (!schema.is_object())
    return InvalidArgument("CONSTRAINT_INVALID", "{}: a schema is an object, true or false", where);
  for (const auto& [name, value] : schema.items()) {
    if (IsRestrictive(name) && !HasNoEffect(schema, name, value)) {
      return InvalidArgument("CONSTRAINT_INVALID", "{}/{}: the keyword \"{}\" is not supported", where, name, name);
    }
    const Keyword* keyword = FindKeyword(name);
    if (keyword == nullptr || HasType(value, keyword->type)) continue;
    return InvalidArgument("CONSTRAINT_INVALID", "{}/{}: the value of \"{}\" must be {}", where, name, name,
                           kTypeNames[static_cast<size_t>(keyword->type)]);
  }
  return absl::OkStatus();
}

absl::StatusOr<SchemaDocument> SchemaDocument::Parse(std::string_view text) {
  SizeCheck check;
  const bool is_json = Schema::sax_parse(text, &check);
  RETURN_IF_ERROR(check.status);
  SchemaDocument document;
  document.root_ = Schema::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!is_json || document.root_.is_discarded()) return InvalidArgument("CONSTRAINT_INVALID", "the schema is not JSON");
  return document;
}

absl::StatusOr<const Schema*> SchemaDocument::Resolve(const Schema& reference, const std::string& where) const {
  const auto& text = reference.get_ref<const std::string&>();
  if (!text.starts_with('#') || (text.size() > 1 && text[1] != '/')) {
    return InvalidArgument("CONSTRAINT_INVALID", "{}/$ref: \"{}\" does not begin with \"#/\"; only such are supported",
                           where, text);
  }
  const Schema* at = &root_;
  for (size_t begin = 1; begin < text.size();) {
    const size_t end = std::min(text.find('/', begin + 1), text.size());
    const std::string token = Unescaped(std::string_view(text).substr(begin + 1, end - begin - 1));
    const Schema* next = nullptr;
    if (at->is_object()) {
      const auto found = at->find(token);
      if (found != at->end()) next = &*found;
    } else if (at->is_array()) {
      size_t index = at->size();
      const auto [last, error] = std::from_chars(token.data(), token.data() + token.size(), index);
      if (error == std::errc() && last == token.data() + token.size() && index < at->size()) next = &(*at)[index];
    }
    if (next == nullptr) {
      return InvalidArgument("CONSTRAINT_INVALID", "{}/$ref: nothing stands at \"{}\"", where, text);
    }
    at = next;
    begin = end;
  }
  return at;
}

absl::StatusOr<Schema> SchemaDocument::Merge(const std::vector<Schema>& schemas, const std::string& where) const {
  Merger merger(*this, where);
  for (const Schema& schema : schemas) RETURN_IF_ERROR(merger.Add(schema));
  return merger.Finish();
}

}  // namespace qamserve::constraint
