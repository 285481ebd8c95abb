// Artifacts of finished jobs that are to be loaded (HasLoadWish). The wish is written with the end of the job and goes
// with the row of the served model, so neither a crash in between nor several processes that look lead to anything but
// one load, and what was unloaded afterwards stays so.
#pragma once

#include <absl/functional/function_ref.h>

#include <functional>

#include "server/serving/serving_control.h"
#include "server/store/metadata_store.h"

namespace qamserve {

struct LoadWishOptions {
  // Loads, or writes down that somebody is to: ModelRegistry::Load, FleetModels::Want.
  std::function<absl::Status(const LoadArgs&)> load;
  // Of each load that failed; `again`: it will be tried again.
  std::function<void(const LoadArgs& args, const absl::Status& error, bool again)> on_error;
};

// Sees to all wishes that there are, one after the other, until `stop` says so. A load that failed ends its wish, as
// the call of a client would end, unless its time had not come: the name is busy (MODEL_BUSY), the server shuts down,
// the metadata store is away. Returns how many are left. The errors of the store.
absl::StatusOr<int> SeeToLoadWishes(const LoadWishOptions& options, MetadataStore& store,
                                    absl::FunctionRef<bool()> stop);

}  // namespace qamserve
