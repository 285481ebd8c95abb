// JSON to messages and back, and where requests come from: path, query, headers, body.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "qamserve/v1/inference.pb.h"
#include "qamserve/v1/job.pb.h"
#include "server/http/rest/binding.h"
#include "server/http/rest/errors.h"
#include "server/http/rest/json.h"

namespace qamserve::rest {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

// The field that BadRequest names.
std::string FieldOf(const absl::Status& status) {
  const Json body = Json::parse(ErrorAnswer(status).body);
  for (const Json& detail : body["error"]["details"]) {
    if (detail.contains("fieldViolations")) return detail["fieldViolations"][0].value("field", "");
  }
  return "";
}

struct BadJson {
  const char* text;
  const char* reason;
  const char* field;
};

class FromJsonTest : public testing::TestWithParam<BadJson> {};

TEST_P(FromJsonTest, NamesWhatIsWrong) {
  v1::CreateQuantizeJobRequest request;
  const absl::Status status = FromJson(GetParam().text, &request);
  EXPECT_EQ(ReasonOf(status), GetParam().reason) << status;
  EXPECT_EQ(FieldOf(status), GetParam().field) << status;
  EXPECT_THAT(MessageOf(status), HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    Jobs, FromJsonTest,
    testing::Values(
        // Not JSON, or not an object.
        BadJson{"{", "JSON_SYNTAX", ""}, BadJson{"{}x", "JSON_SYNTAX", ""},
        BadJson{"{'priority': 1}", "JSON_SYNTAX", ""}, BadJson{"{priority: 1}", "JSON_SYNTAX", ""},
        BadJson{R"({"priority": 1,})", "JSON_SYNTAX", ""}, BadJson{R"({"priority": 01})", "JSON_SYNTAX", ""},
        BadJson{R"({"priority": NaN})", "JSON_SYNTAX", ""}, BadJson{"{\"displayName\": \"\xFF\"}", "JSON_SYNTAX", ""},
        BadJson{R"({"displayName": "\ud800"})", "JSON_SYNTAX", ""}, BadJson{"[]", "JSON_FIELD", ""},
        BadJson{"3", "JSON_FIELD", ""}, BadJson{"null", "JSON_FIELD", ""},
        // Fields that are not there, or twice.
        BadJson{R"({"checkpint": "c"})", "JSON_FIELD", "checkpint"},
        BadJson{R"({"spec": {"rates": [{"bpw": 4}, {"bwp": 4}]}})", "JSON_FIELD", "spec.rates[1].bwp"},
        BadJson{R"({"priority": 1, "priority": 2})", "JSON_FIELD", "priority"},
        BadJson{R"({"displayName": "a", "display_name": "b"})", "JSON_FIELD", "display_name"},
        // Wrong kinds.
        BadJson{R"({"spec": "fast"})", "JSON_FIELD", "spec"}, BadJson{R"({"spec": [{}]})", "JSON_FIELD", "spec"},
        BadJson{R"({"priority": [1]})", "JSON_FIELD", "priority"},
        BadJson{R"({"priority": {}})", "JSON_FIELD", "priority"},
        BadJson{R"({"spec": {"ladder": 4.5}})", "JSON_FIELD", "spec.ladder"},
        BadJson{R"({"spec": {"ladder": [[4.5]]}})", "JSON_FIELD", "spec.ladder[0]"},
        BadJson{R"({"spec": {"rates": [3]}})", "JSON_FIELD", "spec.rates[0]"},
        // Wrong values.
        BadJson{R"({"priority": "high"})", "JSON_FIELD", "priority"},
        BadJson{R"({"priority": 1.5})", "JSON_FIELD", "priority"},
        BadJson{R"({"priority": true})", "JSON_FIELD", "priority"},
        BadJson{R"({"spec": {"codec": "CODEC_MAGIC"}})", "JSON_FIELD", "spec.codec"},
        BadJson{R"({"validateOnly": "yes"})", "JSON_FIELD", "validateOnly"},
        BadJson{R"({"validateOnly": 1})", "JSON_FIELD", "validate_only"},
        BadJson{R"({"displayName": 3})", "JSON_FIELD", "display_name"},
        BadJson{R"({"spec": {"bpw": "much"}})", "JSON_FIELD", "spec.bpw"},
        // Huge numbers.
        BadJson{R"({"priority": 2147483648})", "JSON_FIELD", "priority"},
        BadJson{R"({"priority": 123456789012345678901234567890})", "JSON_FIELD", "priority"},
        BadJson{R"({"spec": {"seed": 18446744073709551616}})", "JSON_FIELD", "spec.seed"},
        BadJson{R"({"spec": {"seed": -1}})", "JSON_FIELD", "spec.seed"},
        BadJson{R"({"spec": {"bpw": 1e999}})", "JSON_NUMBER", "spec.bpw"},
        BadJson{R"({"spec": {"ladder": [1, 1e999]}})", "JSON_NUMBER", "spec.ladder[1]"},
        BadJson{R"({"spec": {"bpw": 0.00000000000000000000000000000000000000000000000000000000000000000000001}})",
                "JSON_NUMBER", "spec.bpw"}));

TEST(FromJsonTest, RefusesDeepNestingWithoutGoingIntoIt) {
  v1::CreateQuantizeJobRequest request;
  const std::string open(1'000'000, '[');
  absl::Status status = FromJson(open, &request);
  EXPECT_EQ(ReasonOf(status), "JSON_FIELD");  // the body must be an object
  std::string objects;
  for (int i = 0; i < 200'000; ++i) objects += R"({"spec":)";
  status = FromJson(objects, &request);
  EXPECT_EQ(FieldOf(status), "spec.spec");
}

TEST(FromJsonTest, DepthIsBoundedWhereAnythingMayStand) {
  // Struct-like values are the only place where nesting is not the descriptors'; a map of them stands for all.
  v1::TokenLogprob request;  // its own type is a field of it
  std::string text;
  for (size_t i = 0; i <= kMaxJsonDepth; ++i) text += R"({"top":[)";
  const absl::Status status = FromJson(text, &request);
  EXPECT_EQ(ReasonOf(status), "JSON_DEPTH");
  EXPECT_THAT(MessageOf(status), HasSubstr("32"));
}

TEST(FromJsonTest, TakesBothNamesStringsAndNulls) {
  v1::CreateQuantizeJobRequest request;
  ASSERT_TRUE(FromJson(R"({"checkpoint": "c", "display_name": "d", "requestId": null, "priority": "3",
                           "spec": {"codec": 2, "seed": "18446744073709551615", "bpw": 4, "ladder": [4.5, "5"],
                                    "calibration": {"chatTemplate": false}}})",
                       &request)
                  .ok());
  EXPECT_EQ(request.display_name(), "d");
  EXPECT_EQ(request.priority(), 3);
  EXPECT_EQ(request.spec().codec(), v1::CODEC_TRELLIS);
  EXPECT_EQ(request.spec().seed(), std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(request.spec().ladder(1), 5);
  EXPECT_TRUE(request.spec().calibration().has_chat_template());
}

TEST(FromJsonTest, ReadsMaps) {
  v1::SamplingParams params;
  ASSERT_TRUE(FromJson(R"({"logitBias": {"5": -1.5, "7": 2}})", &params).ok());
  EXPECT_EQ(params.logit_bias().at(5), -1.5);
  EXPECT_EQ(FieldOf(FromJson(R"({"logitBias": [1]})", &params)), "logitBias");
  EXPECT_EQ(FieldOf(FromJson(R"({"logitBias": {"5": {}}})", &params)), "logitBias.5");
  EXPECT_FALSE(FromJson(R"({"logitBias": {"five": 1}})", &params).ok());
}

TEST(FromJsonTest, OneOfTwoChoices) {
  v1::GenerateRequest request;
  const absl::Status status = FromJson(R"({"prompt": "a", "promptTokens": {"ids": [1]}})", &request);
  EXPECT_EQ(ReasonOf(status), "JSON_FIELD") << status;
  EXPECT_THAT(MessageOf(status), HasSubstr("oneof"));
}

TEST(ToJsonTest, WritesZerosNamesAndLongNumbersAsStrings) {
  v1::Job job;
  job.set_state(v1::JOB_STATE_RUNNING);
  job.mutable_estimate()->set_artifact_bytes(1234567890123);
  const Json json = Json::parse(*ToJson(job));
  EXPECT_EQ(json["state"], "JOB_STATE_RUNNING");
  EXPECT_EQ(json["displayName"], "");
  EXPECT_EQ(json["priority"], 0);
  EXPECT_EQ(json["tensors"], Json::array());
  EXPECT_EQ(json["estimate"]["artifactBytes"], "1234567890123");
  EXPECT_FALSE(json.contains("quality"));  // a message that is not there is not there
  EXPECT_FALSE(json.contains("createTime"));
  EXPECT_EQ(ToJson(job)->find('\n'), std::string::npos);
}

// --- Binding ---

class BindingTest : public testing::Test {
 protected:
  static RouteTable MakeRoutes() {
    absl::StatusOr<RouteTable> table =
        RouteTable::Create({"qamserve.v1.JobService", "qamserve.v1.ServingService", "qamserve.v1.CheckpointService"});
    EXPECT_TRUE(table.ok()) << table.status();
    return *std::move(table);
  }

  absl::StatusOr<MessagePtr> Bind(const std::string& method, const std::string& path, const std::string& query,
                                  HttpFields fields = {}, const std::string& body = "") {
    HttpRequestHead head;
    head.method = method;
    head.path = path;
    head.query = query;
    head.fields = std::move(fields);
    absl::StatusOr<RouteMatch> match = routes_.Match(method, path);
    if (!match.ok()) return match.status();
    if (match->route == nullptr) return NotFound("TEST", "no route");
    ASSIGN_OR_RETURN(MessagePtr request, BindParameters(*match, head));
    RETURN_IF_ERROR(BindBody(*match, head, body, request.get()));
    return request;
  }
  std::string Text(const absl::StatusOr<MessagePtr>& request) {
    return request.ok() ? (*request)->ShortDebugString() : ReasonOf(request.status());
  }

  const HttpFields json_ = {{"Content-Type", "application/json; charset=UTF-8"}};
  const RouteTable routes_ = MakeRoutes();
};

TEST_F(BindingTest, QueryParametersByEitherName) {
  EXPECT_EQ(Text(Bind("GET", "/v1/jobs", "page_size=7&pageToken=a%26b+c&state=JOB_STATE_FAILED")),
            R"(page_size: 7 page_token: "a&b c" state: JOB_STATE_FAILED)");
  EXPECT_EQ(Text(Bind("GET", "/v1/jobs", "state=2&&")), "state: JOB_STATE_RUNNING");
  EXPECT_EQ(Text(Bind("PUT", "/v1/uploads/u/files/abc", "offset=9007199254740993")),
            R"(upload: "uploads/u" sha256: "abc" offset: 9007199254740993)");
}

TEST_F(BindingTest, BadQueryParametersAreNamed) {
  struct Case {
    const char* query;
    const char* field;
  };
  for (const Case& bad : {Case{"size=7", "size"}, Case{"page_size=seven", "page_size"}, Case{"page_size=", "page_size"},
                          Case{"pageSize=3000000000", "pageSize"}, Case{"page_size=1&pageSize=2", "pageSize"},
                          Case{"state=FAILED", "state"}, Case{"page_size.x=1", "page_size.x"}, Case{"=1", ""}}) {
    const absl::Status status = Bind("GET", "/v1/jobs", bad.query).status();
    EXPECT_EQ(ReasonOf(status), "QUERY_PARAMETER") << bad.query;
    EXPECT_EQ(FieldOf(status), bad.field);
  }
  EXPECT_EQ(FieldOf(Bind("GET", "/v1/jobs/a", "name=jobs/b").status()), "name");
  EXPECT_EQ(FieldOf(Bind("PUT", "/v1/uploads/u/files/a", "data=eA==").status()), "data");
  EXPECT_EQ(FieldOf(Bind("POST", "/v1/jobs:quantize", "validate_only=true").status()), "validate_only");
  EXPECT_EQ(Text(Bind("GET", "/v1/jobs", "page_token=%FF")), "PERCENT_ENCODING");
  std::string many;
  for (int i = 0; i < 300; ++i) many += "a=1&";
  EXPECT_EQ(Text(Bind("GET", "/v1/jobs", many)), "QUERY_PARAMETERS");
}

TEST_F(BindingTest, ABodyHasWhatThePathHasNot) {
  EXPECT_EQ(Text(Bind("POST", "/v1/jobs/a:cancel", "", json_, R"({"requestId": "r"})")),
            R"(name: "jobs/a" request_id: "r")");
  EXPECT_EQ(Text(Bind("POST", "/v1/jobs/a:cancel", "", json_, R"({"name": "jobs/a"})")), R"(name: "jobs/a")");
  EXPECT_EQ(Text(Bind("POST", "/v1/jobs/a:cancel", "")), R"(name: "jobs/a")");
  const absl::Status status = Bind("POST", "/v1/jobs/a:cancel", "", json_, R"({"name": "jobs/b"})").status();
  EXPECT_EQ(ReasonOf(status), "FIELD_CONFLICT");
  EXPECT_EQ(FieldOf(status), "name");
  EXPECT_EQ(Text(Bind("GET", "/v1/jobs", "", json_, "{}")), "BODY_UNEXPECTED");
}

TEST_F(BindingTest, BodiesAreJsonAndSaySo) {
  for (const char* type : {"", "text/plain", "application/x-www-form-urlencoded", "application/jsonx",
                           "application/json; charset=latin1"}) {
    const absl::Status status = Bind("POST", "/v1/jobs:quantize", "", {{"Content-Type", type}}, "{}").status();
    EXPECT_EQ(ReasonOf(status), "CONTENT_TYPE") << type;
    EXPECT_EQ(ErrorAnswer(status).head.status, 415);
  }
}

TEST_F(BindingTest, HeadersFillTheirFields) {
  EXPECT_EQ(Text(Bind("POST", "/v1/jobs/a:cancel", "", {{"Idempotency-Key", "\"r1\""}})),
            R"(name: "jobs/a" request_id: "r1")");
  EXPECT_EQ(Text(Bind("DELETE", "/v1/jobs/a", "", {{"idempotency-key", "r1"}})), R"(name: "jobs/a" request_id: "r1")");
  EXPECT_EQ(Text(Bind("DELETE", "/v1/aliases/a", "", {{"If-Match", "\"e\""}})), R"(name: "aliases/a" etag: "e")");
  EXPECT_EQ(Text(Bind("DELETE", "/v1/aliases/a", "", {{"If-Match", "*"}})), R"(name: "aliases/a")");
  HttpFields fields = json_;
  fields.emplace_back("Idempotency-Key", "r1");
  EXPECT_EQ(Text(Bind("POST", "/v1/jobs/a:cancel", "", fields, R"({"request_id": "r1"})")),
            R"(name: "jobs/a" request_id: "r1")");
  const absl::Status status = Bind("POST", "/v1/jobs/a:cancel", "", fields, R"({"request_id": "r2"})").status();
  EXPECT_EQ(ReasonOf(status), "FIELD_CONFLICT");
  EXPECT_EQ(FieldOf(status), "request_id");
  EXPECT_EQ(Text(Bind("DELETE", "/v1/jobs/a", "request_id=r2", {{"Idempotency-Key", "r1"}})), "FIELD_CONFLICT");
}

}  // namespace
}  // namespace qamserve::rest
