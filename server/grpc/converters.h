// Protobuf messages <-> the plain structs of store, jobs, serving and engine. The one place where they meet. Pure
// functions; those that read input check it and name field and limit.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/engine/engine.h"
#include "qamserve/v1/artifact.pb.h"
#include "qamserve/v1/checkpoint.pb.h"
#include "qamserve/v1/inference.pb.h"
#include "qamserve/v1/job.pb.h"
#include "qamserve/v1/serving.pb.h"
#include "server/jobs/job_manager.h"
#include "server/serving/model_registry.h"
#include "server/store/catalog.h"

namespace qamserve {

// --- Names ---
inline constexpr std::string_view kServedModels = "servedModels";
inline constexpr std::string_view kAliases = "aliases";
// `name` without "{collection}/" before it, if that is there.
std::string_view WithoutCollection(std::string_view collection, std::string_view name);

// --- Into plain structs ---
// INVALID_ARGUMENT (FIELD_RANGE) for a negative number where none may be.
absl::StatusOr<uint64_t> NonNegative(std::string_view field, int64_t value);
// INVALID_ARGUMENT (UPLOAD_KIND) for UNSPECIFIED and unknown values.
absl::StatusOr<UploadKind> UploadKindFromProto(v1::UploadKind kind);
absl::StatusOr<std::vector<FileRecord>> FilesFromProto(const google::protobuf::RepeatedPtrField<v1::FileInfo>& files);
PageRequest PageFromProto(int32_t page_size, const std::string& page_token);
// Empty for UNSPECIFIED; INVALID_ARGUMENT (JOB_STATE) for unknown values.
absl::StatusOr<std::optional<JobState>> JobStateFromProto(v1::JobState state);
absl::StatusOr<TextSelection> TextSelectionFromProto(const v1::TextSelection& text);
// With the defaults of the proto filled in; windows stay 0 for JobManager to choose. INVALID_ARGUMENT (CODEC,
// ROTATION).
absl::StatusOr<JobSpec> JobSpecFromProto(const std::string& checkpoint, const v1::QuantizeSpec& spec);
absl::StatusOr<CreateQuantizeJobArgs> QuantizeArgsFromProto(const v1::CreateQuantizeJobRequest& request);
// INVALID_ARGUMENT (STUDY_SIZE, CODEC, ROTATION).
absl::StatusOr<CreateQuantizeJobArgs> StudyArgsFromProto(const v1::CreateStudyJobRequest& request);
absl::StatusOr<CreateEvaluateJobArgs> EvaluateArgsFromProto(const v1::CreateEvaluateJobRequest& request);
// INVALID_ARGUMENT (SAMPLING_PARAM) names field and limit. `seed` 0 stays 0: the handler chooses one.
absl::StatusOr<SamplingParams> SamplingFromProto(const v1::SamplingParams& params);
// What SamplingParams.constraint asks for; nothing if it is not set. INVALID_ARGUMENT (CONSTRAINT_INVALID) if it names no
// kind. SamplingFromProto leaves it out: it is compiled for a model (ServedModel::constraint).
absl::StatusOr<std::optional<ConstraintSpec>> ConstraintFromProto(const v1::SamplingParams& params);
// What a Generate or Chat request that arrives at `now` is to others: it ends at the earlier one of its own timeout and
// the deadline of its call. INVALID_ARGUMENT (REQUEST_OPTION) names field and limit.
absl::StatusOr<RequestOptions> RequestOptionsFrom(int32_t priority, double timeout_seconds,
                                                  std::chrono::system_clock::time_point call_deadline,
                                                  std::chrono::system_clock::time_point now);
// INVALID_ARGUMENT (RESOURCE_NAME) if `name` is no alias's; targets may be named with or without "servedModels/".
absl::StatusOr<UpdateAliasArgs> UpdateAliasFromProto(const v1::UpdateAliasRequest& request);
std::vector<ChatMessage> MessagesFromProto(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages);

// --- Into messages ---
google::protobuf::Timestamp TimestampFromMs(int64_t ms);
v1::FileInfo ToProto(const FileRecord& file);
v1::Upload ToProto(const UploadView& upload);
v1::Checkpoint ToProto(const CheckpointRecord& checkpoint);
v1::Text ToProto(const TextRecord& text);
v1::CompleteUploadResponse ToProto(const CheckpointOrText& result);
v1::Artifact ToProto(const ArtifactRecord& artifact);
v1::TensorReport ToProto(const TensorOutcome& tensor);
v1::QualityReport ToProto(const QualityReport& report);
v1::JobState ToProto(JobState state);
v1::Codec ToProto(Codec codec);
v1::Rotation ToProto(RotationKind rotation);
v1::QuantizeSpec ToProto(const JobSpec& spec);
v1::Candidate ToProto(const JobCandidate& candidate);
v1::Estimate ToProto(const JobEstimate& estimate);
v1::Job ToProto(const JobView& view);
v1::ServedModel ToProto(const ServedModelView& model);
v1::Alias ToProto(const AliasRecord& alias);
v1::FinishReason ToProto(FinishReason reason);
// `token_bytes` gives the bytes of a token (Tokenizer::TokenBytes).
v1::TokenLogprob LogprobToProto(const TokenEvent& event, const Tokenizer& tokenizer);
v1::TokenComparison ToProto(int32_t token, const TokenComparison& comparison, const Tokenizer& tokenizer);

}  // namespace qamserve
