#include "server/fleet/router.h"

#include <absl/time/clock.h>

#include <algorithm>
#include <random>

namespace qamserve {
namespace {

// Many changes at once, and many requests for names that are not there, share one reading.
constexpr int64_t kMinGapMs = 20;

uint64_t SystemSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

// Counts a request as long as it lives.
class Router::Place {
 public:
  Place(std::shared_ptr<LoadTable> table, LoadKey key) : table_(std::move(table)), key_(std::move(key)) {
    absl::MutexLock lock(&table_->mutex);
    ++table_->loads[key_].own;
  }
  Place(const Place&) = delete;
  Place& operator=(const Place&) = delete;
  ~Place() {
    absl::MutexLock lock(&table_->mutex);
    --table_->loads[key_].own;
  }

 private:
  const std::shared_ptr<LoadTable> table_;
  const LoadKey key_;
};

Router::Router(RouterOptions options, MetadataStore& store)
    : options_(std::move(options)),
      store_(store),
      state_(std::make_shared<FleetState>()),
      rng_(options_.seed ? *options_.seed : SystemSeed()),
      ticker_(options_.interval, [this] { Tick(); }) {}

absl::StatusOr<std::unique_ptr<Router>> Router::Start(RouterOptions options, MetadataStore& store) {
  auto router = std::unique_ptr<Router>(new Router(std::move(options), store));
  RETURN_IF_ERROR(router->Refresh());
  router->ticker_.Start();
  router->listening_ = store.Listen([self = router.get()](const StoreEvent& event) {
    if (event.kind == StoreEvent::Kind::kServing || event.kind == StoreEvent::Kind::kMissed) self->ticker_.Wake();
  });
  return router;
}

Router::~Router() { Stop(); }

void Router::Stop() {
  listening_ = nullptr;
  ticker_.Stop();
}

void Router::Tick() {
  const int64_t gap_ms = SteadyMs() - last_tick_ms_;
  if (gap_ms < kMinGapMs) absl::SleepFor(absl::Milliseconds(kMinGapMs - gap_ms));
  // What could not be read is read again in a second; Instance tells that the store is away.
  Refresh().IgnoreError();
  last_tick_ms_ = SteadyMs();
}

absl::Status Router::Refresh() {
  uint64_t reading;
  {
    absl::MutexLock lock(&mutex_);
    reading = ++begun_;
  }
  absl::StatusOr<FleetState> read = ReadFleetState(store_);
  const absl::Status status = read.status();
  std::shared_ptr<const FleetState> state;
  if (read.ok()) state = std::make_shared<const FleetState>(*std::move(read));
  if (state != nullptr) NoteReports(*state);
  const int64_t store_now_ms = store_.NowMs();
  {
    absl::MutexLock lock(&mutex_);
    ended_ = reading;
    reachable_ = state != nullptr;
    if (state != nullptr) {
      state_ = state;
      silent_.clear();
      for (const auto& [id, instance] : state->instances) {
        if (store_now_ms - instance.seen_ms > options_.doubtful_ms) silent_.insert(id);
      }
      std::erase_if(avoid_until_ms_, [now_ms = SteadyMs()](const auto& entry) { return entry.second <= now_ms; });
    }
  }
  if (state == nullptr) return status;
  if (options_.on_refresh) options_.on_refresh(*state);
  return absl::OkStatus();
}

// A replica tells what it has now; what this process sends from here on comes on top of that.
void Router::NoteReports(const FleetState& state) {
  absl::MutexLock lock(&loads_->mutex);
  std::set<LoadKey> present;
  for (const auto& [model, replicas] : state.replicas) {
    for (const ReplicaRecord& replica : replicas) {
      const LoadKey key(model, replica.instance);
      present.insert(key);
      Load& load = loads_->loads[key];
      if (load.report_ms == replica.updated_ms) continue;
      load.report_ms = replica.updated_ms;
      load.own_at_report = load.own;
    }
  }
  std::erase_if(loads_->loads,
                [&](const auto& entry) { return entry.second.own == 0 && !present.contains(entry.first); });
}

std::shared_ptr<const FleetState> Router::state() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void Router::AwaitRefresh(absl::Duration timeout) {
  uint64_t next;
  {
    absl::MutexLock lock(&mutex_);
    if (!reachable_) return;
    next = begun_ + 1;
  }
  ticker_.Wake();
  struct Wait {
    const Router& router;
    uint64_t next;
    bool Over() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return router.ended_ >= next || !router.reachable_; }
  };
  const Wait wait = {*this, next};
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&wait, &Wait::Over), timeout);
}

// --- Choosing ---

absl::StatusOr<Route> Router::Choose(const RouteName& name, const std::set<std::string>& tried) {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(const std::string model, Resolve(name, tried));
  const std::vector<const ReplicaRecord*> candidates = Candidates(model, tried);
  if (candidates.empty()) return NotReady(model, !tried.empty());
  return Take(model, ChooseReplica(candidates).instance);
}

absl::StatusOr<PairRoute> Router::ChoosePair(const RouteName& base, const RouteName& other,
                                             const std::set<std::string>& tried) {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(const std::string base_model, Resolve(base, tried));
  ASSIGN_OR_RETURN(const std::string other_model, Resolve(other, tried));
  std::vector<const ReplicaRecord*> candidates = Candidates(base_model, tried);
  if (candidates.empty()) return NotReady(base_model, !tried.empty());
  const std::vector<const ReplicaRecord*> others = Candidates(other_model, tried);
  if (others.empty()) return NotReady(other_model, !tried.empty());
  std::erase_if(candidates, [&](const ReplicaRecord* replica) {
    return std::none_of(others.begin(), others.end(),
                        [&](const ReplicaRecord* one) { return one->instance == replica->instance; });
  });
  if (candidates.empty()) {
    return FailedPrecondition("MODELS_APART",
                              "no instance serves both \"{}\" and \"{}\", which a comparison needs; load them with as "
                              "many replicas as there are inference instances",
                              base_model, other_model);
  }
  const std::string instance = ChooseReplica(candidates).instance;
  return PairRoute{Take(base_model, instance), Take(other_model, instance)};
}

absl::StatusOr<std::string> Router::Resolve(const RouteName& name, const std::set<std::string>& tried) {
  if (name.kind != NameKind::kModel) {
    const auto alias = state_->aliases.find(name.name);
    if (alias != state_->aliases.end()) return ChooseTarget(alias->second, tried);
    if (name.kind == NameKind::kAlias) return NoSuchAlias(state_->aliases, name.name);
  }
  if (!state_->models.contains(name.name)) return NoSuchModel(NamesOf(*state_), name.name);
  return name.name;
}

absl::StatusOr<std::string> Router::ChooseTarget(const AliasRecord& alias, const std::set<std::string>& tried) {
  std::vector<int32_t> weights;
  weights.reserve(alias.targets.size());
  for (const AliasTarget& target : alias.targets) {
    weights.push_back(Candidates(target.model, tried).empty() ? 0 : target.weight);
  }
  const std::optional<size_t> chosen = PickByWeight(weights, rng_);
  if (!chosen.has_value()) return NoTargetReady(NamesOf(*state_), alias);
  return alias.targets[*chosen].model;
}

std::vector<const ReplicaRecord*> Router::Candidates(const std::string& model,
                                                     const std::set<std::string>& tried) const {
  std::vector<const ReplicaRecord*> candidates;
  const auto record = state_->models.find(model);
  const auto replicas = state_->replicas.find(model);
  if (record == state_->models.end() || record->second.replicas == 0 || replicas == state_->replicas.end()) {
    return candidates;
  }
  candidates.reserve(replicas->second.size());
  for (const ReplicaRecord& replica : replicas->second) {
    if (IsUsable(*state_, replica) && !tried.contains(replica.instance)) candidates.push_back(&replica);
  }
  return candidates;
}

int Router::Reluctance(const std::string& instance, int64_t now_ms) const {
  if (IsLastResort(*state_, instance)) return 2;
  const auto avoid = avoid_until_ms_.find(instance);
  const bool doubtful = silent_.contains(instance) || (avoid != avoid_until_ms_.end() && avoid->second > now_ms);
  return doubtful ? 1 : 0;
}

const ReplicaRecord& Router::ChooseReplica(const std::vector<const ReplicaRecord*>& candidates) {
  const int64_t now_ms = SteadyMs();
  const size_t first = rng_.NextU64() % candidates.size();  // equals take turns at random
  const ReplicaRecord* best = nullptr;
  std::pair<int, int64_t> best_load;
  absl::MutexLock lock(&loads_->mutex);
  for (size_t i = 0; i < candidates.size(); ++i) {
    const ReplicaRecord& replica = *candidates[(first + i) % candidates.size()];
    const Load& own = loads_->loads[{replica.model, replica.instance}];
    const int64_t told = int64_t{replica.running} + replica.waiting;
    // What this process has there is no less than what it has sent, however old the report was when it was read.
    const int64_t requests = std::max<int64_t>(own.own, told + own.own - own.own_at_report);
    const std::pair<int, int64_t> load(Reluctance(replica.instance, now_ms), requests);
    if (best != nullptr && load >= best_load) continue;
    best = &replica;
    best_load = load;
  }
  return *best;
}

Route Router::Take(const std::string& model, const std::string& instance) {
  return {model, instance, state_->instances.at(instance).address,
          std::make_shared<Place>(loads_, LoadKey(model, instance))};
}

absl::Status Router::NotReady(const std::string& model, bool tried) const {
  const ServedModelView view = ViewOf(*state_, state_->models.at(model));
  if (tried) {
    return Unavailable("MODEL_NOT_READY", "model \"{}\" has no further replica that is READY; {} of {} are", model,
                       view.ready_replicas, view.replicas);
  }
  return Unavailable("MODEL_NOT_READY", "model \"{}\" is {}, not READY{}{}", model, ServedModelStateName(view.state),
                     view.error.ok() ? "" : ": ", MessageOf(view.error));
}

void Router::NoteFailure(const std::string& instance) {
  absl::MutexLock lock(&mutex_);
  avoid_until_ms_[instance] = SteadyMs() + options_.avoid_ms;
}

}  // namespace qamserve
