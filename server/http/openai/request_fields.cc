#include "server/http/openai/request_fields.h"

#include <utility>

namespace qamserve::openai {
namespace {

constexpr double kMaxTemperature = 2;  // OpenAI's; more is nearly always a mistake of scale

// The services say which values the others may have.
void ReadSampling(Members& body, v1::SamplingParams& params) {
  double number = 0;
  if (body.Read("temperature", number)) {
    if (number < 0 || number > kMaxTemperature) {
      body.Fail("INVALID_VALUE", "temperature",
                fmt::format("'temperature' must be 0 to {}; got {}.", kMaxTemperature, number));
    }
    params.set_temperature(number);
  }
  if (body.Read("top_p", number)) params.set_top_p(number);
  if (body.Read("min_p", number)) params.set_min_p(number);
  if (body.Read("repetition_penalty", number)) params.set_repetition_penalty(number);
  if (body.Read("presence_penalty", number)) params.set_presence_penalty(number);
  if (body.Read("frequency_penalty", number)) params.set_frequency_penalty(number);
  // -1 is vLLM's word for "off".
  if (int64_t top_k = 0; body.Read("top_k", top_k, -1, INT32_MAX))
    params.set_top_k(static_cast<int32_t>(top_k < 0 ? 0 : top_k));
  if (bool ignore_eos = false; body.Read("ignore_eos", ignore_eos)) params.set_ignore_eos(ignore_eos);
}

void ReadStop(Members& body, v1::SamplingParams& params) {
  const Json* stop = body.Find("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    params.add_stop(stop->get_ref<const std::string&>());
    return;
  }
  if (!stop->is_array()) {
    body.status() = TypeError("stop", "a string or an array of strings", *stop);
    return;
  }
  if (stop->size() > static_cast<size_t>(kMaxStops)) {
    return body.Fail("INVALID_VALUE", "stop",
                     fmt::format("'stop' has {} entries; the limit is {}.", stop->size(), kMaxStops));
  }
  for (size_t i = 0; i < stop->size(); ++i) {
    const Json& text = (*stop)[i];
    if (!text.is_string()) {
      body.status() = TypeError(fmt::format("stop[{}]", i), "a string", text);
      return;
    }
    params.add_stop(text.get_ref<const std::string&>());
  }
}

std::optional<int32_t> TokenIn(const std::string& text) {
  if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) return std::nullopt;
  return std::stoi(text);
}

void ReadLogitBias(Members& body, v1::SamplingParams& params) {
  const Json* bias = body.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) {
    body.status() = TypeError("logit_bias", "an object", *bias);
    return;
  }
  for (const auto& item : bias->items()) {
    const std::string path = fmt::format("logit_bias.{}", item.key());
    const std::optional<int32_t> token = TokenIn(item.key());
    if (!token) {
      body.status() = FieldError("INVALID_VALUE", path,
                                 fmt::format("'{}' in 'logit_bias' is no token: keys are token ids.", item.key()));
      return;
    }
    if (!item.value().is_number()) {
      body.status() = TypeError(path, "a number", item.value());
      return;
    }
    (*params.mutable_logit_bias())[*token] = item.value().get<double>();
  }
}

void ReadStreamOptions(Members& body, RequestFields& fields) {
  const Json* options = body.Find("stream_options");
  if (options == nullptr) return;
  if (!fields.stream) {
    return body.Fail("INVALID_VALUE", "stream_options", "'stream_options' is only allowed when 'stream' is true.");
  }
  Members members(*options, "stream_options", body.status());
  members.Read("include_usage", fields.include_usage);
  members.Ignore({"include_obfuscation"});
  members.RefuseOthers();
}

// One way to constrain: sets the oneof, or fails if another was given before.
class ConstraintSetter {
 public:
  ConstraintSetter(Members& body, ConstraintFields& fields) : body_(body), fields_(fields) {}

  // The constraint to be filled in, or null.
  v1::OutputConstraint* Begin(std::string name) {
    if (!body_.ok()) return nullptr;
    if (!fields_.named.empty()) {
      body_.Fail("INVALID_VALUE", name, fmt::format("'{}' and '{}' exclude each other.", fields_.named, name));
      return nullptr;
    }
    fields_.named = std::move(name);
    return &fields_.constraint;
  }

 private:
  Members& body_;
  ConstraintFields& fields_;
};

// A schema is an object, or its text.
bool IsSchema(Members& members, const Json& schema, std::string_view name) {
  if (schema.is_object() || schema.is_string() || schema.is_boolean()) return true;
  if (members.ok()) members.status() = TypeError(members.PathOf(name), "an object", schema);
  return false;
}

std::string SchemaText(const Json& schema) {
  return schema.is_string() ? schema.get_ref<const std::string&>() : TextOf(schema);
}

// An array of strings, as text.
std::optional<std::string> ChoicesOf(Members& members, const Json& choices, std::string_view name) {
  const std::string path = members.PathOf(name);
  if (!choices.is_array() || choices.empty()) {
    members.status() = TypeError(path, "an array of strings with at least one", choices);
    return std::nullopt;
  }
  for (size_t i = 0; i < choices.size(); ++i) {
    if (choices[i].is_string()) continue;
    members.status() = TypeError(fmt::format("{}[{}]", path, i), "a string", choices[i]);
    return std::nullopt;
  }
  return TextOf(choices);
}

void ReadJsonSchemaFormat(Members& body, Members& format, ConstraintSetter& setter) {
  const Json* wrapped = format.Require("json_schema");
  if (wrapped == nullptr) return;
  Members members(*wrapped, "response_format.json_schema", body.status());
  const std::string name = members.RequireText("name");
  std::string description;
  members.Read("description", description);
  bool strict = false;  // the answer follows the schema either way
  members.Read("strict", strict);
  const Json* schema = members.Require("schema");
  members.RefuseOthers();
  if (!members.ok() || !IsSchema(members, *schema, "schema")) return;
  if (name.empty() || name.size() > 64) {
    return members.Fail("INVALID_VALUE", "name",
                        fmt::format("'{}' must have 1 to 64 characters.", members.PathOf("name")));
  }
  if (v1::OutputConstraint* constraint = setter.Begin("response_format"); constraint != nullptr) {
    constraint->set_json_schema(SchemaText(*schema));
  }
}

void ReadResponseFormat(Members& body, ConstraintSetter& setter) {
  const Json* value = body.Find("response_format");
  if (value == nullptr) return;
  Members format(*value, "response_format", body.status());
  std::string type;
  if (format.Require("type") == nullptr || !format.ReadOneOf("type", {"text", "json_object", "json_schema"}, type)) {
    return;
  }
  if (type == "json_schema") ReadJsonSchemaFormat(body, format, setter);
  format.RefuseOthers();
  if (type != "json_object" || !body.ok()) return;
  if (v1::OutputConstraint* constraint = setter.Begin("response_format"); constraint != nullptr) {
    constraint->set_json_object(true);
  }
}

// What vLLM calls the ways to constrain, in structured_outputs and in the body itself.
struct ExtensionNames {
  std::string_view json;
  std::string_view regex;
  std::string_view choice;
  std::string_view grammar;
};
constexpr ExtensionNames kStructuredOutputs = {"json", "regex", "choice", "grammar"};
constexpr ExtensionNames kGuided = {"guided_json", "guided_regex", "guided_choice", "guided_grammar"};

void ReadExtensions(Members& members, const ExtensionNames& names, ConstraintSetter& setter) {
  if (const Json* schema = members.Find(names.json); schema != nullptr && IsSchema(members, *schema, names.json)) {
    if (auto* constraint = setter.Begin(members.PathOf(names.json))) constraint->set_json_schema(SchemaText(*schema));
  }
  std::string text;
  if (members.Read(names.regex, text)) {
    if (auto* constraint = setter.Begin(members.PathOf(names.regex))) constraint->set_regex(text);
  }
  if (const Json* choices = members.Find(names.choice); choices != nullptr) {
    const std::optional<std::string> list = ChoicesOf(members, *choices, names.choice);
    if (auto* constraint = list ? setter.Begin(members.PathOf(names.choice)) : nullptr) {
      constraint->set_choice_json(*list);
    }
  }
  if (members.Read(names.grammar, text)) {
    if (auto* constraint = setter.Begin(members.PathOf(names.grammar))) constraint->set_grammar(text);
  }
}

uint64_t Mix(uint64_t x) {  // splitmix64's finalizer: neighbouring seeds give unrelated draws
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

void ReadRequestFields(Members& body, RequestFields& fields) {
  fields.model = body.RequireText("model");
  if (body.ok() && fields.model.empty()) body.Fail("INVALID_VALUE", "model", "'model' must not be empty.");
  body.Read("stream", fields.stream);
  ReadStreamOptions(body, fields);
  body.Read("n", fields.n, 1, kMaxChoices);
  if (int64_t seed = 0; body.Read("seed", seed, INT64_MIN, INT64_MAX)) fields.seed = static_cast<uint64_t>(seed);
  ReadSampling(body, fields.params);
  ReadStop(body, fields.params);
  ReadLogitBias(body, fields.params);
  body.Ignore({"user"});
}

uint64_t SeedOfChoice(const std::optional<uint64_t>& seed, int64_t i) {
  if (!seed) return 0;
  const uint64_t own = i == 0 ? *seed : Mix(*seed ^ Mix(static_cast<uint64_t>(i)));
  return own != 0 ? own : Mix(0);
}

void ReadConstraint(Members& body, ConstraintFields& fields) {
  ConstraintSetter setter(body, fields);
  ReadResponseFormat(body, setter);
  ReadExtensions(body, kGuided, setter);
  const Json* outputs = body.Find("structured_outputs");
  if (outputs == nullptr) return;
  Members members(*outputs, "structured_outputs", body.status());
  ReadExtensions(members, kStructuredOutputs, setter);
  bool json_object = false;
  if (members.Read("json_object", json_object) && json_object) {
    if (auto* constraint = setter.Begin("structured_outputs.json_object")) constraint->set_json_object(true);
  }
  members.RefuseOthers();
}

}  // namespace qamserve::openai
