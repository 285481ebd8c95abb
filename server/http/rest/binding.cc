#include "server/http/rest/binding.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <google/protobuf/util/json_util.h>

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "server/http/percent.h"
#include "server/http/rest/errors.h"
#include "server/http/rest/json.h"

namespace qamserve::rest {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using Json = nlohmann::json;
using FieldPath = std::vector<const FieldDescriptor*>;

absl::Status ParameterError(const std::string& name, std::string_view why) {
  const std::string shown = name.substr(0, 80);
  return WithField(InvalidArgument("QUERY_PARAMETER", "query parameter '{}': {}", shown, why), shown);
}

MessagePtr NewRequest(const HttpRoute& route) {
  const Message* prototype =
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(route.method->input_type());
  return MessagePtr(prototype->New());
}

std::string TextOf(const Message& message, const FieldDescriptor* field) {
  return message.GetReflection()->GetString(message, field);
}

void SetText(Message* message, const FieldDescriptor* field, std::string text) {
  message->GetReflection()->SetString(message, field, std::move(text));
}

// "spec.bpw": each part by either of its names. A parameter that names no field of the request, or one that holds
// others, is an error.
absl::StatusOr<FieldPath> ResolvePath(const Descriptor& request, const std::string& name) {
  FieldPath path;
  const Descriptor* message = &request;
  std::string_view rest = name;
  while (true) {
    const std::string part(rest.substr(0, rest.find('.')));
    const FieldDescriptor* field = message != nullptr ? message->FindFieldByName(part) : nullptr;
    if (field == nullptr && message != nullptr) field = message->FindFieldByCamelcaseName(part);
    if (field == nullptr) {
      return ParameterError(name, fmt::format("{} has no such field", request.full_name()));
    }
    path.push_back(field);
    if (part.size() == rest.size()) break;
    if (field->is_repeated()) return ParameterError(name, "the fields of a list or map can only be given in a body");
    message = field->message_type();
    rest.remove_prefix(part.size() + 1);
  }
  if (path.back()->message_type() != nullptr) return ParameterError(name, "it holds other fields; name one of them");
  return path;
}

// What stands in JSON for `text`; the library converts and checks it.
absl::StatusOr<Json> JsonValue(const FieldDescriptor& field, const std::string& name, const std::string& text) {
  if (field.type() == FieldDescriptor::TYPE_BOOL) {
    if (text == "true" || text == "false") return Json(text == "true");
    return ParameterError(name, fmt::format("'{}' is neither true nor false", text.substr(0, 80)));
  }
  const bool number = !text.empty() && text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
  if (field.type() == FieldDescriptor::TYPE_ENUM && number) return Json(std::stoi(text));
  return Json(text);
}

absl::Status AddParameter(const FieldPath& path, const std::string& name, const std::string& text, Message* request) {
  const FieldDescriptor& field = *path.back();
  ASSIGN_OR_RETURN(Json json, JsonValue(field, name, text));
  if (field.is_repeated()) json = Json::array({std::move(json)});
  for (auto it = path.rbegin(); it != path.rend(); ++it) {
    Json outer = Json::object();
    outer[(*it)->json_name()] = std::move(json);
    json = std::move(outer);
  }
  const MessagePtr one(request->New());
  if (!google::protobuf::util::JsonStringToMessage(json.dump(), one.get()).ok()) {
    return ParameterError(name,
                          fmt::format("'{}' is no {}", text.substr(0, 80),
                                      field.enum_type() != nullptr ? field.enum_type()->name() : field.type_name()));
  }
  request->MergeFrom(*one);
  return absl::OkStatus();
}

absl::Status BindQuery(const HttpRoute& route, std::string_view query, Message* request) {
  ASSIGN_OR_RETURN(const auto parameters, ParseQuery(query));
  std::set<std::string> seen;
  for (const auto& [name, text] : parameters) {
    if (route.body_is_request) return ParameterError(name, "this call has its fields in the body and the path");
    ASSIGN_OR_RETURN(const FieldPath path, ResolvePath(*route.method->input_type(), name));
    if (route.BindsInPath(path.front())) return ParameterError(name, "the path has this field");
    if (path.front() == route.body_field) return ParameterError(name, "the body has this field");
    std::string full;
    for (const FieldDescriptor* field : path) absl::StrAppend(&full, ".", field->name());
    const bool fresh = seen.insert(std::move(full)).second;
    if (!fresh && !path.back()->is_repeated()) return ParameterError(name, "it is given twice");
    RETURN_IF_ERROR(AddParameter(path, name, text, request));
  }
  return absl::OkStatus();
}

// The header may have the quotes that RFC 9110 and the draft of Idempotency-Key want, or not.
std::string_view Unquoted(std::string_view value) {
  if (absl::StartsWith(absl::string_view(value.data(), value.size()), "W/")) value.remove_prefix(2);
  if (value.size() >= 2 && value.front() == '"' && value.back() == '"') return value.substr(1, value.size() - 2);
  return value;
}

struct HeaderField {
  std::string_view header;
  const char* field;
};
constexpr HeaderField kHeaderFields[] = {{"Idempotency-Key", "request_id"}, {"If-Match", "etag"}};

absl::Status Conflict(std::string_view field, std::string_view where) {
  return WithField(InvalidArgument("FIELD_CONFLICT", "field '{}': {} and the rest of the request give different values",
                                   field, where),
                   field);
}

absl::Status BindHeaders(const Descriptor& type, const HttpRequestHead& head, Message* request) {
  for (const HeaderField& entry : kHeaderFields) {
    const std::string_view value = Unquoted(head.field(entry.header));
    const FieldDescriptor* field = StringField(type, entry.field);
    // "*" stands for any etag, which is what no etag means.
    if (value.empty() || value == "*" || field == nullptr) continue;
    const std::string now = TextOf(*request, field);
    if (!now.empty() && now != value) return Conflict(field->name(), entry.header);
    SetText(request, field, std::string(value));
  }
  return absl::OkStatus();
}

absl::Status CheckJsonType(std::string_view type) {
  const absl::string_view media =
      absl::StripAsciiWhitespace(absl::string_view(type.data(), std::min(type.size(), type.find(';'))));
  const std::string parameters = absl::AsciiStrToLower(absl::string_view(type.data(), type.size()));
  const size_t charset = parameters.find("charset=");
  const bool utf8 = charset == std::string::npos || parameters.compare(charset + 8, 5, "utf-8") == 0 ||
                    parameters.compare(charset + 8, 7, "\"utf-8\"") == 0;
  if (absl::EqualsIgnoreCase(media, "application/json") && utf8) return absl::OkStatus();
  return WithHttpStatus(
      WithField(InvalidArgument("CONTENT_TYPE", "Content-Type is '{}'; this call takes application/json (UTF-8)",
                                type.substr(0, 80)),
                "Content-Type"),
      415);
}

// What path and headers have bound: the body may repeat it, not contradict it.
absl::Status CheckSame(const HttpRoute& route, const Message& bound, const Message& body) {
  const auto check = [&](const FieldDescriptor* field, std::string_view where) -> absl::Status {
    const std::string fixed = TextOf(bound, field);
    const std::string given = TextOf(body, field);
    if (!fixed.empty() && !given.empty() && fixed != given) return Conflict(field->name(), where);
    return absl::OkStatus();
  };
  for (const PathVariable& variable : route.variables) RETURN_IF_ERROR(check(variable.field, "path"));
  for (const HeaderField& entry : kHeaderFields) {
    if (const FieldDescriptor* field = StringField(*bound.GetDescriptor(), entry.field); field != nullptr) {
      RETURN_IF_ERROR(check(field, entry.header));
    }
  }
  return absl::OkStatus();
}

}  // namespace

const FieldDescriptor* StringField(const Descriptor& message, const char* name) {
  const FieldDescriptor* field = message.FindFieldByName(name);
  const bool fits = field != nullptr && field->type() == FieldDescriptor::TYPE_STRING && !field->is_repeated();
  return fits ? field : nullptr;
}

absl::Status CheckNotEncoded(const HttpRequestHead& head) {
  const std::string_view encoding = head.field("Content-Encoding");
  if (encoding.empty() || absl::EqualsIgnoreCase(absl::string_view(encoding.data(), encoding.size()), "identity")) {
    return absl::OkStatus();
  }
  return WithHttpStatus(
      WithField(InvalidArgument("CONTENT_TYPE", "Content-Encoding is '{}'; bodies must not be encoded",
                                encoding.substr(0, 80)),
                "Content-Encoding"),
      415);
}

absl::StatusOr<MessagePtr> BindParameters(const RouteMatch& match, const HttpRequestHead& head) {
  const HttpRoute& route = *match.route;
  MessagePtr request = NewRequest(route);
  for (size_t i = 0; i < match.values.size(); ++i) SetText(request.get(), route.variables[i].field, match.values[i]);
  RETURN_IF_ERROR(BindQuery(route, head.query, request.get()));
  RETURN_IF_ERROR(BindHeaders(*route.method->input_type(), head, request.get()));
  return request;
}

absl::Status BindBody(const RouteMatch& match, const HttpRequestHead& head, std::string_view body, Message* request) {
  const HttpRoute& route = *match.route;
  if (body.empty()) return absl::OkStatus();
  if (!route.body_is_request && route.body_field == nullptr) {
    return InvalidArgument("BODY_UNEXPECTED", "{} {} takes no body", route.http_method, route.pattern);
  }
  RETURN_IF_ERROR(CheckJsonType(head.field("Content-Type")));
  const MessagePtr parsed(request->New());
  if (route.body_is_request) {
    RETURN_IF_ERROR(FromJson(body, parsed.get()));
    RETURN_IF_ERROR(CheckSame(route, *request, *parsed));
  } else {
    RETURN_IF_ERROR(FromJson(body, parsed->GetReflection()->MutableMessage(parsed.get(), route.body_field)));
  }
  request->MergeFrom(*parsed);
  return absl::OkStatus();
}

}  // namespace qamserve::rest
