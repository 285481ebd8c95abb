// Every served model: loads them if they fit into the memory limit, finds them by name, drains and unloads them, brings
// them back after a restart. Thread-safe. Load, Unload, Restore and DrainAll block; call them from threads that may.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/serving/served_model.h"
#include "server/store/catalog.h"

namespace qamserve {

inline constexpr size_t kMaxModelNameBytes = 63;
inline constexpr size_t kMaxServedModels = 64;

// 1 to 63 of a-z, 0-9, '-', '.', '_'; else INVALID_ARGUMENT (MODEL_NAME).
absl::Status CheckModelName(std::string_view name);

struct RegistryOptions {
  // That all served models together may take: weights, KV caches and scratch.
  int64_t memory_limit_bytes = int64_t{4} << 30;
  double max_drain_seconds = 3600;
  std::function<int64_t()> now_ms = SystemNowMs;
  // After every change of a state, and with READY before Load returns. Called without locks; must not block for long.
  std::function<void(const ServedModelView&)> on_change;
};

struct LoadArgs {
  std::string name;
  std::string source;          // "artifacts/{digest}" or "checkpoints/{digest}"
  int64_t context_tokens = 0;  // 0 = the model's own, at most kMaxContextTokens
  std::string request_id;
};

class ModelRegistry {
 public:
  // `catalog` and `loader` must outlive the registry.
  ModelRegistry(RegistryOptions options, Catalog& catalog, ModelLoader& loader);
  ~ModelRegistry();

  // Returns when the model is READY. The same source under the same name again is a no-op; a FAILED model is loaded
  // anew. ALREADY_EXISTS (MODEL_NAME_TAKEN) if the name serves another source or context; ABORTED (MODEL_BUSY) while it is
  // being loaded or drained by another call; RESOURCE_EXHAUSTED: MEMORY_LIMIT names what is needed, what is taken and the
  // limit, MODEL_LIMIT; UNAVAILABLE (SHUTTING_DOWN) after DrainAll; else the errors of Catalog and ModelLoader.
  absl::StatusOr<ServedModelView> Load(const LoadArgs& args);
  // Drains for at most `drain_seconds`, then frees the model and forgets the name. NOT_FOUND (MODEL_NOT_FOUND);
  // FAILED_PRECONDITION (MODEL_STATE) while it is LOADING or DRAINING already; INVALID_ARGUMENT (DRAIN_SECONDS).
  absl::StatusOr<ServedModelView> Unload(const std::string& name, double drain_seconds, const std::string& request_id);

  // NOT_FOUND (MODEL_NOT_FOUND) lists what is served.
  absl::StatusOr<std::shared_ptr<ServedModel>> Find(std::string_view name) const;
  bool IsServed(std::string_view name) const;
  std::vector<ServedModelView> List() const;  // by name

  // Loads what was served when the process ended. A model that cannot be loaded stays listed as FAILED.
  absl::Status Restore();
  // Every READY model drains until `deadline` and is freed; what is in the store stays. Nothing can be loaded afterwards.
  void DrainAll(absl::Time deadline);

  int64_t memory_limit_bytes() const { return options_.memory_limit_bytes; }

 private:
  absl::StatusOr<ServedModelView> LoadNew(const LoadArgs& args);
  absl::StatusOr<std::shared_ptr<ServedModel>> Admit(const LoadArgs& args, const LoadPlan& plan);
  absl::Status FillAndPublish(ServedModel& model, const FileSet& files, const LoadArgs& args);
  absl::StatusOr<std::shared_ptr<ServedModel>> Present(const LoadArgs& args) const;
  void Changed(const ServedModel& model) const;
  std::string ServedNames() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RegistryOptions options_;
  Catalog& catalog_;
  ModelLoader& loader_;
  mutable absl::Mutex mutex_;
  bool shutting_down_ ABSL_GUARDED_BY(mutex_) = false;
  std::map<std::string, std::shared_ptr<ServedModel>, std::less<>> models_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve
