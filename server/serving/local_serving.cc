#include "server/serving/local_serving.h"

namespace qamserve {

absl::StatusOr<ServedModelView> LocalServing::Load(const LoadArgs& args) {
  if (args.replicas < 0 || args.replicas > 1) {
    return InvalidArgument("REPLICAS",
                           "replicas must be 0 or 1 here, got {}: this server is one process, and more need several "
                           "that share their stores (--metadata-store, --blob-store)",
                           args.replicas);
  }
  return models_.Load(args);
}

absl::StatusOr<ServedModelView> LocalServing::Unload(const UnloadArgs& args) {
  return models_.Unload(args.name, args.drain_seconds, args.request_id);
}

absl::StatusOr<ServedModelView> LocalServing::Get(std::string_view name) {
  ASSIGN_OR_RETURN(const std::shared_ptr<ServedModel> model, models_.Find(name));
  return model->View();
}

absl::StatusOr<std::vector<ServedModelView>> LocalServing::ListModels() { return models_.List(); }

absl::StatusOr<AliasRecord> LocalServing::UpdateAlias(const UpdateAliasArgs& args) { return models_.UpdateAlias(args); }
absl::StatusOr<AliasRecord> LocalServing::GetAlias(std::string_view name) { return models_.GetAlias(name); }
absl::StatusOr<std::vector<AliasRecord>> LocalServing::ListAliases() { return models_.ListAliases(); }
absl::Status LocalServing::DeleteAlias(const std::string& name, const std::string& etag,
                                       const std::string& request_id) {
  return models_.DeleteAlias(name, etag, request_id);
}

}  // namespace qamserve
