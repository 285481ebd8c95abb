// Loading and unloading of served models, and their aliases, as the API has them. ModelRegistry does it for one
// process, FleetModels (server/fleet) for all processes that share a metadata store. No name is both, and an alias
// names only models that are served. Thread-safe. Load and Unload block; call them from threads that may. What changes
// an alias waits for the store, never for a model.
#pragma once

#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "server/serving/alias.h"
#include "server/serving/served_model.h"
#include "server/store/records.h"

namespace qamserve {

struct LoadArgs {
  std::string name;
  std::string source;          // "artifacts/{digest}" or "checkpoints/{digest}"
  int64_t context_tokens = 0;  // 0 = the model's own, at most kMaxContextTokens
  std::string request_id;
  // On how many instances; 0 = on as many as it is now, or on one. A single process has room for one only.
  int32_t replicas = 0;
  // Where the model is loaded by others: how long to wait for them, and whether to (an error is the answer then).
  absl::Time deadline = absl::InfiniteFuture();
  std::function<absl::Status()> still_wanted = nullptr;
  // The job that wishes it (HasLoadWish), as it was read. Its wish ends in the transaction that writes the model down,
  // so that no restart brings back what was unloaded since.
  std::optional<JobRecord> wish = std::nullopt;
};

struct UnloadArgs {
  std::string name;
  double drain_seconds = 0;  // that running requests get
  std::string request_id;
  absl::Time deadline = absl::InfiniteFuture();  // as in LoadArgs, as is the next one
  std::function<absl::Status()> still_wanted = nullptr;
};

struct UpdateAliasArgs {
  std::string name;
  std::vector<AliasTarget> targets;
  std::string etag;            // empty, or the one that the alias must have
  bool validate_only = false;  // the record that is returned has neither etag nor time, and nothing changed
  std::string request_id;
};

class ServingControl {
 public:
  virtual ~ServingControl() = default;

  // Returns when the model is READY. The same source under the same name again is a no-op; a FAILED model is loaded
  // anew. ALREADY_EXISTS: MODEL_NAME_TAKEN if the name serves another source or context, ALIAS_NAME_TAKEN if it is an
  // alias; ABORTED (MODEL_BUSY) while it is being loaded or drained by another call; RESOURCE_EXHAUSTED: MEMORY_LIMIT
  // names what is needed, what is taken and the limit, MODEL_LIMIT; INVALID_ARGUMENT (REPLICAS); UNAVAILABLE
  // (SHUTTING_DOWN); else the errors of Catalog and ModelLoader.
  virtual absl::StatusOr<ServedModelView> Load(const LoadArgs& args) = 0;
  // Drains for at most `drain_seconds`, then frees the model and forgets the name. NOT_FOUND (MODEL_NOT_FOUND);
  // FAILED_PRECONDITION: MODEL_STATE while it is LOADING or DRAINING already, MODEL_IN_ALIAS names the aliases that
  // have it as a target; INVALID_ARGUMENT (DRAIN_SECONDS).
  virtual absl::StatusOr<ServedModelView> Unload(const UnloadArgs& args) = 0;
  // NOT_FOUND (MODEL_NOT_FOUND) lists what is served.
  virtual absl::StatusOr<ServedModelView> Get(std::string_view name) = 0;
  virtual absl::StatusOr<std::vector<ServedModelView>> ListModels() = 0;  // by name

  // Gives the alias these targets, and makes it if it is not there. Errors: those of CheckAliasName and
  // CheckAliasTargets; INVALID_ARGUMENT (ALIAS_OF_ALIAS); NOT_FOUND (MODEL_NOT_FOUND) names the target that is not
  // served; FAILED_PRECONDITION (MODEL_STATE) for one that is being unloaded; ALREADY_EXISTS (MODEL_NAME_TAKEN);
  // ABORTED (ETAG_MISMATCH); RESOURCE_EXHAUSTED (ALIAS_LIMIT).
  virtual absl::StatusOr<AliasRecord> UpdateAlias(const UpdateAliasArgs& args) = 0;
  // NOT_FOUND (ALIAS_NOT_FOUND) lists what there is.
  virtual absl::StatusOr<AliasRecord> GetAlias(std::string_view name) = 0;
  virtual absl::StatusOr<std::vector<AliasRecord>> ListAliases() = 0;  // by name
  // As GetAlias; ABORTED (ETAG_MISMATCH) if `etag` is not empty and not the alias's.
  virtual absl::Status DeleteAlias(const std::string& name, const std::string& etag, const std::string& request_id) = 0;
};

}  // namespace qamserve
