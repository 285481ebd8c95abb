#include "server/http/route_table.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "google/api/annotations.pb.h"
#include "server/http/percent.h"

namespace qamserve {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::MethodDescriptor;
using google::protobuf::ServiceDescriptor;

absl::Status BadPattern(const HttpRoute& route, std::string_view why) {
  return Internal("HTTP_RULE", "path '{}': {}", route.pattern, why);
}

absl::Status AddSegment(std::string_view text, HttpRoute* route) {
  if (!route->segments.empty() && route->segments.back().kind == PathSegment::Kind::kRest) {
    return BadPattern(*route, "'**' must be the last segment");
  }
  PathSegment segment;
  if (text == "*") {
    segment.kind = PathSegment::Kind::kAny;
  } else if (text == "**") {
    segment.kind = PathSegment::Kind::kRest;
  } else if (text.empty() || text.find_first_of("{}*=:/") != std::string_view::npos) {
    return BadPattern(*route, "a segment is a literal, '*', '**' or '{field=segments}'");
  } else {
    segment.literal = text;
  }
  route->segments.push_back(std::move(segment));
  return absl::OkStatus();
}

// `text` is what stands between the braces.
absl::Status AddVariable(const Descriptor& request, std::string_view text, HttpRoute* route) {
  const size_t equals = text.find('=');
  PathVariable variable;
  variable.field = request.FindFieldByName(std::string(text.substr(0, equals)));
  if (variable.field == nullptr || variable.field->is_repeated() ||
      variable.field->type() != FieldDescriptor::TYPE_STRING) {
    return BadPattern(*route, fmt::format("{} has no string field for {{{}}}", request.full_name(), text));
  }
  if (route->BindsInPath(variable.field)) return BadPattern(*route, "a field stands in it twice");
  variable.begin = route->segments.size();
  std::string_view rest = equals == std::string_view::npos ? "*" : text.substr(equals + 1);
  while (true) {
    const size_t slash = rest.find('/');
    RETURN_IF_ERROR(AddSegment(rest.substr(0, slash), route));
    if (slash == std::string_view::npos) break;
    rest.remove_prefix(slash + 1);
  }
  variable.end = route->segments.size();
  route->variables.push_back(variable);
  return absl::OkStatus();
}

absl::Status SetPattern(const google::api::HttpRule& rule, HttpRoute* route) {
  switch (rule.pattern_case()) {
    case google::api::HttpRule::kGet:
      route->http_method = "GET";
      route->pattern = rule.get();
      return absl::OkStatus();
    case google::api::HttpRule::kPut:
      route->http_method = "PUT";
      route->pattern = rule.put();
      return absl::OkStatus();
    case google::api::HttpRule::kPost:
      route->http_method = "POST";
      route->pattern = rule.post();
      return absl::OkStatus();
    case google::api::HttpRule::kDelete:
      route->http_method = "DELETE";
      route->pattern = rule.delete_();
      return absl::OkStatus();
    case google::api::HttpRule::kPatch:
      route->http_method = "PATCH";
      route->pattern = rule.patch();
      return absl::OkStatus();
    case google::api::HttpRule::kCustom:
      route->http_method = rule.custom().kind();
      route->pattern = rule.custom().path();
      return absl::OkStatus();
    case google::api::HttpRule::PATTERN_NOT_SET:
      break;
  }
  return Internal("HTTP_RULE", "no HTTP method and path");
}

// What its body holds.
absl::Status SetBodies(const google::api::HttpRule& rule, HttpRoute* route) {
  if (rule.body() == "*") {
    route->body_is_request = true;
  } else if (!rule.body().empty()) {
    route->body_field = route->method->input_type()->FindFieldByName(rule.body());
    const bool fits = route->body_field != nullptr && !route->body_field->is_repeated() &&
                      (route->body_field->type() == FieldDescriptor::TYPE_MESSAGE ||
                       (route->body_field->type() == FieldDescriptor::TYPE_BYTES && route->method->client_streaming()));
    if (!fits) return Internal("HTTP_RULE", "body '{}' is neither a message nor the bytes of a stream", rule.body());
  }
  if (route->method->client_streaming() &&
      (route->body_field == nullptr || route->body_field->type() != FieldDescriptor::TYPE_BYTES ||
       route->method->server_streaming())) {
    return Internal("HTTP_RULE", "a stream of requests needs a body of bytes and one answer");
  }
  if (rule.response_body().empty()) return absl::OkStatus();
  route->response_field = route->method->output_type()->FindFieldByName(rule.response_body());
  const bool fits =
      route->response_field != nullptr && !route->response_field->is_repeated() &&
      (route->response_field->type() == FieldDescriptor::TYPE_MESSAGE ||
       (route->response_field->type() == FieldDescriptor::TYPE_BYTES && route->method->server_streaming()));
  if (fits) return absl::OkStatus();
  return Internal("HTTP_RULE", "response_body '{}' is neither a message nor the bytes of a stream",
                  rule.response_body());
}

absl::Status AddRule(const MethodDescriptor& method, const google::api::HttpRule& rule,
                     std::vector<HttpRoute>* routes) {
  HttpRoute route;
  route.method = &method;
  RETURN_IF_ERROR(SetPattern(rule, &route));
  RETURN_IF_ERROR(SetBodies(rule, &route));
  RETURN_IF_ERROR(ParsePathPattern(*method.input_type(), &route));
  routes->push_back(std::move(route));
  return absl::OkStatus();
}

absl::Status AddService(const ServiceDescriptor& service, std::vector<HttpRoute>* routes) {
  for (int i = 0; i < service.method_count(); ++i) {
    const MethodDescriptor& method = *service.method(i);
    if (!method.options().HasExtension(google::api::http)) {
      return Internal("HTTP_RULE", "{} has no option google.api.http", method.full_name());
    }
    const google::api::HttpRule& rule = method.options().GetExtension(google::api::http);
    RETURN_IF_ERROR(Annotate(AddRule(method, rule, routes), method.full_name()));
    for (const google::api::HttpRule& more : rule.additional_bindings()) {
      RETURN_IF_ERROR(Annotate(AddRule(method, more, routes), method.full_name()));
    }
  }
  return absl::OkStatus();
}

// Two routes with the same shape take the same requests.
std::string ShapeOf(const HttpRoute& route) {
  std::string shape = route.http_method;
  for (const PathSegment& segment : route.segments) {
    shape += '/';
    shape += segment.kind == PathSegment::Kind::kLiteral ? segment.literal
             : segment.kind == PathSegment::Kind::kAny   ? "*"
                                                         : "**";
  }
  shape += ':';
  shape += route.verb;
  return shape;
}

bool MoreLiteral(const HttpRoute& a, const HttpRoute& b) {
  return std::lexicographical_compare(a.segments.begin(), a.segments.end(), b.segments.begin(), b.segments.end(),
                                      [](const PathSegment& x, const PathSegment& y) { return x.kind < y.kind; });
}

struct SplitPath {
  std::vector<std::string_view> segments;  // not decoded
  std::string_view verb;
};

// False if no route can have it.
bool Split(std::string_view path, SplitPath* split) {
  if (path.empty() || path.front() != '/') return false;
  const size_t last = path.rfind('/');
  if (const size_t colon = path.find(':', last); colon != std::string_view::npos) {
    split->verb = path.substr(colon + 1);
    path = path.substr(0, colon);
    if (split->verb.empty()) return false;
  }
  while (!path.empty()) {
    path.remove_prefix(1);
    const std::string_view segment = path.substr(0, path.find('/'));
    if (segment.empty()) return false;
    split->segments.push_back(segment);
    path.remove_prefix(segment.size());
  }
  return true;
}

bool Fits(const HttpRoute& route, const SplitPath& path, const std::vector<std::string>& decoded) {
  if (route.verb != path.verb) return false;
  for (size_t i = 0; i < route.segments.size(); ++i) {
    const PathSegment& segment = route.segments[i];
    if (i >= decoded.size()) return false;
    if (segment.kind == PathSegment::Kind::kRest) return true;
    if (segment.kind == PathSegment::Kind::kLiteral && segment.literal != decoded[i]) return false;
  }
  return decoded.size() == route.segments.size();
}

absl::StatusOr<std::string> ValueOf(const HttpRoute& route, const PathVariable& variable,
                                    const std::vector<std::string>& decoded) {
  const bool rest = route.segments[variable.end - 1].kind == PathSegment::Kind::kRest;
  const size_t end = rest ? decoded.size() : variable.end;
  std::string value;
  for (size_t i = variable.begin; i < end; ++i) {
    if (end - variable.begin > 1 && decoded[i].find('/') != std::string::npos) {
      return InvalidArgument("PATH_SEGMENT", "{}: '{}' has a '/' that is part of no name", variable.field->name(),
                             decoded[i].substr(0, 80));
    }
    if (i > variable.begin) value += '/';
    value += decoded[i];
  }
  return value;
}

}  // namespace

bool HttpRoute::BindsInPath(const FieldDescriptor* field) const {
  return std::any_of(variables.begin(), variables.end(),
                     [field](const PathVariable& variable) { return variable.field == field; });
}

absl::Status ParsePathPattern(const Descriptor& request, HttpRoute* route) {
  std::string_view rest = route->pattern;
  if (rest.empty() || rest.front() != '/') return BadPattern(*route, "it must begin with '/'");
  while (!rest.empty() && rest.front() == '/') {
    rest.remove_prefix(1);
    if (!rest.empty() && rest.front() == '{') {
      const size_t end = rest.find('}');
      if (end == std::string_view::npos) return BadPattern(*route, "a '{' without '}'");
      RETURN_IF_ERROR(AddVariable(request, rest.substr(1, end - 1), route));
      rest.remove_prefix(end + 1);
    } else {
      const std::string_view segment = rest.substr(0, rest.find_first_of("/:"));
      RETURN_IF_ERROR(AddSegment(segment, route));
      rest.remove_prefix(segment.size());
    }
  }
  if (rest.empty()) return absl::OkStatus();
  if (rest.front() != ':' || rest.size() == 1 || rest.find_first_of("/:{}*=", 1) != std::string_view::npos) {
    return BadPattern(*route, "only ':verb' may follow the last segment");
  }
  route->verb = rest.substr(1);
  return absl::OkStatus();
}

absl::StatusOr<RouteTable> RouteTable::Create(const std::vector<std::string>& services) {
  RouteTable table;
  for (const std::string& name : services) {
    const ServiceDescriptor* service = DescriptorPool::generated_pool()->FindServiceByName(name);
    if (service == nullptr) return Internal("HTTP_RULE", "there is no service {}", name);
    RETURN_IF_ERROR(AddService(*service, &table.routes_));
  }
  std::map<std::string, const HttpRoute*> shapes;
  for (const HttpRoute& route : table.routes_) {
    const auto [it, fresh] = shapes.emplace(ShapeOf(route), &route);
    if (!fresh) {
      return Internal("HTTP_RULE", "{} and {} have the same path, {} {}", it->second->method->full_name(),
                      route.method->full_name(), route.http_method, route.pattern);
    }
  }
  std::stable_sort(table.routes_.begin(), table.routes_.end(), MoreLiteral);
  return table;
}

absl::StatusOr<RouteMatch> RouteTable::Match(std::string_view http_method, std::string_view path) const {
  RouteMatch match;
  SplitPath split;
  if (!Split(path, &split)) return match;
  std::vector<std::string> decoded;
  decoded.reserve(split.segments.size());
  for (const std::string_view segment : split.segments) {
    ASSIGN_OR_RETURN(std::string text, PercentDecode(segment));
    decoded.push_back(std::move(text));
  }
  if (http_method == "HEAD") http_method = "GET";
  for (const HttpRoute& route : routes_) {
    if (!Fits(route, split, decoded)) continue;
    if (std::find(match.allowed.begin(), match.allowed.end(), route.http_method) == match.allowed.end()) {
      match.allowed.push_back(route.http_method);
    }
    if (match.route == nullptr && route.http_method == http_method) match.route = &route;
  }
  if (match.route == nullptr) return match;
  match.values.reserve(match.route->variables.size());
  for (const PathVariable& variable : match.route->variables) {
    ASSIGN_OR_RETURN(std::string value, ValueOf(*match.route, variable, decoded));
    match.values.push_back(std::move(value));
  }
  return match;
}

}  // namespace qamserve
