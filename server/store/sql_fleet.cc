// Instances, their replicas, and what is served: models and aliases.
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>

#include "server/store/sql_metadata_store.h"
#include "server/store/sql_rows.h"

namespace qamserve {
namespace {

// Roles and pools are labels without commas.
std::string JoinLabels(const std::vector<std::string>& labels) { return absl::StrJoin(labels, ","); }
std::vector<std::string> SplitLabels(const std::string& text) { return absl::StrSplit(text, ',', absl::SkipEmpty()); }

// The column instances.draining. Programs that know only of the first take any of them for it. Those write the column
// as a whole with their signs of life, so that a request to one of them is forgotten, which does not know what to do
// with it anyway.
constexpr int64_t kIsDraining = 1;
constexpr int64_t kDrainRequested = 2;

int64_t DrainBits(const InstanceRecord& instance) {
  return (instance.draining ? kIsDraining : 0) | (instance.drain_requested ? kDrainRequested : 0);
}

void TellServing(SqlTransaction& transaction) { transaction.Tell({.kind = StoreEvent::Kind::kServing, .id = ""}); }

absl::Status WriteServedModel(SqlTransaction& transaction, const ServedModelRecord& model) {
  RETURN_IF_ERROR(
      transaction
          .Run("INSERT INTO served_models (name, source, context_tokens, created_ms, replicas, drain_seconds)"
               " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (name) DO UPDATE SET source = excluded.source,"
               " context_tokens = excluded.context_tokens, created_ms = excluded.created_ms,"
               " replicas = excluded.replicas, drain_seconds = excluded.drain_seconds",
               {model.name, model.source, model.context_tokens, model.created_ms, model.replicas, model.drain_seconds})
          .status());
  TellServing(transaction);
  return absl::OkStatus();
}

}  // namespace

// --- Instances ---

absl::StatusOr<bool> SqlMetadataStore::PutInstance(const InstanceRecord& i) {
  const std::string roles = JoinLabels(i.roles);
  const std::string pools = JoinLabels(i.pools);
  const int64_t seen_ms = NowMs();
  bool drain_requested = false;
  RETURN_IF_ERROR(database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    // A sign of life alone is no news.
    bool is_news = true;
    RETURN_IF_ERROR(
        transaction.Query("SELECT roles, draining, address FROM instances WHERE id = $1", {i.id}, [&](SqlRow& row) {
          is_news = row.Text() != roles;
          is_news = ((row.Int() & kIsDraining) != 0) != i.draining || is_news;
          is_news = row.Text() != i.address || is_news;
        }));
    RETURN_IF_ERROR(transaction.Query(
        "INSERT INTO instances (id, host, address, roles, pools, version, codec_version, kernels, device,"
        " threads, memory_bytes, draining, started_ms, seen_ms)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        " ON CONFLICT (id) DO UPDATE SET host = excluded.host, address = excluded.address,"
        " roles = excluded.roles, pools = excluded.pools, version = excluded.version,"
        " codec_version = excluded.codec_version, kernels = excluded.kernels, device = excluded.device,"
        " threads = excluded.threads, memory_bytes = excluded.memory_bytes,"
        " draining = (instances.draining & 2) | (excluded.draining & 1),"
        " started_ms = excluded.started_ms, seen_ms = excluded.seen_ms RETURNING draining",
        {i.id, i.host, i.address, roles, pools, i.version, i.codec_version, i.kernels, i.device, i.threads,
         i.memory_bytes, DrainBits(i), i.started_ms, seen_ms},
        [&](SqlRow& row) { drain_requested = (row.Int() & kDrainRequested) != 0; }));
    if (is_news) TellServing(transaction);
    return absl::OkStatus();
  }));
  return drain_requested;
}

absl::Status SqlMetadataStore::RequestDrain(const std::string& id, bool requested) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t changed,
                     transaction.Run("UPDATE instances SET draining = (draining & 1) | $2 WHERE id = $1",
                                     {id, requested ? kDrainRequested : int64_t{0}}));
    if (changed == 0) return NotFound("INSTANCE_NOT_FOUND", "there is no instance {}; it may have ended", id);
    TellServing(transaction);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<InstanceRecord>> SqlMetadataStore::ListInstances() {
  return ReadList<InstanceRecord>(*database_, [&](SqlTransaction& transaction, std::vector<InstanceRecord>& out) {
    return transaction.Query(
        "SELECT id, host, address, roles, pools, version, codec_version, kernels, device, threads, memory_bytes,"
        " draining, started_ms, seen_ms FROM instances ORDER BY started_ms, id",
        {}, [&](SqlRow& row) {
          InstanceRecord& instance = out.emplace_back();
          instance.id = row.Text();
          instance.host = row.Text();
          instance.address = row.Text();
          instance.roles = SplitLabels(row.Text());
          instance.pools = SplitLabels(row.Text());
          instance.version = row.Text();
          instance.codec_version = row.Text();
          instance.kernels = row.Text();
          instance.device = row.Text();
          instance.threads = static_cast<int32_t>(row.Int());
          instance.memory_bytes = row.Int();
          const int64_t drain = row.Int();
          instance.draining = (drain & kIsDraining) != 0;
          instance.drain_requested = (drain & kDrainRequested) != 0;
          instance.started_ms = row.Int();
          instance.seen_ms = row.Int();
        });
  });
}

absl::Status SqlMetadataStore::DeleteInstance(const std::string& id) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t deleted, transaction.Run("DELETE FROM instances WHERE id = $1", {id}));
    if (deleted > 0) TellServing(transaction);
    return absl::OkStatus();
  });
}

absl::StatusOr<int64_t> SqlMetadataStore::DeleteInstancesBefore(int64_t seen_ms) {
  int64_t deleted = 0;
  RETURN_IF_ERROR(database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(deleted, transaction.Run("DELETE FROM instances WHERE seen_ms < $1", {seen_ms}));
    if (deleted > 0) TellServing(transaction);
    return absl::OkStatus();
  }));
  return deleted;
}

// --- Replicas ---

absl::StatusOr<bool> SqlMetadataStore::ClaimReplica(const std::string& model, const std::string& instance) {
  return InsertReplica(model, instance, false);
}

absl::StatusOr<bool> SqlMetadataStore::ReclaimReplica(const std::string& model, const std::string& instance) {
  return InsertReplica(model, instance, true);
}

absl::StatusOr<bool> SqlMetadataStore::InsertReplica(const std::string& model, const std::string& instance, bool held) {
  // The row of the model is locked until the end, so claims of its replicas follow one another; each of the statements
  // behind sees what those before have done.
  const std::string lock_model =
      fmt::format("SELECT replicas FROM served_models WHERE name = $1 {}", database_->for_update());
  const std::string lock_instance =
      fmt::format("SELECT draining FROM instances WHERE id = $1 {}", database_->for_share());
  const int64_t now_ms = NowMs();
  bool claimed = false;
  RETURN_IF_ERROR(database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    claimed = false;
    int64_t wanted = 0;
    RETURN_IF_ERROR(transaction.Query(lock_model.c_str(), {model}, [&](SqlRow& row) { wanted = row.Int(); }));
    int64_t serving = 0;
    int64_t here = 0;
    RETURN_IF_ERROR(transaction.Query(
        "SELECT COUNT(CASE WHEN state IN (1, 2) THEN 1 END), COUNT(CASE WHEN instance = $2 THEN 1 END) FROM replicas"
        " WHERE model = $1",
        {model, instance}, [&](SqlRow& row) {
          serving = row.Int();
          here = row.Int();
        }));
    const bool full = serving >= wanted;
    if (wanted == 0 || here > 0 || (full && !held)) return absl::OkStatus();
    std::optional<int64_t> draining;
    RETURN_IF_ERROR(transaction.Query(lock_instance.c_str(), {instance}, [&](SqlRow& row) { draining = row.Int(); }));
    if (!draining) return NotFound("INSTANCE_NOT_FOUND", "instance {} has no row; it is taken for dead", instance);
    // Who asks for a drain changes this row, and so waits for this claim or is heeded by it.
    const bool drain_requested = (*draining & kDrainRequested) != 0;
    if (drain_requested ? !held : full) return absl::OkStatus();
    const ReplicaState state = drain_requested ? ReplicaState::kDraining : ReplicaState::kLoading;
    RETURN_IF_ERROR(transaction
                        .Run("INSERT INTO replicas (model, instance, state, error_reason, error_message, error_code,"
                             " context_tokens, memory_bytes, chat, running, waiting, kv_used_ratio, ready_ms,"
                             " updated_ms) VALUES ($1, $2, $3, '', '', 0, 0, 0, 0, 0, 0, 0, 0, $4)",
                             {model, instance, state, now_ms})
                        .status());
    claimed = true;
    TellServing(transaction);
    return absl::OkStatus();
  }));
  return claimed;
}

absl::Status SqlMetadataStore::PutReplica(const ReplicaRecord& r) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    // How busy it is changes all the time; listeners are told of its state, and whether it answers.
    bool is_news = true;
    RETURN_IF_ERROR(transaction.Query("SELECT state, ready_ms FROM replicas WHERE model = $1 AND instance = $2",
                                      {r.model, r.instance}, [&](SqlRow& row) {
                                        is_news = row.Int() != static_cast<int64_t>(r.state);
                                        is_news = (row.Int() > 0) != (r.ready_ms > 0) || is_news;
                                      }));
    ASSIGN_OR_RETURN(
        const int64_t changed,
        transaction.Run("UPDATE replicas SET state = $3, error_reason = $4, error_message = $5, error_code = $6,"
                        " context_tokens = $7, memory_bytes = $8, chat = $9, running = $10, waiting = $11,"
                        " kv_used_ratio = $12, ready_ms = $13, updated_ms = $14 WHERE model = $1 AND instance = $2",
                        {r.model, r.instance, r.state, r.error.reason, r.error.message, r.error.code, r.context_tokens,
                         r.memory_bytes, r.chat, r.running, r.waiting, r.kv_used_ratio, r.ready_ms, r.updated_ms}));
    if (changed == 0) {
      return NotFound("REPLICA_NOT_FOUND", "there is no replica of {} on instance {}", r.model, r.instance);
    }
    if (is_news) TellServing(transaction);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<ReplicaRecord>> SqlMetadataStore::ListReplicas() {
  return ReadList<ReplicaRecord>(*database_, [&](SqlTransaction& transaction, std::vector<ReplicaRecord>& out) {
    return transaction.Query(
        "SELECT model, instance, state, error_reason, error_message, error_code, context_tokens, memory_bytes, chat,"
        " running, waiting, kv_used_ratio, ready_ms, updated_ms FROM replicas ORDER BY model, instance",
        {}, [&](SqlRow& row) {
          ReplicaRecord& replica = out.emplace_back();
          replica.model = row.Text();
          replica.instance = row.Text();
          replica.state = static_cast<ReplicaState>(row.Int());
          ReadError(row, replica.error);
          replica.context_tokens = row.Int();
          replica.memory_bytes = row.Int();
          replica.chat = row.Int() != 0;
          replica.running = static_cast<int32_t>(row.Int());
          replica.waiting = static_cast<int32_t>(row.Int());
          replica.kv_used_ratio = row.Real();
          replica.ready_ms = row.Int();
          replica.updated_ms = row.Int();
        });
  });
}

absl::Status SqlMetadataStore::DeleteReplica(const std::string& model, const std::string& instance) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t deleted,
                     transaction.Run("DELETE FROM replicas WHERE model = $1 AND instance = $2", {model, instance}));
    if (deleted > 0) TellServing(transaction);
    return absl::OkStatus();
  });
}

// --- Served models ---

absl::Status SqlMetadataStore::PutServedModel(const ServedModelRecord& model) {
  return database_->Transact([&](SqlTransaction& transaction) { return WriteServedModel(transaction, model); });
}

absl::StatusOr<bool> SqlMetadataStore::AnswerLoadWish(const JobRecord& job,
                                                      const std::optional<ServedModelRecord>& model) {
  bool answered = false;
  RETURN_IF_ERROR(database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t changed,
                     transaction.Run("UPDATE jobs SET load_as = substr(load_as, 2), version = version + 1"
                                     " WHERE id = $1 AND version = $2 AND state = 4 AND load_as LIKE '+%'",
                                     {job.id, job.version}));
    answered = changed > 0;
    if (!answered) return absl::OkStatus();
    transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = job.id});
    return model ? WriteServedModel(transaction, *model) : absl::OkStatus();
  }));
  return answered;
}

absl::StatusOr<std::vector<ServedModelRecord>> SqlMetadataStore::ListServedModels() {
  return ReadList<ServedModelRecord>(*database_, [&](SqlTransaction& transaction, std::vector<ServedModelRecord>& out) {
    return transaction.Query(
        "SELECT name, source, context_tokens, created_ms, replicas, drain_seconds FROM served_models"
        " ORDER BY name",
        {}, [&](SqlRow& row) {
          ServedModelRecord& model = out.emplace_back();
          model.name = row.Text();
          model.source = row.Text();
          model.context_tokens = row.Int();
          model.created_ms = row.Int();
          model.replicas = static_cast<int32_t>(row.Int());
          model.drain_seconds = row.Real();
        });
  });
}

absl::Status SqlMetadataStore::DeleteServedModel(const std::string& name) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t deleted, transaction.Run("DELETE FROM served_models WHERE name = $1", {name}));
    if (deleted > 0) TellServing(transaction);
    return absl::OkStatus();
  });
}

// --- Aliases ---

absl::Status SqlMetadataStore::PutAlias(const AliasRecord& alias) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    RETURN_IF_ERROR(transaction
                        .Run("INSERT INTO aliases (name, etag, updated_ms) VALUES ($1, $2, $3) ON CONFLICT (name)"
                             " DO UPDATE SET etag = excluded.etag, updated_ms = excluded.updated_ms",
                             {alias.name, alias.etag, alias.updated_ms})
                        .status());
    RETURN_IF_ERROR(transaction.Run("DELETE FROM alias_targets WHERE alias = $1", {alias.name}).status());
    int64_t position = 0;
    for (const AliasTarget& target : alias.targets) {
      RETURN_IF_ERROR(transaction
                          .Run("INSERT INTO alias_targets (alias, position, model, weight) VALUES ($1, $2, $3, $4)",
                               {alias.name, position, target.model, target.weight})
                          .status());
      ++position;
    }
    TellServing(transaction);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<AliasRecord>> SqlMetadataStore::ListAliases() {
  return ReadList<AliasRecord>(
      *database_, [&](SqlTransaction& transaction, std::vector<AliasRecord>& out) -> absl::Status {
        RETURN_IF_ERROR(
            transaction.Query("SELECT name, etag, updated_ms FROM aliases ORDER BY name", {}, [&](SqlRow& row) {
              AliasRecord& alias = out.emplace_back();
              alias.name = row.Text();
              alias.etag = row.Text();
              alias.updated_ms = row.Int();
            }));
        for (AliasRecord& alias : out) {
          RETURN_IF_ERROR(
              transaction.Query("SELECT model, weight FROM alias_targets WHERE alias = $1 ORDER BY position",
                                {alias.name}, [&](SqlRow& row) {
                                  AliasTarget& target = alias.targets.emplace_back();
                                  target.model = row.Text();
                                  target.weight = static_cast<int32_t>(row.Int());
                                }));
        }
        return absl::OkStatus();
      });
}

absl::Status SqlMetadataStore::DeleteAlias(const std::string& name) {
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t deleted, transaction.Run("DELETE FROM aliases WHERE name = $1", {name}));
    if (deleted > 0) TellServing(transaction);
    return absl::OkStatus();
  });
}

}  // namespace qamserve
