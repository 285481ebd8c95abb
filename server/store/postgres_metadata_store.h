// MetadataStore on a PostgreSQL server (12 or newer), which many processes may use at the same time.
#pragma once

#include <memory>
#include <string>

#include "server/store/metadata_store.h"
#include "server/store/postgres_options.h"

namespace qamserve {

// Whether `location` names a PostgreSQL server and not a file.
bool IsPostgresUri(const std::string& location);

// `uri`: postgresql://[USER[:PASSWORD]@][HOST[:PORT][,...]][/DATABASE][?OPTION=VALUE...], as libpq reads it; what it
// does not say comes from PGPASSWORD, PGPASSFILE and the like. Of several hosts the one is used that can be written to.
// Connects and brings the schema up to date, or refuses to (FAILED_PRECONDITION, STORE_NEEDS_MIGRATION), as
// PostgresOptions::schema says. Further errors: INVALID_ARGUMENT (STORE_URI); FAILED_PRECONDITION: STORE_CREDENTIALS
// (password, right to connect or to use the tables), STORE_MISSING (no such database), STORE_READ_ONLY, STORE_ENCODING
// (not UTF8), STORE_VERSION (of the rows or of the server); UNAVAILABLE (STORE_UNAVAILABLE) after
// PostgresOptions::retry_ms. No message has the password in it.
absl::StatusOr<std::unique_ptr<MetadataStore>> OpenPostgresMetadataStore(const std::string& uri,
                                                                         const PostgresOptions& options = {});

}  // namespace qamserve
