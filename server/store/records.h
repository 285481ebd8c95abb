// What the metadata store holds: plain structs, one for each kind of row. Digests and ids are bare ("ab12...");
// resource names ("checkpoints/ab12...") are made and taken apart by ResourceName and ParseResourceName. Times are
// milliseconds since 1970, UTC; 0 = not yet.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/format/file_set.h"
#include "core/quantize/quantize.h"

namespace qamserve {

// A file of a checkpoint, a text, an artifact or an upload.
struct FileRecord {
  std::string name;
  std::string sha256;
  uint64_t size_bytes = 0;
  // Set only for a file that was imported by reference: where it lies and the modification time it had when its digest
  // was taken. Otherwise the bytes are the blob `sha256`.
  std::string external_path;
  int64_t external_mtime_ns = 0;
};

enum class UploadKind { kCheckpoint = 1, kText = 2 };

struct UploadRecord {
  std::string id;
  UploadKind kind = UploadKind::kCheckpoint;
  std::string display_name;
  std::string content_key;  // digest of kind and manifest: an open upload of the same content is found again
  std::string result;       // "checkpoints/{digest}" or "texts/{sha256}" once complete, else empty
  std::vector<FileRecord> files;
  int64_t created_ms = 0;
};

struct CheckpointRecord {
  std::string digest;
  std::string display_name;
  std::string architecture;
  int64_t parameters = 0;
  uint64_t size_bytes = 0;
  std::vector<FileRecord> files;  // sorted by name
  int64_t created_ms = 0;
};

struct TextRecord {
  std::string digest;  // SHA-256 of the bytes
  std::string display_name;
  FileRecord file;
  int64_t created_ms = 0;
};

struct ArtifactRecord {
  std::string digest;
  std::string display_name;
  std::string checkpoint;  // digest
  std::string architecture;
  std::string codec;  // kCodecVersion of its making
  double bpw = 0;     // with norms and scales
  uint64_t size_bytes = 0;
  std::vector<FileRecord> files;  // sorted by name
  std::string job;                // id
  std::string quality_json;       // QualityReportToJson
  std::string tensors_json;       // TensorOutcomesToJson
  int64_t created_ms = 0;
};

// What was loaded for inference and comes back after a restart.
struct ServedModelRecord {
  std::string name;
  std::string source;  // "artifacts/{digest}" or "checkpoints/{digest}"
  int64_t context_tokens = 0;
  int64_t created_ms = 0;
  int32_t replicas = 1;      // on how many instances it is wanted, where there are several; 0 = it is being unloaded
  double drain_seconds = 0;  // what running requests get then
};

// A name that requests may use like a served model's, and that spreads them over served models.
struct AliasTarget {
  std::string model;   // name of a served model
  int32_t weight = 0;  // its share is weight / sum of the alias's weights
};
struct AliasRecord {
  std::string name;
  std::vector<AliasTarget> targets;  // in the order in which they were given
  std::string etag;                  // another one after every change
  int64_t updated_ms = 0;
};

// A mutating call that was answered: the same id gets the same answer.
struct RequestRecord {
  std::string request_id;
  std::string method;
  std::string payload_digest;
  std::string answer;  // resource name, or empty
  int64_t created_ms = 0;
};

enum class JobKind { kQuantize = 1, kEvaluate = 2, kStudy = 3 };
// The transitions are in server/jobs/job.h.
enum class JobState {
  kQueued = 1,
  kRunning = 2,
  kGating = 3,
  kSucceeded = 4,
  kRejected = 5,
  kFailed = 6,
  kCancelled = 7
};
enum class TaskState { kReady = 1, kLeased = 2, kDone = 3, kFailed = 4 };
// A task may start when every task of its job in an earlier round, and in a lower stage of its own round, is done.
enum class TaskStage {
  kPrepare = 0,
  kCalibrate = 1,
  kQuantize = 2,
  kAssemble = 3,
  kEvaluate = 4,
  kProbe = 5,
  kAllocate = 6
};

const char* JobKindName(JobKind kind);     // "quantize", "evaluate", "study"
const char* JobStateName(JobState state);  // "QUEUED", ...
const char* TaskStateName(TaskState state);
const char* TaskStageName(
    TaskStage stage);  // "prepare", "calibrate", "quantize", "assemble", "evaluate", "probe", "allocate"
inline bool IsFinal(JobState state) { return state >= JobState::kSucceeded; }

// Why a job or a task ended badly. `code` is an absl::StatusCode, which is also google.rpc.Code.
struct ErrorRecord {
  std::string reason;
  std::string message;
  int code = 0;

  bool ok() const { return code == 0; }
};
ErrorRecord ErrorFromStatus(const absl::Status& status);
absl::Status StatusFromError(const ErrorRecord& error);

struct JobRecord {
  std::string id;
  JobKind kind = JobKind::kQuantize;
  JobState state = JobState::kQueued;
  std::string key;  // jobs with the same key would do the same work; at most one of them is unfinished
  std::string display_name;
  std::string checkpoint;  // digest
  std::string artifact;    // digest: what an evaluate job measures; what a quantize job made
  std::string spec_json;   // JobSpecToJson
  std::string estimate_json;
  std::string quality_json;
  // Name that the artifact is to be served under, or empty. From SUCCEEDED until somebody has seen to it, kLoadWishMark
  // stands before the name. (Rows of programs before the mark never have it: their loads were asked for long ago.)
  std::string load_as;
  std::string pool;
  int32_t priority = 0;       // higher first
  std::string project;        // who shares the workers fairly with others; may be empty
  std::string codec_version;  // only workers of this one take its tasks; empty = any (jobs of earlier programs)
  std::string trace_parent;   // W3C traceparent of the call that made it, or empty
  ErrorRecord error;
  int64_t created_ms = 0;
  int64_t started_ms = 0;
  int64_t ended_ms = 0;
  // Set by the store: the order of creation, and a count of updates (for compare-and-set and etags).
  int64_t sequence = 0;
  int64_t version = 0;
};

// Not a character of names.
inline constexpr char kLoadWishMark = '+';
inline std::string LoadWish(const std::string& name) { return kLoadWishMark + name; }
// Whether the artifact of the job is still to be loaded; the name is then load_as without its first character.
inline bool HasLoadWish(const JobRecord& job) {
  return job.state == JobState::kSucceeded && job.load_as.starts_with(kLoadWishMark);
}

struct TaskRecord {
  std::string job;
  int32_t index = 0;  // within the job
  int32_t round = 0;  // a job that makes several artifacts, one after the other, has several rounds
  TaskStage stage = TaskStage::kPrepare;
  TaskState state = TaskState::kReady;
  std::string name;       // "model.layers.0.mlp.up_proj", "shard 0", ...
  std::string spec_json;  // the runner's own
  double cost = 0;        // nominal seconds; only ratios matter
  int64_t weights = 0;    // that it quantizes
  int32_t attempts = 0;   // leases so far, without those that lapsed or were given back
  int32_t lapses = 0;     // leases that ended without a word of their worker
  int64_t not_before_ms = 0;
  std::string worker;    // that has the lease, or had it when the task was done
  int64_t lease_id = 0;  // of a LEASED or DONE task; changes with every lease
  int64_t lease_expires_ms = 0;
  double progress = 0;  // of the running attempt, as of the last renewal of its lease
  std::string outcome_json;
  std::vector<std::string> blobs;  // digests kept while this row is and its job may still need them
  int64_t done_sequence = 0;       // 1, 2, ... in the order in which the tasks of a job were done
  double seconds = 0;              // that the successful attempt took
  ErrorRecord error;               // of the last failed attempt
  int64_t version = 0;             // set by the store
};

// "checkpoints/" + id and back. INVALID_ARGUMENT (RESOURCE_NAME) names what was expected.
std::string ResourceName(std::string_view collection, std::string_view id);
absl::StatusOr<std::string> ParseResourceName(std::string_view collection, std::string_view name);

// 20 hex digits from the system's random source.
std::string RandomId();
// Milliseconds since 1970 by the system clock.
int64_t SystemNowMs();

// Canonical JSON {"files":[{"name","sha256","size"},...]}, sorted by name. Its SHA-256 names checkpoint or artifact.
std::string ManifestJson(std::vector<FileRecord> files);

std::string TensorOutcomesToJson(const std::vector<TensorOutcome>& outcomes);
absl::StatusOr<std::vector<TensorOutcome>> TensorOutcomesFromJson(const std::string& json);

}  // namespace qamserve
