#include "server/telemetry/store_gauges.h"

#include <absl/strings/ascii.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "core/evaluate/evaluate.h"

namespace qamserve {
namespace {

constexpr std::array<JobState, 3> kActiveStates = {JobState::kQueued, JobState::kRunning, JobState::kGating};
constexpr std::array<TaskState, 4> kTaskStates = {TaskState::kReady, TaskState::kLeased, TaskState::kDone,
                                                  TaskState::kFailed};
constexpr std::array<std::string_view, 3> kRoles = {"api", "worker", "inference"};
constexpr std::array<std::pair<ReplicaState, std::string_view>, 4> kReplicaStates = {
    {{ReplicaState::kLoading, "loading"},
     {ReplicaState::kReady, "ready"},
     {ReplicaState::kDraining, "draining"},
     {ReplicaState::kFailed, "failed"}}};
// Jobs of pools that no worker has, all together: their names are whatever somebody wrote.
constexpr std::string_view kOtherPool = "other";

bool Has(const std::vector<std::string>& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  absl::AsciiStrToLower(&lower);
  return lower;
}

double SecondsBetween(int64_t from_ms, int64_t to_ms) {
  return static_cast<double>(std::max<int64_t>(0, to_ms - from_ms)) / 1000;
}

std::set<std::string, std::less<>> WorkedPools(const std::vector<InstanceRecord>& instances) {
  std::set<std::string, std::less<>> pools;
  for (const InstanceRecord& instance : instances) {
    if (Has(instance.roles, "worker")) pools.insert(instance.pools.begin(), instance.pools.end());
  }
  return pools;
}

struct PoolCounts {
  std::map<JobState, int64_t> jobs;
  std::map<TaskState, int64_t> tasks;
  int64_t oldest_queued_ms = 0;  // 0: none
};

void WriteQueue(const StoreFacts& facts, Metrics::GaugeWriter& writer) {
  std::map<std::string, PoolCounts, std::less<>> by_pool;
  for (const std::string& pool : WorkedPools(facts.instances)) by_pool[pool];
  const auto counts_of = [&](const std::string& pool) -> PoolCounts& {
    const auto found = by_pool.find(pool);
    return found != by_pool.end() ? found->second : by_pool[std::string(kOtherPool)];
  };
  for (const QueueCounts::Jobs& jobs : facts.queue.jobs) {
    PoolCounts& counts = counts_of(jobs.pool);
    counts.jobs[jobs.state] += jobs.count;
    if (jobs.state != JobState::kQueued) continue;
    const int64_t oldest = counts.oldest_queued_ms;
    counts.oldest_queued_ms = oldest == 0 ? jobs.oldest_created_ms : std::min(oldest, jobs.oldest_created_ms);
  }
  for (const QueueCounts::Tasks& tasks : facts.queue.tasks) counts_of(tasks.pool).tasks[tasks.state] += tasks.count;
  for (auto& [pool, counts] : by_pool) {
    writer.Set(Metric::kJobQueueDepth, {pool}, static_cast<double>(counts.jobs[JobState::kQueued]));
    const int64_t oldest = counts.oldest_queued_ms;
    writer.Set(Metric::kJobQueueAgeSeconds, {pool}, oldest == 0 ? 0 : SecondsBetween(oldest, facts.now_ms));
    for (const JobState state : kActiveStates) {
      writer.Set(Metric::kJobs, {pool, Lower(JobStateName(state))}, static_cast<double>(counts.jobs[state]));
    }
    for (const TaskState state : kTaskStates) {
      writer.Set(Metric::kTasks, {pool, Lower(TaskStateName(state))}, static_cast<double>(counts.tasks[state]));
    }
  }
  const StrandedJobs stranded = CountStrandedJobs(facts);
  writer.Set(Metric::kStrandedJobs, {"pool"}, static_cast<double>(stranded.by_pool));
  writer.Set(Metric::kStrandedJobs, {"codec"}, static_cast<double>(stranded.by_codec));
}

void WriteFleet(const StoreFacts& facts, Metrics::GaugeWriter& writer) {
  for (const std::string_view role : kRoles) {
    int64_t count = 0, draining = 0, oldest_ms = facts.now_ms;
    for (const InstanceRecord& instance : facts.instances) {
      if (!Has(instance.roles, role)) continue;
      ++count;
      if (instance.TakesNothingNew()) ++draining;
      oldest_ms = std::min(oldest_ms, instance.seen_ms);
    }
    writer.Set(Metric::kInstances, {role}, static_cast<double>(count));
    writer.Set(Metric::kInstancesDraining, {role}, static_cast<double>(draining));
    writer.Set(Metric::kInstanceHeartbeatAgeSeconds, {role}, SecondsBetween(oldest_ms, facts.now_ms));
  }
  for (const ServedModelRecord& model : facts.served_models) {
    writer.Set(Metric::kReplicasWanted, {model.name}, model.replicas);
    for (const auto& [state, name] : kReplicaStates) {
      const auto is_one = [&, wanted = state](const ReplicaRecord& replica) {
        return replica.model == model.name && replica.state == wanted;
      };
      writer.Set(Metric::kReplicas, {model.name, name},
                 static_cast<double>(std::count_if(facts.replicas.begin(), facts.replicas.end(), is_one)));
    }
  }
}

}  // namespace

absl::StatusOr<StoreFacts> LoadStoreFacts(MetadataStore& store) {
  StoreFacts facts;
  facts.now_ms = store.NowMs();
  ASSIGN_OR_RETURN(facts.queue, store.CountQueue());
  ASSIGN_OR_RETURN(facts.instances, store.ListInstances());
  ASSIGN_OR_RETURN(facts.replicas, store.ListReplicas());
  ASSIGN_OR_RETURN(facts.served_models, store.ListServedModels());
  ASSIGN_OR_RETURN(const Page<ArtifactRecord> newest, store.ListArtifacts({1, ""}, ""));
  if (newest.items.empty()) return facts;
  const ArtifactRecord& artifact = newest.items.front();
  facts.last_artifact_bpw = artifact.bpw;
  const absl::StatusOr<QualityReport> quality = QualityReportFromJson(artifact.quality_json);
  if (quality.ok()) facts.last_artifact_kl_nats = quality->kl_mean;
  return facts;
}

StrandedJobs CountStrandedJobs(const StoreFacts& facts) {
  StrandedJobs stranded;
  for (const QueueCounts::Jobs& jobs : facts.queue.jobs) {
    bool pool = false, codec = false;
    for (const InstanceRecord& instance : facts.instances) {
      if (!Has(instance.roles, "worker") || !Has(instance.pools, jobs.pool)) continue;
      // One that ends is about to be replaced; one that was asked to drain may stay like that.
      if (instance.drain_requested) continue;
      pool = true;
      codec = codec || jobs.codec_version.empty() || jobs.codec_version == instance.codec_version;
    }
    if (!pool) stranded.by_pool += jobs.count;
    if (pool && !codec) stranded.by_codec += jobs.count;
  }
  return stranded;
}

void WriteStoreGauges(const StoreFacts& facts, Metrics::GaugeWriter& writer) {
  WriteQueue(facts, writer);
  WriteFleet(facts, writer);
  if (facts.last_artifact_bpw) writer.Set(Metric::kLastArtifactBitsPerWeight, {}, *facts.last_artifact_bpw);
  if (facts.last_artifact_kl_nats) writer.Set(Metric::kLastArtifactKlNats, {}, *facts.last_artifact_kl_nats);
}

}  // namespace qamserve
