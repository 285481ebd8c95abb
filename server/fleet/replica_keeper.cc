#include "server/fleet/replica_keeper.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "server/fleet/fleet_models.h"
#include "server/fleet/fleet_state.h"

namespace qamserve {
namespace {

// Rows about running requests are written at most so often.
constexpr int64_t kMinTellMs = 900;
// Below this a changed share of the KV cache in use is no news.
constexpr double kKvNews = 0.01;
// Files of a model beside its weights, such as the tokenizer's: they are not what has to fit.
constexpr int64_t kOtherFilesBytes = int64_t{64} << 20;

bool IsLive(const ReplicaRecord& replica) {
  return replica.state == ReplicaState::kLoading || replica.state == ReplicaState::kReady;
}

int64_t CountLive(const std::vector<ReplicaRecord>& replicas) {
  return std::count_if(replicas.begin(), replicas.end(), IsLive);
}

int64_t CountReadyBeside(const std::vector<ReplicaRecord>& replicas, const std::string& instance) {
  return std::count_if(replicas.begin(), replicas.end(), [&](const ReplicaRecord& replica) {
    return replica.state == ReplicaState::kReady && replica.instance != instance;
  });
}

// Whether what an instance has is what is wanted.
bool IsSame(const ServedModelRecord& held, const ServedModelRecord& wanted) {
  return wanted.replicas > 0 && held.source == wanted.source && held.context_tokens == wanted.context_tokens;
}

bool IsStateNews(const ReplicaRecord& told, const ReplicaRecord& now) {
  return told.state != now.state || told.ready_ms != now.ready_ms || told.context_tokens != now.context_tokens ||
         told.memory_bytes != now.memory_bytes || told.chat != now.chat;
}

bool IsLoadNews(const ReplicaRecord& told, const ReplicaRecord& now) {
  return told.running != now.running || told.waiting != now.waiting ||
         std::abs(told.kv_used_ratio - now.kv_used_ratio) >= kKvNews;
}

}  // namespace

ReplicaKeeper::ReplicaKeeper(ReplicaKeeperOptions options, MetadataStore& store, ModelRegistry& models)
    : options_(std::move(options)), store_(store), models_(models), ticker_(options_.interval, [this] { Look(); }) {
  ticker_.Start();
  listening_ = store_.Listen([this](const StoreEvent& event) {
    if (event.kind == StoreEvent::Kind::kServing || event.kind == StoreEvent::Kind::kMissed) Wake();
  });
}

ReplicaKeeper::~ReplicaKeeper() { Stop(); }

bool ReplicaKeeper::settled() const {
  absl::MutexLock lock(&mutex_);
  return settled_;
}

bool ReplicaKeeper::IsDraining() const {
  absl::MutexLock lock(&mutex_);
  return draining_;
}

void ReplicaKeeper::BeginDrain() {
  {
    absl::MutexLock lock(&mutex_);
    draining_ = true;
  }
  Wake();
}

bool ReplicaKeeper::IsDrainRequested() const {
  absl::MutexLock lock(&mutex_);
  return drain_requested_;
}

void ReplicaKeeper::SetDrainRequested(bool requested) {
  {
    absl::MutexLock lock(&mutex_);
    drain_requested_ = requested;
  }
  Wake();
}

void ReplicaKeeper::Stop() {
  listening_ = nullptr;
  ticker_.Stop();
  for (auto& [model, held] : held_) {
    if (held.work.joinable()) held.work.join();
  }
  held_.clear();
}

void ReplicaKeeper::Look() {
  Reap();
  const absl::StatusOr<Rows> rows = Read();
  if (!rows.ok()) return;  // in a second again; Instance tells that the store is away
  if (!IsDraining()) {
    LetGo(*rows);
    if (!IsDrainRequested()) TakeUp(*rows);
  }
  Tell();
  const bool loading =
      std::any_of(held_.begin(), held_.end(), [](const auto& entry) { return entry.second.phase == Phase::kLoading; });
  absl::MutexLock lock(&mutex_);
  settled_ = settled_ || !loading;
}

absl::StatusOr<ReplicaKeeper::Rows> ReplicaKeeper::Read() {
  Rows rows;
  ASSIGN_OR_RETURN(const std::vector<ServedModelRecord> wanted, store_.ListServedModels());
  ASSIGN_OR_RETURN(const std::vector<ReplicaRecord> replicas, store_.ListReplicas());
  for (const ServedModelRecord& model : wanted) rows.wanted[model.name] = model;
  for (const ReplicaRecord& replica : replicas) rows.replicas[replica.model].push_back(replica);
  return rows;
}

const ReplicaRecord* ReplicaKeeper::MyRow(const Rows& rows, const std::string& model) const {
  const auto replicas = rows.replicas.find(model);
  if (replicas == rows.replicas.end()) return nullptr;
  const auto mine = std::find_if(replicas->second.begin(), replicas->second.end(),
                                 [&](const ReplicaRecord& replica) { return replica.instance == options_.instance; });
  return mine == replicas->second.end() ? nullptr : &*mine;
}

// --- What has ended ---

void ReplicaKeeper::Finish(std::string model, absl::Status status) {
  {
    absl::MutexLock lock(&mutex_);
    finished_.push_back({std::move(model), std::move(status)});
  }
  Wake();
}

void ReplicaKeeper::Reap() {
  std::vector<Finished> finished;
  {
    absl::MutexLock lock(&mutex_);
    finished.swap(finished_);
  }
  for (const Finished& one : finished) {
    auto node = held_.extract(one.model);
    if (node.empty()) continue;
    Held& held = node.mapped();
    held.work.join();
    if (held.phase == Phase::kLoading) {
      Loaded(one.model, std::move(held), one.status);
    } else {
      // A row that stays because the store is away is found again as a leftover.
      store_.DeleteReplica(one.model, options_.instance).IgnoreError();
    }
  }
}

void ReplicaKeeper::Loaded(const std::string& model, Held held, const absl::Status& status) {
  if (status.ok()) {
    failures_.erase(model);
    held.phase = Phase::kServing;
    held_.emplace(model, std::move(held));
    return;
  }
  if (IsDraining()) return;
  Failure& failure = failures_[model];
  failure.wanted = held.wanted;
  failure.error = status;
  failure.pause_ms = std::clamp(failure.pause_ms * 2, options_.retry_ms, options_.max_retry_ms);
  failure.retry_at_ms = SteadyMs() + failure.pause_ms;
  failure.told = false;
  failure.replicas = 0;
  if (options_.on_error) options_.on_error(model, status);
}

// A model that FAILED while it was served, as one whose device is lost, is a model that did not load.
void ReplicaKeeper::TakeBackFailed() {
  std::map<std::string, absl::Status> failed;
  for (const auto& [model, held] : held_) {
    const absl::StatusOr<std::shared_ptr<ServedModel>> served = models_.Find(model);
    if (held.phase != Phase::kServing || !served.ok()) continue;
    const ServedModelView view = (*served)->View();
    if (view.state == ServedModelState::kFailed) failed[model] = view.error;
  }
  for (const auto& [model, error] : failed) {
    models_.Unload(model, 0, "").IgnoreError();  // the registry lists what FAILED; here the row does
    auto node = held_.extract(model);
    Loaded(model, std::move(node.mapped()), error);
  }
}

// --- What goes ---

void ReplicaKeeper::LetGo(const Rows& rows) {
  TakeBackFailed();
  for (auto& [model, held] : held_) {
    if (held.phase == Phase::kServing) KeepOrLetGo(rows, model, held);
  }
  ReviewFailures(rows);
  DeleteLeftovers(rows);
}

void ReplicaKeeper::KeepOrLetGo(const Rows& rows, const std::string& model, Held& held) {
  const auto wanted = rows.wanted.find(model);
  if (wanted == rows.wanted.end() || !IsSame(held.wanted, wanted->second)) {
    const bool unloading = wanted != rows.wanted.end() && wanted->second.replicas == 0;
    return StartDrain(model, held, unloading ? wanted->second.drain_seconds : options_.drain_seconds);
  }
  if (MyRow(rows, model) == nullptr) {
    // This instance was taken for dead, and another one may have its place by now.
    const absl::StatusOr<bool> claimed = store_.ReclaimReplica(model, options_.instance);
    if (!claimed.ok()) return;
    if (!*claimed) return StartDrain(model, held, options_.drain_seconds);
    held.told_ms = 0;
    return;
  }
  if (IsDrainRequested()) {
    const absl::StatusOr<bool> handed_over = IsHandedOver(model, held);
    if (handed_over.ok() && *handed_over) StartDrain(model, held, options_.drain_seconds);
    return;
  }
  if (CountLive(rows.replicas.at(model)) <= wanted->second.replicas) return;
  const absl::StatusOr<bool> surplus = IsSurplus(model, held);
  if (surplus.ok() && *surplus) StartDrain(model, held, options_.drain_seconds);
}

// The oldest that are READY stay. All keepers decide this one after the other, by rows that say what the others have
// decided, so that no more go than are too many.
absl::StatusOr<bool> ReplicaKeeper::IsSurplus(const std::string& model, const Held& held) {
  bool surplus = false;
  RETURN_IF_ERROR(store_.Exclusive(kServingLock, [&]() -> absl::Status {
    surplus = false;
    ASSIGN_OR_RETURN(const Rows rows, Read());
    const auto wanted = rows.wanted.find(model);
    const auto replicas = rows.replicas.find(model);
    if (wanted == rows.wanted.end() || replicas == rows.replicas.end()) return absl::OkStatus();
    const auto rank = [](const ReplicaRecord& replica) {
      return std::make_tuple(replica.state != ReplicaState::kReady, replica.ready_ms, replica.instance);
    };
    const ReplicaRecord* mine = MyRow(rows, model);
    if (mine == nullptr || !IsLive(*mine)) return absl::OkStatus();
    const int64_t before =
        std::count_if(replicas->second.begin(), replicas->second.end(),
                      [&](const ReplicaRecord& other) { return IsLive(other) && rank(other) < rank(*mine); });
    if (before < wanted->second.replicas) return absl::OkStatus();
    ReplicaRecord row = Describe(model, held);
    row.state = ReplicaState::kDraining;
    RETURN_IF_ERROR(store_.PutReplica(row));
    surplus = true;
    return absl::OkStatus();
  }));
  return surplus;
}

// Decided one after the other, as IsSurplus is, so that the last two that have a model do not both rely on each other.
absl::StatusOr<bool> ReplicaKeeper::IsHandedOver(const std::string& model, const Held& held) {
  bool handed_over = false;
  RETURN_IF_ERROR(store_.Exclusive(kServingLock, [&]() -> absl::Status {
    handed_over = false;
    ASSIGN_OR_RETURN(const FleetState state, ReadFleetState(store_));
    const auto replicas = state.replicas.find(model);
    if (replicas == state.replicas.end()) return absl::OkStatus();
    const bool answered =
        std::any_of(replicas->second.begin(), replicas->second.end(), [&](const ReplicaRecord& other) {
          return other.instance != options_.instance && IsUsable(state, other) && !IsLastResort(state, other.instance);
        });
    if (!answered) return absl::OkStatus();
    ReplicaRecord row = Describe(model, held);
    row.state = ReplicaState::kDraining;
    row.ready_ms = 0;
    RETURN_IF_ERROR(store_.PutReplica(row));
    handed_over = true;
    return absl::OkStatus();
  }));
  return handed_over;
}

void ReplicaKeeper::ReviewFailures(const Rows& rows) {
  // One that is being tried again is looked at when that has ended.
  std::erase_if(failures_, [&](const auto& entry) {
    return !held_.contains(entry.first) && IsOver(rows, entry.first, entry.second);
  });
  for (auto& [model, failure] : failures_) {
    if (!held_.contains(model)) TellFailure(rows, model, failure);
  }
}

bool ReplicaKeeper::IsOver(const Rows& rows, const std::string& model, const Failure& failure) const {
  const auto wanted = rows.wanted.find(model);
  if (wanted == rows.wanted.end() || !IsSame(failure.wanted, wanted->second)) return true;
  // Who has removed the row, or asks for more replicas, wants it tried again at once.
  const bool more = failure.replicas > 0 && wanted->second.replicas > failure.replicas;
  return more || (failure.told && MyRow(rows, model) == nullptr);
}

void ReplicaKeeper::TellFailure(const Rows& rows, const std::string& model, Failure& failure) {
  failure.replicas = rows.wanted.at(model).replicas;
  const bool has_row = MyRow(rows, model) != nullptr;
  const auto found = rows.replicas.find(model);
  const std::vector<ReplicaRecord> none;
  const std::vector<ReplicaRecord>& replicas = found == rows.replicas.end() ? none : found->second;
  if (CountReadyBeside(replicas, options_.instance) >= failure.replicas) {
    failure.told = false;
    // A row that stays because the store is away goes at the next look.
    if (has_row) store_.DeleteReplica(model, options_.instance).IgnoreError();
    return;
  }
  if (failure.told) return;
  if (!has_row) {
    // When its pause is over it is claimed to be tried; until then, if there is a place, to tell why it is empty.
    const bool empty = CountLive(replicas) < failure.replicas;
    if (!empty || IsDrainRequested() || SteadyMs() >= failure.retry_at_ms) return;
    if (!store_.ClaimReplica(model, options_.instance).value_or(false)) return;
  }
  ReplicaRecord row;
  row.model = model;
  row.instance = options_.instance;
  row.state = ReplicaState::kFailed;
  row.error = ErrorFromStatus(failure.error);
  row.updated_ms = store_.NowMs();
  failure.told = store_.PutReplica(row).ok();
}

void ReplicaKeeper::DeleteLeftovers(const Rows& rows) {
  for (const auto& [model, replicas] : rows.replicas) {
    if (MyRow(rows, model) == nullptr || held_.contains(model) || failures_.contains(model)) continue;
    store_.DeleteReplica(model, options_.instance).IgnoreError();
  }
}

void ReplicaKeeper::StartDrain(const std::string& model, Held& held, double drain_seconds) {
  held.phase = Phase::kDraining;
  TellOne(model, held);  // before the first request is refused
  held.work = std::thread([this, model, drain_seconds] {
    Finish(model, models_.Unload(model, std::clamp(drain_seconds, 0.0, 3600.0), "").status());
  });
}

// --- What comes ---

void ReplicaKeeper::TakeUp(const Rows& rows) {
  std::erase_if(claim_at_ms_, [&](const auto& entry) { return !rows.wanted.contains(entry.first); });
  for (const auto& [name, model] : rows.wanted) {
    if (model.replicas > 0 && !held_.contains(name)) Consider(rows, model);
  }
}

void ReplicaKeeper::Consider(const Rows& rows, const ServedModelRecord& model) {
  const int64_t now_ms = SteadyMs();
  const auto replicas = rows.replicas.find(model.name);
  if (replicas != rows.replicas.end() && CountLive(replicas->second) >= model.replicas) {
    claim_at_ms_.erase(model.name);
    return;
  }
  const auto failure = failures_.find(model.name);
  if (failure != failures_.end() && now_ms < failure->second.retry_at_ms) return;
  const int64_t delay_ms = options_.claim_delay_ms * static_cast<int64_t>(held_.size());
  const int64_t claim_at_ms = claim_at_ms_.emplace(model.name, now_ms + delay_ms).first->second;
  if (now_ms < claim_at_ms) {
    ticker_.Hasten(absl::Milliseconds(claim_at_ms - now_ms));
    return;
  }
  if (failure != failures_.end()) {
    failure->second.told = false;
    // The row that said why makes room for a new one.
    if (!store_.DeleteReplica(model.name, options_.instance).ok()) return;
  }
  if (Claim(model.name)) StartLoad(model);
}

bool ReplicaKeeper::Claim(const std::string& model) {
  claim_at_ms_.erase(model);
  const absl::StatusOr<bool> claimed = store_.ClaimReplica(model, options_.instance);
  return claimed.ok() && *claimed;
}

void ReplicaKeeper::StartLoad(const ServedModelRecord& wanted) {
  Held& held = held_[wanted.name];
  held.wanted = wanted;
  held.work = std::thread([this, wanted] { Finish(wanted.name, Load(wanted)); });
}

absl::Status ReplicaKeeper::Load(const ServedModelRecord& wanted) {
  // What cannot fit is not even fetched.
  ASSIGN_OR_RETURN(const uint64_t bytes, BytesOfSource(store_, wanted.source));
  int64_t free_bytes = models_.memory_limit_bytes();
  for (const ServedModelView& model : models_.List()) free_bytes -= model.memory_bytes;
  if (static_cast<int64_t>(bytes) > free_bytes + kOtherFilesBytes) {
    return ResourceExhausted("MEMORY_LIMIT",
                             "the files of {} have {} bytes, but of the limit of {} bytes (--memory-limit-mib) only {} "
                             "are free",
                             wanted.source, bytes, models_.memory_limit_bytes(), free_bytes);
  }
  LoadArgs args;
  args.name = wanted.name;
  args.source = wanted.source;
  args.context_tokens = wanted.context_tokens;
  const absl::Status loaded = models_.Load(args).status();
  // The registry lists what FAILED; here the row does.
  if (!loaded.ok()) models_.Unload(wanted.name, 0, "").IgnoreError();
  return loaded;
}

// --- What is told ---

void ReplicaKeeper::Tell() {
  for (auto& [model, held] : held_) TellOne(model, held);
}

ReplicaRecord ReplicaKeeper::Describe(const std::string& model, const Held& held) const {
  ReplicaRecord row;
  row.model = model;
  row.instance = options_.instance;
  const absl::StatusOr<std::shared_ptr<ServedModel>> served = models_.Find(model);
  if (served.ok()) {
    const ServedModelView view = (*served)->View();
    row.context_tokens = view.context_tokens;
    row.memory_bytes = view.memory_bytes;
    row.chat = view.chat;
    row.running = view.running;
    row.waiting = view.waiting;
    row.kv_used_ratio = view.kv_used_ratio;
    row.ready_ms = view.ready_ms;
    if (view.state == ServedModelState::kReady) row.state = ReplicaState::kReady;
  }
  const bool over = served.ok() && (*served)->state() == ServedModelState::kDraining;
  if (held.phase == Phase::kLoading) row.state = ReplicaState::kLoading;
  if (held.phase == Phase::kDraining || over || IsDraining() || IsDrainRequested()) row.state = ReplicaState::kDraining;
  if (held.phase == Phase::kDraining || over) row.ready_ms = 0;
  row.updated_ms = store_.NowMs();
  return row;
}

void ReplicaKeeper::TellOne(const std::string& model, Held& held) {
  const ReplicaRecord row = Describe(model, held);
  const int64_t now_ms = SteadyMs();
  const int64_t age_ms = now_ms - held.told_ms;
  const bool due = held.told_ms == 0 || IsStateNews(held.told, row) || age_ms >= options_.tell_ms ||
                   (age_ms >= kMinTellMs && IsLoadNews(held.told, row));
  if (!due) return;
  // Where the row is gone, or the store away, the next look sees to it.
  if (!store_.PutReplica(row).ok()) return;
  held.told = row;
  held.told_ms = now_ms;
}

}  // namespace qamserve
