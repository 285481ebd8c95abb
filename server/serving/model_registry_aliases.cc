// The aliases of a ModelRegistry.
#include "server/serving/alias_rules.h"
#include "server/serving/model_registry.h"
#include "server/store/request_ids.h"

namespace qamserve {
absl::StatusOr<AliasRecord> ModelRegistry::UpdateAlias(const UpdateAliasArgs& args) {
  RETURN_IF_ERROR(CheckAliasName(args.name));
  RETURN_IF_ERROR(CheckAliasTargets(args.targets));
  if (args.validate_only) {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(CheckAliasUpdate(Names(), args));
    return AliasRecord{.name = args.name, .targets = args.targets};
  }
  absl::MutexLock names(&names_mutex_);
  const auto put = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_) { return PutAlias(args); };
  RETURN_IF_ERROR(
      RunOnce(catalog_.store(), args.request_id, "UpdateAlias", AliasUpdatePayload(args), options_.now_ms(), put)
          .status());
  // If the id was answered before, the alias may have changed since.
  return GetAlias(args.name);
}

absl::StatusOr<std::string> ModelRegistry::PutAlias(const UpdateAliasArgs& args) {
  {
    absl::MutexLock lock(&mutex_);
    RETURN_IF_ERROR(CheckAliasUpdate(Names(), args));
  }
  AliasRecord alias = {args.name, args.targets, RandomId(), options_.now_ms()};
  RETURN_IF_ERROR(catalog_.store().PutAlias(alias));
  absl::MutexLock lock(&mutex_);
  aliases_[args.name] = std::move(alias);
  return ResourceName("aliases", args.name);
}

NamesInUse ModelRegistry::LoadedNames() const {
  NamesInUse names{.models = {}, .aliases = aliases_};
  for (const auto& [name, model] : models_) names.models[name] = model->state();
  return names;
}

NamesInUse ModelRegistry::Names() const {
  NamesInUse names = LoadedNames();
  for (const std::string& name : restoring_) names.models.emplace(name, ServedModelState::kLoading);
  return names;
}

absl::StatusOr<AliasRecord> ModelRegistry::GetAlias(std::string_view name) const {
  absl::MutexLock lock(&mutex_);
  const auto it = aliases_.find(name);
  if (it == aliases_.end()) return NoSuchAlias(aliases_, name);
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
  if (it == aliases_.end()) return NoSuchAlias(aliases_, name);
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
  if (!chosen) return NoTargetReady(LoadedNames(), alias);
  return models_.at(alias.targets[*chosen].model);
}

absl::Status ModelRegistry::RestoreNames() {
  ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, catalog_.store().ListAliases());
  ASSIGN_OR_RETURN(const std::vector<ServedModelRecord> models, catalog_.store().ListServedModels());
  absl::MutexLock lock(&mutex_);
  for (const AliasRecord& alias : aliases) aliases_[alias.name] = alias;
  for (const ServedModelRecord& model : models) {
    if (model.replicas > 0) restoring_.insert(model.name);
  }
  return absl::OkStatus();
}

}  // namespace qamserve
