#include "server/store/sql_schema.h"

#include <string>
#include <string_view>
#include <vector>

namespace qamserve {
namespace {

// Since this version rows of schema_migrations say which programs can use the store.
constexpr int32_t kFirstWithOldestProgram = 5;

struct StoredVersion {
  int64_t version = 0;  // 0 = the store is empty
  int64_t oldest_program = 0;
};

absl::StatusOr<StoredVersion> ReadVersion(SqlTransaction& transaction, const SqlSchema& schema) {
  StoredVersion stored;
  int64_t exists = 0;
  RETURN_IF_ERROR(transaction.Query(schema.has_migrations, {}, [&](SqlRow& row) { exists = row.Int(); }));
  if (exists == 0) return stored;
  RETURN_IF_ERROR(transaction.Query("SELECT COALESCE(MAX(version), 0) FROM schema_migrations", {},
                                    [&](SqlRow& row) { stored.version = row.Int(); }));
  stored.oldest_program = stored.version;
  if (stored.version < kFirstWithOldestProgram) return stored;
  RETURN_IF_ERROR(transaction.Query("SELECT oldest_program FROM schema_migrations WHERE version = $1", {stored.version},
                                    [&](SqlRow& row) { stored.oldest_program = row.Int(); }));
  if (stored.oldest_program == 0) stored.oldest_program = stored.version;  // not said, so nothing is promised
  return stored;
}

absl::Status CheckNotTooNew(const StoredVersion& stored, const SqlSchema& schema) {
  if (stored.version <= schema.program_version() || stored.oldest_program <= schema.program_version()) {
    return absl::OkStatus();
  }
  return FailedPrecondition("STORE_VERSION",
                            "the metadata store has schema version {}, which programs of version {} and newer can use; "
                            "this one knows up to {}",
                            stored.version, stored.oldest_program, schema.program_version());
}

absl::Status RunStatements(SqlTransaction& transaction, std::string_view sql) {
  while (!sql.empty()) {
    const size_t end = sql.find(';');
    const std::string statement(sql.substr(0, end));
    if (end == std::string_view::npos) return absl::OkStatus();  // white space behind the last one
    RETURN_IF_ERROR(transaction.Run(statement.c_str()).status());
    sql.remove_prefix(end + 1);
  }
  return absl::OkStatus();
}

absl::Status RunSteps(SqlTransaction& transaction, const SqlSchema& schema, int64_t now_ms) {
  ASSIGN_OR_RETURN(const StoredVersion stored, ReadVersion(transaction, schema));
  RETURN_IF_ERROR(CheckNotTooNew(stored, schema));
  if (stored.version >= schema.program_version()) return absl::OkStatus();  // somebody else was quicker
  RETURN_IF_ERROR(transaction
                      .Run("CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY,"
                           " applied_ms BIGINT NOT NULL)")
                      .status());
  for (const SchemaStep& step : schema.steps) {
    if (step.version <= stored.version) continue;
    RETURN_IF_ERROR(Annotate(RunStatements(transaction, step.sql), fmt::format("schema version {}", step.version)));
    if (step.version < kFirstWithOldestProgram) {
      RETURN_IF_ERROR(
          transaction.Run("INSERT INTO schema_migrations (version, applied_ms) VALUES ($1, $2)", {step.version, now_ms})
              .status());
    } else {
      RETURN_IF_ERROR(
          transaction
              .Run("INSERT INTO schema_migrations (version, applied_ms, oldest_program) VALUES ($1, $2, $3)",
                   {step.version, now_ms, step.oldest_program})
              .status());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<StoredVersion> ReadVersion(SqlDatabase& database, const SqlSchema& schema) {
  StoredVersion stored;
  RETURN_IF_ERROR(database.Read([&](SqlTransaction& transaction) -> absl::Status {
    ASSIGN_OR_RETURN(stored, ReadVersion(transaction, schema));
    return absl::OkStatus();
  }));
  return stored;
}

}  // namespace

absl::StatusOr<SchemaInfo> ReadSchema(SqlDatabase& database, const SqlSchema& schema) {
  ASSIGN_OR_RETURN(const StoredVersion stored, ReadVersion(database, schema));
  return SchemaInfo{.engine = database.Describe(),
                    .version = static_cast<int32_t>(stored.version),
                    .program_version = schema.program_version(),
                    .oldest_program = static_cast<int32_t>(stored.oldest_program)};
}

absl::Status PrepareSchema(SqlDatabase& database, const SqlSchema& schema, SchemaPolicy policy) {
  // Looked at first without any lock and without writing: a program that finds its version needs no right to do more.
  ASSIGN_OR_RETURN(const StoredVersion stored, ReadVersion(database, schema));
  RETURN_IF_ERROR(CheckNotTooNew(stored, schema));
  if (stored.version >= schema.program_version()) return absl::OkStatus();
  if (policy == SchemaPolicy::kRefuse) {
    return FailedPrecondition("STORE_NEEDS_MIGRATION",
                              "the metadata store has schema version {}; this program needs {} (0 = no schema yet)",
                              stored.version, schema.program_version());
  }
  return database.Exclusive("migrate", [&] {
    return database.Transact(
        [&](SqlTransaction& transaction) { return RunSteps(transaction, schema, database.NowMs()); });
  });
}

}  // namespace qamserve
