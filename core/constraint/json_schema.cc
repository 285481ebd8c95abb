#include "core/constraint/json_schema.h"

#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/constraint/json_parts.h"
#include "core/constraint/number_range.h"
#include "core/constraint/object_members.h"
#include "core/constraint/pattern.h"
#include "core/constraint/schema_document.h"
#include "core/constraint/string_formats.h"

namespace qamserve::constraint {
namespace {

using Node = Grammar::Node;

// Of all schemas that were compiled, those that merging made too.
constexpr size_t kMaxSchemaText = size_t{8} << 20;
// A limit above this is as good as none; below it repetitions are counted.
constexpr double kNoLimit = kMaxRepetitions;
constexpr int64_t kLargestInteger = 999'999'999'999'999;  // kMaxNumberDigits nines

// The keywords that say something about one type only.
struct TypeKeywords {
  std::string_view type;
  std::vector<std::string_view> keywords;
};

std::vector<TypeKeywords> KeywordsByType() {
  return {{"object", {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}},
          {"array", {"items", "prefixItems", "additionalItems", "minItems", "maxItems"}},
          {"string", {"minLength", "maxLength", "pattern", "format"}},
          {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}}};
}

bool IsOfType(const Schema& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_number_integer() || (value.is_number() && std::trunc(value.get<double>()) == value.get<double>());
}

// The count that a keyword gives; `absent` without it.
uint32_t CountOf(const Schema& schema, const char* keyword, uint32_t absent) {
  const auto found = schema.find(keyword);
  if (found == schema.end()) return absent;
  return static_cast<uint32_t>(std::min(found->get<double>(), kNoLimit + 1));
}

// Of a maximum: no longer answers than kMaxRepetitions, whatever the schema allows beyond.
uint32_t LimitOf(const Schema& schema, const char* keyword) {
  const uint32_t count = CountOf(schema, keyword, kUnbounded);
  return count == kUnbounded ? kUnbounded : std::min(count, kMaxRepetitions);
}

class SchemaCompiler {
 public:
  SchemaCompiler(const SchemaDocument& document, Grammar& grammar)
      : document_(document), grammar_(grammar), parts_(grammar) {}

  absl::StatusOr<uint32_t> Compile() {
    ASSIGN_OR_RETURN(const uint32_t root, RuleOf(document_.root(), "#"));
    while (!waiting_.empty()) {
      const Waiting next = std::move(waiting_.front());
      waiting_.pop_front();
      ASSIGN_OR_RETURN(const Node body, Body(next.schema, next.where));
      grammar_.SetRule(next.rule, body);
      RETURN_IF_ERROR(grammar_.status());
    }
    return root;
  }

 private:
  struct Waiting {
    uint32_t rule;
    Schema schema;
    std::string where;
  };

  absl::StatusOr<uint32_t> RuleOf(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> NodeOf(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> Body(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> AnyOf(const Schema& schema, const std::string& keyword, const std::string& where);
  absl::StatusOr<Node> Values(const Schema& schema, const std::string& where);
  absl::StatusOr<std::vector<std::string>> TypesOf(const Schema& schema, const std::string& where) const;
  absl::StatusOr<Node> OfType(const std::string& type, const Schema& schema, const std::string& where);
  absl::StatusOr<Node> String(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> Integer(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> Number(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> Array(const Schema& schema, const std::string& where);
  absl::StatusOr<Node> Object(const Schema& schema, const std::string& where);
  absl::StatusOr<std::vector<Property>> PropertiesOf(const Schema& schema, const Schema& additional,
                                                     const std::string& where);

  const SchemaDocument& document_;
  Grammar& grammar_;
  JsonParts parts_;
  absl::flat_hash_map<std::string, uint32_t> rules_;  // by the text of the schema: equal schemas are one rule
  std::deque<Waiting> waiting_;                       // rules without bodies, so that nothing recurses
  size_t text_bytes_ = 0;
};

absl::StatusOr<uint32_t> SchemaCompiler::RuleOf(const Schema& schema, const std::string& where) {
  const std::string text = schema.dump();
  text_bytes_ += text.size();
  if (text_bytes_ > kMaxSchemaText) {
    return ResourceExhausted(
        "CONSTRAINT_SIZE", "the schema has more than {} bytes with \"allOf\" and \"$ref\" written out", kMaxSchemaText);
  }
  const auto found = rules_.find(text);
  if (found != rules_.end()) return found->second;
  RETURN_IF_ERROR(CheckKeywords(schema, where));
  const uint32_t rule = grammar_.AddRule(where);
  RETURN_IF_ERROR(grammar_.status());
  rules_[text] = rule;
  waiting_.push_back({rule, schema, where});
  return rule;
}

absl::StatusOr<Node> SchemaCompiler::NodeOf(const Schema& schema, const std::string& where) {
  ASSIGN_OR_RETURN(const uint32_t rule, RuleOf(schema, where));
  return grammar_.Rule(rule);
}

absl::StatusOr<Node> SchemaCompiler::Body(const Schema& schema, const std::string& where) {
  if (schema.is_boolean()) return schema.get<bool>() ? parts_.Value() : grammar_.Never();
  const auto says_more = [&](std::string_view than) {
    return std::ranges::any_of(schema.items(),
                               [&](const auto& entry) { return entry.key() != than && !IsAnnotation(entry.key()); });
  };
  if (schema.contains("$ref") && !says_more("$ref")) {
    ASSIGN_OR_RETURN(const Schema* target, document_.Resolve(schema["$ref"], where));
    return NodeOf(*target, schema["$ref"].get<std::string>());
  }
  if (schema.contains("$ref") || schema.contains("allOf")) {
    ASSIGN_OR_RETURN(const Schema merged, document_.Merge({schema}, where));
    return NodeOf(merged, where);
  }
  for (const char* keyword : {"anyOf", "oneOf"}) {
    if (schema.contains(keyword)) return AnyOf(schema, keyword, where);
  }
  if (schema.contains("enum") || schema.contains("const")) return Values(schema, where);
  ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(schema, where));
  if (types.empty()) return parts_.Value();
  std::vector<Node> ways;
  for (const std::string& type : types) {
    ASSIGN_OR_RETURN(const Node way, OfType(type, schema, where));
    ways.push_back(way);
  }
  return grammar_.Alternatives(ways);
}

// What else the schema says must hold for each of the alternatives.
absl::StatusOr<Node> SchemaCompiler::AnyOf(const Schema& schema, const std::string& keyword, const std::string& where) {
  Schema rest = Schema::object();
  for (const auto& [name, value] : schema.items()) {
    if (name != keyword && !IsAnnotation(name)) rest[name] = value;
  }
  std::vector<Node> ways;
  for (const Schema& alternative : schema[keyword]) {
    const std::string place = fmt::format("{}/{}/{}", where, keyword, ways.size());
    RETURN_IF_ERROR(CheckKeywords(alternative, place));
    const Schema both = rest.empty() ? alternative : Schema{{"allOf", Schema::array({rest, alternative})}};
    ASSIGN_OR_RETURN(const Node way, NodeOf(both, place));
    ways.push_back(way);
  }
  return grammar_.Alternatives(ways);
}

absl::StatusOr<Node> SchemaCompiler::Values(const Schema& schema, const std::string& where) {
  for (const TypeKeywords& of_type : KeywordsByType()) {
    for (const std::string_view keyword : of_type.keywords) {
      if (!schema.contains(keyword)) continue;
      return InvalidArgument("CONSTRAINT_INVALID", "{}/{}: \"{}\" beside \"enum\" or \"const\" is not supported", where,
                             keyword, keyword);
    }
  }
  Schema values = schema.contains("enum") ? schema["enum"] : Schema::array({schema["const"]});
  ASSIGN_OR_RETURN(const std::vector<std::string> types, TypesOf(schema, where));
  std::vector<std::string> texts;
  for (const Schema& value : values) {
    const bool fits =
        types.empty() || std::ranges::any_of(types, [&](const auto& type) { return IsOfType(value, type); });
    const bool both = !schema.contains("const") || value == schema["const"];
    if (fits && both) texts.push_back(value.dump());
  }
  return grammar_.OneOf(std::move(texts));
}

// Those that are named, or those that the keywords are about; none if nothing tells.
absl::StatusOr<std::vector<std::string>> SchemaCompiler::TypesOf(const Schema& schema, const std::string& where) const {
  constexpr std::string_view kTypes[] = {"object", "array", "string", "number", "integer", "boolean", "null"};
  std::vector<std::string> types;
  if (schema.contains("type")) {
    const Schema named = schema["type"].is_array() ? schema["type"] : Schema::array({schema["type"]});
    for (const Schema& type : named) {
      if (!type.is_string() || std::ranges::find(kTypes, type.get<std::string>()) == std::end(kTypes)) {
        return InvalidArgument("CONSTRAINT_INVALID", "{}/type: {} is no type of JSON schema", where, type.dump());
      }
      if (std::ranges::find(types, type.get<std::string>()) == types.end()) types.push_back(type);
    }
    if (types.empty()) return InvalidArgument("CONSTRAINT_INVALID", "{}/type: no type is named", where);
    if (schema.value("nullable", false) && std::ranges::find(types, "null") == types.end()) types.emplace_back("null");
    return types;
  }
  for (const TypeKeywords& of_type : KeywordsByType()) {
    const bool is_meant = std::ranges::any_of(of_type.keywords, [&](auto keyword) { return schema.contains(keyword); });
    if (is_meant) types.emplace_back(of_type.type);
  }
  return types;
}

absl::StatusOr<Node> SchemaCompiler::OfType(const std::string& type, const Schema& schema, const std::string& where) {
  if (type == "null") return grammar_.Literal("null");
  if (type == "boolean") return grammar_.OneOf({"true", "false"});
  if (type == "string") return String(schema, where);
  if (type == "integer") return Integer(schema, where);
  if (type == "number") return Number(schema, where);
  return type == "array" ? Array(schema, where) : Object(schema, where);
}

absl::StatusOr<Node> SchemaCompiler::String(const Schema& schema, const std::string& where) {
  const auto pattern = schema.find("pattern");
  const auto format = schema.find("format");
  const bool has_length = schema.contains("minLength") || schema.contains("maxLength");
  if ((pattern != schema.end()) + (format != schema.end()) + (has_length ? 1 : 0) > 1) {
    return InvalidArgument("CONSTRAINT_INVALID",
                           "{}: only one of \"pattern\", \"format\" and lengths is supported for one string", where);
  }
  if (pattern != schema.end()) {
    const PatternOptions options{.encode = JsonCharacter, .search = true};
    const absl::StatusOr<Node> text = AddPattern(pattern->get_ref<const std::string&>(), grammar_, options);
    if (!text.ok()) return Annotate(text.status(), fmt::format("{}/pattern", where));
    return parts_.Quoted(*text);
  }
  if (format != schema.end()) {
    const std::optional<std::string_view> expression = FormatPattern(format->get_ref<const std::string&>());
    if (!expression) {
      return InvalidArgument("CONSTRAINT_INVALID", "{}/format: the format \"{}\" is not supported; there are {}", where,
                             format->get<std::string>(), FormatNames());
    }
    ASSIGN_OR_RETURN(const Node text, AddPattern(*expression, grammar_));
    return parts_.Quoted(text);
  }
  const uint32_t min = CountOf(schema, "minLength", 0);
  const uint32_t max = LimitOf(schema, "maxLength");
  return min <= max ? parts_.StringOf(min, max) : grammar_.Never();
}

absl::StatusOr<Node> SchemaCompiler::Integer(const Schema& schema, const std::string& where) {
  // Whole numbers within bounds that need not be whole.
  std::optional<int64_t> low, high;
  for (const char* keyword : {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}) {
    const auto found = schema.find(keyword);
    if (found == schema.end()) continue;
    const bool is_low = std::string_view(keyword).ends_with("inimum");
    const bool exclusive = keyword[0] == 'e';
    int64_t bound = 0;
    bool whole = true;
    if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
      whole = false;
      bound = INT64_MAX;
    } else if (found->is_number_integer()) {
      bound = found->get<int64_t>();
    } else {
      const double value = found->get<double>();
      constexpr double kEdge = 9.2e18;
      whole = std::trunc(value) == value;
      // Between doubles of this size there are integers; none of them is meant.
      if (!(std::abs(value) < 9e15)) {
        if ((value > 0) == is_low || !(std::abs(value) <= kEdge)) {
          return InvalidArgument("CONSTRAINT_INVALID", "{}/{}: {} is out of range for an integer", where, keyword,
                                 found->dump());
        }
        whole = false;
      }
      bound = static_cast<int64_t>(is_low ? std::ceil(value) : std::floor(value));
    }
    if (exclusive && whole) {
      if (bound == (is_low ? INT64_MAX : INT64_MIN)) return grammar_.Never();
      bound += is_low ? 1 : -1;
    }
    if (is_low) low = std::max(bound, low.value_or(bound));
    if (!is_low) high = std::min(bound, high.value_or(bound));
  }
  if (!low && !high) return parts_.Integer();
  const int64_t from = low.value_or(*(high ? high : low) < -kLargestInteger ? INT64_MIN : -kLargestInteger);
  const int64_t to = high.value_or(from > kLargestInteger ? INT64_MAX : kLargestInteger);
  return from <= to ? IntegerRange(grammar_, from, to) : grammar_.Never();
}

absl::StatusOr<Node> SchemaCompiler::Number(const Schema& schema, const std::string& where) {
  std::optional<NumberBound> low, high;
  for (const char* keyword : {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"}) {
    const auto found = schema.find(keyword);
    if (found == schema.end()) continue;
    const bool is_low = std::string_view(keyword).ends_with("inimum");
    std::optional<NumberBound>& bound = is_low ? low : high;
    // The exclusive one comes second: it holds unless the other is stricter.
    if (bound) {
      const double first = schema[is_low ? "minimum" : "maximum"].get<double>();
      const double second = found->get<double>();
      if (is_low ? first > second : first < second) continue;
    }
    absl::StatusOr<NumberBound> parsed = ParseNumberBound(found->dump(), keyword[0] == 'e');
    if (!parsed.ok()) return Annotate(parsed.status(), fmt::format("{}/{}", where, keyword));
    bound = std::move(*parsed);
  }
  return low || high ? NumberRange(grammar_, low, high) : parts_.Number();
}

absl::StatusOr<Node> SchemaCompiler::Array(const Schema& schema, const std::string& where) {
  // Earlier drafts write prefixItems as an array of items, and items as additionalItems.
  const bool is_tuple = schema.contains("items") && schema["items"].is_array();
  const char* first_keyword = is_tuple ? "items" : "prefixItems";
  const char* rest_keyword = is_tuple ? "additionalItems" : "items";
  std::vector<Node> first;
  if (schema.contains(first_keyword)) {
    for (const Schema& item : schema[first_keyword]) {
      const std::string place = fmt::format("{}/{}/{}", where, first_keyword, first.size());
      ASSIGN_OR_RETURN(const Node node, NodeOf(item, place));
      first.push_back(node);
    }
  }
  std::optional<Node> rest;
  if (schema.contains(rest_keyword)) {
    ASSIGN_OR_RETURN(rest, NodeOf(schema[rest_keyword], fmt::format("{}/{}", where, rest_keyword)));
  } else if (first.empty()) {
    rest = parts_.Value();
  }
  const auto fixed = static_cast<uint32_t>(first.size());
  const uint32_t max = rest ? LimitOf(schema, "maxItems") : std::min(LimitOf(schema, "maxItems"), fixed);
  const uint32_t min = CountOf(schema, "minItems", std::min(fixed, max));
  if (min > max) return grammar_.Never();
  return ArrayItems(grammar_, parts_, first, rest, min, max);
}

absl::StatusOr<std::vector<Property>> SchemaCompiler::PropertiesOf(const Schema& schema, const Schema& additional,
                                                                   const std::string& where) {
  std::set<std::string> required;
  if (schema.contains("required")) {
    for (const Schema& name : schema["required"]) required.insert(name.get<std::string>());
  }
  std::vector<Property> properties;
  if (schema.contains("properties")) {
    for (const auto& [name, value] : schema["properties"].items()) {
      ASSIGN_OR_RETURN(const Node node, NodeOf(value, fmt::format("{}/properties/{}", where, name)));
      properties.push_back({name, node, required.erase(name) > 0});
    }
  }
  if (!schema.contains("required")) return properties;
  for (const Schema& name : schema["required"]) {
    if (required.erase(name.get<std::string>()) == 0) continue;
    ASSIGN_OR_RETURN(const Node node, NodeOf(additional, fmt::format("{}/additionalProperties", where)));
    properties.push_back({name.get<std::string>(), node, true});
  }
  return properties;
}

absl::StatusOr<Node> SchemaCompiler::Object(const Schema& schema, const std::string& where) {
  const bool says = schema.contains("additionalProperties");
  const Schema additional = says ? schema["additionalProperties"] : Schema(true);
  ASSIGN_OR_RETURN(const std::vector<Property> properties, PropertiesOf(schema, additional, where));
  const uint32_t min = CountOf(schema, "minProperties", 0);
  const uint32_t max = LimitOf(schema, "maxProperties");
  // Where properties are named and nothing is said of others, there are none: narrower than the schema, and what is
  // meant.
  const bool open = additional != false && (says || !schema.contains("properties"));
  if (properties.empty() && open) {
    // Two members may have one name, so that only the first is sure to count.
    if (min > 1) {
      return InvalidArgument("CONSTRAINT_INVALID",
                             "{}/minProperties: more than 1 is not supported for unnamed properties", where);
    }
    if (!says && min == 0 && max == kUnbounded) return parts_.Object();
    ASSIGN_OR_RETURN(const Node value, NodeOf(additional, fmt::format("{}/additionalProperties", where)));
    return OpenObject(grammar_, parts_, value, min, max);
  }
  const auto required = static_cast<uint32_t>(std::ranges::count_if(properties, &Property::required));
  if (min > required || (max != kUnbounded && (open || max < properties.size()))) {
    return InvalidArgument(
        "CONSTRAINT_INVALID",
        "{}: \"minProperties\" and \"maxProperties\" beside named properties are only supported where "
        "they change nothing",
        where);
  }
  std::optional<Node> other;
  if (open) {
    ASSIGN_OR_RETURN(const Node value, NodeOf(additional, fmt::format("{}/additionalProperties", where)));
    std::vector<std::string> names;
    names.reserve(properties.size());
    for (const Property& property : properties) names.push_back(property.name);
    ASSIGN_OR_RETURN(const Node name, parts_.NameOtherThan(std::move(names)));
    other = parts_.Member(name, value);
  }
  return ObjectMembers(grammar_, parts_, properties, other, where).Build();
}

}  // namespace

absl::StatusOr<uint32_t> AddJsonSchema(std::string_view text, Grammar& grammar) {
  ASSIGN_OR_RETURN(const SchemaDocument document, SchemaDocument::Parse(text));
  return SchemaCompiler(document, grammar).Compile();
}

}  // namespace qamserve::constraint
