#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "server/http/rest/openapi.h"
#include "tests/server/http/fake_services.h"

namespace qamserve::rest {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class OpenApiTest : public testing::Test {
 protected:
  static RouteTable MakeRoutes() {
    absl::StatusOr<RouteTable> routes = RouteTable::Create(FakeServer::services());
    EXPECT_TRUE(routes.ok()) << routes.status();
    return *std::move(routes);
  }
  Json MakeDocument() const {
    const absl::StatusOr<std::string> text = OpenApiDocument(routes_, "1.2.3");
    EXPECT_TRUE(text.ok()) << text.status();
    return Json::parse(*text);
  }

  const RouteTable routes_ = MakeRoutes();
  const Json document_ = MakeDocument();
};

void CollectReferences(const Json& json, std::set<std::string>* references) {
  if (json.is_object() && json.contains("$ref")) references->insert(json["$ref"]);
  if (!json.is_structured()) return;
  for (const auto& [key, value] : json.items()) CollectReferences(value, references);
}

TEST_F(OpenApiTest, HasEveryRouteOnce) {
  EXPECT_EQ(document_["openapi"], "3.1.0");
  EXPECT_EQ(document_["info"]["version"], "1.2.3");
  size_t operations = 0;
  std::set<std::string> ids;
  for (const auto& [path, methods] : document_["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      ++operations;
      EXPECT_TRUE(ids.insert(operation["operationId"]).second) << operation["operationId"];
      EXPECT_FALSE(operation["responses"]["200"].is_null()) << path;
    }
  }
  EXPECT_EQ(operations, routes_.routes().size());
}

TEST_F(OpenApiTest, EveryReferenceLeadsSomewhere) {
  std::set<std::string> references;
  CollectReferences(document_, &references);
  EXPECT_GT(references.size(), 20u);
  for (const std::string& reference : references) {
    ASSERT_EQ(reference.substr(0, 2), "#/");
    EXPECT_TRUE(document_.contains(Json::json_pointer(reference.substr(1)))) << reference;
  }
}

TEST_F(OpenApiTest, EveryPathParameterIsDeclared) {
  for (const auto& [path, methods] : document_["paths"].items()) {
    for (const auto& [method, operation] : methods.items()) {
      std::set<std::string> declared;
      for (const Json& parameter : operation.value("parameters", Json::array())) {
        if (parameter["in"] != "path") continue;
        declared.insert(parameter["name"]);
        EXPECT_EQ(parameter["required"], true);
        EXPECT_THAT(path, HasSubstr("{" + parameter["name"].get<std::string>() + "}"));
      }
      EXPECT_EQ(declared.size(), static_cast<size_t>(std::count(path.begin(), path.end(), '{'))) << path;
    }
  }
}

TEST_F(OpenApiTest, PathsBodiesAndWords) {
  const Json& paths = document_["paths"];
  const Json& cancel = paths["/v1/jobs/{job}:cancel"]["post"];
  EXPECT_EQ(cancel["operationId"], "JobService_CancelJob");
  EXPECT_EQ(cancel["requestBody"]["content"]["application/json"]["schema"]["$ref"],
            "#/components/schemas/CancelJobRequest");
  const Json& retry = paths["/v1/jobs/{job}:retry"]["post"];
  EXPECT_EQ(retry["description"], "A FAILED or CANCELLED job goes on from the tasks that are done.");
  const Json& watch = paths["/v1/jobs/{job}:watch"]["get"]["responses"]["200"]["content"];
  EXPECT_TRUE(watch.contains("application/x-ndjson"));
  EXPECT_TRUE(watch.contains("text/event-stream"));
  const Json& list = paths["/v1/jobs"]["get"]["parameters"];
  EXPECT_EQ(list[0]["name"], "pageSize");
  EXPECT_EQ(list[0]["in"], "query");
  EXPECT_EQ(list[2]["schema"]["$ref"], "#/components/schemas/JobState");
  EXPECT_TRUE(paths["/v1/uploads/{upload}/files/{sha256}"]["put"]["requestBody"]["content"].contains(
      "application/octet-stream"));
  EXPECT_TRUE(paths["/v1/artifacts/{artifact}/files/{file}"]["get"]["responses"].contains("206"));
}

TEST_F(OpenApiTest, SchemasByTheMapping) {
  const Json& schemas = document_["components"]["schemas"];
  const Json& spec = schemas["QuantizeSpec"]["properties"];
  EXPECT_EQ(spec["seed"]["type"], "string");
  EXPECT_EQ(spec["embeddingBits"]["type"], "integer");
  EXPECT_EQ(spec["ladder"]["items"]["type"], "number");
  EXPECT_THAT(spec["maxKl"]["description"].get<std::string>(), HasSubstr("REJECTED"));
  EXPECT_EQ(schemas["Job"]["properties"]["createTime"]["format"], "date-time");
  EXPECT_EQ(schemas["JobState"]["enum"][1], "JOB_STATE_QUEUED");
  EXPECT_THAT(schemas["JobState"]["description"].get<std::string>(), HasSubstr("JOB_STATE_REJECTED: a gate refused"));
  EXPECT_THAT(schemas["CompleteUploadResponse"].value("description", ""),
              HasSubstr("At most one of checkpoint, text."));
}

}  // namespace
}  // namespace qamserve::rest
