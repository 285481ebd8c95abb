// study, study table.
#include <fstream>
#include <map>

#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/share_flags.h"
#include "client/qamctl/text.h"
#include "client/qamctl/text_flags.h"
#include "client/qamctl/watch_view.h"

namespace qamserve::qamctl {
namespace {

struct Method {
  v1::Codec codec;
  bool channel_scale;
  bool error_feedback;
  v1::Rotation rotation = v1::ROTATION_FULL;
};

// The paper's systems and ours, by short names.
const std::map<std::string, Method> kMethods = {
    {"joint", {v1::CODEC_JOINT, false, false}},
    {"joint+scale", {v1::CODEC_JOINT, true, false}},
    {"joint+ldlq", {v1::CODEC_JOINT, true, true}},
    {"trellis", {v1::CODEC_TRELLIS, false, false}},
    {"trellis+scale", {v1::CODEC_TRELLIS, true, false}},
    {"trellis+ldlq", {v1::CODEC_TRELLIS, true, true}},
    {"polar", {v1::CODEC_POLAR, false, false}},
    {"polar+scale", {v1::CODEC_POLAR, true, false}},
    {"scalar", {v1::CODEC_SCALAR, false, false}},
    {"scalar+scale", {v1::CODEC_SCALAR, true, false}},
    {"rtn", {v1::CODEC_UNIFORM, false, false, v1::ROTATION_NONE}},
    {"w8a8", {v1::CODEC_INT8, true, false, v1::ROTATION_NONE}},
    {"full", {v1::CODEC_FULL, false, false, v1::ROTATION_NONE}},
};
const std::map<std::string, v1::StudyFormat> kFormats = {
    {"json", v1::STUDY_FORMAT_JSON}, {"csv", v1::STUDY_FORMAT_CSV}, {"html", v1::STUDY_FORMAT_HTML}};

struct StudyFlags {
  std::vector<std::string> checkpoints;
  std::vector<std::string> methods = {"joint", "joint+scale", "joint+ldlq", "polar", "w8a8"};
  std::vector<double> rates = {3.5, 4, 5.5};
  TextFlags calibration, evaluation;
  int window_tokens = 0;
  std::string name;
  int priority = 0;
  ShareFlags share;
  bool no_probes = false;
  bool watch = false;
  bool validate_only = false;
  // study table
  std::string job;
  std::string format = "html";
  std::string output;
};

absl::StatusOr<v1::CreateStudyJobRequest> ToRequest(Session& session, const StudyFlags& flags) {
  v1::CreateStudyJobRequest request;
  for (const std::string& text : flags.checkpoints) {
    ASSIGN_OR_RETURN(*request.add_checkpoints(), ResolveCheckpoint(session, text));
  }
  for (const std::string& name : flags.methods) {
    const Method& method = kMethods.at(name);
    v1::StudyMethod& out = *request.add_methods();
    out.mutable_spec()->set_codec(method.codec);
    out.mutable_spec()->set_channel_scale(method.channel_scale);
    out.mutable_spec()->set_error_feedback(method.error_feedback);
    out.mutable_spec()->set_rotation(method.rotation);
    // 8-bit integers have one rate, and so have floats.
    if (method.codec == v1::CODEC_INT8) {
      out.add_rates(8);
    } else if (method.codec == v1::CODEC_FULL) {
      out.add_rates(16);
    } else {
      out.mutable_rates()->Add(flags.rates.begin(), flags.rates.end());
    }
  }
  ASSIGN_OR_RETURN(*request.mutable_calibration(), ResolveSelection(session, flags.calibration, flags.window_tokens));
  ASSIGN_OR_RETURN(*request.mutable_evaluation(), ResolveSelection(session, flags.evaluation, flags.window_tokens));
  request.set_display_name(flags.name);
  request.set_priority(flags.priority);
  request.set_pool(flags.share.pool);
  request.set_project(flags.share.project);
  request.set_validate_only(flags.validate_only);
  request.set_without_probes(flags.no_probes);
  return request;
}

absl::Status RunStudy(Session& session, const StudyFlags& flags) {
  if (flags.checkpoints.empty()) {
    return InvalidArgument("STUDY_SIZE", "name at least one checkpoint: qamctl study CHECKPOINT...");
  }
  ASSIGN_OR_RETURN(const v1::CreateStudyJobRequest request, ToRequest(session, flags));
  ASSIGN_OR_RETURN(const v1::Job job, session.client().CreateStudyJob(request));
  if (flags.validate_only) return PrintEstimate(session, job);
  if (flags.watch) {
    return WatchToEnd(session, job.name());
  }
  if (session.json()) return session.PrintJson(job);
  session.Print(fmt::format("{}  {}", job.name(), StateName(job.state())));
  if (IsFinal(job.state())) PrintOutcome(session, job);
  session.Note(fmt::format("next: qamctl watch {}", job.name()));
  return absl::OkStatus();
}

absl::Status PrintTable(Session& session, const StudyFlags& flags) {
  ASSIGN_OR_RETURN(const std::string name, ResolveJob(session, flags.job));
  ASSIGN_OR_RETURN(const v1::StudyTable table,
                   session.client().GetStudy(name, session.json() ? v1::STUDY_FORMAT_JSON : kFormats.at(flags.format)));
  if (flags.output.empty()) {
    session.terminal().out << table.content() << (table.content().ends_with('\n') ? "" : "\n");
    return absl::OkStatus();
  }
  std::ofstream out(flags.output, std::ios::binary | std::ios::trunc);
  out << table.content();
  out.close();
  if (!out) return FailedPrecondition("FILE_WRITE", "{} cannot be written", flags.output);
  session.Print(fmt::format("{}  {}", flags.output, HumanBytes(static_cast<double>(table.content().size()))));
  return absl::OkStatus();
}

}  // namespace

Action BuildStudy(CLI::App& app) {
  app.require_subcommand(0, 1);
  auto flags = std::make_shared<StudyFlags>();
  app.add_option("checkpoints", flags->checkpoints,
                 "Resource names, beginnings of digests, display names, or local .gguf files or model folders")
      ->type_name("CHECKPOINT");
  app.add_option(
         "--methods", flags->methods,
         "joint, trellis, polar, scalar, rtn, w8a8, full; the first four also with +scale, joint and trellis with "
         "+ldlq (default joint,joint+scale,joint+ldlq,polar,w8a8)")
      ->delimiter(',')
      ->check(CLI::IsMember(kMethods))
      ->type_name("NAME,...");
  app.add_option("--rates", flags->rates, "Bits a weight of every method but w8a8 and full (default 3.5,4,5.5)")
      ->delimiter(',')
      ->check(CLI::Range(2.5, 6.0))
      ->type_name("BITS,...");
  app.add_option("--calibration", flags->calibration.text,
                 "Text to calibrate on: a local file, texts/{sha256} or built-in (default: the models' own samples)")
      ->type_name("TEXT");
  app.add_option("--calibration-windows", flags->calibration.windows, "Windows of it to use")->type_name("N");
  AddTemplateFlag(app, "calibration", flags->calibration);
  app.add_option("--evaluation", flags->evaluation.text,
                 "Text to measure on: a local file, texts/{sha256} or built-in (default: the models' own samples)")
      ->type_name("TEXT");
  app.add_option("--evaluation-windows", flags->evaluation.windows, "Windows of it to use (default 8)")->type_name("N");
  AddTemplateFlag(app, "evaluation", flags->evaluation);
  app.add_option("--window-tokens", flags->window_tokens, "Tokens in a window (default 1024)")->type_name("N");
  app.add_flag("--no-probes", flags->no_probes,
               "Do not try tensors one by one, from which KL is predicted: much faster");
  app.add_option("--name", flags->name, "Display name of the study")->type_name("NAME");
  app.add_option("--priority", flags->priority, "Higher runs first (default 0)")->type_name("N");
  AddShareFlags(app, flags->share);
  app.add_flag("--watch", flags->watch, "Follow the job to its end");
  app.add_flag("--validate-only", flags->validate_only, "Check the request and estimate its cost; start nothing");
  CLI::App* table = app.add_subcommand("table", "The table of what a job has measured, so far or at its end");
  table->add_option("job", flags->job, "Of a study, a ladder or any quantize job")->required()->type_name("JOB");
  table->add_option("--format", flags->format, "json, csv or html (default html)")
      ->check(CLI::IsMember(kFormats))
      ->type_name("FORMAT");
  table->add_option("-o,--output", flags->output, "File to write (default: standard output)")->type_name("FILE");
  return RunVerb({{table, [flags](Session& session) { return PrintTable(session, *flags); }}},
                 [flags](Session& session) { return RunStudy(session, *flags); });
}

}  // namespace qamserve::qamctl
