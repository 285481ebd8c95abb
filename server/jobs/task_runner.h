// What jobs and tasks do, behind an interface: the manager and the workers know of states, leases and files only, and
// tests put a fake here. CoreTaskRunner is the real one, on core/quantize and core/evaluate.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "core/base/thread_pool.h"
#include "core/evaluate/evaluate.h"
#include "core/model/checkpoint.h"
#include "core/quantize/quantize.h"
#include "core/tokenizer/tokenizer.h"
#include "server/jobs/job_spec.h"
#include "server/store/catalog.h"

namespace qamserve {

class TaskList;
struct JobCandidate;
struct PreparedText;
struct TaskSpec;

struct JobPlan {
  JobSpec spec;          // normalized
  JobEstimate estimate;  // without seconds
  // stage, name, spec_json, cost and weights are set; in order of index.
  std::vector<TaskRecord> tasks;
};

struct TaskInput {
  JobRecord job;
  JobSpec spec;
  TaskRecord task;
  std::vector<TaskRecord> tasks;  // all of the job, by index; those of lower stages are DONE
  std::string work_dir;           // exists; private to this lease, removed after it
};

struct TaskOutcome {
  std::string json;                // the runner's own, kept for later tasks (see DecodeOutcome)
  std::vector<std::string> blobs;  // digests it committed and later tasks need
  // Tasks of the quantize stage.
  std::optional<TensorOutcome> tensor;
  std::string candidate;  // CandidateToJson of what an evaluate task measured; empty in evaluate jobs
  // Evaluate tasks. `gate` is not OK if a gate refuses the artifact on what was measured.
  absl::Status gate;
  std::optional<QualityReport> quality;
  std::optional<ArtifactRecord> artifact;  // passed all gates; job and time are filled in by the manager
  // A job that goes on: tasks to add, with index, round and all else but the job. It ends when all tasks are done.
  std::vector<TaskRecord> next_tasks;
  std::vector<int32_t> spent_tasks;  // whose blobs no later task needs
};

// An outcome as it is kept in TaskRecord::outcome_json and blobs, and back (json, blobs, tensor and candidate).
std::string EncodeOutcome(const TaskOutcome& outcome);
absl::StatusOr<TaskOutcome> DecodeOutcome(const TaskRecord& task);
// SHA-256 of all that a task made and measured: of the same task the same, whoever did it. The second gives what
// EncodeOutcome kept of it; "" if an earlier program did, which kept none.
std::string OutcomeDigest(const TaskOutcome& outcome);
absl::StatusOr<std::string> OutcomeDigest(const TaskRecord& task);

// Thread-safe.
class TaskRunner {
 public:
  virtual ~TaskRunner() = default;
  // Checks the spec against checkpoint, artifact and texts, and cuts the job into tasks. Reads no weights.
  virtual absl::StatusOr<JobPlan> Plan(const JobSpec& spec, int threads) = 0;
  // Does one task. Everything it wants to outlive it is committed to the blobs before it returns. `progress` is called
  // often; a status that is not OK (CANCELLED, ABORTED) stops the task and is returned. An error whose reason starts
  // with "GATE_" rejects the job; a retryable one (IsRetryable) or one of the metadata store (IsStoreFault) is tried
  // again; any other fails the job.
  virtual absl::StatusOr<TaskOutcome> Run(const TaskInput& input, ThreadPool& pool, ProgressFn progress) = 0;
};

class CoreTaskRunner : public TaskRunner {
 public:
  // Tasks of the calibrate and quantize stages give `device` what it can do; null: the CPU does all. Their bytes are
  // the same, so that it is no part of a job.
  explicit CoreTaskRunner(Catalog& catalog, std::shared_ptr<QuantizeDevice> device = nullptr)
      : catalog_(catalog), device_(std::move(device)) {}
  absl::StatusOr<JobPlan> Plan(const JobSpec& spec, int threads) override;
  absl::StatusOr<TaskOutcome> Run(const TaskInput& input, ThreadPool& pool, ProgressFn progress) override;

 private:
  // Opening parses headers and, for GGUF, the vocabulary; the last few stay open.
  absl::StatusOr<std::shared_ptr<const Checkpoint>> OpenCheckpoint(const std::string& digest);
  // Likewise, what the tensors of a job share: tables and rotations.
  absl::StatusOr<std::shared_ptr<const Quantizer>> OpenQuantizer(const std::string& checkpoint,
                                                                 const QuantizeSpec& spec);

  // job_plan.cc
  absl::Status PlanCheckpoint(const std::string& digest, int threads, TaskList& tasks, JobPlan& plan);
  // Decides for all `checkpoints` whether their chat templates shape a text, as far as nobody else did.
  absl::Status DecideChatTemplate(std::string_view field, const std::vector<std::string>& checkpoints,
                                  TextSelection& selection);
  // Refuses a text that is too short, with both counts (TEXT_TOO_SHORT), or that cannot be read as what it is said to
  // be, before anything starts. A long text is left to the task that reads it.
  absl::Status CheckTextLength(std::string_view field, const std::vector<std::string>& checkpoints,
                               const TextSelection& selection, int64_t skip_tokens);
  // text_tasks.cc
  absl::StatusOr<std::shared_ptr<const Tokenizer>> OpenTokenizer(const Checkpoint& checkpoint);
  // A text's windows; its first `skip_tokens` tokens are left out.
  absl::StatusOr<std::vector<std::vector<int32_t>>> TextWindows(const Checkpoint& checkpoint,
                                                                const Tokenizer& tokenizer,
                                                                const TextSelection& selection, int64_t skip_tokens);
  // The model's own samples behind `start`, or its first token if that is empty. What has to be written meanwhile goes
  // to `work_dir`.
  absl::StatusOr<std::vector<std::vector<int32_t>>> OwnSamples(const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                                                               const TextSelection& selection, const std::string& start,
                                                               uint64_t seed, const std::string& work_dir,
                                                               ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<PreparedText> PrepareText(const Checkpoint& checkpoint, const Tokenizer& tokenizer,
                                           const TextSelection& selection, int64_t skip_tokens, uint64_t seed,
                                           const std::string& work_dir, ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<TaskOutcome> Prepare(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<TaskOutcome> Calibrate(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  // quantize_task.cc
  absl::StatusOr<TaskOutcome> Quantize(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<TaskOutcome> Assemble(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  // evaluate_task.cc
  absl::StatusOr<TaskOutcome> Evaluate(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<TaskOutcome> Probe(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<TaskOutcome> Allocate(const TaskInput& input, ThreadPool& pool, ProgressFn progress);
  absl::StatusOr<TaskOutcome> CompareShard(const TaskInput& input, const TaskSpec& spec, ThreadPool& pool,
                                           ProgressFn progress);
  // What the comparisons of all shards come to.
  absl::StatusOr<QualityReport> Measured(const TaskInput& input, const TaskSpec& spec);
  // Adds report and model card, whose blobs are appended to `blobs`.
  absl::StatusOr<ArtifactRecord> FinishArtifact(const TaskInput& input, const JobCandidate& candidate,
                                                std::vector<std::string>& blobs);
  // What becomes of a candidate that was just measured: of a fixed list, or on the way to a target.
  absl::Status KeepOrDrop(const TaskInput& input, JobCandidate candidate, TaskOutcome& outcome);
  absl::Status Search(const TaskInput& input, JobCandidate candidate, TaskOutcome& outcome);
  absl::StatusOr<std::vector<TaskRecord>> CandidateTasks(const TaskInput& input, const QuantizeSpec& spec);
  // The mix that `step` wants, or the probes that it takes first.
  absl::StatusOr<std::vector<TaskRecord>> MixTasks(const TaskInput& input, const SearchStep& step,
                                                   const JobCandidate& from);

  Catalog& catalog_;
  const std::shared_ptr<QuantizeDevice> device_;
  std::mutex mutex_;
  // Most recent first.
  std::list<std::pair<std::string, std::shared_ptr<const Checkpoint>>> open_;
  std::list<std::pair<std::string, std::shared_ptr<const Quantizer>>> quantizers_;  // by checkpoint and spec
};

}  // namespace qamserve
