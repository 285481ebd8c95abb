// Which HTTP method and path is which call: read once from the option google.api.http of the descriptors of services.
// Const after Create, so thread-safe.
//
// Of the rules in the comments of the public google/api/http.proto these are followed:
//   path       "/" segments with an optional ":verb" at the end; a segment is a literal, "*" (one segment), "**" (the
//   rest;
//              last only) or "{field=segments}", "{field}" being "{field=*}"; fields are strings of the request itself
//   body       "*", a field, or none: then the query has what the path has not
//   response_body, additional_bindings, get, put, post, delete, patch and custom
// Two rules are stricter. A ':' in the last segment of a request's path begins a verb; one in a name is sent as %3A. A
// segment of a field of several segments must not contain "/", however encoded.
#pragma once

#include <google/protobuf/descriptor.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

struct PathSegment {
  enum class Kind { kLiteral, kAny, kRest };
  Kind kind = Kind::kLiteral;
  std::string literal;
};

// Segments [begin, end) of the path, joined by "/".
struct PathVariable {
  const google::protobuf::FieldDescriptor* field = nullptr;
  size_t begin = 0;
  size_t end = 0;
};

struct HttpRoute {
  const google::protobuf::MethodDescriptor* method = nullptr;
  std::string http_method;  // "GET"
  std::string pattern;      // as annotated
  std::vector<PathSegment> segments;
  std::string verb;  // without ':'; empty = none
  std::vector<PathVariable> variables;
  bool body_is_request = false;                                       // body: "*"
  const google::protobuf::FieldDescriptor* body_field = nullptr;      // of the request
  const google::protobuf::FieldDescriptor* response_field = nullptr;  // of the answer

  bool BindsInPath(const google::protobuf::FieldDescriptor* field) const;
};

struct RouteMatch {
  const HttpRoute* route = nullptr;  // null: see `allowed`
  std::vector<std::string> values;   // of route->variables
  std::vector<std::string> allowed;  // HTTP methods of the path; empty = no such path
};

class RouteTable {
 public:
  // `services` are full names; their descriptors must be in the generated pool. INTERNAL (HTTP_RULE) names the method
  // whose option is missing or cannot be followed, or the two that have the same path.
  static absl::StatusOr<RouteTable> Create(const std::vector<std::string>& services);

  // `path` as it was sent, with percent-encoding. HEAD is GET. A literal segment is preferred to "*". The errors of
  // PercentDecode; INVALID_ARGUMENT (PATH_SEGMENT).
  absl::StatusOr<RouteMatch> Match(std::string_view http_method, std::string_view path) const;

  // The most literal first.
  const std::vector<HttpRoute>& routes() const { return routes_; }

 private:
  std::vector<HttpRoute> routes_;
};

// Takes `route->pattern` apart into segments, verb and variables. INTERNAL (HTTP_RULE).
absl::Status ParsePathPattern(const google::protobuf::Descriptor& request, HttpRoute* route);

}  // namespace qamserve
