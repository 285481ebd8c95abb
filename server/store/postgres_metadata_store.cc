#include "server/store/postgres_metadata_store.h"

#include <utility>

#include "server/store/postgres_database.h"
#include "server/store/sql_metadata_store.h"

namespace qamserve {

bool IsPostgresUri(const std::string& location) {
  return location.rfind("postgresql://", 0) == 0 || location.rfind("postgres://", 0) == 0;
}

absl::StatusOr<std::unique_ptr<MetadataStore>> OpenPostgresMetadataStore(const std::string& uri,
                                                                         const PostgresOptions& options) {
  ASSIGN_OR_RETURN(auto database, PostgresDatabase::Open(uri, options));
  return SqlMetadataStore::Open(std::move(database), PostgresSchema(), options.schema);
}

}  // namespace qamserve
