#include "server/store/sqlite_metadata_store.h"

#include "server/store/sql_metadata_store.h"
#include "server/store/sqlite_database.h"

namespace qamserve {

absl::StatusOr<std::unique_ptr<MetadataStore>> OpenSqliteMetadataStore(const std::string& path,
                                                                       const SqliteOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<SqliteDatabase> database, SqliteDatabase::Open(path, options.observer));
  return SqlMetadataStore::Open(std::move(database), SqliteSchema(), options.schema);
}

}  // namespace qamserve
