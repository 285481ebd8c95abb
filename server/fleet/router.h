// Which replica a request goes to: what the fleet serves, kept in memory and read anew after each change that the store
// tells and once a second. An alias draws one of its targets by weight among those that have a usable replica; of a
// model's usable replicas the one with the fewest requests gets it: those running and waiting as the replica told last,
// and those that this process has sent it since. An instance that was asked to drain gets a request only while no other
// has the model. While the store cannot be reached, what was known last goes on.
// Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "core/base/rng.h"
#include "server/fleet/fleet_state.h"
#include "server/fleet/ticker.h"

namespace qamserve {

struct RouterOptions {
  absl::Duration interval = absl::Seconds(1);
  // An instance that has not been seen for so long is asked only where there is no other: it may be stopped or cut off.
  int64_t doubtful_ms = 6'000;
  // As is one that has just failed a request.
  int64_t avoid_ms = 5'000;
  std::optional<uint64_t> seed;  // tests set it
  // After each reading, without locks; must not block for long.
  std::function<void(const FleetState&)> on_refresh;
};

// What a request names.
enum class NameKind { kAny, kModel, kAlias };
struct RouteName {
  NameKind kind = NameKind::kAny;
  std::string name;
};

// Where one request goes. It counts as a request of that replica until this is destroyed.
class Route {
 public:
  Route() = default;
  Route(std::string model, std::string instance, std::string address, std::shared_ptr<void> place)
      : model_(std::move(model)),
        instance_(std::move(instance)),
        address_(std::move(address)),
        place_(std::move(place)) {}

  const std::string& model() const { return model_; }
  const std::string& instance() const { return instance_; }
  const std::string& address() const { return address_; }

 private:
  std::string model_;
  std::string instance_;
  std::string address_;
  std::shared_ptr<void> place_;
};

// Both models of a comparison, on one instance.
struct PairRoute {
  Route base;
  Route other;
};

class Router {
 public:
  // Reads the store once. `store` must outlive the router. The errors of the store.
  static absl::StatusOr<std::unique_ptr<Router>> Start(RouterOptions options, MetadataStore& store);
  // As Stop.
  ~Router();
  // No more readings; what was read last stays.
  void Stop();

  std::shared_ptr<const FleetState> state() const;
  // Returns once the store has been read by a reading that began after this call, or could not be, or `timeout` has
  // passed. At once while the store does not answer.
  void AwaitRefresh(absl::Duration timeout);

  // `tried`: instances that are out of the question. NOT_FOUND (MODEL_NOT_FOUND, ALIAS_NOT_FOUND); UNAVAILABLE
  // (MODEL_NOT_READY) says what the replicas are doing.
  absl::StatusOr<Route> Choose(const RouteName& name, const std::set<std::string>& tried);
  // As Choose; FAILED_PRECONDITION (MODELS_APART) if no instance has both.
  absl::StatusOr<PairRoute> ChoosePair(const RouteName& base, const RouteName& other,
                                       const std::set<std::string>& tried);
  // A request to this instance did not get through.
  void NoteFailure(const std::string& instance);

 private:
  // Requests of this process to one replica.
  struct Load {
    int32_t own = 0;
    int32_t own_at_report = 0;  // when the replica told what it had
    int64_t report_ms = -1;     // ReplicaRecord::updated_ms of that
  };
  using LoadKey = std::pair<std::string, std::string>;  // model, instance
  // Shared with routes, which may outlive the router.
  struct LoadTable {
    absl::Mutex mutex;
    std::map<LoadKey, Load> loads ABSL_GUARDED_BY(mutex);
  };
  class Place;

  Router(RouterOptions options, MetadataStore& store);
  void Tick();
  absl::Status Refresh();
  void NoteReports(const FleetState& state);
  // The model that `name` means for this request.
  absl::StatusOr<std::string> Resolve(const RouteName& name, const std::set<std::string>& tried)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::string> ChooseTarget(const AliasRecord& alias, const std::set<std::string>& tried)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<const ReplicaRecord*> Candidates(const std::string& model, const std::set<std::string>& tried) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // An instance is asked only where there is none with less of it.
  int Reluctance(const std::string& instance, int64_t now_ms) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // One of `candidates`, of which there is at least one.
  const ReplicaRecord& ChooseReplica(const std::vector<const ReplicaRecord*>& candidates)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Route Take(const std::string& model, const std::string& instance) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status NotReady(const std::string& model, bool tried) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RouterOptions options_;
  MetadataStore& store_;
  const std::shared_ptr<LoadTable> loads_ = std::make_shared<LoadTable>();
  mutable absl::Mutex mutex_;
  std::shared_ptr<const FleetState> state_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> silent_ ABSL_GUARDED_BY(mutex_);                   // instances not seen for doubtful_ms
  std::map<std::string, int64_t> avoid_until_ms_ ABSL_GUARDED_BY(mutex_);  // by instance, of SteadyMs
  Rng rng_ ABSL_GUARDED_BY(mutex_);
  bool reachable_ ABSL_GUARDED_BY(mutex_) = true;
  uint64_t begun_ ABSL_GUARDED_BY(mutex_) = 0;  // readings that have begun
  uint64_t ended_ ABSL_GUARDED_BY(mutex_) = 0;  // and ended
  int64_t last_tick_ms_ = 0;                    // of the ticker's thread
  Ticker ticker_;
  std::shared_ptr<void> listening_;
};

}  // namespace qamserve
