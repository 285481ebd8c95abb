#include "server/http/route_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "qamserve/v1/access.pb.h"
#include "qamserve/v1/artifact.pb.h"
#include "qamserve/v1/checkpoint.pb.h"
#include "qamserve/v1/inference.pb.h"
#include "qamserve/v1/job.pb.h"
#include "qamserve/v1/serving.pb.h"
#include "qamserve/v1/system.pb.h"

namespace qamserve {
namespace {

using google::protobuf::FileDescriptor;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

std::vector<std::string> AllServices() {
  std::vector<std::string> names;
  for (const FileDescriptor* file :
       {v1::Key::descriptor()->file(), v1::Artifact::descriptor()->file(), v1::Upload::descriptor()->file(),
        v1::Usage::descriptor()->file(), v1::Job::descriptor()->file(), v1::Alias::descriptor()->file(),
        v1::System::descriptor()->file()}) {
    for (int i = 0; i < file->service_count(); ++i) names.push_back(file->service(i)->full_name());
  }
  return names;
}

RouteTable AllRoutes() {
  absl::StatusOr<RouteTable> table = RouteTable::Create(AllServices());
  EXPECT_TRUE(table.ok()) << table.status();
  return *std::move(table);
}

std::string Method(const RouteMatch& match) { return match.route == nullptr ? "" : match.route->method->name(); }

RouteMatch MustMatch(const RouteTable& table, std::string_view method, std::string_view path) {
  absl::StatusOr<RouteMatch> match = table.Match(method, path);
  EXPECT_TRUE(match.ok()) << path << ": " << match.status();
  return match.ok() ? *std::move(match) : RouteMatch();
}

TEST(RouteTableTest, EveryCallHasARouteThatLeadsToIt) {
  const std::vector<std::string> services = AllServices();
  ASSERT_EQ(services.size(), 7u);
  const RouteTable table = AllRoutes();
  std::set<const google::protobuf::MethodDescriptor*> reached;
  for (const HttpRoute& route : table.routes()) {
    std::string path;
    for (const PathSegment& segment : route.segments) {
      path += '/';
      path += segment.kind == PathSegment::Kind::kLiteral ? segment.literal : "x1";
    }
    if (!route.verb.empty()) path += ":" + route.verb;
    const RouteMatch match = MustMatch(table, route.http_method, path);
    ASSERT_EQ(match.route, &route) << route.http_method << " " << path;
    ASSERT_EQ(match.values.size(), route.variables.size());
    for (const std::string& value : match.values) EXPECT_THAT(value, HasSubstr("x1"));
    reached.insert(match.route->method);
  }
  size_t methods = 0;
  for (const std::string& name : services) {
    const auto* service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    methods += static_cast<size_t>(service->method_count());
  }
  EXPECT_EQ(reached.size(), methods);
}

TEST(RouteTableTest, BindsNamesAndVerbs) {
  const RouteTable table = AllRoutes();
  RouteMatch match = MustMatch(table, "POST", "/v1/jobs/j1:cancel");
  EXPECT_EQ(Method(match), "CancelJob");
  EXPECT_THAT(match.values, ElementsAre("jobs/j1"));
  EXPECT_TRUE(match.route->body_is_request);
  match = MustMatch(table, "HEAD", "/v1/artifacts/d1/files/a%20b%2Fc%3Ad");
  EXPECT_EQ(Method(match), "DownloadFile");
  EXPECT_THAT(match.values, ElementsAre("artifacts/d1", "a b/c:d"));
  match = MustMatch(table, "PUT", "/v1/uploads/u1/files/abc");
  EXPECT_EQ(Method(match), "UploadFile");
  EXPECT_THAT(match.values, ElementsAre("uploads/u1", "abc"));
  EXPECT_EQ(match.route->body_field->name(), "data");
  EXPECT_EQ(Method(MustMatch(table, "POST", "/v1/jobs:quantize")), "CreateQuantizeJob");
  EXPECT_EQ(Method(MustMatch(table, "GET", "/v1/jobs")), "ListJobs");
}

TEST(RouteTableTest, TellsWhichMethodsAPathHas) {
  const RouteTable table = AllRoutes();
  RouteMatch match = MustMatch(table, "PATCH", "/v1/aliases/a");
  EXPECT_EQ(match.route, nullptr);
  EXPECT_THAT(match.allowed, UnorderedElementsAre("GET", "PUT", "DELETE"));
  for (const char* path :
       {"", "/", "/v1", "/v1/", "/v1/jobs/", "/v1//jobs", "/v1/jobs/a/b", "/v1/nothing",
        "/v1/jobs/a:", "/v1/jobs/a:frobnicate", "/v1/jobs/a:cancel:cancel", "/v1/jobs:cancel", "v1/jobs", "*"}) {
    match = MustMatch(table, "GET", path);
    EXPECT_EQ(match.route, nullptr) << path;
    EXPECT_TRUE(match.allowed.empty()) << path;
  }
}

TEST(RouteTableTest, RefusesBadEncodingAndHiddenSlashes) {
  const RouteTable table = AllRoutes();
  for (const char* path : {"/v1/jobs/%", "/v1/jobs/%4", "/v1/jobs/%zz", "/v1/jobs/%00", "/v1/jobs/%FF"}) {
    EXPECT_EQ(ReasonOf(table.Match("GET", path).status()), "PERCENT_ENCODING") << path;
  }
  EXPECT_EQ(ReasonOf(table.Match("GET", "/v1/jobs/..%2Fkeys").status()), "PATH_SEGMENT");
}

TEST(RouteTableTest, ParsesPatternsByTheRules) {
  HttpRoute route;
  route.pattern = "/v1/{name=jobs/*/parts/**}:go";
  ASSERT_TRUE(ParsePathPattern(*v1::GetJobRequest::descriptor(), &route).ok());
  ASSERT_EQ(route.segments.size(), 5u);
  EXPECT_EQ(route.segments[4].kind, PathSegment::Kind::kRest);
  EXPECT_EQ(route.verb, "go");
  EXPECT_EQ(route.variables[0].begin, 1u);
  EXPECT_EQ(route.variables[0].end, 5u);
}

TEST(RouteTableTest, RefusesPatternsThatItCannotFollow) {
  for (const char* pattern : {"", "v1/jobs", "/", "/v1//jobs", "/v1/{name", "/v1/{nothing}", "/v1/{page_size}",
                              "/v1/**/x", "/v1/{name=**}/x", "/v1/{name}/{name}", "/v1/jobs:", "/v1/jobs:a:b",
                              "/v1/jobs:a/b", "/v1/a*b", "/v1/{name=}", "/v1/{name=jobs/{state}}", "/v1/{name}x"}) {
    HttpRoute route;
    route.pattern = pattern;
    EXPECT_EQ(ReasonOf(ParsePathPattern(*v1::GetJobRequest::descriptor(), &route)), "HTTP_RULE") << pattern;
  }
  EXPECT_EQ(ReasonOf(RouteTable::Create({"qamserve.v1.NoService"}).status()), "HTTP_RULE");
  // The same service twice has the same paths twice.
  EXPECT_THAT(MessageOf(RouteTable::Create({"qamserve.v1.JobService", "qamserve.v1.JobService"}).status()),
              HasSubstr("have the same path"));
}

}  // namespace
}  // namespace qamserve
