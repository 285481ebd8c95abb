// ServingControl for one process on its own: the calls of its ModelRegistry. Thread-safe.
#pragma once

#include "server/serving/model_registry.h"
#include "server/serving/serving_control.h"

namespace qamserve {

class LocalServing final : public ServingControl {
 public:
  // `models` must outlive this.
  explicit LocalServing(ModelRegistry& models) : models_(models) {}

  // INVALID_ARGUMENT (REPLICAS) for more than one replica.
  absl::StatusOr<ServedModelView> Load(const LoadArgs& args) override;
  absl::StatusOr<ServedModelView> Unload(const UnloadArgs& args) override;
  absl::StatusOr<ServedModelView> Get(std::string_view name) override;
  absl::StatusOr<std::vector<ServedModelView>> ListModels() override;
  absl::StatusOr<AliasRecord> UpdateAlias(const UpdateAliasArgs& args) override;
  absl::StatusOr<AliasRecord> GetAlias(std::string_view name) override;
  absl::StatusOr<std::vector<AliasRecord>> ListAliases() override;
  absl::Status DeleteAlias(const std::string& name, const std::string& etag, const std::string& request_id) override;

 private:
  ModelRegistry& models_;
};

}  // namespace qamserve
