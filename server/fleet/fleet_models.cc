#include "server/fleet/fleet_models.h"

#include <absl/time/clock.h>

#include <algorithm>
#include <utility>

#include "server/serving/served_name.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

// How often a caller that waits is looked after.
constexpr absl::Duration kPatience = absl::Milliseconds(200);
constexpr absl::Duration kReadInterval = absl::Seconds(1);

std::string LoadPayload(const LoadArgs& args) {
  return fmt::format("{}\n{}\n{}\n{}", args.name, args.source, args.context_tokens, args.replicas);
}

// The error of a model that every instance has tried in vain; OK while there is hope.
absl::Status HopelessError(const FleetState& state, const std::string& model) {
  const auto replicas = state.replicas.find(model);
  if (replicas == state.replicas.end()) return absl::OkStatus();
  size_t failed = 0;
  for (const ReplicaRecord& replica : replicas->second) {
    if (replica.state == ReplicaState::kLoading || replica.state == ReplicaState::kReady) return absl::OkStatus();
    const auto instance = state.instances.find(replica.instance);
    // What takes nothing new is not among those that are counted below.
    if (instance != state.instances.end() && instance->second.TakesNothingNew()) continue;
    failed += replica.state == ReplicaState::kFailed ? 1 : 0;
  }
  if (failed == 0 || failed < CountInferenceInstances(state)) return absl::OkStatus();
  return ViewOf(state, state.models.at(model)).error;
}

absl::Status CheckReplicas(int32_t replicas) {
  if (replicas >= 0 && replicas <= kMaxReplicas) return absl::OkStatus();
  return InvalidArgument("REPLICAS", "replicas must be 0 to {}; got {}", kMaxReplicas, replicas);
}

}  // namespace

absl::StatusOr<uint64_t> BytesOfSource(MetadataStore& store, const std::string& source) {
  if (const auto digest = ParseResourceName("artifacts", source); digest.ok()) {
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, store.GetArtifact(*digest));
    return artifact.size_bytes;
  }
  const auto digest = ParseResourceName("checkpoints", source);
  if (!digest.ok()) {
    return InvalidArgument("RESOURCE_NAME", "expected artifacts/... or checkpoints/..., got \"{}\"", source);
  }
  ASSIGN_OR_RETURN(const CheckpointRecord checkpoint, store.GetCheckpoint(*digest));
  return checkpoint.size_bytes;
}

FleetModels::FleetModels(FleetModelsOptions options, MetadataStore& store)
    : options_(std::move(options)), store_(store), listening_(store.Listen([this](const StoreEvent& event) {
        if (event.kind != StoreEvent::Kind::kServing && event.kind != StoreEvent::Kind::kMissed) return;
        absl::MutexLock lock(&mutex_);
        ++changes_;
      })) {}

absl::StatusOr<std::shared_ptr<const FleetState>> FleetModels::State() {
  if (options_.snapshot) return options_.snapshot();
  ASSIGN_OR_RETURN(FleetState state, ReadFleetState(store_));
  return std::make_shared<const FleetState>(std::move(state));
}

absl::Status FleetModels::Await(const Check& check, absl::Time deadline,
                                const std::function<absl::Status()>& still_wanted, std::string_view name,
                                std::string_view reason) {
  while (true) {
    uint64_t seen;
    {
      absl::MutexLock lock(&mutex_);
      seen = changes_;
    }
    ASSIGN_OR_RETURN(const FleetState state, ReadFleetState(store_));
    ASSIGN_OR_RETURN(const Done done, check(state));
    if (done == Done::kYes) return absl::OkStatus();
    const absl::Time read_again = absl::Now() + kReadInterval;
    while (absl::Now() < read_again) {
      if (still_wanted) RETURN_IF_ERROR(still_wanted());
      if (absl::Now() >= deadline) {
        const auto model = state.models.find(name);
        const absl::Status why = model == state.models.end() ? absl::OkStatus() : ViewOf(state, model->second).error;
        return MakeError(absl::StatusCode::kDeadlineExceeded, reason,
                         fmt::format("model \"{}\" was waited for in vain{}{}; the server goes on with it", name,
                                     why.ok() ? "" : ": ", MessageOf(why)));
      }
      const auto changed = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return changes_ != seen; };
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&changed), kPatience)) break;
    }
  }
}

absl::Status FleetModels::ExclusiveWrite(absl::FunctionRef<absl::Status(const FleetState&)> body) {
  RETURN_IF_ERROR(store_.Exclusive(kServingLock, [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const FleetState state, ReadFleetState(store_));
    return body(state);
  }));
  if (options_.on_written) options_.on_written();
  return absl::OkStatus();
}

// --- Models ---

absl::StatusOr<ServedModelView> FleetModels::Load(const LoadArgs& args) {
  RETURN_IF_ERROR(CheckModelName(args.name));
  RETURN_IF_ERROR(CheckReplicas(args.replicas));
  const auto load = [&]() -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const bool made, PutWanted(args));
    RETURN_IF_ERROR(AwaitLoaded(args, made));
    return ResourceName("servedModels", args.name);
  };
  RETURN_IF_ERROR(RunOnce(store_, args.request_id, "LoadModel", LoadPayload(args), store_.NowMs(), load).status());
  // Requests that follow this answer find the replica.
  if (options_.on_written) options_.on_written();
  ASSIGN_OR_RETURN(const FleetState state, ReadFleetState(store_));
  const auto model = state.models.find(args.name);
  if (model == state.models.end()) return NoSuchModel(NamesOf(state), args.name);
  return ViewOf(state, model->second);
}

absl::Status FleetModels::Want(const LoadArgs& args) {
  RETURN_IF_ERROR(CheckModelName(args.name));
  RETURN_IF_ERROR(CheckReplicas(args.replicas));
  return PutWanted(args).status();
}

absl::StatusOr<bool> FleetModels::PutWanted(const LoadArgs& args) {
  bool made = false;
  RETURN_IF_ERROR(ExclusiveWrite([&](const FleetState& state) -> absl::Status {
    RETURN_IF_ERROR(CheckNoAlias(state.aliases, args.name));
    const auto model = state.models.find(args.name);
    if (model != state.models.end()) return ChangeWanted(state, model->second, args);
    made = true;
    return InsertWanted(state, args);
  }));
  return made;
}

absl::Status FleetModels::ChangeWanted(const FleetState& state, const ServedModelRecord& record, const LoadArgs& args) {
  if (record.replicas == 0) {
    return Aborted("MODEL_BUSY", "model \"{}\" is being unloaded; try again later", args.name);
  }
  const ServedModelView view = ViewOf(state, record);
  const bool same_context = args.context_tokens == 0 || args.context_tokens == record.context_tokens ||
                            args.context_tokens == view.context_tokens;
  if (record.source != args.source || !same_context) {
    return AlreadyExists("MODEL_NAME_TAKEN", "model \"{}\" serves {} with a context of {} tokens; unload it first",
                         args.name, record.source, view.context_tokens);
  }
  // Who has failed tries again at once, without its pause.
  if (const auto replicas = state.replicas.find(args.name); replicas != state.replicas.end()) {
    for (const ReplicaRecord& replica : replicas->second) {
      if (replica.state == ReplicaState::kFailed) RETURN_IF_ERROR(store_.DeleteReplica(args.name, replica.instance));
    }
  }
  if (args.replicas == 0 || args.replicas == record.replicas) return absl::OkStatus();
  ServedModelRecord changed = record;
  changed.replicas = args.replicas;
  return store_.PutServedModel(changed);
}

absl::Status FleetModels::InsertWanted(const FleetState& state, const LoadArgs& args) {
  if (state.models.size() >= kMaxFleetModels) {
    return ResourceExhausted("MODEL_LIMIT", "{} models are served, which is the limit; unload one",
                             state.models.size());
  }
  RETURN_IF_ERROR(BytesOfSource(store_, args.source).status());
  ServedModelRecord record;
  record.name = args.name;
  record.source = args.source;
  record.context_tokens = args.context_tokens;
  record.created_ms = store_.NowMs();
  record.replicas = std::max(args.replicas, 1);
  if (args.wish) {
    ASSIGN_OR_RETURN(const bool answered, store_.AnswerLoadWish(*args.wish, record));
    if (!answered) return absl::OkStatus();  // another process was faster, and the model may be unloaded again
  } else {
    RETURN_IF_ERROR(store_.PutServedModel(record));
  }
  // From here the row keeps the source from being deleted; it may have been just before.
  absl::Status there = BytesOfSource(store_, args.source).status();
  if (!there.ok()) RETURN_IF_ERROR(store_.DeleteServedModel(args.name));
  return there;
}

absl::Status FleetModels::AwaitLoaded(const LoadArgs& args, bool made) {
  absl::Status hopeless;
  const Check check = [&](const FleetState& state) -> absl::StatusOr<Done> {
    const auto model = state.models.find(args.name);
    if (model == state.models.end() || model->second.replicas == 0) {
      return Aborted("MODEL_BUSY", "model \"{}\" was unloaded by another call before it was READY", args.name);
    }
    if (ViewOf(state, model->second).ready_replicas > 0) return Done::kYes;
    hopeless = HopelessError(state, args.name);
    if (!hopeless.ok()) return hopeless;
    return Done::kNo;
  };
  const absl::Time deadline = std::min(args.deadline, absl::Now() + options_.max_load_wait);
  const absl::Status status = Await(check, deadline, args.still_wanted, args.name, "LOAD_DEADLINE");
  if (hopeless.ok() || !made) return status;
  // As if it had never been asked for. If that cannot be written the name stays, FAILED, and can be unloaded.
  ExclusiveWrite([&](const FleetState& state) -> absl::Status {
    const auto model = state.models.find(args.name);
    if (model == state.models.end() || HopelessError(state, args.name).ok()) return absl::OkStatus();
    return store_.DeleteServedModel(args.name);
  }).IgnoreError();
  return status;
}

absl::StatusOr<ServedModelView> FleetModels::Unload(const UnloadArgs& args) {
  if (!(args.drain_seconds >= 0 && args.drain_seconds <= options_.max_drain_seconds)) {
    return InvalidArgument("DRAIN_SECONDS", "drain_seconds must be 0 to {}; got {}", options_.max_drain_seconds,
                           args.drain_seconds);
  }
  ServedModelView view;
  view.name = args.name;
  view.state = ServedModelState::kUnloaded;
  view.replicas = 0;
  const auto unload = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(BeginUnload(args));
    const Check check = [&](const FleetState& state) -> absl::StatusOr<Done> {
      const auto model = state.models.find(args.name);
      const bool again = model != state.models.end() && model->second.replicas > 0;
      return again || !state.replicas.contains(args.name) ? Done::kYes : Done::kNo;
    };
    const absl::Time deadline =
        std::min(args.deadline, absl::Now() + absl::Seconds(args.drain_seconds) + options_.unload_grace);
    RETURN_IF_ERROR(Await(check, deadline, args.still_wanted, args.name, "UNLOAD_DEADLINE"));
    RETURN_IF_ERROR(Forget(args.name));
    return ResourceName("servedModels", args.name);
  };
  RETURN_IF_ERROR(RunOnce(store_, args.request_id, "UnloadModel", args.name, store_.NowMs(), unload).status());
  return view;
}

absl::Status FleetModels::BeginUnload(const UnloadArgs& args) {
  return ExclusiveWrite([&](const FleetState& state) -> absl::Status {
    const auto model = state.models.find(args.name);
    if (model == state.models.end()) return NoSuchModel(NamesOf(state), args.name);
    RETURN_IF_ERROR(CheckInNoAlias(state.aliases, args.name));
    ServedModelRecord record = model->second;
    if (record.replicas == 0) {
      return FailedPrecondition("MODEL_STATE", "a served model that is {} cannot drain",
                                ServedModelStateName(ServedModelState::kDraining));
    }
    record.replicas = 0;
    record.drain_seconds = args.drain_seconds;
    return store_.PutServedModel(record);
  });
}

absl::Status FleetModels::Forget(const std::string& name) {
  return ExclusiveWrite([&](const FleetState& state) -> absl::Status {
    const auto model = state.models.find(name);
    const bool over = model != state.models.end() && model->second.replicas == 0 && !state.replicas.contains(name);
    return over ? store_.DeleteServedModel(name) : absl::OkStatus();
  });
}

absl::StatusOr<ServedModelView> FleetModels::Get(std::string_view name) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const FleetState> state, State());
  const auto model = state->models.find(name);
  if (model == state->models.end()) return NoSuchModel(NamesOf(*state), name);
  return ViewOf(*state, model->second);
}

absl::StatusOr<std::vector<ServedModelView>> FleetModels::ListModels() {
  ASSIGN_OR_RETURN(const std::shared_ptr<const FleetState> state, State());
  return ViewsOf(*state);
}

absl::StatusOr<int64_t> FleetModels::Sweep(int64_t silence_ms) {
  ASSIGN_OR_RETURN(const int64_t gone, store_.DeleteInstancesBefore(store_.NowMs() - silence_ms));
  ASSIGN_OR_RETURN(const std::vector<ServedModelRecord> models, store_.ListServedModels());
  for (const ServedModelRecord& model : models) {
    if (model.replicas == 0) RETURN_IF_ERROR(Forget(model.name));
  }
  return gone;
}

// --- Aliases ---

absl::StatusOr<AliasRecord> FleetModels::UpdateAlias(const UpdateAliasArgs& args) {
  RETURN_IF_ERROR(CheckAliasName(args.name));
  RETURN_IF_ERROR(CheckAliasTargets(args.targets));
  if (args.validate_only) {
    ASSIGN_OR_RETURN(const FleetState state, ReadFleetState(store_));
    RETURN_IF_ERROR(CheckAliasUpdate(NamesOf(state), args));
    return AliasRecord{.name = args.name, .targets = args.targets};
  }
  AliasRecord alias;
  const auto put = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(ExclusiveWrite([&](const FleetState& state) -> absl::Status {
      RETURN_IF_ERROR(CheckAliasUpdate(NamesOf(state), args));
      alias = {args.name, args.targets, RandomId(), store_.NowMs()};
      return store_.PutAlias(alias);
    }));
    return ResourceName("aliases", args.name);
  };
  RETURN_IF_ERROR(
      RunOnce(store_, args.request_id, "UpdateAlias", AliasUpdatePayload(args), store_.NowMs(), put).status());
  // If the id was answered before, the alias may have changed since.
  if (alias.name.empty()) return GetAlias(args.name);
  return alias;
}

absl::StatusOr<AliasRecord> FleetModels::GetAlias(std::string_view name) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const FleetState> state, State());
  const auto alias = state->aliases.find(name);
  if (alias == state->aliases.end()) return NoSuchAlias(state->aliases, name);
  return alias->second;
}

absl::StatusOr<std::vector<AliasRecord>> FleetModels::ListAliases() {
  ASSIGN_OR_RETURN(const std::shared_ptr<const FleetState> state, State());
  std::vector<AliasRecord> aliases;
  aliases.reserve(state->aliases.size());
  for (const auto& [name, alias] : state->aliases) aliases.push_back(alias);
  return aliases;
}

absl::Status FleetModels::DeleteAlias(const std::string& name, const std::string& etag, const std::string& request_id) {
  const auto remove = [&]() -> absl::StatusOr<std::string> {
    RETURN_IF_ERROR(ExclusiveWrite([&](const FleetState& state) -> absl::Status {
      const auto alias = state.aliases.find(name);
      if (alias == state.aliases.end()) return NoSuchAlias(state.aliases, name);
      RETURN_IF_ERROR(CheckEtag(name, &alias->second, etag));
      return store_.DeleteAlias(name);
    }));
    return std::string();
  };
  return RunOnce(store_, request_id, "DeleteAlias", fmt::format("{}\n{}", name, etag), store_.NowMs(), remove).status();
}

}  // namespace qamserve
