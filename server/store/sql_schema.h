// The tables of a metadata store and how they come to be: steps, each from one schema version to a later one, numbered
// alike for both engines and recorded in the table schema_migrations. Internal to server/store.
//
// Programs of two schema versions may use one store at a time (an upgrade without downtime), if the later step only
// adds: tables, indexes, and columns with defaults. Such a step leaves `oldest_program` at the version before; one that
// changes what there is names its own. For this to hold, statements name their columns (never SELECT *, never INSERT
// without a list), and a program accepts a store of a later version whose oldest_program it is not below.
#pragma once

#include <span>

#include "server/store/sql_database.h"

namespace qamserve {

struct SchemaStep {
  int32_t version = 0;         // of the rows after this step
  int32_t oldest_program = 0;  // programs of this version and newer can use the rows then
  const char* sql = nullptr;   // statements, each ended by a semicolon, which is written for nothing else
};

// An engine's schema. A published step never changes; a new one is added behind it.
struct SqlSchema {
  // A query for one row with one integer: whether there is a table schema_migrations.
  const char* has_migrations = nullptr;
  std::span<const SchemaStep> steps;
  // Queries that make generated numbers go on behind rows that were inserted with numbers of their own.
  std::span<const char* const> after_restore;

  int32_t program_version() const { return steps.back().version; }
};

SqlSchema SqliteSchema();
SqlSchema PostgresSchema();

enum class SchemaPolicy {
  kMigrate,  // brings an older store up to date
  kRefuse,   // FAILED_PRECONDITION (STORE_NEEDS_MIGRATION) for an older store
};

// What the store and the program have.
absl::StatusOr<SchemaInfo> ReadSchema(SqlDatabase& database, const SqlSchema& schema);

// Makes sure that this program can use the store. Brings it up to date, all steps in one transaction, where `policy`
// says so; several processes may do this at the same time. FAILED_PRECONDITION (STORE_VERSION) if a newer program has
// left rows that this one cannot use.
absl::Status PrepareSchema(SqlDatabase& database, const SqlSchema& schema, SchemaPolicy policy);

}  // namespace qamserve
