#include "server/serving/load_wishes.h"

#include <string>
#include <vector>

#include "server/jobs/job.h"

namespace qamserve {
namespace {

// Whether the load has not been tried in earnest. What was tried and failed is not tried again behind the back of
// somebody who has seen it FAILED and unloaded it.
bool IsTooEarly(const absl::Status& error) {
  if (absl::IsAborted(error)) return true;
  return ReasonOf(error) == "SHUTTING_DOWN" || IsStoreFault(error);
}

}  // namespace

absl::StatusOr<int> SeeToLoadWishes(const LoadWishOptions& options, MetadataStore& store,
                                    absl::FunctionRef<bool()> stop) {
  ASSIGN_OR_RETURN(const std::vector<JobRecord> jobs, store.ListLoadWishes());
  int left = static_cast<int>(jobs.size());
  for (const JobRecord& job : jobs) {
    if (stop()) break;
    LoadArgs args;
    args.name = job.load_as.substr(1);
    args.source = ResourceName("artifacts", job.artifact);
    args.wish = job;
    const absl::Status loaded = options.load(args);
    const bool again = !loaded.ok() && IsTooEarly(loaded);
    if (!loaded.ok() && options.on_error) options.on_error(args, loaded, again);
    if (again) continue;
    // Where the load has written a row the wish has gone with it; it is still there if the model was loaded already, or
    // could not be loaded.
    RETURN_IF_ERROR(store.AnswerLoadWish(job, std::nullopt).status());
    --left;
  }
  return left;
}

}  // namespace qamserve
