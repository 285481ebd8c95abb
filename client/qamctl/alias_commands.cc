// alias: set, list, show, delete.
#include <charconv>
#include <map>
#include <optional>

#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

struct SetFlags {
  std::string name;
  std::vector<std::string> targets;
  std::string etag;
  bool validate_only = false;
};

std::string ResourceName(const std::string& alias) { return "aliases/" + AliasName(alias); }

// MODEL or MODEL=WEIGHT; names of models have no '='.
std::optional<v1::AliasTarget> ParseTarget(const std::string& text) {
  const size_t equals = text.find('=');
  int weight = 1;
  if (equals != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + equals + 1, end, weight);
    if (error != std::errc() || rest != end) return std::nullopt;
  }
  v1::AliasTarget target;
  target.set_model(ModelName(text.substr(0, equals)));
  target.set_weight(weight);
  return target;
}

double SumOfWeights(const v1::Alias& alias) {
  double sum = 0;
  for (const v1::AliasTarget& target : alias.targets()) sum += target.weight();
  return sum;
}

// "small 95 %, large 5 %".
std::string SharesOf(const v1::Alias& alias) {
  std::string text;
  for (const v1::AliasTarget& target : alias.targets()) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", ModelName(target.model()),
                        Percent(target.weight(), SumOfWeights(alias)));
  }
  return text;
}

absl::Status SetAlias(Session& session, const SetFlags& flags) {
  v1::UpdateAliasRequest request;
  request.set_name(ResourceName(flags.name));
  for (const std::string& text : flags.targets) {
    // Parsed once before, when the command line was checked.
    if (const std::optional<v1::AliasTarget> target = ParseTarget(text)) *request.add_targets() = *target;
  }
  request.set_etag(flags.etag);
  request.set_validate_only(flags.validate_only);
  ASSIGN_OR_RETURN(const v1::Alias alias, session.client().UpdateAlias(request));
  if (session.json()) return session.PrintJson(alias);
  session.Print(fmt::format("{}  {}", Bold(session.terminal(), AliasName(alias.name())), SharesOf(alias)));
  if (flags.validate_only) session.Note("this would do; nothing was changed");
  return absl::OkStatus();
}

absl::Status ListAliases(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListAliasesResponse list, session.client().ListAliases());
  if (session.json()) return session.PrintJson(list);
  if (list.aliases().empty()) session.Note("no aliases yet; `qamctl alias set NAME MODEL[=WEIGHT]...` makes one");
  Table table({{"ALIAS"}, {"TARGETS"}, {"UPDATED (UTC)"}});
  for (const v1::Alias& alias : list.aliases()) {
    table.Add({AliasName(alias.name()), SharesOf(alias), HumanTime(alias.update_time())});
  }
  if (!list.aliases().empty()) session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status ShowAlias(Session& session, const std::string& name) {
  ASSIGN_OR_RETURN(const v1::Alias alias, session.client().GetAlias(ResourceName(name)));
  if (session.json()) return session.PrintJson(alias);
  ASSIGN_OR_RETURN(const v1::ListServedModelsResponse models, session.client().ListServedModels());
  std::map<std::string, std::string> states;
  for (const v1::ServedModel& model : models.models()) {
    states[model.name()] = WithoutPrefix(v1::ServedModelState_Name(model.state()), "SERVED_MODEL_STATE_");
  }
  session.Print(fmt::format("{}  updated {} UTC, etag {}", Bold(session.terminal(), AliasName(alias.name())),
                            HumanTime(alias.update_time()), alias.etag()));
  Table table({{"MODEL"}, {"WEIGHT", Align::kRight}, {"SHARE", Align::kRight}, {"STATE"}});
  for (const v1::AliasTarget& target : alias.targets()) {
    const auto state = states.find(target.model());
    table.Add({ModelName(target.model()), std::to_string(target.weight()),
               Percent(target.weight(), SumOfWeights(alias)), state == states.end() ? "not loaded" : state->second});
  }
  session.terminal().out << table.ToString();
  return absl::OkStatus();
}

absl::Status DeleteAlias(Session& session, const std::string& name, const std::string& etag) {
  v1::DeleteAliasRequest request;
  request.set_name(ResourceName(name));
  request.set_etag(etag);
  RETURN_IF_ERROR(session.client().DeleteAlias(request));
  if (session.json()) return session.PrintJson(v1::DeleteAliasResponse());
  session.Print("deleted " + request.name());
  return absl::OkStatus();
}

}  // namespace

Action BuildAlias(CLI::App& app) {
  app.require_subcommand(0, 1);
  auto flags = std::make_shared<SetFlags>();
  const auto add = [&](const char* verb, const char* summary) {
    CLI::App* sub = app.add_subcommand(verb, summary);
    sub->add_option("name", flags->name, "The alias: 1 to 63 of a-z, 0-9, '-', '.', '_'")
        ->required()
        ->type_name("NAME");
    return sub;
  };
  const auto add_etag = [&](CLI::App* sub) {
    sub->add_option("--etag", flags->etag, "Only if the alias still has this etag (of `alias show`)")
        ->type_name("ETAG");
  };
  CLI::App* set = add("set", "Give an alias these targets in place of those that it has; makes it if it is not there");
  set->add_option("targets", flags->targets, "Served models and their weights, 0 to 1000000 (default 1), at most 16")
      ->required()
      ->check([](const std::string& text) {
        return ParseTarget(text) ? "" : fmt::format("\"{}\" is not MODEL or MODEL=WEIGHT with a whole number", text);
      })
      ->type_name("MODEL[=WEIGHT]...");
  add_etag(set);
  set->add_flag("--validate-only", flags->validate_only, "Check only; change nothing");
  CLI::App* list = app.add_subcommand("list", "List aliases (the default)");
  CLI::App* show = add("show", "Show an alias: the weights, shares and states of its targets, and its etag");
  CLI::App* remove = add("delete", "Delete an alias; its models stay served under their own names");
  add_etag(remove);
  return RunVerb({{set, [flags](Session& session) { return SetAlias(session, *flags); }},
                  {list, ListAliases},
                  {show, [flags](Session& session) { return ShowAlias(session, flags->name); }},
                  {remove, [flags](Session& session) { return DeleteAlias(session, flags->name, flags->etag); }}},
                 ListAliases);
}

}  // namespace qamserve::qamctl
