// The aliases of a ModelRegistry.
#include <algorithm>

#include "server/serving/model_registry.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

std::string UpdatePayload(const UpdateAliasArgs& args) {
  std::string payload = fmt::format("{}\n{}", args.name, args.etag);
  for (const AliasTarget& target : args.targets) payload += fmt::format("\n{}={}", target.model, target.weight);
  return payload;
}

// `alias` is null if there is none.
absl::Status CheckEtag(std::string_view name, const AliasRecord* alias, const std::string& etag) {
  if (etag.empty() || (alias != nullptr && alias->etag == etag)) return absl::OkStatus();
  const std::string_view wanted = std::string_view(etag).substr(0, 64);
  if (alias == nullptr) {
    return Aborted("ETAG_MISMATCH", "etag \"{}\" was given, but there is no alias \"{}\"", wanted, name);
  }
  return Aborted("ETAG_MISMATCH", "etag \"{}\" was given, but alias \"{}\" has changed since: its etag is \"{}\"",
                 wanted, name, alias->etag);
}

}  // namespace

absl::StatusOr<AliasRecord> ModelRegistry::UpdateAlias(const UpdateAliasArgs& args) {
  RETURN_IF_ERROR(CheckAliasName(args.name));
  RETURN_IF_ERROR(CheckAliasTargets(args.targets));
  if (args.validate_only) {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(CheckUpdate(args));
    return AliasRecord{.name = args.name, .targets = args.targets};
  }
  absl::MutexLock names(&names_mutex_);
  const auto put = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_) { return PutAlias(args); };
  RETURN_IF_ERROR(
      RunOnce(catalog_.store(), args.request_id, "UpdateAlias", UpdatePayload(args), options_.now_ms(), put).status());
  // If the id was answered before, the alias may have changed since.
  return GetAlias(args.name);
}

absl::StatusOr<std::string> ModelRegistry::PutAlias(const UpdateAliasArgs& args) {
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(CheckUpdate(args));
  }
  AliasRecord alias = {args.name, args.targets, RandomId(), options_.now_ms()};
  RETURN_IF_ERROR(catalog_.store().PutAlias(alias));
  absl::MutexLock lock(&mutex_);
  aliases_[args.name] = std::move(alias);
  return ResourceName("aliases", args.name);
}

absl::Status ModelRegistry::CheckUpdate(const UpdateAliasArgs& args) const {
  if (models_.contains(args.name) || restoring_.contains(args.name)) {
    return AlreadyExists("MODEL_NAME_TAKEN", "\"{}\" is a served model; an alias needs a name of its own", args.name);
  }
  const auto it = aliases_.find(args.name);
  RETURN_IF_ERROR(CheckEtag(args.name, it == aliases_.end() ? nullptr : &it->second, args.etag));
  if (it == aliases_.end() && aliases_.size() >= kMaxAliases) {
    return ResourceExhausted("ALIAS_LIMIT", "there are {} aliases, which is the limit; delete one", aliases_.size());
  }
  for (const AliasTarget& target : args.targets) RETURN_IF_ERROR(CheckTarget(target.model));
  return absl::OkStatus();
}

absl::Status ModelRegistry::CheckTarget(const std::string& model) const {
  if (restoring_.contains(model)) return absl::OkStatus();
  const auto it = models_.find(model);
  if (it == models_.end()) {
    if (aliases_.contains(model)) {
      return InvalidArgument("ALIAS_OF_ALIAS", "target \"{}\" is an alias; targets must be served models", model);
    }
    return NotFound("MODEL_NOT_FOUND", "target \"{}\" is not served; {}", model, ServedNames());
  }
  const ServedModelState state = it->second->state();
  if (state != ServedModelState::kDraining && state != ServedModelState::kUnloaded) return absl::OkStatus();
  return FailedPrecondition("MODEL_STATE", "target \"{}\" is {}; it is about to be gone", model,
                            ServedModelStateName(state));
}

absl::Status ModelRegistry::CheckNoAlias(const std::string& name) const {
  if (!aliases_.contains(name)) return absl::OkStatus();
  return AlreadyExists("ALIAS_NAME_TAKEN", "\"{}\" is an alias; a served model needs a name of its own", name);
}

absl::Status ModelRegistry::CheckInNoAlias(const std::string& model) const {
  std::string aliases;
  for (const auto& [name, alias] : aliases_) {
    const bool named = std::any_of(alias.targets.begin(), alias.targets.end(),
                                   [&](const AliasTarget& target) { return target.model == model; });
    if (named) aliases += fmt::format("{}\"{}\"", aliases.empty() ? "" : ", ", name);
  }
  if (aliases.empty()) return absl::OkStatus();
  return FailedPrecondition("MODEL_IN_ALIAS",
                            "model \"{}\" is a target of alias {}; update the alias without it, or delete the alias, "
                            "and unload it then",
                            model, aliases);
}

absl::Status ModelRegistry::NoAlias(std::string_view name) const {
  std::string names;
  for (const auto& [known, alias] : aliases_) names += (names.empty() ? "there are: " : ", ") + known;
  return NotFound("ALIAS_NOT_FOUND", "there is no alias \"{}\"; {}", name.substr(0, kMaxModelNameBytes),
                  names.empty() ? "there is none at all" : names);
}

absl::StatusOr<AliasRecord> ModelRegistry::GetAlias(std::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto it = aliases_.find(name);
  if (it == aliases_.end()) return NoAlias(name);
  return it->second;
}

std::vector<AliasRecord> ModelRegistry::ListAliases() const {
  absl::MutexLock lock(&mutex_);
  std::vector<AliasRecord> aliases;
  for (const auto& [name, alias] : aliases_) aliases.push_back(alias);
  return aliases;
}

absl::Status ModelRegistry::DeleteAlias(const std::string& name, const std::string& etag,
                                        const std::string& request_id) {
  absl::MutexLock names(&names_mutex_);
  const auto remove = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_) { return RemoveAlias(name, etag); };
  return RunOnce(catalog_.store(), request_id, "DeleteAlias", fmt::format("{}\n{}", name, etag), options_.now_ms(),
                 remove)
      .status();
}

absl::StatusOr<std::string> ModelRegistry::RemoveAlias(const std::string& name, const std::string& etag) {
  ASSIGN_OR_RETURN(const AliasRecord alias, GetAlias(name));
  RETURN_IF_ERROR(CheckEtag(name, &alias, etag));
  RETURN_IF_ERROR(catalog_.store().DeleteAlias(name));
  absl::MutexLock lock(&mutex_);
  aliases_.erase(name);
  return std::string();
}

// --- Routing ---

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::Route(std::string_view name) {
  {
    absl::MutexLock lock(&mutex_);
    if (const auto it = aliases_.find(name); it != aliases_.end()) return Choose(it->second);
  }
  return Find(name);
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::RouteAlias(std::string_view name) {
  absl::MutexLock lock(&mutex_);
  const auto it = aliases_.find(name);
  if (it == aliases_.end()) return NoAlias(name);
  return Choose(it->second);
}

absl::StatusOr<std::shared_ptr<ServedModel>> ModelRegistry::Choose(const AliasRecord& alias) {
  std::vector<int32_t> weights;
  for (const AliasTarget& target : alias.targets) {
    const auto it = models_.find(target.model);
    const bool ready = it != models_.end() && it->second->state() == ServedModelState::kReady;
    weights.push_back(ready ? target.weight : 0);
  }
  const std::optional<size_t> chosen = PickByWeight(weights, rng_);
  if (!chosen) return NoTargetReady(alias);
  return models_.at(alias.targets[*chosen].model);
}

absl::Status ModelRegistry::NoTargetReady(const AliasRecord& alias) const {
  std::string targets;
  for (const AliasTarget& target : alias.targets) {
    targets += fmt::format("{}\"{}\" is {}{}", targets.empty() ? "" : ", ", target.model, StateOf(target.model),
                           target.weight > 0 ? "" : " with weight 0");
  }
  return Unavailable("MODEL_NOT_READY", "alias \"{}\" has no target that is READY and has a weight above 0: {}",
                     alias.name, targets);
}

const char* ModelRegistry::StateOf(const std::string& model) const {
  const auto it = models_.find(model);
  return it == models_.end() ? "not loaded" : ServedModelStateName(it->second->state());
}

absl::Status ModelRegistry::RestoreNames() {
  ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, catalog_.store().ListAliases());
  ASSIGN_OR_RETURN(const std::vector<ServedModelRecord> models, catalog_.store().ListServedModels());
  absl::MutexLock lock(&mutex_);
  for (const AliasRecord& alias : aliases) aliases_[alias.name] = alias;
  for (const ServedModelRecord& model : models) restoring_.insert(model.name);
  return absl::OkStatus();
}

}  // namespace qamserve
