#include "server/http/rest/openapi.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "server/http/rest/binding.h"
#include "server/http/rest/download_answer.h"
#include "server/http/rest/schemas.h"

namespace qamserve::rest {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

// Query parameters of nested messages are listed so deep.
constexpr int kMaxQueryDepth = 4;

constexpr char kDescription[] =
    "Every call of the gRPC API over HTTP, with JSON by the proto3 mapping: names in lowerCamelCase, 64-bit integers "
    "as "
    "strings, bytes as base64, enums by name; fields with their zero are written too. Unknown fields and parameters "
    "are "
    "errors.\n\n"
    "Errors are `{\"error\": {\"code\", \"status\", \"message\", \"details\"}}` with the reason in `details`. Every "
    "call takes "
    "`x-request-timeout` (seconds), `traceparent` and `x-request-id`. Calls that stream answer with JSON lines, or with server-sent "
    "events "
    "to `Accept: text/event-stream`: `data:` a message, `event: end` at the end, `event: error` with an error.";

OrderedJson StringSchema() { return {{"type", "string"}}; }

OrderedJson HeaderParameter(std::string_view name, std::string_view description) {
  return {{"name", name}, {"in", "header"}, {"description", description}, {"schema", StringSchema()}};
}

// "job" of the collection "jobs".
std::string Singular(const std::string& collection) {
  if (absl::EndsWith(collection, "ses")) return collection.substr(0, collection.size() - 2);
  if (absl::EndsWith(collection, "s")) return collection.substr(0, collection.size() - 1);
  return collection;
}

class DocumentWriter {
 public:
  DocumentWriter(const Comments& comments, const RouteTable& routes)
      : comments_(comments), routes_(routes), schemas_(comments) {}

  OrderedJson Write(std::string_view version) {
    OrderedJson paths = OrderedJson::object();
    OrderedJson tags = OrderedJson::array();
    std::set<std::string> tagged;
    for (const HttpRoute& route : routes_.routes()) {
      OrderedJson parameters = OrderedJson::array();
      const std::string path = PathOf(route, &parameters);
      paths[path][absl::AsciiStrToLower(route.http_method)] = Operation(route, std::move(parameters));
      const ServiceDescriptor& service = *route.method->service();
      if (!tagged.insert(service.name()).second) continue;
      tags.push_back({{"name", service.name()}, {"description", comments_.Of(service)}});
    }
    OrderedJson components = {{"schemas", schemas_.all()}, {"responses", {{"Error", ErrorResponse()}}}};
    components["schemas"]["Error"] = ErrorSchema();
    components["securitySchemes"]["bearer"] = {
        {"type", "http"}, {"scheme", "bearer"}, {"description", "An API key. A server without keys asks for none."}};
    OrderedJson document = {{"openapi", "3.1.0"}};
    document["info"] = {{"title", "qamserve"}, {"version", version}, {"description", kDescription}};
    document["servers"] = OrderedJson::array({{{"url", "/"}}});
    document["security"] = OrderedJson::array({OrderedJson::object(), {{"bearer", OrderedJson::array()}}});
    document["tags"] = std::move(tags);
    document["paths"] = std::move(paths);
    document["components"] = std::move(components);
    return document;
  }

 private:
  // "/v1/jobs/{job}:cancel" of "/v1/{name=jobs/*}:cancel".
  std::string PathOf(const HttpRoute& route, OrderedJson* parameters) const {
    std::string path;
    for (size_t i = 0; i < route.segments.size(); ++i) {
      path += '/';
      if (route.segments[i].kind == PathSegment::Kind::kLiteral) {
        path += route.segments[i].literal;
        continue;
      }
      const PathVariable& variable = VariableAt(route, i);
      const bool alone = variable.end - variable.begin == 1;
      const std::string name = alone ? variable.field->json_name() : Singular(route.segments[i - 1].literal);
      path += '{';
      path += name;
      path += '}';
      std::string description = comments_.Of(*variable.field);
      if (!alone && description.empty()) {
        description = fmt::format("of a name {}/{{{}}}", route.segments[i - 1].literal, name);
      }
      OrderedJson parameter = {{"name", name}, {"in", "path"}, {"required", true}};
      if (!description.empty()) parameter["description"] = std::move(description);
      parameter["schema"] = StringSchema();
      parameters->push_back(std::move(parameter));
    }
    if (!route.verb.empty()) path += ':';
    return path + route.verb;
  }

  // Every wildcard of an annotation is part of a variable, or it would bind nothing.
  static const PathVariable& VariableAt(const HttpRoute& route, size_t segment) {
    for (const PathVariable& variable : route.variables) {
      if (variable.begin <= segment && segment < variable.end) return variable;
    }
    return route.variables.front();
  }

  OrderedJson Operation(const HttpRoute& route, OrderedJson parameters) {
    const MethodDescriptor& method = *route.method;
    if (!route.body_is_request) AddQuery(route, *method.input_type(), "", 0, &parameters);
    AddHeaders(route, &parameters);
    OrderedJson operation = {{"tags", {method.service()->name()}}, {"operationId", OperationId(route)}};
    const std::string comment = comments_.Of(method);
    operation["summary"] = method.name();
    if (!comment.empty()) operation["description"] = comment;
    if (!parameters.empty()) operation["parameters"] = std::move(parameters);
    if (OrderedJson body = RequestBody(route); !body.is_null()) operation["requestBody"] = std::move(body);
    operation["responses"] = Responses(route);
    return operation;
  }

  // A further binding of the same method has a number behind it.
  std::string OperationId(const HttpRoute& route) {
    std::string id = fmt::format("{}_{}", route.method->service()->name(), route.method->name());
    const int times = ++times_[id];
    return times == 1 ? id : fmt::format("{}_{}", id, times);
  }

  void AddQuery(const HttpRoute& route, const Descriptor& message, const std::string& prefix, int depth,
                OrderedJson* parameters) {
    for (int i = 0; i < message.field_count(); ++i) {
      const FieldDescriptor& field = *message.field(i);
      const bool elsewhere = depth == 0 && (route.BindsInPath(&field) || &field == route.body_field);
      // In their place the headers Range and Idempotency-Key stand, and If-Match.
      const bool header = depth == 0 && (IsDownload(route) || field.name() == "request_id" || field.name() == "etag");
      if (elsewhere || header || field.is_map()) continue;
      std::string name = fmt::format("{}{}", prefix, field.json_name());
      if (field.message_type() == nullptr) {
        OrderedJson schema = schemas_.OfField(field);
        OrderedJson parameter = {{"name", std::move(name)}, {"in", "query"}};
        if (schema.contains("description")) {
          parameter["description"] = schema["description"];
          schema.erase("description");
        }
        parameter["schema"] = std::move(schema);
        parameters->push_back(std::move(parameter));
      } else if (!field.is_repeated() && depth < kMaxQueryDepth) {
        name += '.';
        AddQuery(route, *field.message_type(), name, depth + 1, parameters);
      }
    }
  }

  static void AddHeaders(const HttpRoute& route, OrderedJson* parameters) {
    const Descriptor& request = *route.method->input_type();
    if (StringField(request, "request_id") != nullptr) {
      parameters->push_back(HeaderParameter("Idempotency-Key",
                                            "A UUID: the same call with the same one has the same "
                                            "answer. The same as requestId."));
    }
    if (StringField(request, "etag") != nullptr) {
      parameters->push_back(HeaderParameter("If-Match", "Only if it still has this ETag. The same as etag."));
    }
    if (route.body_field != nullptr && route.method->client_streaming()) {
      parameters->push_back(HeaderParameter("Content-Range",
                                            "`bytes FIRST-LAST/TOTAL`: which bytes the body has. In place "
                                            "of offset."));
    }
    if (IsDownload(route)) {
      parameters->push_back(HeaderParameter("Range", "`bytes=FIRST-LAST`: one range."));
      parameters->push_back(HeaderParameter("If-Range", "Range counts only if the file has this ETag."));
    }
    if (route.http_method == "GET" && (IsDownload(route) || !route.method->server_streaming())) {
      parameters->push_back(HeaderParameter("If-None-Match", "304 if the answer still has this ETag."));
    }
  }

  OrderedJson RequestBody(const HttpRoute& route) {
    if (route.method->client_streaming()) {
      return {{"description", "The bytes as they are, of any length."},
              {"required", true},
              {"content", {{"application/octet-stream", OrderedJson::object()}}}};
    }
    const Descriptor* message = route.body_is_request         ? route.method->input_type()
                                : route.body_field != nullptr ? route.body_field->message_type()
                                                              : nullptr;
    if (message == nullptr || message->field_count() == 0) return nullptr;
    return {{"content", {{"application/json", {{"schema", schemas_.Reference(*message)}}}}}};
  }

  OrderedJson Responses(const HttpRoute& route) {
    OrderedJson responses = OrderedJson::object();
    const MethodDescriptor& method = *route.method;
    if (IsDownload(route)) {
      responses["200"] = {{"description", "The bytes of the file; ETag is its SHA-256."},
                          {"content", {{"application/octet-stream", OrderedJson::object()}}}};
      responses["206"] = {{"description", "The bytes that Range names."},
                          {"content", {{"application/octet-stream", OrderedJson::object()}}}};
      responses["304"] = {{"description", "Not modified."}};
      responses["416"] = {{"$ref", "#/components/responses/Error"}};
    } else {
      const Descriptor& shown =
          route.response_field != nullptr ? *route.response_field->message_type() : *method.output_type();
      const OrderedJson schema = schemas_.Reference(shown);
      if (method.server_streaming()) {
        responses["200"] = {
            {"description", "A line of JSON for each message; or events, of which each `data` is one."},
            {"content",
             {{"application/x-ndjson", {{"schema", schema}}}, {"text/event-stream", {{"schema", StringSchema()}}}}}};
      } else {
        responses["200"] = {{"description", "OK"}, {"content", {{"application/json", {{"schema", schema}}}}}};
        if (route.http_method == "GET") responses["304"] = {{"description", "Not modified."}};
      }
    }
    responses["default"] = {{"$ref", "#/components/responses/Error"}};
    return responses;
  }

  static OrderedJson ErrorResponse() {
    return {{"description", "An error. 429 and 503 may say in Retry-After when to try again."},
            {"content", {{"application/json", {{"schema", {{"$ref", "#/components/schemas/Error"}}}}}}}};
  }

  static OrderedJson ErrorSchema() {
    OrderedJson detail = {
        {"type", "object"},
        {"description",
         "google.rpc.ErrorInfo (reason, domain), BadRequest (fieldViolations) or RetryInfo (retryDelay)."},
        {"properties", {{"@type", StringSchema()}}},
        {"additionalProperties", true}};
    OrderedJson error = {{"type", "object"}};
    error["required"] = {"code", "status", "message", "details"};
    error["properties"] = {{"code", {{"type", "integer"}, {"description", "The HTTP status."}}},
                           {"status", {{"type", "string"}, {"description", "The name of the google.rpc.Code."}}},
                           {"message", StringSchema()},
                           {"details", {{"type", "array"}, {"items", std::move(detail)}}}};
    OrderedJson schema = {{"type", "object"}};
    schema["required"] = OrderedJson::array({"error"});
    schema["properties"]["error"] = std::move(error);
    return schema;
  }

  const Comments& comments_;
  const RouteTable& routes_;
  Schemas schemas_;
  std::map<std::string, int> times_;
};

}  // namespace

absl::StatusOr<std::string> OpenApiDocument(const RouteTable& routes, std::string_view version) {
  ASSIGN_OR_RETURN(const Comments comments, Comments::Create());
  return DocumentWriter(comments, routes).Write(version).dump(2);
}

}  // namespace qamserve::rest
