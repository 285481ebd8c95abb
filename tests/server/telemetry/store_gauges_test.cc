#include "server/telemetry/store_gauges.h"

#include <absl/strings/str_split.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "server/telemetry/store_metrics.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string TextOf(const StoreFacts& facts) {
  Metrics metrics;
  metrics.SetKnownModels([](std::string_view) { return true; });
  metrics.AddGaugeSource([&](Metrics::GaugeWriter& writer) { WriteStoreGauges(facts, writer); });
  return metrics.Text();
}

InstanceRecord Instance(const std::string& role, const std::vector<std::string>& pools, const std::string& codec,
                        int64_t seen_ms) {
  InstanceRecord instance;
  instance.id = role + pools.front();
  instance.roles = {role};
  instance.pools = pools;
  instance.codec_version = codec;
  instance.seen_ms = seen_ms;
  return instance;
}

TEST(StoreGaugesTest, TheQueueIsToldByPool) {
  StoreFacts facts;
  facts.now_ms = 100'000;
  facts.instances = {Instance("worker", {"cpu", "cuda"}, "qamw-4", 99'000),
                     Instance("worker", {"cpu"}, "qamw-4", 92'500)};
  facts.queue.jobs = {{"cpu", "qamw-4", JobState::kQueued, 3, 40'000},
                      {"cpu", "", JobState::kQueued, 1, 10'000},
                      {"cpu", "qamw-4", JobState::kRunning, 2, 1'000},
                      {"somebodys", "qamw-4", JobState::kQueued, 5, 70'000},
                      {"nobody-has", "qamw-4", JobState::kQueued, 6, 60'000}};
  facts.queue.tasks = {
      {"cpu", TaskState::kReady, 50}, {"cpu", TaskState::kLeased, 2}, {"nobody-has", TaskState::kReady, 9}};
  const std::string text = TextOf(facts);
  for (const char* line :
       {"qamserve_job_queue_depth{pool=\"cpu\"} 4", "qamserve_job_queue_age_seconds{pool=\"cpu\"} 90",
        "qamserve_jobs{pool=\"cpu\",state=\"running\"} 2", "qamserve_tasks{pool=\"cpu\",state=\"ready\"} 50",
        "qamserve_tasks{pool=\"cpu\",state=\"leased\"} 2",
        // A pool with workers and nothing to do.
        "qamserve_job_queue_depth{pool=\"cuda\"} 0", "qamserve_job_queue_age_seconds{pool=\"cuda\"} 0",
        // Names that somebody made up are no labels.
        "qamserve_job_queue_depth{pool=\"other\"} 11", "qamserve_job_queue_age_seconds{pool=\"other\"} 40",
        "qamserve_tasks{pool=\"other\",state=\"ready\"} 9", "qamserve_stranded_jobs{reason=\"pool\"} 11",
        "qamserve_stranded_jobs{reason=\"codec\"} 0", "qamserve_instances{role=\"worker\"} 2",
        "qamserve_instances{role=\"api\"} 0", "qamserve_instance_heartbeat_age_seconds{role=\"worker\"} 7.5",
        "qamserve_instance_heartbeat_age_seconds{role=\"api\"} 0"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
  EXPECT_THAT(text, Not(HasSubstr("nobody-has")));
}

TEST(StoreGaugesTest, InstancesAreToldWhateverThereIs) {
  StoreFacts facts;
  // Nothing waits and nobody works: the queue has no series, which is no sign that nobody tells of it.
  EXPECT_THAT(TextOf(facts), Not(HasSubstr("qamserve_jobs{")));
  for (const std::string_view role : {"api", "worker", "inference"}) {
    EXPECT_THAT(TextOf(facts), HasSubstr(fmt::format("qamserve_instances{{role=\"{}\"}} 0\n", role)));
  }
  // A process on its own, as the server adds it to the facts.
  facts.instances = {Instance("api", {"cpu"}, "qamw-4", 0)};
  EXPECT_THAT(TextOf(facts), Not(HasSubstr("qamserve_jobs{")));
  EXPECT_THAT(TextOf(facts), HasSubstr("qamserve_instances{role=\"api\"} 1\n"));
}

// Of the metrics that docs/metrics.md says to take the largest of, and of no others.
TEST(StoreGaugesTest, TheDocumentNamesWhatApiProcessesTellOfTheStore) {
  StoreFacts facts;
  facts.instances = {Instance("worker", {"cpu"}, "qamw-4", 0)};
  facts.served_models.emplace_back().name = "smol";
  facts.last_artifact_bpw = 4.5;
  facts.last_artifact_kl_nats = 0.1;
  const std::string by_themselves = Metrics().Text(), written = TextOf(facts);
  const std::string document = MetricsMarkdown();
  const size_t begin = document.find("take the largest. These are "), end = document.find("\n\n", begin);
  ASSERT_NE(begin, document.npos);
  std::set<std::string, std::less<>> names;
  std::vector<std::string> prefixes;
  const std::vector<std::string> parts = absl::StrSplit(document.substr(begin, end - begin), '`');
  for (const std::string& part : parts) {
    if (!part.starts_with("qamserve_")) continue;
    if (part.ends_with("*")) {
      prefixes.push_back(part.substr(0, part.size() - 1));
    } else {
      names.insert(part);
    }
  }
  for (const MetricSpec& spec : AllMetrics()) {
    const std::string line = fmt::format("# TYPE {} ", spec.name);
    const bool is_told = written.find(line) != written.npos && by_themselves.find(line) == by_themselves.npos;
    const bool named = names.contains(spec.name) ||
                       std::any_of(prefixes.begin(), prefixes.end(),
                                   [&](const std::string& prefix) { return spec.name.starts_with(prefix); });
    EXPECT_EQ(is_told, named) << spec.name;
  }
}

TEST(StoreGaugesTest, JobsOfAnotherCodecAreStranded) {
  StoreFacts facts;
  facts.instances = {Instance("worker", {"cpu"}, "qamw-5", 0), Instance("api", {"old"}, "qamw-4", 0)};
  facts.queue.jobs = {{"cpu", "qamw-4", JobState::kQueued, 2, 1},
                      {"cpu", "qamw-5", JobState::kRunning, 3, 1},
                      {"cpu", "", JobState::kRunning, 4, 1},
                      {"old", "qamw-4", JobState::kQueued, 8, 1}};
  const StrandedJobs stranded = CountStrandedJobs(facts);
  EXPECT_EQ(stranded.by_codec, 2);
  EXPECT_EQ(stranded.by_pool, 8) << "what is no worker takes no tasks";
  facts.instances.push_back(Instance("worker", {"cpu", "old"}, "qamw-4", 0));
  EXPECT_EQ(CountStrandedJobs(facts).by_codec, 0);
  EXPECT_EQ(CountStrandedJobs(facts).by_pool, 0);
  for (InstanceRecord& instance : facts.instances) instance.drain_requested = true;
  EXPECT_GT(CountStrandedJobs(facts).by_pool, 0) << "those that were asked to drain take none";
}

TEST(StoreGaugesTest, ReplicasAreToldByModelAndState) {
  StoreFacts facts;
  ServedModelRecord model;
  model.name = "smol";
  model.replicas = 3;
  facts.served_models = {model};
  const auto replica = [](const std::string& name, ReplicaState state) {
    ReplicaRecord record;
    record.model = name;
    record.state = state;
    return record;
  };
  facts.replicas = {replica("smol", ReplicaState::kReady), replica("smol", ReplicaState::kReady),
                    replica("smol", ReplicaState::kFailed), replica("gone", ReplicaState::kDraining)};
  facts.last_artifact_bpw = 4.5;
  const std::string text = TextOf(facts);
  for (const char* line :
       {"qamserve_replicas_wanted{model=\"smol\"} 3", "qamserve_replicas{model=\"smol\",state=\"ready\"} 2",
        "qamserve_replicas{model=\"smol\",state=\"failed\"} 1", "qamserve_replicas{model=\"smol\",state=\"loading\"} 0",
        "qamserve_last_artifact_bpw 4.5"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
  EXPECT_THAT(text, Not(HasSubstr("qamserve_last_artifact_kl_nats")));
}

TEST(StoreMetricsTest, CountsWhatStoresTell) {
  Metrics metrics;
  StoreMetrics store(metrics);
  metrics.AddGaugeSource([&](Metrics::GaugeWriter& writer) { store.WriteGauges(writer); });
  EXPECT_THAT(metrics.Text(), Not(HasSubstr("qamserve_blob_cache_bytes"))) << "there is no cache";
  using Transaction = StoreObserver::Transaction;
  store.OnTransaction({.kind = Transaction::Kind::kWrite, .seconds = 0.2, .retries = 3, .code = absl::StatusCode::kOk});
  store.OnTransaction({.kind = Transaction::Kind::kRead, .seconds = 30, .code = absl::StatusCode::kUnavailable});
  store.OnReconnect();
  store.OnBlobRequest({.operation = StoreObserver::BlobRequest::Operation::kUploadPart,
                       .seconds = 1,
                       .retries = 2,
                       .bytes_sent = 300,
                       .bytes_received = 40,
                       .code = absl::StatusCode::kPermissionDenied});
  store.OnCacheLookup(true);
  store.OnCacheLookup(false);
  store.OnCacheEviction(1000);
  store.OnCacheSize(5000, 9000);
  store.OnCorruptBlob();
  const std::string text = metrics.Text();
  for (const char* line :
       {"qamserve_store_transactions_total{code=\"OK\",kind=\"write\"} 1",
        "qamserve_store_transactions_total{code=\"UNAVAILABLE\",kind=\"read\"} 1",
        "qamserve_store_transaction_seconds_bucket{kind=\"write\",le=\"0.25\"} 1",
        "qamserve_store_retries_total{kind=\"write\"} 3", "qamserve_store_reconnects_total 1",
        "qamserve_blob_requests_total{code=\"PERMISSION_DENIED\",operation=\"upload_part\"} 1",
        "qamserve_blob_request_retries_total{operation=\"upload_part\"} 2",
        "qamserve_blob_bytes_total{direction=\"sent\"} 300", "qamserve_blob_bytes_total{direction=\"received\"} 40",
        "qamserve_blob_cache_lookups_total{result=\"hit\"} 1", "qamserve_blob_cache_lookups_total{result=\"miss\"} 1",
        "qamserve_blob_cache_evictions_total 1", "qamserve_blob_cache_evicted_bytes_total 1000",
        "qamserve_blob_cache_bytes 5000", "qamserve_blob_cache_limit_bytes 9000", "qamserve_corrupt_blobs_total 1"}) {
    EXPECT_THAT(text, HasSubstr(std::string(line) + "\n"));
  }
}

}  // namespace
}  // namespace qamserve
