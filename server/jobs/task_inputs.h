// What tasks read of those before them. Internal to server/jobs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/evaluate/evaluate.h"
#include "core/tokenizer/conversations.h"
#include "server/jobs/task_runner.h"
#include "server/jobs/task_spec.h"

namespace qamserve {

using TokenWindows = std::vector<std::vector<int32_t>>;

// The chat template of a checkpoint's model. INVALID_ARGUMENT (TEXT_TEMPLATE_MISSING, CHAT_TEMPLATE_INVALID).
absl::StatusOr<std::shared_ptr<const ChatTemplate>> OpenChatTemplate(const Checkpoint& checkpoint);
// What the model's own samples begin with by its chat template; errors as above and CHAT_TEMPLATE_REFUSED.
absl::StatusOr<std::string> SampleStart(const Checkpoint& checkpoint);

// Tokens that the prepare task cut from a text; they are a blob.
struct PreparedText {
  std::string source = "none";  // "text", "built-in text", "own samples"
  bool chat_template = false;   // the model's chat template shaped it
  std::string tokens_digest;    // TokensDigest
  std::string blob;
  int32_t window_tokens = 0;
};

// What a prepare task leaves for the others of its checkpoint.
struct Prepared {
  PreparedText evaluation;
  PreparedText calibration;  // source "none" if nothing is calibrated
};
std::string PreparedToJson(const Prepared& prepared);

// The spec of the running task, with its checkpoint. FAILED_PRECONDITION (CODEC_VERSION) if another version of the
// codec began the job: one artifact must not be made of both.
absl::StatusOr<TaskSpec> SpecOf(const TaskInput& input);
absl::StatusOr<Prepared> PreparedOf(const TaskInput& input, const std::string& checkpoint);

absl::StatusOr<PreparedText> KeepWindows(BlobStore& blobs, const TokenWindows& windows, std::string source,
                                         bool chat_template);
absl::StatusOr<TokenWindows> ReadWindows(BlobStore& blobs, const PreparedText& text);
// A shard of the evaluation text with what the base model says of it, as the reference task of that shard left it.
absl::StatusOr<BaseReference> ReadReference(BlobStore& blobs, const TaskInput& input, const Prepared& prepared,
                                            const std::string& checkpoint, int32_t shard, int64_t hidden_size);
absl::StatusOr<BlobInfo> KeepComparisons(BlobStore& blobs, const WindowComparisons& windows);
// Of all shards in order: of a candidate, or of the only comparison of an evaluate job (candidate -1).
absl::StatusOr<WindowComparisons> ReadComparisons(BlobStore& blobs, const TaskInput& input, const Prepared& prepared,
                                                  const std::string& checkpoint, int32_t candidate);

// Statistics of a checkpoint's calibration shards, in order, as paths.
absl::StatusOr<std::vector<std::string>> StatisticsOf(BlobStore& blobs, const TaskInput& input,
                                                      const std::string& checkpoint);
// Everything that AssembleArtifact and the report say of how a candidate was made, and the tasks that made its tensors.
struct CandidateInputs {
  ArtifactInputs artifact;
  std::vector<int32_t> tasks;
};
absl::StatusOr<CandidateInputs> InputsOf(BlobStore& blobs, const TaskInput& input, const std::string& checkpoint,
                                         const QuantizePlan& plan, const QuantizeSpec& candidate);
// The files that the assemble task of a candidate wrote.
absl::StatusOr<std::vector<FileRecord>> AssembledFiles(const std::vector<TaskRecord>& tasks, int32_t candidate);
std::string FilesToJson(const std::vector<FileRecord>& files);

}  // namespace qamserve
