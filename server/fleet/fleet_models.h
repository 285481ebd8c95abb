// ServingControl for all processes that share a metadata store: it writes down what is wanted, and the replica keepers
// of inference processes do it. The row of a served model is there from Load to the end of Unload; while it is being
// unloaded it wants no replicas. Rules about names are checked, and rows written, by one process at a time
// (MetadataStore::Exclusive). Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/fleet/fleet_state.h"
#include "server/serving/serving_control.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// Each is a row, and a line of a list.
inline constexpr size_t kMaxFleetModels = 1024;
inline constexpr int32_t kMaxReplicas = 1024;

struct FleetModelsOptions {
  double max_drain_seconds = 3600;
  // How long Load waits for a replica where the caller sets no deadline. The load goes on afterwards.
  absl::Duration max_load_wait = absl::Minutes(30);
  // How long Unload waits beyond its drain_seconds: for calls to be cut, and for the rows of dead instances to go.
  absl::Duration unload_grace = absl::Seconds(45);
  // What Get and lists are answered from; null = the store.
  std::function<std::shared_ptr<const FleetState>()> snapshot;
  // Called after each change of rows by this process, before the call returns.
  std::function<void()> on_written;
};

class FleetModels final : public ServingControl {
 public:
  // `store` must outlive this.
  FleetModels(FleetModelsOptions options, MetadataStore& store);

  // Returns as soon as one replica is READY. The same source under the same name with another number of replicas is a
  // change of that number. Where every inference instance has tried and failed, the error of one, with its host; a name
  // that this call has made is then forgotten again. DEADLINE_EXCEEDED (LOAD_DEADLINE), and what still_wanted says: the
  // load goes on.
  absl::StatusOr<ServedModelView> Load(const LoadArgs& args) override;
  // The same without waiting. A wish that another process has seen to meanwhile is no error, and makes no row.
  absl::Status Want(const LoadArgs& args);
  // Waits until no instance has it any more. DEADLINE_EXCEEDED (UNLOAD_DEADLINE): it goes on.
  absl::StatusOr<ServedModelView> Unload(const UnloadArgs& args) override;
  absl::StatusOr<ServedModelView> Get(std::string_view name) override;
  absl::StatusOr<std::vector<ServedModelView>> ListModels() override;

  absl::StatusOr<AliasRecord> UpdateAlias(const UpdateAliasArgs& args) override;
  absl::StatusOr<AliasRecord> GetAlias(std::string_view name) override;
  absl::StatusOr<std::vector<AliasRecord>> ListAliases() override;
  absl::Status DeleteAlias(const std::string& name, const std::string& etag, const std::string& request_id) override;

  // Removes what processes that are gone have left: instances that were not seen for `silence_ms`, and models whose
  // unloading nobody has finished. Returns how many instances went.
  absl::StatusOr<int64_t> Sweep(int64_t silence_ms);

 private:
  enum class Done { kNo, kYes };
  // Whether what a call waits for is so; an error ends the waiting.
  using Check = std::function<absl::StatusOr<Done>(const FleetState&)>;

  absl::StatusOr<std::shared_ptr<const FleetState>> State();
  // Reads the store and asks `check` until it is done, after each change and once a second. Too late is an error, which
  // tells `name` and `reason`.
  absl::Status Await(const Check& check, absl::Time deadline, const std::function<absl::Status()>& still_wanted,
                     std::string_view name, std::string_view reason);
  absl::Status ExclusiveWrite(absl::FunctionRef<absl::Status(const FleetState&)> body);
  // Whether the row was made by this call.
  absl::StatusOr<bool> PutWanted(const LoadArgs& args);
  absl::Status ChangeWanted(const FleetState& state, const ServedModelRecord& record, const LoadArgs& args);
  absl::Status InsertWanted(const FleetState& state, const LoadArgs& args);
  absl::Status AwaitLoaded(const LoadArgs& args, bool made);
  absl::Status BeginUnload(const UnloadArgs& args);
  // Forgets the name if it is being unloaded and no instance has it any more.
  absl::Status Forget(const std::string& name);

  const FleetModelsOptions options_;
  MetadataStore& store_;
  absl::Mutex mutex_;
  uint64_t changes_ ABSL_GUARDED_BY(mutex_) = 0;  // that the store has told
  const std::shared_ptr<void> listening_;
};

// Bytes of all files of "artifacts/{digest}" or "checkpoints/{digest}". NOT_FOUND; INVALID_ARGUMENT (RESOURCE_NAME).
absl::StatusOr<uint64_t> BytesOfSource(MetadataStore& store, const std::string& source);

}  // namespace qamserve
