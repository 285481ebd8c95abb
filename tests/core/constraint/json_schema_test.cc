#include "core/constraint/json_schema.h"

#include "tests/core/constraint/constraint_testing.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

void ExpectMatches(const char* schema, std::initializer_list<const char*> good,
                   std::initializer_list<const char*> bad) {
  const Compiled compiled(ConstraintKind::kJsonSchema, schema);
  for (const char* text : good) EXPECT_TRUE(compiled.Matches(text)) << schema << " on " << text;
  for (const char* text : bad) EXPECT_FALSE(compiled.Matches(text)) << schema << " on " << text;
}

TEST(JsonSchemaTest, Types) {
  ExpectMatches(R"({"type": "null"})", {"null"}, {"", "nul", "null ", "0"});
  ExpectMatches(R"({"type": "boolean"})", {"true", "false"}, {"True", "1"});
  ExpectMatches(R"({"type": "integer"})", {"0", "-5", "123456789012345"},
                {"-0", "01", "1.0", "1e2", "+1", "", "-", "1234567890123456"});
  ExpectMatches(R"({"type": "number"})", {"0", "-0", "-0.5", "1e5", "1.25E-07", "123456789012345.123456789012345"},
                {".5", "1.", "01", "1e", "1e999", "0x1", "NaN", "--1"});
  ExpectMatches(R"({"type": ["string", "null"]})", {"\"\"", "null"}, {"0", "\"", "[]"});
  ExpectMatches(R"({"type": "string", "nullable": true})", {"\"x\"", "null"}, {"0"});
  ExpectMatches(R"({"type": "integer", "multipleOf": 1, "uniqueItems": false})", {"3"}, {"3.5"});
  ExpectMatches("true", {"1", "\"a\"", "[{\"a\": [null]}]"}, {"", "[1,]", "{\"a\"}"});
}

TEST(JsonSchemaTest, StringsAreWholeCharacters) {
  ExpectMatches(R"({"type": "string"})",
                {"\"\"", "\"é日😀\"", R"("\n\"\\\/\b\f\r\t")", R"("\u00e9\uD83D\uDE00\ue000\uD7FF")", "\"\x7F\""},
                {"\"\n\"", "\"\x01\"", R"("\x")", R"("\uD83D")", R"("\uDE00")", R"("\uD83Dx")", R"("\uD83D\u0041")",
                 "\"\xC3\"", "\"\xED\xA0\x80\"", "\"\xFF\"", "'a'", "\"a", R"("\u12")"});
}

TEST(JsonSchemaTest, StringLengthsCountCharacters) {
  ExpectMatches(R"({"type": "string", "minLength": 2, "maxLength": 3})",
                {"\"ab\"", "\"日本語\"", R"("\n\u0041x")", R"("\uD83D\uDE00a")"},
                {"\"a\"", "\"日本語x\"", "\"\"", R"("\uD83D\uDE00")"});
  ExpectMatches(R"({"minLength": 1})", {"\"a\""}, {"\"\"", "1"});
  ExpectMatches(R"({"maxLength": 0})", {"\"\""}, {"\"a\""});
  const Compiled longest(ConstraintKind::kJsonSchema,
                         R"({"type": "string", "minLength": 300, "maxLength": 2147483647})");
  EXPECT_FALSE(longest.Matches("\"" + std::string(299, 'a') + "\""));
  EXPECT_TRUE(longest.Matches("\"" + std::string(300, 'a') + "\""));
}

TEST(JsonSchemaTest, Patterns) {
  ExpectMatches(R"({"type": "string", "pattern": "^[a-z]+-\\d{2}$"})", {"\"ab-12\""},
                {"\"ab-1\"", "\"xab-12x\"", "\"-12\""});
  ExpectMatches(R"({"type": "string", "pattern": "b+"})", {"\"b\"", "\"abba\"", R"("\n\"b\\")"}, {"\"\"", "\"aca\""});
  ExpectMatches(R"({"type": "string", "pattern": "^a|b$"})", {"\"ax\"", "\"xb\"", "\"a\""}, {"\"xa\"", "\"bx\""});
  // What JSON writes with a backslash counts as the character that it means.
  ExpectMatches(R"({"type": "string", "pattern": "^\"\\\\\\n\\x01$"})", {R"("\"\\\n\u0001")"},
                {R"("\"\\n")", "\"\"\\\n\""});
}

TEST(JsonSchemaTest, Formats) {
  ExpectMatches(R"({"type": "string", "format": "date"})", {"\"2024-02-28\"", "\"1999-12-31\""},
                {"\"2024-02-30\"", "\"2024-13-01\"", "\"24-01-01\"", "\"2023-04-31\""});
  ExpectMatches(R"({"type": "string", "format": "date-time"})",
                {"\"2024-01-02T03:04:05Z\"", "\"2024-01-02T23:59:59.123+01:30\""},
                {"\"2024-01-02\"", "\"2024-01-02T24:00:00Z\"", "\"2024-01-02T03:04:05\""});
  ExpectMatches(R"({"type": "string", "format": "time"})", {"\"03:04:05Z\""}, {"\"3:04:05Z\""});
  ExpectMatches(R"({"type": "string", "format": "uuid"})", {"\"123e4567-e89b-12d3-a456-426614174000\""},
                {"\"123e4567\""});
  ExpectMatches(R"({"type": "string", "format": "ipv4"})", {"\"192.168.0.255\"", "\"0.0.0.0\""},
                {"\"256.1.1.1\"", "\"01.1.1.1\"", "\"1.1.1\""});
  ExpectMatches(R"({"type": "string", "format": "ipv6"})", {"\"2001:db8:0:0:0:0:2:1\""}, {"\"1:2\""});
  ExpectMatches(R"({"type": "string", "format": "email"})", {"\"a.b+c@example.org\""},
                {"\"a@b\"", "\"@b.c\"", "\".a@b.c\""});
  ExpectMatches(R"({"type": "string", "format": "hostname"})", {"\"a-b.example\""}, {"\"-a\"", "\"a..b\""});
  ExpectMatches(R"({"type": "string", "format": "uri"})", {"\"https://example.org:80/a/b?x=1#f\""},
                {"\"example.org\""});
  ExpectMatches(R"({"type": "string", "format": "duration"})", {"\"P3D\"", "\"PT5M30S\""}, {"\"P\"", "\"PT\""});
}

TEST(JsonSchemaTest, EnumAndConst) {
  ExpectMatches(R"({"enum": ["red", "green", 3, null, {"b": 1, "a": [true]}, "re"]})",
                {"\"red\"", "3", "null", R"({"b":1,"a":[true]})", "\"re\""}, {"\"r\"", R"({"a":[true],"b":1})", "4"});
  ExpectMatches(R"({"type": "string", "enum": ["a", 1]})", {"\"a\""}, {"1"});
  ExpectMatches(R"({"const": "é\n"})", {"\"é\\n\""}, {"\"é\""});
  ExpectMatches(R"({"type": "integer", "enum": [1, 1.5, 2.0]})", {"1", "2.0"}, {"1.5"});
}

TEST(JsonSchemaTest, ObjectsKeepTheOrderOfProperties) {
  const char* schema = R"({"type": "object", "properties": {"z": {"type": "integer"}, "a": {"type": "boolean"},
    "m": {"type": "null"}}, "required": ["a"]})";
  ExpectMatches(
      schema,
      {R"({"z":1,"a":true,"m":null})", R"({"a":true})", R"({"z": 1, "a": true})", "{\n  \"a\": true\n}", R"({ "a":true,
     "m":null })"},
      {R"({"a":true,"z":1})", R"({"z":1})", "{}", R"({"a":true,})", R"({,"a":true})", R"({"a":true,"m":null,"x":1})",
       R"({"z":1 "a":true})", R"({"a":true}})", "{\n\n\"a\":true}"});
  ExpectMatches(R"({"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "c": {"type": "integer"}}})",
                {"{}", R"({"a":1})", R"({"b":1})", R"({"c":1})", R"({"a":1,"c":1})", R"({"a":1,"b":2,"c":3})", "{ }"},
                {R"({"c":1,"a":1})", R"({"a":1,})", R"({"a":1,"a":1})", "{,}", R"({"d":1})"});
  ExpectMatches(R"({"properties": {"a\"b": true}, "required": ["a\"b", "later"]})", {R"({"a\"b":1,"later":[]})"},
                {R"({"later":1})"});
}

TEST(JsonSchemaTest, AdditionalProperties) {
  ExpectMatches(R"({"type": "object"})", {"{}", R"({"a":{"b":[1,{}]},"c":null})"}, {"{", "[]", R"({a:1})"});
  ExpectMatches(R"({"type": "object", "additionalProperties": {"type": "integer"}})", {"{}", R"({"x":1,"y":-2})"},
                {R"({"x":"1"})"});
  ExpectMatches(R"({"type": "object", "additionalProperties": false})", {"{}"}, {R"({"x":1})"});
  ExpectMatches(R"({"type": "object", "additionalProperties": true, "minProperties": 1, "maxProperties": 2})",
                {R"({"x":1})", R"({"x":1,"y":2})"}, {"{}", R"({"x":1,"y":2,"z":3})"});
  const char* both =
      R"({"properties": {"ab": {"type": "integer"}, "日本": {"type": "integer"}, "a": {"type": "integer"}},
    "required": ["ab"], "additionalProperties": {"type": "string"}})";
  ExpectMatches(both, {R"({"ab":1})", R"({"ab":1,"b":"x"})", R"({"ab":1,"abc":"x","":"y","日":"z","日本語":"w"})"},
                {R"({"ab":1,"b":1})", R"({"ab":1,"a":"x"})", R"({"ab":1,"ab":"x"})", R"({"ab":1,"\u0061":"x"})",
                 R"({"ab":1,"日本":"x"})", R"({"b":"x","ab":1})"});
}

// The arguments of a tool that has none; and members that are required and not described.
TEST(JsonSchemaTest, NoOthersWherePropertiesAreNamed) {
  ExpectMatches(R"({"type": "object", "properties": {}})", {"{}"}, {R"({"x":1})"});
  ExpectMatches(R"({"required": ["a"]})", {R"({"a":[]})", R"({"a":1,"b":2})"}, {"{}", R"({"b":2})"});
}

TEST(JsonSchemaTest, Arrays) {
  ExpectMatches(R"({"type": "array"})", {"[]", "[1, \"a\", [], {}]"}, {"[1 2]", "[,]", "[1,]", "["});
  ExpectMatches(R"({"items": {"type": "integer"}, "minItems": 1, "maxItems": 3})",
                {"[1]", "[1,2,3]", "[\n  1,\n  2\n]"}, {"[]", "[1,2,3,4]", "[\"a\"]"});
  ExpectMatches(R"({"items": {"type": "integer"}, "maxItems": 0})", {"[]", "[ ]"}, {"[1]"});
  ExpectMatches(R"({"prefixItems": [{"type": "integer"}, {"type": "string"}]})", {"[1,\"a\"]"},
                {"[1]", "[1,\"a\",2]", "[]"});
  ExpectMatches(R"({"prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 0})",
                {"[1,\"a\"]", "[1]", "[]"}, {"[1,\"a\",2]", "[\"a\"]"});
  ExpectMatches(R"({"prefixItems": [{"type": "integer"}], "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3})",
                {"[1,true]", "[1,true,false]"}, {"[1]", "[1,true,true,true]", "[true,true]"});
  ExpectMatches(R"({"prefixItems": [{"type": "integer"}], "items": false})", {"[1]"}, {"[1,2]", "[]"});
  ExpectMatches(R"({"items": [{"type": "integer"}], "additionalItems": {"type": "null"}})", {"[1]", "[1,null,null]"},
                {"[]", "[null]"});
  std::string hundred = "[1";
  for (int i = 1; i < 100; ++i) hundred += ",1";
  const Compiled many(ConstraintKind::kJsonSchema,
                      R"({"items": {"type": "integer"}, "minItems": 100, "maxItems": 200})");
  EXPECT_TRUE(many.Matches(hundred + "]"));
  EXPECT_FALSE(many.Matches(hundred.substr(2) + "]"));
}

TEST(JsonSchemaTest, CombinationsAndReferences) {
  ExpectMatches(R"({"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 1}]})", {"1", "\"a\""},
                {"\"ab\"", "null"});
  ExpectMatches(R"({"type": "object", "properties": {"k": {"type": "string"}}, "required": ["k"],
    "oneOf": [{"properties": {"k": {"const": "a"}, "n": {"type": "integer"}}, "required": ["n"]},
              {"properties": {"k": {"const": "b"}}}]})",
                {R"({"k":"a","n":1})", R"({"k":"b"})"}, {R"({"k":"a"})", R"({"k":"b","n":1})", R"({"k":"c"})"});
  ExpectMatches(R"({"allOf": [{"properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
    {"properties": {"b": {"type": "string"}, "a": {"maximum": 5}}}]})",
                {R"({"a":3})", R"({"a":5,"b":""})"}, {R"({"b":""})", R"({"a":6})", R"({"a":2})"});
  ExpectMatches(
      R"({"allOf": [{"properties": {"a": true}, "additionalProperties": false}, {"properties": {"b": true}}]})",
      {R"({"a":1})", "{}"}, {R"({"b":1})"});
  ExpectMatches(R"({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"]}}, "$ref": "#/$defs/node"})",
                {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"},
                {R"({"v":1})", R"({"v":1,"next":{"v":2}})"});
  ExpectMatches(R"({"type": "array", "items": {"$ref": "#"}})", {"[]", "[[],[[]]]"}, {"[1]", "[[]"});
  ExpectMatches(
      R"({"definitions": {"a/b~": {"type": "null"}}, "properties": {"x": {"$ref": "#/definitions/a~1b~0", "description": "d"}}})",
      {R"({"x":null})"}, {R"({"x":1})"});
  ExpectMatches(R"({"allOf": [{"$ref": "#/$defs/a"}, {"enum": [1, 2, 3]}], "$defs": {"a": {"enum": [2, 3, 4]}}})",
                {"2", "3"}, {"1", "4"});
  ExpectMatches(R"({"$defs": {"a": {"type": "string"}}, "$ref": "#/$defs/a", "maxLength": 1})", {"\"x\""}, {"\"xy\""});
}

TEST(JsonSchemaTest, AnnotationsChangeNothing) {
  ExpectMatches(
      R"({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "x", "title": "T", "description": "d",
    "default": 1, "examples": [2], "deprecated": true, "x-mine": {}, "type": "null"})",
      {"null"}, {"1"});
}

TEST(JsonSchemaTest, JsonObjectIsAnyObject) {
  const Compiled any(ConstraintKind::kJsonObject, "");
  EXPECT_TRUE(any.Matches(R"({"a": {"b": [1, 2.5, "c", null]}, "a": true})"));
  EXPECT_FALSE(any.Matches("[]"));
  std::string deep;
  for (int i = 0; i < 16; ++i) deep += "{\"a\":";
  EXPECT_TRUE(any.Matches(deep + "1" + std::string(16, '}')));
  EXPECT_FALSE(any.Matches(deep + "{\"a\":1}" + std::string(16, '}')));
}

TEST(JsonSchemaTest, RefusesWithThePlace) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"properties": {"a": {"not": {}}}})", "#/properties/a/not"},
      {R"({"type": "array", "uniqueItems": true})", "#/uniqueItems"},
      {R"({"type": "number", "multipleOf": 0.5})", "#/multipleOf"},
      {R"({"patternProperties": {"a": {}}})", "#/patternProperties"},
      {R"({"if": {}, "then": {}})", "#/if"},
      {R"({"items": {"anyOf": [{}, {"contains": {}}]}})", "#/items/anyOf/1/contains"},
      {R"({"type": "strin"})", "#/type: \"strin\" is no type"},
      {R"({"type": []})", "#/type"},
      {R"({"type": "string", "minLength": -1})", "#/minLength"},
      {R"({"type": "string", "minLength": "1"})", "#/minLength"},
      {R"({"pattern": "(?=a)b", "type": "string"})", "#/pattern: byte 0 of the regular expression: lookahead"},
      {R"({"type": "string", "pattern": "a", "maxLength": 3})", "only one of"},
      {R"({"type": "string", "format": "color"})", "\"color\" is not supported; there are date"},
      {R"({"$ref": "#/nowhere"})", "nothing stands at \"#/nowhere\""},
      {R"({"$ref": "other.json"})", "\"other.json\" does not begin"},
      {R"({"$ref": "#"})", "no text at all"},
      {R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", "begins with itself"},
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", "no text at all"},
      {"false", "no text at all"},
      {R"({"enum": []})", "no text at all"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "no text at all"},
      {R"({"type": "number", "minimum": 1e-300})", "#/minimum"},
      {R"({"type": "integer", "minimum": 1e300})", "#/minimum"},
      {R"({"enum": ["a"], "minLength": 1})", "\"minLength\" beside"},
      {R"({"properties": {"a": true, "b": true}, "maxProperties": 1})", "maxProperties"},
      {R"({"minProperties": 2})", "#/minProperties"},
      {R"({"properties": []})", "#/properties: the value of \"properties\" must be an object"},
      {R"({"properties": {"a": 1}})", "#/properties/a: a schema is an object"},
      {R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}]})", "\"pattern\""},
      {"{\"a\"", "byte 5 of the schema: not JSON"},
      {"{\"a\": 1e999}", "not JSON"},
      {"\"\xFF\"", "UTF-8"},
      {"", "not JSON"},
  };
  for (const auto& [text, words] : kCases) {
    const absl::Status status = CompileError(ConstraintKind::kJsonSchema, text);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_EQ(ReasonOf(status), "CONSTRAINT_INVALID") << text;
    EXPECT_THAT(MessageOf(status), HasSubstr(words)) << text;
  }
}

TEST(ChoicesTest, OneOfTheTexts) {
  const Compiled choices(ConstraintKind::kChoices, R"(["yes", "yes, but", "no", "日本", "ye\ns"])");
  for (const char* text : {"yes", "yes, but", "no", "日本", "ye\ns"}) EXPECT_TRUE(choices.Matches(text)) << text;
  for (const char* text : {"", "y", "yes,", "not", "\"yes\""}) EXPECT_FALSE(choices.Matches(text)) << text;
  for (const char* text : {"[]", "{}", "[1]", "[\"\"]", "[\"a\"", "\"a\""}) {
    EXPECT_EQ(ReasonOf(CompileError(ConstraintKind::kChoices, text)), "CONSTRAINT_INVALID") << text;
  }
}

}  // namespace
}  // namespace qamserve
