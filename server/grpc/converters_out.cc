// Plain structs -> messages.
#include "server/grpc/converters.h"
#include "server/grpc/status_conversion.h"

namespace qamserve {
namespace {

// "" for an empty id: a field that is not there yet.
std::string NameOrEmpty(std::string_view collection, const std::string& id) {
  return id.empty() ? std::string() : ResourceName(collection, id);
}

void SetTime(int64_t ms, google::protobuf::Timestamp* out) {
  if (ms > 0) *out = TimestampFromMs(ms);
}

v1::TextSelection ToProto(const TextSelection& selection) {
  v1::TextSelection text;
  text.set_text(NameOrEmpty("texts", selection.text));
  text.set_windows(selection.windows);
  text.set_window_tokens(selection.window_tokens);
  if (selection.chat_template) text.set_chat_template(*selection.chat_template);
  return text;
}

v1::JobProgress ToProto(const JobProgress& progress) {
  v1::JobProgress message;
  message.set_tasks_done(progress.tasks_done);
  message.set_tasks_total(progress.tasks_total);
  message.set_stage(progress.stage);
  message.set_weights_done(progress.weights_done);
  message.set_weights_total(progress.weights_total);
  message.set_eta_seconds(progress.eta_seconds);
  message.set_queue_position(progress.queue_position);
  message.set_waiting_for(progress.waiting_for);
  message.set_stage_fraction(progress.stage_fraction);
  return message;
}

template <typename Files, typename Out>
void AddFiles(const Files& files, Out* out) {
  for (const FileRecord& file : files) *out->Add() = ToProto(file);
}

}  // namespace

google::protobuf::Timestamp TimestampFromMs(int64_t ms) {
  google::protobuf::Timestamp time;
  time.set_seconds(ms / 1000);
  time.set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
  return time;
}

v1::FileInfo ToProto(const FileRecord& file) {
  v1::FileInfo info;
  info.set_name(ValidUtf8(file.name));
  info.set_sha256(file.sha256);
  info.set_size_bytes(static_cast<int64_t>(file.size_bytes));
  return info;
}

v1::Upload ToProto(const UploadView& upload) {
  v1::Upload message;
  message.set_name(ResourceName("uploads", upload.id));
  message.set_kind(upload.kind == UploadKind::kText ? v1::UPLOAD_KIND_TEXT : v1::UPLOAD_KIND_CHECKPOINT);
  for (const UploadFileState& state : upload.files) {
    v1::UploadFileState* file = message.add_files();
    *file->mutable_file() = ToProto(state.file);
    file->set_committed_bytes(static_cast<int64_t>(state.committed_bytes));
    file->set_complete(state.complete);
  }
  SetTime(upload.created_ms, message.mutable_create_time());
  return message;
}

v1::Checkpoint ToProto(const CheckpointRecord& checkpoint) {
  v1::Checkpoint message;
  message.set_name(ResourceName("checkpoints", checkpoint.digest));
  message.set_digest(checkpoint.digest);
  message.set_display_name(ValidUtf8(checkpoint.display_name));
  message.set_architecture(checkpoint.architecture);
  message.set_parameters(checkpoint.parameters);
  message.set_size_bytes(static_cast<int64_t>(checkpoint.size_bytes));
  AddFiles(checkpoint.files, message.mutable_files());
  SetTime(checkpoint.created_ms, message.mutable_create_time());
  return message;
}

v1::Text ToProto(const TextRecord& text) {
  v1::Text message;
  message.set_name(ResourceName("texts", text.digest));
  message.set_display_name(ValidUtf8(text.display_name));
  message.set_size_bytes(static_cast<int64_t>(text.file.size_bytes));
  return message;
}

v1::CompleteUploadResponse ToProto(const CheckpointOrText& result) {
  v1::CompleteUploadResponse response;
  if (const auto* checkpoint = std::get_if<CheckpointRecord>(&result)) {
    *response.mutable_checkpoint() = ToProto(*checkpoint);
  } else {
    *response.mutable_text() = ToProto(std::get<TextRecord>(result));
  }
  return response;
}

v1::Artifact ToProto(const ArtifactRecord& artifact) {
  v1::Artifact message;
  message.set_name(ResourceName("artifacts", artifact.digest));
  message.set_digest(artifact.digest);
  message.set_display_name(ValidUtf8(artifact.display_name));
  message.set_checkpoint(NameOrEmpty("checkpoints", artifact.checkpoint));
  message.set_architecture(artifact.architecture);
  message.set_codec(artifact.codec);
  message.set_bpw(artifact.bpw);
  message.set_size_bytes(static_cast<int64_t>(artifact.size_bytes));
  AddFiles(artifact.files, message.mutable_files());
  message.set_job(NameOrEmpty("jobs", artifact.job));
  SetTime(artifact.created_ms, message.mutable_create_time());
  return message;
}

v1::TensorReport ToProto(const TensorOutcome& tensor) {
  v1::TensorReport message;
  message.set_name(ValidUtf8(tensor.name));
  message.set_rows(tensor.rows);
  message.set_cols(tensor.cols);
  message.set_bpw(tensor.bpw);
  message.set_distortion(tensor.distortion);
  message.set_weighted_error(tensor.weighted_error);
  message.set_type(tensor.type);
  return message;
}

v1::QualityReport ToProto(const QualityReport& report) {
  v1::QualityReport message;
  message.set_windows(report.windows);
  message.set_window_tokens(report.window_tokens);
  message.set_scored_tokens(report.scored_tokens);
  message.set_base_perplexity(report.base_perplexity);
  message.set_quantized_perplexity(report.quantized_perplexity);
  message.set_perplexity_change(report.perplexity_change);
  message.set_perplexity_change_stderr(report.perplexity_change_stderr);
  message.set_kl_mean(report.kl_mean);
  message.set_kl_stderr(report.kl_stderr);
  message.set_kl_p50(report.kl_p50);
  message.set_kl_p90(report.kl_p90);
  message.set_kl_p99(report.kl_p99);
  message.set_kl_p999(report.kl_p999);
  message.set_kl_max(report.kl_max);
  message.set_top1_agreement(report.top1_agreement);
  message.set_text_digest(report.text_digest);
  message.set_text_source(report.text_source);
  message.set_kl_ci95_low(report.kl_ci95_low);
  message.set_kl_ci95_high(report.kl_ci95_high);
  message.set_second_half_kl_mean(report.second_half_kl_mean);
  message.set_kernels(report.kernels);
  message.set_chat_template(report.chat_template);
  return message;
}

v1::JobState ToProto(JobState state) { return static_cast<v1::JobState>(state); }

v1::Codec ToProto(Codec codec) {
  switch (codec) {
    case Codec::kJoint:
      return v1::CODEC_JOINT;
    case Codec::kPolar:
      return v1::CODEC_POLAR;
    case Codec::kScalar:
      return v1::CODEC_SCALAR;
    case Codec::kUniform:
      return v1::CODEC_UNIFORM;
    case Codec::kTrellis:
      return v1::CODEC_TRELLIS;
    case Codec::kInt8:
      return v1::CODEC_INT8;
    case Codec::kFull:
      return v1::CODEC_FULL;
  }
  return v1::CODEC_UNSPECIFIED;
}

v1::Rotation ToProto(RotationKind rotation) {
  switch (rotation) {
    case RotationKind::kFull:
      return v1::ROTATION_FULL;
    case RotationKind::kBlock:
      return v1::ROTATION_BLOCK;
    case RotationKind::kNone:
      return v1::ROTATION_NONE;
  }
  return v1::ROTATION_UNSPECIFIED;
}

v1::QuantizeSpec ToProto(const JobSpec& spec) {
  v1::QuantizeSpec message;
  message.set_codec(ToProto(spec.quantize.codec));
  message.set_error_feedback(spec.quantize.error_feedback);
  message.set_embedding_bits(spec.quantize.embedding_bits);
  message.set_bpw(spec.quantize.bpw);
  message.set_channel_scale(spec.quantize.channel_scale);
  message.set_rotation(ToProto(spec.quantize.rotation));
  message.set_seed(spec.quantize.seed);
  *message.mutable_calibration() = ToProto(spec.calibration);
  *message.mutable_evaluation() = ToProto(spec.evaluation);
  message.set_max_kl(spec.max_kl);
  for (const RateRule& rule : spec.quantize.rates) {
    v1::RateRule* out = message.add_rates();
    out->set_filter(rule.filter);
    out->set_bpw(rule.bpw);
  }
  if (spec.target.any()) {
    v1::RateTarget* target = message.mutable_target();
    target->set_bpw(spec.target.size.bpw);
    target->set_bytes(spec.target.size.bytes);
    target->set_kl(spec.target.kl);
    target->set_perplexity_increase(spec.target.perplexity_increase);
    target->set_mixed_rates(spec.target.mixed);
  }
  message.mutable_ladder()->Add(spec.ladder.begin(), spec.ladder.end());
  message.set_curve_only(spec.curve_only);
  // What is sought or listed elsewhere is no rate of the job.
  if (HasRounds(spec)) message.clear_bpw();
  return message;
}

v1::Candidate ToProto(const JobCandidate& candidate) {
  v1::Candidate message;
  message.set_checkpoint(NameOrEmpty("checkpoints", candidate.checkpoint));
  message.set_method(MethodName(candidate.measured.spec));
  message.set_rate(candidate.measured.spec.bpw);
  message.set_mixed(candidate.measured.mixed());
  message.set_bpw(candidate.measured.bpw);
  message.set_artifact_bytes(candidate.measured.artifact_bytes);
  *message.mutable_quality() = ToProto(candidate.measured.quality);
  message.set_artifact(NameOrEmpty("artifacts", candidate.artifact));
  message.set_note(ValidUtf8(candidate.note));
  return message;
}

v1::Estimate ToProto(const JobEstimate& estimate) {
  v1::Estimate message;
  message.set_artifact_bytes(estimate.artifact_bytes);
  message.set_peak_memory_bytes(estimate.peak_memory_bytes);
  message.set_disk_bytes(estimate.disk_bytes);
  message.set_seconds(estimate.seconds);
  message.set_tensors(estimate.tensors);
  message.set_bpw(estimate.bpw);
  return message;
}

v1::Job ToProto(const JobView& view) {
  const JobRecord& job = view.job;
  v1::Job message;
  message.set_name(NameOrEmpty("jobs", job.id));
  message.set_kind(JobKindName(job.kind));
  message.set_state(ToProto(job.state));
  message.set_display_name(ValidUtf8(job.display_name));
  message.set_checkpoint(NameOrEmpty("checkpoints", job.checkpoint));
  *message.mutable_spec() = ToProto(view.spec);
  *message.mutable_progress() = ToProto(view.progress);
  for (const TensorOutcome& tensor : view.tensors) *message.add_tensors() = ToProto(tensor);
  message.set_artifact(NameOrEmpty("artifacts", job.artifact));
  if (view.quality) *message.mutable_quality() = ToProto(*view.quality);
  if (!job.error.ok()) {
    message.mutable_error()->set_reason(job.error.reason);
    message.mutable_error()->set_message(ValidUtf8(job.error.message));
    message.mutable_error()->set_code(job.error.code);
  }
  *message.mutable_estimate() = ToProto(view.estimate);
  SetTime(job.created_ms, message.mutable_create_time());
  if (job.started_ms > 0) SetTime(job.started_ms, message.mutable_start_time());
  if (job.ended_ms > 0) SetTime(job.ended_ms, message.mutable_end_time());
  message.set_priority(job.priority);
  message.set_etag(view.etag());
  message.set_pool(job.pool);
  message.set_project(job.project);
  for (const JobCandidate& candidate : view.candidates) *message.add_candidates() = ToProto(candidate);
  return message;
}

v1::ServedModel ToProto(const ServedModelView& model) {
  v1::ServedModel message;
  message.set_name(ResourceName(kServedModels, model.name));
  message.set_source(model.source);
  switch (model.state) {
    case ServedModelState::kLoading:
      message.set_state(v1::SERVED_MODEL_STATE_LOADING);
      break;
    case ServedModelState::kReady:
      message.set_state(v1::SERVED_MODEL_STATE_READY);
      break;
    case ServedModelState::kDraining:
      message.set_state(v1::SERVED_MODEL_STATE_DRAINING);
      break;
    case ServedModelState::kUnloaded:
      message.set_state(v1::SERVED_MODEL_STATE_UNLOADED);
      break;
    case ServedModelState::kFailed:
      message.set_state(v1::SERVED_MODEL_STATE_FAILED);
      break;
  }
  if (!model.error.ok()) message.set_error(ValidUtf8(MessageOf(model.error)));
  message.set_memory_bytes(model.memory_bytes);
  message.set_context_tokens(model.context_tokens);
  message.set_running(model.running);
  message.set_waiting(model.waiting);
  message.set_chat(model.chat);
  message.set_replicas(model.replicas);
  message.set_ready_replicas(model.ready_replicas);
  if (model.ready_ms > 0) SetTime(model.ready_ms, message.mutable_ready_time());
  return message;
}

v1::Alias ToProto(const AliasRecord& alias) {
  v1::Alias message;
  message.set_name(ResourceName(kAliases, alias.name));
  for (const AliasTarget& target : alias.targets) {
    v1::AliasTarget* out = message.add_targets();
    out->set_model(ResourceName(kServedModels, target.model));
    out->set_weight(target.weight);
  }
  message.set_etag(alias.etag);
  if (alias.updated_ms > 0) SetTime(alias.updated_ms, message.mutable_update_time());
  return message;
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kDeadline:
      return v1::FINISH_REASON_DEADLINE;
    case FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

v1::TokenLogprob LogprobToProto(const TokenEvent& event, const Tokenizer& tokenizer) {
  v1::TokenLogprob message;
  message.set_token(event.token);
  message.set_text(tokenizer.TokenBytes(event.token));
  message.set_logprob(event.logprob);
  for (const TokenLogprob& candidate : event.top) {
    v1::TokenLogprob* top = message.add_top();
    top->set_token(candidate.token);
    top->set_text(tokenizer.TokenBytes(candidate.token));
    top->set_logprob(candidate.logprob);
  }
  return message;
}

v1::TokenComparison ToProto(int32_t token, const TokenComparison& comparison, const Tokenizer& tokenizer) {
  v1::TokenComparison message;
  message.set_token(token);
  message.set_text(tokenizer.TokenBytes(token));
  message.set_kl(comparison.kl);
  message.set_base_logprob(-comparison.base_nll);
  message.set_other_logprob(-comparison.other_nll);
  message.set_same_top(comparison.same_top);
  message.set_other_top(comparison.other_top);
  message.set_other_top_text(tokenizer.TokenBytes(comparison.other_top));
  return message;
}

}  // namespace qamserve
