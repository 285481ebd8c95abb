#include "server/grpc/system_service.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "core/base/file.h"
#include "server/grpc/converters.h"

namespace qamserve {
namespace {

// Of this process, from /proc (proc_pid_statm(5): pages of the program, then those resident).
absl::StatusOr<int64_t> ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t program = 0;
  int64_t resident = 0;
  if (!(statm >> program >> resident)) return Unavailable("PROC", "/proc/self/statm cannot be read");
  return resident * sysconf(_SC_PAGESIZE);
}

absl::Status FillDisk(const std::string& folder, v1::System* response) {
  struct statvfs disk {};
  if (statvfs(folder.c_str(), &disk) != 0) return ErrnoToStatus("statvfs", folder);
  // What a process without privileges may have, as df(1) counts it.
  response->set_disk_free_bytes(static_cast<int64_t>(disk.f_bavail * disk.f_frsize));
  response->set_disk_size_bytes(static_cast<int64_t>(disk.f_blocks * disk.f_frsize));
  return absl::OkStatus();
}

// Of this process, or of all inference instances of its fleet.
int64_t MemoryLimitOf(const ServiceContext& context) {
  if (context.fleet == nullptr) return context.models.memory_limit_bytes();
  int64_t bytes = 0;
  for (const auto& [id, instance] : context.fleet->router.state()->instances) {
    const bool serves = std::find(instance.roles.begin(), instance.roles.end(), "inference") != instance.roles.end();
    if (serves) bytes += instance.memory_bytes;
  }
  return bytes;
}

absl::Status FillModels(ServiceContext& context, v1::System* response) {
  ASSIGN_OR_RETURN(const std::vector<ServedModelView> models, context.serving.ListModels());
  int64_t used_bytes = 0;
  int ready = 0;
  int64_t running = 0;
  int64_t waiting = 0;
  for (const ServedModelView& model : models) {
    used_bytes += model.memory_bytes;
    ready += model.state == ServedModelState::kReady ? 1 : 0;
    running += model.running;
    waiting += model.waiting;
  }
  response->set_memory_limit_bytes(MemoryLimitOf(context));
  response->set_memory_used_bytes(used_bytes);
  response->set_models_ready(ready);
  response->set_requests_running(static_cast<int32_t>(running));
  response->set_requests_waiting(static_cast<int32_t>(waiting));
  if (context.fleet != nullptr) {
    response->set_instances(static_cast<int32_t>(context.fleet->router.state()->instances.size()));
  } else if (!context.catalog.store().shared()) {
    response->set_instances(1);
  }
  return absl::OkStatus();
}

absl::Status FillSystem(ServiceContext& context, v1::System* response) {
  const SystemFacts& facts = context.system;
  response->set_version(facts.version);
  response->set_codec_version(facts.codec_version);
  *response->mutable_start_time() = TimestampFromMs(facts.start_ms);
  for (const std::string& role : facts.roles) response->add_roles(role);
  response->set_kernels(facts.kernels);
  response->set_device(facts.device);
  response->set_quantize_device(facts.quantize_device);
  response->set_threads(facts.threads);
  ASSIGN_OR_RETURN(const int64_t resident, ResidentBytes());
  response->set_process_memory_bytes(resident);
  RETURN_IF_ERROR(FillDisk(facts.data_dir, response));
  ASSIGN_OR_RETURN(const JobManager::QueueStats jobs, context.jobs.Stats());
  response->set_jobs_queued(static_cast<int32_t>(jobs.queued_jobs));
  response->set_jobs_running(static_cast<int32_t>(jobs.running_jobs));
  RETURN_IF_ERROR(FillModels(context, response));
  response->set_draining(context.drain.raised());
  response->set_keys_required(context.access.keys_required());
  return absl::OkStatus();
}

}  // namespace

grpc::ServerUnaryReactor* SystemServiceImpl::GetSystem(grpc::CallbackServerContext* call, const v1::GetSystemRequest*,
                                                       v1::System* response) {
  return AnswerOn(context_.quick, context_, call, {"SystemService", "GetSystem"},
                  [this, response] { return FillSystem(context_, response); });
}

}  // namespace qamserve
