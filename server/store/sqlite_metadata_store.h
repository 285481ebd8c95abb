// MetadataStore in one SQLite file, which belongs to one process.
#pragma once

#include <memory>
#include <string>

#include "server/store/metadata_store.h"
#include "server/store/sql_schema.h"
#include "server/store/store_observer.h"

namespace qamserve {

struct SqliteOptions {
  SchemaPolicy schema = SchemaPolicy::kMigrate;
  std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>();
};

// Creates the file if there is none. FAILED_PRECONDITION (STORE_VERSION) if a newer program has left rows that this one
// cannot use, (STORE_NEEDS_MIGRATION) if an older one has and `schema` is kRefuse, (STORE_READ_ONLY) if the file may
// not be written.
absl::StatusOr<std::unique_ptr<MetadataStore>> OpenSqliteMetadataStore(const std::string& path,
                                                                       const SqliteOptions& options = {});

}  // namespace qamserve
