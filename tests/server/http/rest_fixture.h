// The REST part over fake services.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "server/http/rest/rest_part.h"
#include "tests/server/http/fake_services.h"
#include "tests/support/fake_exchange.h"

namespace qamserve {

inline HttpRequestHead HeadOf(const std::string& method, const std::string& target, HttpFields fields = {}) {
  HttpRequestHead head;
  head.method = method;
  const size_t query = target.find('?');
  head.path = target.substr(0, query);
  if (query != std::string::npos) head.query = target.substr(query + 1);
  head.fields = std::move(fields);
  head.peer = "127.0.0.1:4711";
  return head;
}

class RestFixture : public testing::Test {
 protected:
  using Json = nlohmann::json;

  void SetUp() override { MakePart(std::chrono::seconds(15)); }

  void MakePart(std::chrono::milliseconds ping_interval) {
    RestOptions options;
    options.calls = std::make_shared<LocalCalls>(server_.channel());
    options.services = FakeServer::services();
    options.version = "1.2.3";
    options.ping_interval = ping_interval;
    absl::StatusOr<HttpPart> part = RestPart(options);
    ASSERT_TRUE(part.ok()) << part.status();
    part_ = *std::move(part);
  }

  FakeAnswer Ask(const std::string& method, const std::string& target, HttpFields fields = {}, std::string body = "") {
    FakeClient client(HeadOf(method, target, std::move(fields)), std::move(body));
    client.SendTo(part_.handle);
    return client.Wait();
  }
  FakeAnswer AskJson(const std::string& method, const std::string& target, std::string body) {
    return Ask(method, target, {{"Content-Type", "application/json"}}, std::move(body));
  }

  static Json ErrorOf(const FakeAnswer& answer) {
    EXPECT_EQ(answer.field("Content-Type"), "application/json");
    const Json body = Json::parse(answer.body, nullptr, false);
    EXPECT_TRUE(body.is_object() && body.contains("error")) << answer.body;
    if (!body.is_object() || !body.contains("error")) return Json::object();
    EXPECT_EQ(body["error"]["code"], answer.status);
    return body["error"];
  }
  static std::string ReasonIn(const FakeAnswer& answer) {
    const Json error = ErrorOf(answer);
    if (!error.contains("details")) return "";
    for (const Json& detail : error["details"]) {
      if (detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo") return detail["reason"];
    }
    return "";
  }

  FakeBackend& backend() { return server_.backend(); }

  FakeServer server_;
  HttpPart part_;
};

}  // namespace qamserve
