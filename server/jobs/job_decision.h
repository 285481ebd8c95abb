// Internal to server/jobs: what a change of a job comes to, from what was read of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/jobs/job_manager.h"

namespace qamserve {

// `change` is written at once; only then is anybody told, or told to stop.
struct JobManager::Decision {
  JobChange change;
  std::vector<JobNotice> notices;
  std::vector<int64_t> ended_leases;
  std::string job;      // that changed, for those who watch it; may be empty
  bool work = false;    // there may be tasks to lease
  bool rest = false;    // some task may be leased later
  absl::Status answer;  // of the call
};

// Whether another process was faster, and it must be read and decided anew.
bool IsConflict(const absl::Status& status);

JobNotice StateNotice(const JobRecord& job);
JobNotice TaskNotice(JobNotice::Kind kind, const JobRecord& job, const TaskRecord& task, std::string reason);

absl::Status LeaseLost(const TaskLease& lease);
TaskLease LeaseOf(const TaskRecord& task);

// A job is RUNNING once one of its tasks is leased, and GATING from the first one on that can refuse an artifact.
// Returns whether the record changed.
absl::StatusOr<bool> Advance(JobRecord& job, TaskStage stage, int64_t now_ms);

}  // namespace qamserve
