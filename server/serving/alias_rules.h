// Which names models and aliases may have, and what an alias may point at, given those that there are. Pure functions;
// each of ServingControl's implementations asks them while it holds what keeps the names as they are.
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "server/serving/served_model_state.h"
#include "server/serving/serving_control.h"

namespace qamserve {

using AliasMap = std::map<std::string, AliasRecord, std::less<>>;

// The names of one moment.
struct NamesInUse {
  std::map<std::string, ServedModelState, std::less<>> models;
  const AliasMap& aliases;  // outlives this
};

// "served: a, b; aliases: prod", for errors: models that are READY.
std::string ServedNames(const NamesInUse& names);
// The errors of ServingControl::UpdateAlias but those of CheckAliasName and CheckAliasTargets.
absl::Status CheckAliasUpdate(const NamesInUse& names, const UpdateAliasArgs& args);
// ABORTED (ETAG_MISMATCH). `alias` is null if there is none.
absl::Status CheckEtag(std::string_view name, const AliasRecord* alias, const std::string& etag);
// ALREADY_EXISTS (ALIAS_NAME_TAKEN).
absl::Status CheckNoAlias(const AliasMap& aliases, const std::string& name);
// FAILED_PRECONDITION (MODEL_IN_ALIAS).
absl::Status CheckInNoAlias(const AliasMap& aliases, const std::string& model);
// NOT_FOUND (ALIAS_NOT_FOUND) lists what there is.
absl::Status NoSuchAlias(const AliasMap& aliases, std::string_view name);
// NOT_FOUND (MODEL_NOT_FOUND).
absl::Status NoSuchModel(const NamesInUse& names, std::string_view name);
// UNAVAILABLE (MODEL_NOT_READY) for an alias none of whose targets with a weight is READY.
absl::Status NoTargetReady(const NamesInUse& names, const AliasRecord& alias);
// Tells requests apart; see RunOnce.
std::string AliasUpdatePayload(const UpdateAliasArgs& args);

}  // namespace qamserve
