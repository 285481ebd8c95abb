// Every served model: loads them if they fit into the memory limit, finds them by name, drains and unloads them, brings
// them back after a restart. And their aliases: no name is both, and an alias names only models that are served. When a
// request finds the GPU lost, all models on it become FAILED, and their engines are freed, by a thread of the registry.
// Thread-safe. Load, Unload, Restore and DrainAll block; call them from threads that may. What changes an alias waits
// for the store, never for a model.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/rng.h"
#include "server/serving/alias_rules.h"
#include "server/serving/served_model.h"
#include "server/serving/served_name.h"
#include "server/store/catalog.h"

namespace qamserve {

inline constexpr size_t kMaxServedModels = 64;

struct RegistryOptions {
  // That all served models together may take: weights, KV caches and scratch.
  int64_t memory_limit_bytes = int64_t{4} << 30;
  double max_drain_seconds = 3600;
  std::function<int64_t()> now_ms = SystemNowMs;
  // After every change of a state, and with READY before Load returns. Called without locks; must not block for long.
  std::function<void(const ServedModelView&)> on_change;
  // Of the choice among the targets of an alias; tests set it. Without it the system's random source gives one.
  std::optional<uint64_t> routing_seed;
  // What is served is written to the store, and comes back from there (Restore). Without, somebody else decides that:
  // Load and Unload touch no rows and know no request ids, and there are no aliases.
  bool owns_rows = true;
};

class ModelRegistry {
 public:
  // `catalog` and `loader` must outlive the registry.
  ModelRegistry(RegistryOptions options, Catalog& catalog, ModelLoader& loader);
  ~ModelRegistry();

  // Returns when the model is READY. The same source under the same name again is a no-op; a FAILED model is loaded
  // anew. ALREADY_EXISTS: MODEL_NAME_TAKEN if the name serves another source or context, ALIAS_NAME_TAKEN if it is an
  // alias; ABORTED (MODEL_BUSY) while it is being loaded or drained by another call; RESOURCE_EXHAUSTED: MEMORY_LIMIT
  // names what is needed, what is taken and the limit, MODEL_LIMIT; UNAVAILABLE (SHUTTING_DOWN) after DrainAll; else
  // the errors of Catalog and ModelLoader.
  absl::StatusOr<ServedModelView> Load(const LoadArgs& args);
  // Drains for at most `drain_seconds`, then frees the model and forgets the name. NOT_FOUND (MODEL_NOT_FOUND);
  // FAILED_PRECONDITION: MODEL_STATE while it is LOADING or DRAINING already, MODEL_IN_ALIAS names the aliases that
  // have it as a target; INVALID_ARGUMENT (DRAIN_SECONDS).
  absl::StatusOr<ServedModelView> Unload(const std::string& name, double drain_seconds, const std::string& request_id);

  // NOT_FOUND (MODEL_NOT_FOUND) lists what is served.
  absl::StatusOr<std::shared_ptr<ServedModel>> Find(std::string_view name) const;
  bool IsServed(std::string_view name) const;  // false for an alias
  std::vector<ServedModelView> List() const;   // by name

  // --- Aliases ---
  // Gives the alias these targets, and makes it if it is not there. Errors: those of CheckAliasName and
  // CheckAliasTargets; INVALID_ARGUMENT (ALIAS_OF_ALIAS); NOT_FOUND (MODEL_NOT_FOUND) names the target that is not
  // served; FAILED_PRECONDITION (MODEL_STATE) for one that is being unloaded; ALREADY_EXISTS (MODEL_NAME_TAKEN);
  // ABORTED (ETAG_MISMATCH); RESOURCE_EXHAUSTED (ALIAS_LIMIT).
  absl::StatusOr<AliasRecord> UpdateAlias(const UpdateAliasArgs& args);
  // NOT_FOUND (ALIAS_NOT_FOUND) lists what there is.
  absl::StatusOr<AliasRecord> GetAlias(std::string_view name) const;
  std::vector<AliasRecord> ListAliases() const;  // by name
  // As GetAlias; ABORTED (ETAG_MISMATCH) if `etag` is not empty and not the alias's.
  absl::Status DeleteAlias(const std::string& name, const std::string& etag, const std::string& request_id);

  // The model of one request: a target of the alias of this name, chosen at random by weight among those that are
  // READY, or else the served model of this name. UNAVAILABLE (MODEL_NOT_READY) names alias and targets if none with a
  // weight is READY; NOT_FOUND (MODEL_NOT_FOUND) as Find.
  absl::StatusOr<std::shared_ptr<ServedModel>> Route(std::string_view name);
  // The same for aliases only: NOT_FOUND (ALIAS_NOT_FOUND).
  absl::StatusOr<std::shared_ptr<ServedModel>> RouteAlias(std::string_view name);

  // Takes up from the store the aliases, and the names of the models that Restore will load, so that neither can be
  // given away meanwhile. Quick; to be called before all else.
  absl::Status RestoreNames();
  // Loads what was served when the process ended. A model that cannot be loaded stays listed as FAILED.
  absl::Status Restore();
  // Every READY model drains until `deadline` and is freed; what is in the store stays. Nothing can be loaded
  // afterwards.
  void DrainAll(absl::Time deadline);

  int64_t memory_limit_bytes() const { return options_.memory_limit_bytes; }

 private:
  class LossBell;

  absl::StatusOr<ServedModelView> LoadNew(const LoadArgs& args);
  absl::StatusOr<std::shared_ptr<ServedModel>> Admit(const LoadArgs& args, const LoadPlan& plan)
      ABSL_LOCKS_EXCLUDED(names_mutex_, mutex_);
  absl::Status FillAndPublish(ServedModel& model, const FileSet& files, const LoadArgs& args);
  absl::Status PutRow(const ServedModelRecord& record, const LoadArgs& args);
  absl::StatusOr<std::shared_ptr<ServedModel>> Present(const LoadArgs& args) const;
  void Changed(const ServedModel& model) const;
  void FailLost() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::shared_ptr<ServedModel>> BeginUnload(const std::string& name)
      ABSL_LOCKS_EXCLUDED(names_mutex_, mutex_);
  void AddFailed(const ServedModelRecord& record, const absl::Status& error);

  // In model_registry_aliases.cc.
  absl::StatusOr<std::string> PutAlias(const UpdateAliasArgs& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  absl::StatusOr<std::string> RemoveAlias(const std::string& name, const std::string& etag)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(names_mutex_);
  absl::StatusOr<std::shared_ptr<ServedModel>> Choose(const AliasRecord& alias) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  NamesInUse LoadedNames() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // With those that are to be loaded after a restart.
  NamesInUse Names() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RegistryOptions options_;
  Catalog& catalog_;
  ModelLoader& loader_;
  // Held while a name is given, taken or put into an alias, so that what was checked still holds when the store has
  // written it; requests need only mutex_, which nobody holds while the store writes. Taken before mutex_.
  absl::Mutex names_mutex_ ABSL_ACQUIRED_BEFORE(mutex_);
  mutable absl::Mutex mutex_;
  bool shutting_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<ServedModel>, std::less<>> models_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> restoring_ ABSL_GUARDED_BY(mutex_);  // served before the restart, and not in models_ yet
  AliasMap aliases_ ABSL_GUARDED_BY(mutex_);
  Rng rng_ ABSL_GUARDED_BY(mutex_);
  const std::shared_ptr<LossBell> loss_bell_;
  std::thread fails_lost_;  // calls FailLost when the bell rings
};

}  // namespace qamserve
