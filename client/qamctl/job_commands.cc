// jobs, watch, cancel, eval.
#include <cctype>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/share_flags.h"
#include "client/qamctl/text.h"
#include "client/qamctl/text_flags.h"
#include "client/qamctl/watch_view.h"

namespace qamserve::qamctl {
namespace {

struct EvalFlags {
  std::string artifact;
  TextFlags text;
  int window_tokens = 0;
  ShareFlags share;
  bool no_watch = false;
  bool validate_only = false;
};

void AddJobName(CLI::App& app, std::string& name) {
  app.add_option("job", name, "Resource name, beginning of the id, or display name")->required()->type_name("JOB");
}

std::string Upper(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

std::string ProgressText(const v1::Job& job) {
  const v1::JobProgress& progress = job.progress();
  if (progress.tasks_total() == 0 || IsFinal(job.state())) return "";
  return fmt::format("{} {}/{}", progress.stage(), progress.tasks_done(), progress.tasks_total());
}

absl::Status ListJobs(Session& session, const std::string& state_text) {
  v1::JobState state = v1::JOB_STATE_UNSPECIFIED;
  if (!state_text.empty()) v1::JobState_Parse("JOB_STATE_" + Upper(state_text), &state);
  ASSIGN_OR_RETURN(const v1::ListJobsResponse list, session.client().ListJobs(state));
  if (session.json()) return session.PrintJson(list);
  if (list.jobs().empty()) session.Note("no jobs; `qamctl quantize CHECKPOINT` starts one");
  Table table({{"JOB"}, {"KIND"}, {"STATE"}, {"PROGRESS"}, {"NAME"}, {"ARTIFACT"}, {"CREATED (UTC)"}});
  for (const auto& job : list.jobs()) {
    table.Add({job.name(), job.kind(), StateName(job.state()), ProgressText(job), job.display_name(),
               ShortName(job.artifact()), HumanTime(job.create_time())});
  }
  if (!list.jobs().empty()) session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status PrintJob(Session& session, const v1::Job& job) {
  if (session.json()) return session.PrintJson(job);
  session.Print(fmt::format("{}  {}  {}  {}", Bold(session.terminal(), job.name()), job.kind(), StateName(job.state()),
                            job.display_name()));
  session.Print(fmt::format("checkpoint   {}", job.checkpoint()));
  if (job.spec().bpw() > 0) session.Print(fmt::format("target       {} bpw", job.spec().bpw()));
  if (const std::string progress = ProgressText(job); !progress.empty()) session.Print("progress     " + progress);
  session.Print("created      " + HumanTime(job.create_time()));
  if (job.has_end_time()) session.Print("ended        " + HumanTime(job.end_time()));
  if (job.has_error()) session.Print(fmt::format("error        {} ({})", job.error().message(), job.error().reason()));
  PrintOutcome(session, job);
  return absl::OkStatus();
}

// Resolves the name, calls, prints the job that comes back.
template <typename Call>
Action WithJob(std::shared_ptr<std::string> text, Call call) {
  return [text, call](Session& session) -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ResolveJob(session, *text));
    ASSIGN_OR_RETURN(const v1::Job job, call(session.client(), name));
    return PrintJob(session, job);
  };
}

Action WatchAction(std::shared_ptr<std::string> text) {
  return [text](Session& session) -> absl::Status {
    ASSIGN_OR_RETURN(const std::string name, ResolveJob(session, *text));
    return WatchToEnd(session, name);
  };
}

Action CancelAction(std::shared_ptr<std::string> text) {
  return WithJob(text, [](Client& client, const std::string& name) { return client.CancelJob(name); });
}

absl::Status DeleteJob(Session& session, const std::string& text) {
  ASSIGN_OR_RETURN(const std::string name, ResolveJob(session, text));
  RETURN_IF_ERROR(session.client().DeleteJob(name));
  if (session.json()) return session.PrintJson(v1::DeleteJobResponse());
  session.Print("deleted " + name);
  return absl::OkStatus();
}

absl::Status Eval(Session& session, const EvalFlags& flags) {
  v1::CreateEvaluateJobRequest request;
  ASSIGN_OR_RETURN(*request.mutable_artifact(), ResolveArtifact(session, flags.artifact));
  ASSIGN_OR_RETURN(*request.mutable_evaluation(), ResolveSelection(session, flags.text, flags.window_tokens));
  request.set_pool(flags.share.pool);
  request.set_project(flags.share.project);
  request.set_validate_only(flags.validate_only);
  ASSIGN_OR_RETURN(const v1::Job job, session.client().CreateEvaluateJob(request));
  if (flags.validate_only) return PrintEstimate(session, job);
  if (flags.no_watch) {
    RETURN_IF_ERROR(PrintJob(session, job));
    if (!IsFinal(job.state())) session.Note(fmt::format("next: qamctl watch {}", job.name()));
    return absl::OkStatus();
  }
  return WatchToEnd(session, job.name());
}

}  // namespace

Action BuildJobs(CLI::App& app) {
  app.require_subcommand(0, 1);
  auto name = std::make_shared<std::string>();
  auto state = std::make_shared<std::string>();
  const auto add = [&](const char* verb, const char* summary) {
    CLI::App* sub = app.add_subcommand(verb, summary);
    AddJobName(*sub, *name);
    return sub;
  };
  CLI::App* list = app.add_subcommand("list", "List jobs (the default)");
  list->add_option("--state", *state, "Only jobs in this state")
      ->check(CLI::IsMember({"queued", "running", "gating", "succeeded", "rejected", "failed", "cancelled"},
                            CLI::ignore_case))
      ->type_name("STATE");
  CLI::App* get = add("get", "Show a job");
  CLI::App* watch = add("watch", "Follow a job to its end");
  CLI::App* cancel = add("cancel", "Cancel a job");
  CLI::App* retry = add("retry", "Go on with a job that failed or was cancelled");
  CLI::App* remove = add("delete", "Delete a job; its artifact stays");
  const Action list_action = [state](Session& session) { return ListJobs(session, *state); };
  return RunVerb({{list, list_action},
                  {get, WithJob(name, [](Client& client, const std::string& job) { return client.GetJob(job); })},
                  {watch, WatchAction(name)},
                  {cancel, CancelAction(name)},
                  {retry, WithJob(name, [](Client& client, const std::string& job) { return client.RetryJob(job); })},
                  {remove, [name](Session& session) { return DeleteJob(session, *name); }}},
                 list_action);
}

Action BuildWatch(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  AddJobName(app, *name);
  return WatchAction(name);
}

Action BuildCancel(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  AddJobName(app, *name);
  return CancelAction(name);
}

Action BuildEval(CLI::App& app) {
  auto flags = std::make_shared<EvalFlags>();
  app.add_option("artifact", flags->artifact, "Resource name, beginning of the digest, or display name")
      ->required()
      ->type_name("ARTIFACT");
  app.add_option("--text", flags->text.text,
                 "Text to measure on: a local file, texts/{sha256} or built-in (default: the model's own samples)")
      ->type_name("TEXT");
  app.add_option("--windows", flags->text.windows, "Windows of it to use (default 8)")
      ->check(Positive())
      ->type_name("N");
  AddTemplateFlag(app, "", flags->text);
  app.add_option("--window-tokens", flags->window_tokens, "Tokens in a window (default 1024)")
      ->check(Positive())
      ->type_name("N");
  AddShareFlags(app, flags->share);
  app.add_flag("--no-watch", flags->no_watch, "Start the job and return");
  app.add_flag("--validate-only", flags->validate_only, "Check the request and estimate its cost; start nothing");
  return [flags](Session& session) { return Eval(session, *flags); };
}

}  // namespace qamserve::qamctl
