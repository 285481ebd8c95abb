// Messages -> plain structs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "server/grpc/converters.h"
#include "server/store/built_in_text.h"

namespace qamserve {
namespace {

constexpr double kMaxTimeoutSeconds = 24 * 3600;
constexpr int kMaxStopTexts = 16;
constexpr size_t kMaxStopBytes = 256;
constexpr int32_t kMaxLogprobs = 20;
constexpr int32_t kDefaultMaxTokens = 256;
constexpr uint64_t kDefaultRotationSeed = 1;
constexpr double kDefaultBpw = 5.5;

}  // namespace

std::string_view WithoutCollection(std::string_view collection, std::string_view name) {
  const bool there = name.size() > collection.size() && name.starts_with(collection) && name[collection.size()] == '/';
  return there ? name.substr(collection.size() + 1) : name;
}

absl::StatusOr<uint64_t> NonNegative(std::string_view field, int64_t value) {
  if (value >= 0) return static_cast<uint64_t>(value);
  return InvalidArgument("FIELD_RANGE", "{} must be 0 or more; got {}", field, value);
}

absl::StatusOr<UploadKind> UploadKindFromProto(v1::UploadKind kind) {
  switch (kind) {
    case v1::UPLOAD_KIND_CHECKPOINT:
      return UploadKind::kCheckpoint;
    case v1::UPLOAD_KIND_TEXT:
      return UploadKind::kText;
    default:
      break;
  }
  return InvalidArgument("UPLOAD_KIND", "kind must be UPLOAD_KIND_CHECKPOINT or UPLOAD_KIND_TEXT; got {}",
                         static_cast<int>(kind));
}

absl::StatusOr<std::vector<FileRecord>> FilesFromProto(const google::protobuf::RepeatedPtrField<v1::FileInfo>& files) {
  if (files.empty() || files.size() > static_cast<int>(kMaxFiles)) {
    return InvalidArgument("UPLOAD_FILES", "files must name 1 to {} files; got {}", kMaxFiles, files.size());
  }
  std::vector<FileRecord> records;
  for (const v1::FileInfo& file : files) {
    FileRecord& record = records.emplace_back();
    record.name = file.name();
    record.sha256 = file.sha256();
    ASSIGN_OR_RETURN(record.size_bytes, NonNegative("files.size_bytes", file.size_bytes()));
  }
  return records;
}

PageRequest PageFromProto(int32_t page_size, const std::string& page_token) { return {page_size, page_token}; }

absl::StatusOr<std::optional<JobState>> JobStateFromProto(v1::JobState state) {
  if (state == v1::JOB_STATE_UNSPECIFIED) return std::optional<JobState>();
  if (v1::JobState_IsValid(state)) return std::optional<JobState>(static_cast<JobState>(state));
  return InvalidArgument("JOB_STATE", "state {} is not a JobState", static_cast<int>(state));
}

absl::StatusOr<TextSelection> TextSelectionFromProto(const v1::TextSelection& text) {
  TextSelection selection;
  if (!text.text().empty()) {
    ASSIGN_OR_RETURN(selection.text, ParseResourceName("texts", text.text()));
    if (selection.text == kBuiltInText) selection.text = BuiltInTextRecord().digest;
  }
  selection.windows = text.windows();
  selection.window_tokens = text.window_tokens();
  if (text.has_chat_template()) selection.chat_template = text.chat_template();
  return selection;
}

absl::StatusOr<Codec> CodecFromProto(v1::Codec codec) {
  for (Codec known : kCodecs) {
    if (ToProto(known) == codec) return known;
  }
  if (codec == v1::CODEC_UNSPECIFIED) return Codec::kJoint;
  return InvalidArgument("CODEC", "spec.codec {} is not one that this server knows", static_cast<int>(codec));
}

absl::StatusOr<RotationKind> RotationFromProto(v1::Rotation rotation) {
  for (RotationKind known : {RotationKind::kFull, RotationKind::kBlock, RotationKind::kNone}) {
    if (ToProto(known) == rotation) return known;
  }
  if (rotation == v1::ROTATION_UNSPECIFIED) return RotationKind::kFull;
  return InvalidArgument("ROTATION", "spec.rotation {} is not one that this server knows", static_cast<int>(rotation));
}

// What makes up a method: all of a spec but its rate and texts.
absl::StatusOr<QuantizeSpec> MethodFromProto(const v1::QuantizeSpec& spec) {
  QuantizeSpec method;
  ASSIGN_OR_RETURN(method.codec, CodecFromProto(spec.codec()));
  ASSIGN_OR_RETURN(method.rotation, RotationFromProto(spec.rotation()));
  // What is not quantized has no use for either.
  const bool full = method.codec == Codec::kFull;
  if (full && spec.rotation() == v1::ROTATION_UNSPECIFIED) method.rotation = RotationKind::kNone;
  method.channel_scale = spec.has_channel_scale() ? spec.channel_scale() : !full;
  method.error_feedback = spec.error_feedback();
  if (spec.embedding_bits() != 0) method.embedding_bits = spec.embedding_bits();
  method.seed = spec.seed() == 0 ? kDefaultRotationSeed : spec.seed();
  return method;
}

// A study has texts and rates of its own, and gates nothing.
absl::Status CheckStudyMethod(int number, const v1::QuantizeSpec& spec) {
  const std::pair<const char*, bool> fields[] = {{"bpw", spec.bpw() != 0},
                                                 {"rates", !spec.rates().empty()},
                                                 {"target", spec.has_target()},
                                                 {"ladder", !spec.ladder().empty()},
                                                 {"curve_only", spec.curve_only()},
                                                 {"calibration", spec.has_calibration()},
                                                 {"evaluation", spec.has_evaluation()},
                                                 {"max_kl", spec.max_kl() != 0}};
  for (const auto& [field, is_set] : fields) {
    if (!is_set) continue;
    return InvalidArgument("STUDY_METHOD",
                           "methods, number {}: spec.{} is set; a method of a study is codec, channel_scale, rotation, "
                           "seed, error_feedback and embedding_bits, its rates stand beside it",
                           number, field);
  }
  return absl::OkStatus();
}

RateTarget TargetFromProto(const v1::RateTarget& proto) {
  RateTarget target;
  target.size = {.bpw = proto.bpw(), .bytes = proto.bytes()};
  target.kl = proto.kl();
  target.perplexity_increase = proto.perplexity_increase();
  target.mixed = proto.has_mixed_rates() ? proto.mixed_rates() : target.any();
  return target;
}

absl::StatusOr<JobSpec> JobSpecFromProto(const std::string& checkpoint, const v1::QuantizeSpec& spec) {
  JobSpec job;
  job.kind = JobKind::kQuantize;
  ASSIGN_OR_RETURN(job.checkpoint, ParseResourceName("checkpoints", checkpoint));
  ASSIGN_OR_RETURN(job.quantize, MethodFromProto(spec));
  const std::vector<double> rates = RatesOf(job.quantize.codec);
  const double default_bpw = rates.size() == 1 ? rates.front() : kDefaultBpw;
  job.quantize.bpw = spec.bpw() == 0 ? default_bpw : spec.bpw();
  for (const v1::RateRule& rule : spec.rates()) {
    job.quantize.rates.push_back({.filter = rule.filter(), .bpw = rule.bpw()});
  }
  if (spec.has_target()) job.target = TargetFromProto(spec.target());
  if (spec.has_target() && !job.target.any()) {
    return InvalidArgument("TARGET_RANGE", "spec.target has neither bpw nor bytes, kl or perplexity_increase");
  }
  job.ladder.assign(spec.ladder().begin(), spec.ladder().end());
  job.curve_only = spec.curve_only();
  if (spec.bpw() != 0 && (job.target.any() || !job.ladder.empty())) {
    return InvalidArgument("TARGET_CONFLICT", "spec.bpw excludes spec.target and spec.ladder");
  }
  ASSIGN_OR_RETURN(job.calibration, TextSelectionFromProto(spec.calibration()));
  ASSIGN_OR_RETURN(job.evaluation, TextSelectionFromProto(spec.evaluation()));
  job.max_kl = spec.max_kl();
  return job;
}

absl::StatusOr<CreateQuantizeJobArgs> QuantizeArgsFromProto(const v1::CreateQuantizeJobRequest& request) {
  CreateQuantizeJobArgs args;
  ASSIGN_OR_RETURN(args.spec, JobSpecFromProto(request.checkpoint(), request.spec()));
  args.display_name = request.display_name();
  args.priority = request.priority();
  args.load_as = request.load_as();
  if (!args.load_as.empty()) RETURN_IF_ERROR(Annotate(CheckModelName(args.load_as), "load_as"));
  args.request_id = request.request_id();
  args.validate_only = request.validate_only();
  args.pool = request.pool();
  args.project = request.project();
  return args;
}

absl::StatusOr<CreateQuantizeJobArgs> StudyArgsFromProto(const v1::CreateStudyJobRequest& request) {
  CreateQuantizeJobArgs args;
  JobSpec& job = args.spec;
  job.kind = JobKind::kStudy;
  for (const std::string& name : request.checkpoints()) {
    ASSIGN_OR_RETURN(job.checkpoints.emplace_back(), ParseResourceName("checkpoints", name));
  }
  for (int i = 0; i < request.methods_size(); ++i) {
    const v1::StudyMethod& method = request.methods(i);
    RETURN_IF_ERROR(CheckStudyMethod(i, method.spec()));
    ASSIGN_OR_RETURN(QuantizeSpec spec, MethodFromProto(method.spec()));
    if (method.rates().empty()) {
      return InvalidArgument("STUDY_SIZE", "methods, number {}: rates must have at least one", i);
    }
    if (static_cast<size_t>(method.rates_size()) > kMaxStudyMethods) {
      return InvalidArgument("STUDY_SIZE", "methods, number {}: {} rates; the limit is {}", i, method.rates_size(),
                             kMaxStudyMethods);
    }
    for (double rate : method.rates()) {
      spec.bpw = rate;
      job.methods.push_back(spec);
    }
  }
  job.probes = !request.without_probes();
  ASSIGN_OR_RETURN(job.calibration, TextSelectionFromProto(request.calibration()));
  ASSIGN_OR_RETURN(job.evaluation, TextSelectionFromProto(request.evaluation()));
  args.display_name = request.display_name();
  args.priority = request.priority();
  args.request_id = request.request_id();
  args.validate_only = request.validate_only();
  args.pool = request.pool();
  args.project = request.project();
  return args;
}

absl::StatusOr<CreateEvaluateJobArgs> EvaluateArgsFromProto(const v1::CreateEvaluateJobRequest& request) {
  CreateEvaluateJobArgs args;
  ASSIGN_OR_RETURN(args.artifact, ParseResourceName("artifacts", request.artifact()));
  ASSIGN_OR_RETURN(args.evaluation, TextSelectionFromProto(request.evaluation()));
  args.request_id = request.request_id();
  args.validate_only = request.validate_only();
  args.pool = request.pool();
  args.project = request.project();
  return args;
}

absl::StatusOr<SamplingParams> SamplingFromProto(const v1::SamplingParams& params) {
  if (params.stop_size() > kMaxStopTexts) {
    return InvalidArgument("SAMPLING_PARAM", "params.stop has {} texts; the limit is {}", params.stop_size(),
                           kMaxStopTexts);
  }
  for (const std::string& stop : params.stop()) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      return InvalidArgument("SAMPLING_PARAM", "each of params.stop must have 1 to {} bytes; got {}", kMaxStopBytes,
                             stop.size());
    }
  }
  if (params.logprobs() < 0 || params.logprobs() > kMaxLogprobs) {
    return InvalidArgument("SAMPLING_PARAM", "params.logprobs must be 0 to {}; got {}", kMaxLogprobs,
                           params.logprobs());
  }
  SamplingParams sampling;
  sampling.max_tokens = params.max_tokens() == 0 ? kDefaultMaxTokens : params.max_tokens();
  sampling.temperature = params.has_temperature() ? params.temperature() : 1;
  sampling.top_k = params.top_k();
  sampling.top_p = params.has_top_p() ? params.top_p() : 1;
  sampling.min_p = params.min_p();
  sampling.repetition_penalty = params.has_repetition_penalty() ? params.repetition_penalty() : 1;
  sampling.seed = params.seed();
  sampling.stop.assign(params.stop().begin(), params.stop().end());
  sampling.ignore_eos = params.ignore_eos();
  sampling.logprobs = params.logprobs() == 0 ? -1 : params.logprobs();
  sampling.presence_penalty = params.presence_penalty();
  sampling.frequency_penalty = params.frequency_penalty();
  sampling.logit_bias.insert(params.logit_bias().begin(), params.logit_bias().end());
  RETURN_IF_ERROR(ValidateSamplingParams(sampling));
  return sampling;
}

absl::StatusOr<std::optional<ConstraintSpec>> ConstraintFromProto(const v1::SamplingParams& params) {
  if (!params.has_constraint()) return std::optional<ConstraintSpec>();
  const v1::OutputConstraint& constraint = params.constraint();
  std::optional<ConstraintSpec> spec;
  switch (constraint.kind_case()) {
    case v1::OutputConstraint::kJsonObject:
      if (constraint.json_object()) spec = ConstraintSpec{ConstraintKind::kJsonObject, ""};
      return spec;
    case v1::OutputConstraint::kJsonSchema:
      spec = ConstraintSpec{ConstraintKind::kJsonSchema, constraint.json_schema()};
      return spec;
    case v1::OutputConstraint::kRegex:
      spec = ConstraintSpec{ConstraintKind::kRegex, constraint.regex()};
      return spec;
    case v1::OutputConstraint::kGrammar:
      spec = ConstraintSpec{ConstraintKind::kGrammar, constraint.grammar()};
      return spec;
    case v1::OutputConstraint::kChoiceJson:
      spec = ConstraintSpec{ConstraintKind::kChoices, constraint.choice_json()};
      return spec;
    case v1::OutputConstraint::KIND_NOT_SET:
      break;
  }
  return InvalidArgument("CONSTRAINT_INVALID", "params.constraint names none of json_object, json_schema, regex, grammar "
                         "and choice_json");
}

absl::StatusOr<RequestOptions> RequestOptionsFrom(int32_t priority, double timeout_seconds,
                                                  std::chrono::system_clock::time_point call_deadline,
                                                  std::chrono::system_clock::time_point now) {
  if (priority < -kMaxPriority || priority > kMaxPriority) {
    return InvalidArgument("REQUEST_OPTION", "priority must be {} to {}; got {}", -kMaxPriority, kMaxPriority,
                           priority);
  }
  // Written so that NaN fails too.
  if (!(timeout_seconds >= 0 && timeout_seconds <= kMaxTimeoutSeconds)) {
    return InvalidArgument("REQUEST_OPTION", "timeout_seconds must be 0 (none) to {}; got {}", kMaxTimeoutSeconds,
                           timeout_seconds);
  }
  RequestOptions request;
  request.priority = priority;
  double seconds = timeout_seconds > 0 ? timeout_seconds : kMaxTimeoutSeconds;
  const bool limited = timeout_seconds > 0 || call_deadline != std::chrono::system_clock::time_point::max();
  if (call_deadline != std::chrono::system_clock::time_point::max()) {
    seconds = std::min(seconds, std::chrono::duration<double>(call_deadline - now).count());
  }
  if (!limited) return request;
  // A clock that is set does not move the steady one.
  request.deadline = std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                                            std::chrono::duration<double>(seconds));
  return request;
}

absl::StatusOr<UpdateAliasArgs> UpdateAliasFromProto(const v1::UpdateAliasRequest& request) {
  UpdateAliasArgs args;
  ASSIGN_OR_RETURN(args.name, ParseResourceName(kAliases, request.name()));
  for (const v1::AliasTarget& target : request.targets()) {
    args.targets.push_back({std::string(WithoutCollection(kServedModels, target.model())), target.weight()});
  }
  args.etag = request.etag();
  args.validate_only = request.validate_only();
  args.request_id = request.request_id();
  return args;
}

std::vector<ChatMessage> MessagesFromProto(const google::protobuf::RepeatedPtrField<v1::ChatMessage>& messages) {
  std::vector<ChatMessage> result;
  result.reserve(static_cast<size_t>(messages.size()));
  for (const v1::ChatMessage& message : messages) {
    result.push_back({.role = message.role(),
                      .content = message.content(),
                      .name = message.name(),
                      .tool_calls_json = message.tool_calls_json(),
                      .tool_call_id = message.tool_call_id()});
  }
  return result;
}

}  // namespace qamserve
