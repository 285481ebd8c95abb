#include "server/serving/alias_rules.h"

#include <algorithm>

#include "server/serving/served_name.h"

namespace qamserve {
namespace {

constexpr size_t kMaxShownEtag = 64;

absl::Status CheckTarget(const NamesInUse& names, const std::string& model) {
  const auto it = names.models.find(model);
  if (it == names.models.end()) {
    if (names.aliases.contains(model)) {
      return InvalidArgument("ALIAS_OF_ALIAS", "target \"{}\" is an alias; targets must be served models", model);
    }
    return NotFound("MODEL_NOT_FOUND", "target \"{}\" is not served; {}", model, ServedNames(names));
  }
  const ServedModelState state = it->second;
  if (state != ServedModelState::kDraining && state != ServedModelState::kUnloaded) return absl::OkStatus();
  return FailedPrecondition("MODEL_STATE", "target \"{}\" is {}; it is about to be gone", model,
                            ServedModelStateName(state));
}

}  // namespace

std::string ServedNames(const NamesInUse& names) {
  std::string models;
  for (const auto& [name, state] : names.models) {
    if (state == ServedModelState::kReady) models += (models.empty() ? "" : ", ") + name;
  }
  models = models.empty() ? "no model is served" : "served: " + models;
  std::string aliases;
  for (const auto& [name, alias] : names.aliases) aliases += (aliases.empty() ? "; aliases: " : ", ") + name;
  return models + aliases;
}

absl::Status CheckAliasUpdate(const NamesInUse& names, const UpdateAliasArgs& args) {
  if (names.models.contains(args.name)) {
    return AlreadyExists("MODEL_NAME_TAKEN", "\"{}\" is a served model; an alias needs a name of its own", args.name);
  }
  const auto it = names.aliases.find(args.name);
  RETURN_IF_ERROR(CheckEtag(args.name, it == names.aliases.end() ? nullptr : &it->second, args.etag));
  if (it == names.aliases.end() && names.aliases.size() >= kMaxAliases) {
    return ResourceExhausted("ALIAS_LIMIT", "there are {} aliases, which is the limit; delete one",
                             names.aliases.size());
  }
  for (const AliasTarget& target : args.targets) RETURN_IF_ERROR(CheckTarget(names, target.model));
  return absl::OkStatus();
}

absl::Status CheckEtag(std::string_view name, const AliasRecord* alias, const std::string& etag) {
  if (etag.empty() || (alias != nullptr && alias->etag == etag)) return absl::OkStatus();
  const std::string_view wanted = std::string_view(etag).substr(0, kMaxShownEtag);
  if (alias == nullptr) {
    return Aborted("ETAG_MISMATCH", "etag \"{}\" was given, but there is no alias \"{}\"", wanted, name);
  }
  return Aborted("ETAG_MISMATCH", "etag \"{}\" was given, but alias \"{}\" has changed since: its etag is \"{}\"",
                 wanted, name, alias->etag);
}

absl::Status CheckNoAlias(const AliasMap& aliases, const std::string& name) {
  if (!aliases.contains(name)) return absl::OkStatus();
  return AlreadyExists("ALIAS_NAME_TAKEN", "\"{}\" is an alias; a served model needs a name of its own", name);
}

absl::Status CheckInNoAlias(const AliasMap& aliases, const std::string& model) {
  std::string found;
  for (const auto& [name, alias] : aliases) {
    const bool named = std::any_of(alias.targets.begin(), alias.targets.end(),
                                   [&](const AliasTarget& target) { return target.model == model; });
    if (named) found += fmt::format("{}\"{}\"", found.empty() ? "" : ", ", name);
  }
  if (found.empty()) return absl::OkStatus();
  return FailedPrecondition("MODEL_IN_ALIAS",
                            "model \"{}\" is a target of alias {}; update the alias without it, or delete the alias, "
                            "and unload it then",
                            model, found);
}

absl::Status NoSuchAlias(const AliasMap& aliases, std::string_view name) {
  std::string names;
  for (const auto& [known, alias] : aliases) names += (names.empty() ? "there are: " : ", ") + known;
  return NotFound("ALIAS_NOT_FOUND", "there is no alias \"{}\"; {}", name.substr(0, kMaxModelNameBytes),
                  names.empty() ? "there is none at all" : names);
}

absl::Status NoSuchModel(const NamesInUse& names, std::string_view name) {
  return NotFound("MODEL_NOT_FOUND", "model \"{}\" is not served; {}", name.substr(0, kMaxModelNameBytes),
                  ServedNames(names));
}

absl::Status NoTargetReady(const NamesInUse& names, const AliasRecord& alias) {
  std::string targets;
  for (const AliasTarget& target : alias.targets) {
    const auto it = names.models.find(target.model);
    targets += fmt::format("{}\"{}\" is {}{}", targets.empty() ? "" : ", ", target.model,
                           it == names.models.end() ? "not loaded" : ServedModelStateName(it->second),
                           target.weight > 0 ? "" : " with weight 0");
  }
  return Unavailable("MODEL_NOT_READY", "alias \"{}\" has no target that is READY and has a weight above 0: {}",
                     alias.name, targets);
}

std::string AliasUpdatePayload(const UpdateAliasArgs& args) {
  std::string payload = fmt::format("{}\n{}", args.name, args.etag);
  for (const AliasTarget& target : args.targets) payload += fmt::format("\n{}={}", target.model, target.weight);
  return payload;
}

}  // namespace qamserve
