#include <map>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/share_flags.h"
#include "client/qamctl/text.h"
#include "client/qamctl/text_flags.h"
#include "client/qamctl/watch_view.h"

namespace qamserve::qamctl {
namespace {

const std::map<std::string, v1::Codec> kCodecs = {{"joint", v1::CODEC_JOINT},   {"polar", v1::CODEC_POLAR},
                                                  {"scalar", v1::CODEC_SCALAR}, {"uniform", v1::CODEC_UNIFORM},
                                                  {"int8", v1::CODEC_INT8},     {"trellis", v1::CODEC_TRELLIS},
                                                  {"full", v1::CODEC_FULL}};
constexpr char kTargets[] = "Instead of --bpw";
const std::map<std::string, v1::Rotation> kRotations = {
    {"full", v1::ROTATION_FULL}, {"block", v1::ROTATION_BLOCK}, {"none", v1::ROTATION_NONE}};

struct QuantizeFlags {
  std::string checkpoint;
  double bpw = 0;
  std::string codec = "joint";
  bool no_channel_scale = false;
  bool error_feedback = false;
  int embedding_bits = 0;
  std::string rotation;
  uint64_t seed = 0;
  TextFlags calibration, evaluation;
  int window_tokens = 0;
  double max_kl = 0;
  std::vector<std::string> rates;  // FILTER=BITS
  std::vector<double> ladder;
  bool curve_only = false;
  double target_bpw = 0;
  uint64_t target_bytes = 0;
  double target_kl = 0;
  double target_ppl = 0;
  bool one_rate = false;
  std::string name;
  std::string load_as;
  int priority = 0;
  ShareFlags share;
  bool watch = false;
  bool validate_only = false;
};

absl::Status AddRates(const QuantizeFlags& flags, v1::QuantizeSpec& spec) {
  for (const std::string& text : flags.rates) {
    const size_t at = text.rfind('=');
    double bpw = 0;
    if (at == std::string::npos || !CLI::detail::lexical_cast(text.substr(at + 1), bpw)) {
      return InvalidArgument("RATE_FILTER", "--rate {} is not FILTER=BITS, such as '*.down_proj=6'", text);
    }
    v1::RateRule* rule = spec.add_rates();
    rule->set_filter(text.substr(0, at));
    rule->set_bpw(bpw);
  }
  spec.mutable_ladder()->Add(flags.ladder.begin(), flags.ladder.end());
  spec.set_curve_only(flags.curve_only);
  if (flags.target_bpw == 0 && flags.target_bytes == 0 && flags.target_kl == 0 && flags.target_ppl == 0) {
    if (!flags.one_rate) return absl::OkStatus();
    return InvalidArgument("TARGET_CONFLICT",
                           "--one-rate is for a target: --target-bpw, --target-bytes, --target-kl or --target-ppl");
  }
  v1::RateTarget& target = *spec.mutable_target();
  target.set_bpw(flags.target_bpw);
  target.set_bytes(static_cast<int64_t>(flags.target_bytes));
  target.set_kl(flags.target_kl);
  target.set_perplexity_increase(flags.target_ppl / 100);
  target.set_mixed_rates(!flags.one_rate);
  return absl::OkStatus();
}

absl::StatusOr<v1::CreateQuantizeJobRequest> ToRequest(Session& session, const QuantizeFlags& flags) {
  v1::CreateQuantizeJobRequest request;
  v1::QuantizeSpec& spec = *request.mutable_spec();
  // First what needs no server: a mistake in it must not cost an upload.
  RETURN_IF_ERROR(AddRates(flags, spec));
  ASSIGN_OR_RETURN(*spec.mutable_calibration(), ResolveSelection(session, flags.calibration, flags.window_tokens));
  ASSIGN_OR_RETURN(*spec.mutable_evaluation(), ResolveSelection(session, flags.evaluation, flags.window_tokens));
  ASSIGN_OR_RETURN(const std::string checkpoint, ResolveCheckpoint(session, flags.checkpoint));
  request.set_checkpoint(checkpoint);
  spec.set_codec(kCodecs.at(flags.codec));
  spec.set_error_feedback(flags.error_feedback);
  spec.set_bpw(flags.bpw);
  spec.set_embedding_bits(flags.embedding_bits);
  // What a flag does not say is the server's to choose: it depends on the codec.
  if (flags.no_channel_scale) spec.set_channel_scale(false);
  if (!flags.rotation.empty()) spec.set_rotation(kRotations.at(flags.rotation));
  spec.set_seed(flags.seed);
  spec.set_max_kl(flags.max_kl);
  request.set_display_name(flags.name);
  request.set_load_as(flags.load_as);
  request.set_priority(flags.priority);
  request.set_pool(flags.share.pool);
  request.set_project(flags.share.project);
  request.set_validate_only(flags.validate_only);
  return request;
}

absl::Status Quantize(Session& session, const QuantizeFlags& flags) {
  ASSIGN_OR_RETURN(const v1::CreateQuantizeJobRequest request, ToRequest(session, flags));
  ASSIGN_OR_RETURN(const v1::Job job, session.client().CreateQuantizeJob(request));
  if (flags.validate_only) return PrintEstimate(session, job);
  if (flags.watch) {
    RETURN_IF_ERROR(WatchToEnd(session, job.name()));
    if (!flags.load_as.empty()) session.Note(fmt::format("  qamctl chat {}", flags.load_as));
    return absl::OkStatus();
  }
  if (session.json()) return session.PrintJson(job);
  session.Print(fmt::format("{}  {}", job.name(), StateName(job.state())));
  if (IsFinal(job.state())) {
    PrintOutcome(session, job);
  } else {
    session.Note(fmt::format("next: qamctl watch {}", job.name()));
  }
  return absl::OkStatus();
}

void AddTextFlags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("--calibration", flags.calibration.text,
                 "Text to calibrate on: a local file, texts/{sha256} or built-in (default: the model's own samples)")
      ->type_name("TEXT");
  app.add_option("--calibration-windows", flags.calibration.windows,
                 "Windows of it to use (default 8, 16 with --error-feedback)")
      ->check(Positive())
      ->type_name("N");
  AddTemplateFlag(app, "calibration", flags.calibration);
  app.add_option("--evaluation", flags.evaluation.text,
                 "Text to measure on: a local file, texts/{sha256} or built-in (default: the model's own samples)")
      ->type_name("TEXT");
  app.add_option("--evaluation-windows", flags.evaluation.windows, "Windows of it to use (default 8)")
      ->check(Positive())
      ->type_name("N");
  AddTemplateFlag(app, "evaluation", flags.evaluation);
  app.add_option("--window-tokens", flags.window_tokens, "Tokens in a window (default 1024)")
      ->check(Positive())
      ->type_name("N");
}

// What says the rate says it alone. The server refuses the same, but only once everything is uploaded.
void ExcludeConflicts(CLI::App& app) {
  for (const char* flag : {"--target-bpw", "--target-bytes", "--target-kl", "--target-ppl", "--ladder"}) {
    app.get_option(flag)->excludes("--bpw")->excludes("--rate");
  }
  for (const char* flag : {"--target-kl", "--target-ppl", "--ladder"}) {
    app.get_option(flag)->excludes("--target-bpw")->excludes("--target-bytes");
  }
  app.get_option("--ladder")->excludes("--target-kl")->excludes("--target-ppl");
  app.get_option("--target-kl")->excludes("--target-ppl");
}

void AddRateFlags(CLI::App& app, QuantizeFlags& flags) {
  app.add_option("--rate", flags.rates, "Another rate for tensors whose names match: '*.down_proj=6'; may be repeated")
      ->type_name("FILTER=BITS");
  app.add_option("--target-bpw", flags.target_bpw, "The best artifact of at most so many bits a weight, all counted")
      ->check(Positive())
      ->type_name("BITS")
      ->group(kTargets);
  app.add_option("--target-bytes", flags.target_bytes, "The best artifact whose weights file is at most so large: 80MB")
      ->transform(CLI::AsSizeValue(false))
      ->type_name("SIZE")
      ->group(kTargets);
  app.add_option("--target-kl", flags.target_kl,
                 "The smallest artifact whose mean KL (nats a token) is at most this, by its upper bound")
      ->check(Positive())
      ->type_name("KL")
      ->group(kTargets);
  app.add_option("--target-ppl", flags.target_ppl, "The same for the increase of perplexity, in percent")
      ->check(Positive())
      ->type_name("PERCENT")
      ->group(kTargets);
  app.add_flag("--one-rate", flags.one_rate, "Reach the target with one rate for all tensors")->group(kTargets);
  app.add_option("--ladder", flags.ladder, "An artifact at each of these rates, from one calibration: 3,3.5,4")
      ->delimiter(',')
      ->type_name("BITS,...")
      ->group(kTargets);
  app.add_flag("--curve-only", flags.curve_only, "Measure the ladder and keep none of its artifacts")
      ->needs("--ladder")
      ->group(kTargets);
  ExcludeConflicts(app);
}

}  // namespace

Action BuildQuantize(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  app.add_option("checkpoint", flags->checkpoint,
                 "Resource name, beginning of the digest, display name, or a local .gguf file or model folder")
      ->required()
      ->type_name("CHECKPOINT");
  app.add_option("--bpw", flags->bpw, "Bits a weight: 2.5 to 6 in half bits (default 5.5); int8: 8, full: 16")
      ->check(CLI::Range(2.5, 16.0))
      ->type_name("BITS");
  app.add_option("--codec", flags->codec,
                 "joint: a codebook of pairs; trellis: less error, slower to make, 2.5 to 5.5 bits; baselines: polar, "
                 "scalar, uniform (round to nearest), int8 (W8A8), full (16-bit floats, nothing quantized)")
      ->check(CLI::IsMember(kCodecs))
      ->type_name("joint|trellis|polar|scalar|uniform|int8|full");
  app.add_flag("--error-feedback", flags->error_feedback,
               "Let columns make up for the rounding errors of those before them (LDLQ)");
  app.add_flag("--no-channel-scale", flags->no_channel_scale, "Do not weigh input channels by their activations");
  app.add_option("--embedding-bits", flags->embedding_bits,
                 "Bits of embeddings and output head, which are most of a small model: 16 as they are (default), or 8")
      ->check(CLI::IsMember({8, 16}))
      ->type_name("8|16");
  app.add_option("--rotation", flags->rotation,
                 "full: one Hadamard matrix over a row (default); block: power-of-two blocks; none")
      ->check(CLI::IsMember(kRotations))
      ->type_name("full|block|none");
  app.add_option("--seed", flags->seed, "Of the rotation's signs (default 1)")->type_name("N");
  AddTextFlags(app, *flags);
  AddRateFlags(app, *flags);
  app.add_option("--max-kl", flags->max_kl, "Refuse the artifact if its mean KL (nats a token) is above this")
      ->check(Positive())
      ->type_name("KL");
  app.add_option("--name", flags->name, "Display name of job and artifact")->type_name("NAME");
  app.add_option("--load-as", flags->load_as, "Serve the artifact under this name when it is ready")->type_name("NAME");
  app.add_option("--priority", flags->priority, "Higher runs first (default 0)")->type_name("N");
  AddShareFlags(app, flags->share);
  app.add_flag("--watch", flags->watch, "Follow the job to its end");
  app.add_flag("--validate-only", flags->validate_only, "Check the request and estimate its cost; start nothing")
      ->excludes("--watch");
  return [flags](Session& session) { return Quantize(session, *flags); };
}

}  // namespace qamserve::qamctl
