// What a job made and measured, read back from its tasks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/evaluate/search.h"
#include "core/evaluate/study.h"
#include "server/jobs/job_spec.h"
#include "server/store/records.h"

namespace qamserve {

// One artifact of a job, measured.
struct JobCandidate {
  int32_t index = 0;       // the first one is 0
  std::string checkpoint;  // digest
  Candidate measured;
  std::string artifact;        // digest; empty if it is not kept
  std::string note;            // why it was kept or dropped, or what was decided when it had been measured
  std::vector<int32_t> tasks;  // that quantized its tensors, in plan order
};

// As TaskOutcome::candidate.
std::string CandidateToJson(const JobCandidate& candidate);
// Of all evaluate tasks that are done, in order of index. DATA_LOSS (STORE_CORRUPT).
absl::StatusOr<std::vector<JobCandidate>> CandidatesOf(const std::vector<TaskRecord>& tasks);
// What the tensors of a candidate came to, in plan order.
absl::StatusOr<std::vector<TensorOutcome>> TensorsOf(const std::vector<TaskRecord>& tasks,
                                                     const JobCandidate& candidate);

// KL that each tensor costs alone with the weights of candidate `from`, in plan order, by the probes of the job; empty
// if there are none or they are not all done.
absl::StatusOr<std::vector<double>> SensitivitiesOf(const std::vector<TaskRecord>& tasks, int32_t from);

// The table of all candidates, with what was predicted of them where there were probes. `names`: of the checkpoints.
absl::StatusOr<Study> StudyOf(const std::string& display_name, const std::vector<TaskRecord>& tasks,
                              const std::map<std::string, std::string>& names);

}  // namespace qamserve
