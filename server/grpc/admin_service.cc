#include "server/grpc/admin_service.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "server/grpc/backup_stream.h"
#include "server/grpc/call.h"
#include "server/grpc/converters.h"
#include "server/store/queue_order.h"

namespace qamserve {
namespace {

constexpr std::string_view kInstances = "instances";
constexpr size_t kMaxQueuedJobs = 200;
constexpr size_t kMaxNamedBlobs = 100;

constexpr CallName AdminCall(std::string_view method) { return {"AdminService", method}; }

const char* ReplicaStateName(ReplicaState state) {
  switch (state) {
    case ReplicaState::kLoading:
      return "LOADING";
    case ReplicaState::kReady:
      return "READY";
    case ReplicaState::kDraining:
      return "DRAINING";
    case ReplicaState::kFailed:
      return "FAILED";
  }
  return "UNKNOWN";
}

void FillReplica(const ReplicaRecord& record, v1::Replica* replica) {
  replica->set_model(ResourceName("servedModels", record.model));
  replica->set_state(ReplicaStateName(record.state));
  replica->set_error(record.error.message);
  replica->set_memory_bytes(record.memory_bytes);
  replica->set_running(record.running);
  replica->set_waiting(record.waiting);
}

void FillInstance(const InstanceRecord& record, v1::Instance* instance) {
  instance->set_name(ResourceName(kInstances, record.id));
  instance->set_host(record.host);
  instance->set_address(record.address);
  instance->mutable_roles()->Add(record.roles.begin(), record.roles.end());
  instance->mutable_pools()->Add(record.pools.begin(), record.pools.end());
  instance->set_version(record.version);
  instance->set_codec_version(record.codec_version);
  instance->set_kernels(record.kernels);
  instance->set_device(record.device);
  instance->set_threads(record.threads);
  instance->set_memory_bytes(record.memory_bytes);
  instance->set_draining(record.TakesNothingNew());
  instance->set_drain_requested(record.drain_requested);
  *instance->mutable_start_time() = TimestampFromMs(record.started_ms);
  *instance->mutable_seen_time() = TimestampFromMs(record.seen_ms);
}

absl::Status FillInstances(MetadataStore& store, v1::ListInstancesResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<InstanceRecord> instances, store.ListInstances());
  ASSIGN_OR_RETURN(const std::vector<ReplicaRecord> replicas, store.ListReplicas());
  ASSIGN_OR_RETURN(const std::vector<TaskRecord> leased, store.ListLeasedTasks());
  std::map<std::string, int32_t> tasks;
  for (const TaskRecord& task : leased) ++tasks[task.worker];
  for (const InstanceRecord& record : instances) {
    v1::Instance* instance = response->add_instances();
    FillInstance(record, instance);
    instance->set_tasks(tasks[record.id]);
    for (const ReplicaRecord& replica : replicas) {
      if (replica.instance == record.id) FillReplica(replica, instance->add_replicas());
    }
  }
  return absl::OkStatus();
}

absl::Status Drain(MetadataStore& store, const v1::DrainInstanceRequest& request, v1::Instance* response) {
  ASSIGN_OR_RETURN(const std::string id, ParseResourceName(kInstances, request.name()));
  RETURN_IF_ERROR(store.RequestDrain(id, !request.undo()));
  v1::ListInstancesResponse list;
  RETURN_IF_ERROR(FillInstances(store, &list));
  for (v1::Instance& instance : *list.mutable_instances()) {
    if (instance.name() == request.name()) *response = std::move(instance);
  }
  if (response->name().empty()) return NotFound("INSTANCE_NOT_FOUND", "instance {} has just ended", id);
  return absl::OkStatus();
}

absl::Status FillLeases(MetadataStore& store, v1::ListLeasesResponse* response) {
  ASSIGN_OR_RETURN(const std::vector<TaskRecord> leased, store.ListLeasedTasks());
  for (const TaskRecord& task : leased) {
    v1::Lease* lease = response->add_leases();
    lease->set_job(ResourceName("jobs", task.job));
    lease->set_task(task.index);
    lease->set_task_name(task.name);
    lease->set_stage(TaskStageName(task.stage));
    lease->set_worker(store.shared() ? ResourceName(kInstances, task.worker) : task.worker);
    lease->set_attempt(task.attempts);
    lease->set_progress(task.progress);
    *lease->mutable_expire_time() = TimestampFromMs(task.lease_expires_ms);
  }
  return absl::OkStatus();
}

void FillQueuedJob(const JobRecord& record, int64_t now_ms, v1::QueuedJob* job) {
  job->set_name(ResourceName("jobs", record.id));
  job->set_display_name(record.display_name);
  job->set_pool(record.pool);
  job->set_project(record.project);
  job->set_priority(record.priority);
  job->set_effective_priority(EffectivePriority({.id = record.id,
                                                 .project = record.project,
                                                 .priority = record.priority,
                                                 .created_ms = record.created_ms,
                                                 .sequence = record.sequence},
                                                now_ms));
  job->set_state(static_cast<v1::JobState>(record.state));
  job->set_codec_version(record.codec_version);
  *job->mutable_create_time() = TimestampFromMs(record.created_ms);
}

// Pools that have jobs or workers, by name.
absl::StatusOr<std::map<std::string, v1::PoolQueue>> CountPools(MetadataStore& store, int64_t now_ms) {
  std::map<std::string, v1::PoolQueue> pools;
  ASSIGN_OR_RETURN(const QueueCounts counts, store.CountQueue());
  for (const QueueCounts::Jobs& jobs : counts.jobs) {
    v1::PoolQueue& pool = pools[jobs.pool];
    const auto count = static_cast<int32_t>(jobs.count);
    if (jobs.state != JobState::kQueued) {
      pool.set_jobs_running(pool.jobs_running() + count);
      continue;
    }
    pool.set_jobs_queued(pool.jobs_queued() + count);
    const double age = static_cast<double>(std::max<int64_t>(0, now_ms - jobs.oldest_created_ms)) / 1000;
    pool.set_oldest_queued_seconds(std::max(pool.oldest_queued_seconds(), age));
  }
  for (const QueueCounts::Tasks& tasks : counts.tasks) {
    v1::PoolQueue& pool = pools[tasks.pool];
    if (tasks.state == TaskState::kReady) pool.set_tasks_ready(pool.tasks_ready() + tasks.count);
    if (tasks.state == TaskState::kLeased) pool.set_tasks_leased(pool.tasks_leased() + tasks.count);
  }
  ASSIGN_OR_RETURN(const std::vector<InstanceRecord> instances, store.ListInstances());
  for (const InstanceRecord& instance : instances) {
    if (instance.TakesNothingNew()) continue;
    for (const std::string& name : instance.pools) {
      v1::PoolQueue& pool = pools[name];
      pool.set_workers(pool.workers() + 1);
    }
  }
  return pools;
}

absl::Status FillQueue(MetadataStore& store, v1::Queue* response) {
  const int64_t now_ms = store.NowMs();
  ASSIGN_OR_RETURN(const auto pools, CountPools(store, now_ms));
  for (const auto& [name, counted] : pools) {
    v1::PoolQueue* pool = response->add_pools();
    *pool = counted;
    pool->set_pool(name);
  }
  ASSIGN_OR_RETURN(const std::vector<JobRecord> jobs, store.ListUnfinishedJobs());
  response->set_jobs_unfinished(static_cast<int64_t>(jobs.size()));
  for (size_t i = 0; i < std::min(jobs.size(), kMaxQueuedJobs); ++i) {
    FillQueuedJob(jobs[i], now_ms, response->add_jobs());
  }
  return absl::OkStatus();
}

absl::Status FillGarbage(Catalog& catalog, bool dry_run, v1::Garbage* response) {
  ASSIGN_OR_RETURN(const GarbageResult garbage, catalog.CollectGarbage({.dry_run = dry_run}));
  response->set_dry_run(dry_run);
  response->set_blobs(garbage.blobs);
  response->set_bytes(static_cast<int64_t>(garbage.bytes + garbage.partial_bytes));
  response->set_partial_uploads(garbage.partials);
  for (size_t i = 0; i < std::min(garbage.digests.size(), kMaxNamedBlobs); ++i) {
    response->add_first_blobs(garbage.digests[i]);
  }
  return absl::OkStatus();
}

absl::Status FillSchema(MetadataStore& store, v1::Schema* response) {
  ASSIGN_OR_RETURN(const SchemaInfo schema, store.Schema());
  response->set_engine(schema.engine);
  response->set_version(schema.version);
  response->set_program_version(schema.program_version);
  response->set_oldest_program(schema.oldest_program);
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* AdminServiceImpl::ListInstances(grpc::CallbackServerContext* call,
                                                          const v1::ListInstancesRequest* /*request*/,
                                                          v1::ListInstancesResponse* response) {
  return AnswerOn(context_.quick, context_, call, AdminCall("ListInstances"),
                  [this, response] { return FillInstances(context_.catalog.store(), response); });
}

grpc::ServerUnaryReactor* AdminServiceImpl::DrainInstance(grpc::CallbackServerContext* call,
                                                          const v1::DrainInstanceRequest* request,
                                                          v1::Instance* response) {
  return AnswerOn(context_.quick, context_, call, AdminCall("DrainInstance"),
                  [this, request, response] { return Drain(context_.catalog.store(), *request, response); },
                  {request, response});
}

grpc::ServerUnaryReactor* AdminServiceImpl::ListLeases(grpc::CallbackServerContext* call,
                                                       const v1::ListLeasesRequest* /*request*/,
                                                       v1::ListLeasesResponse* response) {
  return AnswerOn(context_.quick, context_, call, AdminCall("ListLeases"),
                  [this, response] { return FillLeases(context_.catalog.store(), response); });
}

grpc::ServerUnaryReactor* AdminServiceImpl::ReleaseLease(grpc::CallbackServerContext* call,
                                                         const v1::ReleaseLeaseRequest* request,
                                                         v1::ReleaseLeaseResponse* response) {
  return AnswerOn(context_.quick, context_, call, AdminCall("ReleaseLease"),
                  [this, request]() -> absl::Status {
                    ASSIGN_OR_RETURN(const std::string job, ParseResourceName("jobs", request->job()));
                    return context_.jobs.ReleaseTask(job, request->task(), request->request_id());
                  },
                  {request, response});
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetQueue(grpc::CallbackServerContext* call,
                                                     const v1::GetQueueRequest* /*request*/, v1::Queue* response) {
  return AnswerOn(context_.quick, context_, call, AdminCall("GetQueue"),
                  [this, response] { return FillQueue(context_.catalog.store(), response); });
}

grpc::ServerUnaryReactor* AdminServiceImpl::CollectGarbage(grpc::CallbackServerContext* call,
                                                           const v1::CollectGarbageRequest* request,
                                                           v1::Garbage* response) {
  return AnswerOn(context_.slow, context_, call, AdminCall("CollectGarbage"),
                  [this, request, response] { return FillGarbage(context_.catalog, request->dry_run(), response); },
                  {request, response});
}

grpc::ServerUnaryReactor* AdminServiceImpl::GetSchema(grpc::CallbackServerContext* call,
                                                      const v1::GetSchemaRequest* /*request*/, v1::Schema* response) {
  return AnswerOn(context_.quick, context_, call, AdminCall("GetSchema"),
                  [this, response] { return FillSchema(context_.catalog.store(), response); });
}

grpc::ServerWriteReactor<v1::BackupChunk>* AdminServiceImpl::BackupMetadata(
    grpc::CallbackServerContext* call, const v1::BackupMetadataRequest* /*request*/) {
  return StartBackupStream(context_, *call);
}

}  // namespace qamserve
