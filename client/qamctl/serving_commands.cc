// load, unload, models.
#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

std::string StateName(v1::ServedModelState state) {
  return WithoutPrefix(v1::ServedModelState_Name(state), "SERVED_MODEL_STATE_");
}

// "1 of 2"; of a server that knows no replicas, whether there is one.
std::string ReplicasOf(const v1::ServedModel& model) {
  if (model.replicas() == 0) return model.state() == v1::SERVED_MODEL_STATE_READY ? "1 of 1" : "0 of 1";
  return fmt::format("{} of {}", model.ready_replicas(), model.replicas());
}

absl::Status PrintModel(Session& session, const v1::ServedModel& model) {
  if (session.json()) return session.PrintJson(model);
  session.Print(fmt::format("{}  {}  {}, {} in memory, context {} tokens",
                            Bold(session.terminal(), ModelName(model.name())), StateName(model.state()),
                            ShortName(model.source()), HumanBytes(static_cast<double>(model.memory_bytes())),
                            model.context_tokens()) +
                (model.replicas() > 1 ? fmt::format(", {} replicas READY", ReplicasOf(model)) : ""));
  return absl::OkStatus();
}

struct LoadFlags {
  std::string source;
  std::string name;
  int context_tokens = 0;
  int replicas = 0;
};

absl::Status Load(Session& session, const LoadFlags& flags) {
  v1::LoadModelRequest request;
  ASSIGN_OR_RETURN(*request.mutable_source(), ResolveSource(session, flags.source));
  request.set_name(flags.name);
  request.set_context_tokens(flags.context_tokens);
  request.set_replicas(flags.replicas);
  session.Note(fmt::format("loading {} ...", ShortName(request.source())));
  ASSIGN_OR_RETURN(const v1::ServedModel model, session.client().LoadModel(request));
  if (model.state() == v1::SERVED_MODEL_STATE_FAILED) {
    return FailedPrecondition("LOAD_FAILED", "{} did not load: {}", flags.name, model.error());
  }
  RETURN_IF_ERROR(PrintModel(session, model));
  session.Note(fmt::format("next: qamctl {}", model.chat()
                                                  ? "chat " + flags.name
                                                  : fmt::format("generate {} \"Once upon a time\"", flags.name)));
  return absl::OkStatus();
}

absl::Status Unload(Session& session, const std::string& name, double drain_seconds) {
  v1::UnloadModelRequest request;
  request.set_name("servedModels/" + ModelName(name));
  request.set_drain_seconds(drain_seconds);
  ASSIGN_OR_RETURN(const v1::ServedModel model, session.client().UnloadModel(request));
  return PrintModel(session, model);
}

// "prod 95 %, test 100 %": the aliases that have this model as a target, and its share of each.
std::string AliasesOf(const std::string& model, const v1::ListAliasesResponse& list) {
  std::string text;
  for (const v1::Alias& alias : list.aliases()) {
    double part = -1;
    double whole = 0;
    for (const v1::AliasTarget& target : alias.targets()) {
      whole += target.weight();
      if (target.model() == model) part = target.weight();
    }
    if (part < 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", AliasName(alias.name()), Percent(part, whole));
  }
  return text;
}

absl::Status ListModels(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListServedModelsResponse list, session.client().ListServedModels());
  if (session.json()) return session.PrintJson(list);
  if (list.models().empty()) session.Note("no model is served; `qamctl load ARTIFACT --name NAME` serves one");
  ASSIGN_OR_RETURN(const v1::ListAliasesResponse aliases, session.client().ListAliases());
  Table table({{"MODEL"},
               {"STATE"},
               {"READY", Align::kRight},
               {"SOURCE"},
               {"MEMORY", Align::kRight},
               {"CONTEXT", Align::kRight},
               {"RUNNING", Align::kRight},
               {"WAITING", Align::kRight},
               {"CHAT"},
               {"ALIASES"},
               {"ERROR"}});
  for (const auto& model : list.models()) {
    table.Add({ModelName(model.name()), StateName(model.state()), ReplicasOf(model), ShortName(model.source()),
               HumanBytes(static_cast<double>(model.memory_bytes())), std::to_string(model.context_tokens()),
               std::to_string(model.running()), std::to_string(model.waiting()), model.chat() ? "yes" : "no",
               AliasesOf(model.name(), aliases), model.error()});
  }
  if (!list.models().empty()) session.terminal().out << table.ToString();
  return absl::OkStatus();
}

}  // namespace

Action BuildLoad(CLI::App& app) {
  auto flags = std::make_shared<LoadFlags>();
  app.add_option("source", flags->source,
                 "Artifact or checkpoint: resource name, beginning of the digest, or display name")
      ->required()
      ->type_name("SOURCE");
  app.add_option("--name", flags->name, "Name to serve it under: 1 to 63 of a-z, 0-9, '-', '.', '_'")
      ->required()
      ->type_name("NAME");
  app.add_option("--context-tokens", flags->context_tokens, "Longest context (default: the model's, at most 8192)")
      ->check(Positive())
      ->type_name("N");
  app.add_option("--replicas", flags->replicas,
                 "On how many instances of a fleet (default: as many as it has, or 1). Of a model that is served: "
                 "changes that number")
      ->check(Positive())
      ->type_name("N");
  return [flags](Session& session) { return Load(session, *flags); };
}

Action BuildUnload(CLI::App& app) {
  auto name = std::make_shared<std::string>();
  auto drain_seconds = std::make_shared<double>(0);
  app.add_option("name", *name, "The served model")->required()->type_name("NAME");
  app.add_option("--drain-seconds", *drain_seconds, "How long running requests may take to finish")
      ->check(NotNegative())
      ->type_name("SECONDS");
  return [name, drain_seconds](Session& session) { return Unload(session, *name, *drain_seconds); };
}

Action BuildModels(CLI::App&) { return ListModels; }

}  // namespace qamserve::qamctl
