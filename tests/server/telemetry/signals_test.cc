// Signals of whole servers: one trace over all processes of a fleet, and a bounded number of series whatever is asked.
#include <absl/time/clock.h>
#include <gmock/gmock.h>

#include <set>
#include <sstream>
#include <thread>

#include "tests/server/fleet/server_fleet_fixture.h"
#include "tests/server/grpc/server_fixture.h"
#include "tests/server/jobs/fake_runner.h"
#include "tests/server/telemetry/keeping_sink.h"
#include "tests/support/otlp_collector.h"
#include "tests/support/raw_http.h"

namespace qamserve {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

constexpr char kTrace[] = "0af7651916cd43dd8448eb211c80319c";

// api, worker and inference, each a server of its own.
class TracedFleetTest : public ServerFleetTest {
 protected:
  void SetUp() override {
    ServerFleetTest::SetUp();
    catalog_ = std::make_unique<Catalog>(CatalogOptions(), *store_, *blobs_);
    for (const char* role : {"api", "worker", "inference"}) {
      ServerOptions options;
      options.data_dir = dir_ / role;
      options.listen = "127.0.0.1:0";
      options.http_listen = "off";
      options.metrics_listen = "off";
      options.roles = {role};
      options.threads = 1;
      options.memory_limit_mib = 64;
      options.disk_reserve_mib = 0;
      options.otlp_endpoint = collector_.url();
      options.trace_ratio = 0;  // only what comes with a traceparent
      ServerParts parts;
      parts.loader = &loader_;
      parts.runner = runners_.emplace_back(std::make_unique<FakeRunner>(*catalog_)).get();
      parts.store = store_;
      parts.blobs = blobs_;
      auto server = Server::Start(options, Log::Silent(), parts);
      ASSERT_TRUE(server.ok()) << server.status();
      servers_.push_back(*std::move(server));
    }
    channel_ = grpc::CreateChannel(servers_[0]->address(), grpc::InsecureChannelCredentials());
  }

  static std::unique_ptr<grpc::ClientContext> Traced() {
    auto context = std::make_unique<grpc::ClientContext>();
    context->AddMetadata("traceparent", kParent);
    context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    return context;
  }
  // The one span of that name and parent.
  json SpanOf(const std::string& name, const std::string& parent) {
    const auto is_it = [&](const json& span) {
      return span["name"] == name && span.value("parentSpanId", "") == parent;
    };
    const std::vector<json> found = collector_.WaitFor(is_it);
    EXPECT_EQ(found.size(), 1u) << name << " below " << parent;
    return found.empty() ? json{{"spanId", ""}, {"attributes", json::array()}} : found[0];
  }

  OtlpCollector collector_;
  std::unique_ptr<Catalog> catalog_;
  std::shared_ptr<FakeState> state_ = std::make_shared<FakeState>();
  FakeLoader loader_{state_};
  std::vector<std::unique_ptr<FakeRunner>> runners_;
  std::vector<std::unique_ptr<Server>> servers_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(TracedFleetTest, AJobAndAnAnswerAreOneTraceOverAllProcesses) {
  v1::CreateQuantizeJobRequest create;
  create.set_checkpoint(source_);
  v1::Job job;
  const grpc::Status created = v1::JobService::NewStub(channel_)->CreateQuantizeJob(Traced().get(), create, &job);
  ASSERT_TRUE(created.ok()) << created.error_message();
  const json create_span = SpanOf("qamserve.v1.JobService/CreateQuantizeJob", "b7ad6b7169203331");
  const json job_span = SpanOf("job quantize", create_span["spanId"]);
  EXPECT_EQ("jobs/" + AttributeOf(job_span, "qamserve.job"), job.name());
  EXPECT_EQ(AttributeOf(job_span, "qamserve.job.state"), "SUCCEEDED");
  const auto is_task = [&](const json& span) { return span.value("parentSpanId", "") == job_span["spanId"]; };
  // Of the worker's queue, which may be sent after the job's own span.
  EXPECT_TRUE(Eventually([&] { return collector_.WaitFor(is_task).size() == 7; }));

  v1::ServedModel model;
  v1::LoadModelRequest load;
  load.set_name("m");
  load.set_source(source_);
  grpc::ClientContext untraced;
  ASSERT_TRUE(v1::ServingService::NewStub(channel_)->LoadModel(&untraced, load, &model).ok());
  const auto context = Traced();
  const Answer answer = ReadAll(*v1::InferenceService::NewStub(channel_)->Generate(context.get(), Prompt("m")));
  ASSERT_TRUE(answer.status.ok()) << answer.status.error_message();
  const json outer = SpanOf("qamserve.v1.InferenceService/Generate", "b7ad6b7169203331");
  const json inner = SpanOf("qamserve.v1.InferenceService/Generate", outer["spanId"]);
  const json generate = SpanOf("generate", inner["spanId"]);
  EXPECT_EQ(AttributeOf(generate, "gen_ai.request.model"), "m");
  EXPECT_EQ(AttributeOf(generate, "gen_ai.usage.output_tokens"), "3");
  EXPECT_EQ(AttributeOf(outer, "qamserve.request"), AttributeOf(inner, "qamserve.request"));

  std::set<std::string> instances;
  for (const std::string& body : collector_.bodies()) {
    EXPECT_THAT(body, Not(HasSubstr("hello"))) << "the prompt";
    const json request = json::parse(body);
    for (const json& resource : request.at("resourceSpans")) {
      instances.insert(AttributeOf(resource["resource"], "service.instance.id"));
    }
  }
  EXPECT_EQ(instances.size(), 3u);
  for (const json& span : collector_.spans()) EXPECT_EQ(span["traceId"], kTrace) << "LoadModel had no traceparent";
}

class CardinalityTest : public ServerFixture {
 protected:
  void SetUp() override {
    metrics_ = true;
    ServerFixture::SetUp();
  }
  std::string Scrape() const { return HttpGet(server_->metrics_port(), "/metrics").body; }
  static size_t SeriesOf(const std::string& text) {
    size_t count = 0;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) count += line.empty() || line[0] == '#' ? 0 : 1;
    return count;
  }
  // Everything that a stranger may choose.
  void Throw(const std::string& junk) {
    v1::GenerateRequest generate;
    generate.set_model(junk);
    generate.set_prompt(junk);
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer qsk-" + junk);
    context.AddMetadata("x-request-id", junk);
    v1::GenerateResponse response;
    const auto reader = inference_->Generate(&context, generate);
    while (reader->Read(&response)) {
    }
    EXPECT_FALSE(reader->Finish().ok());
  }
};

TEST_F(CardinalityTest, TenThousandJunkNamesMakeNoNewSeries) {
  const std::string checkpoint = MakeCheckpoint();
  v1::ServedModel model;
  ASSERT_TRUE(LoadModel("real", checkpoint, &model).ok());
  const auto everything = [&](int begin, int end) {
    constexpr int kThreads = 8;
    std::vector<std::thread> threads;
    threads.reserve(kThreads);
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&, t] {
        for (int i = begin + t; i < end; i += kThreads) Throw("junk-" + std::to_string(i));
      });
    }
    for (std::thread& thread : threads) thread.join();
    RawClient http(server_->http_port());
    for (int i = begin; i < std::min(end, begin + 500); ++i) {
      http.Send("GET /v1/models/junk-" + std::to_string(i) + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
      EXPECT_EQ(http.ReadAnswer().status, 404);
    }
    for (int i = begin; i < std::min(end, begin + 20); ++i) {
      v1::CreateQuantizeJobRequest create;
      create.set_checkpoint(checkpoint);
      create.set_pool("junk-" + std::to_string(i));
      create.set_project("junk-" + std::to_string(i));
      create.set_validate_only(false);
      create.mutable_spec()->set_bpw(4 + 0.01 * i);
      v1::Job job;
      grpc::ClientContext context;
      const grpc::Status status = jobs_->CreateQuantizeJob(&context, create, &job);
      EXPECT_TRUE(status.ok()) << status.error_message();
    }
  };
  everything(0, 100);
  const std::string before = Scrape();
  everything(100, 10'000);
  const std::string after = Scrape();
  EXPECT_EQ(SeriesOf(after), SeriesOf(before));
  EXPECT_LT(SeriesOf(after), 1500u);
  EXPECT_THAT(after, Not(HasSubstr("junk")));
  EXPECT_THAT(after, HasSubstr("qamserve_requests_total{model=\"other\",outcome=\"refused\"} 10000\n"));
  EXPECT_THAT(after, HasSubstr("qamserve_requests_running{model=\"real\"} 0\n"));
}

}  // namespace
}  // namespace qamserve
