// MetadataStore in one SQLite file: WAL, synchronous FULL, foreign keys. One connection behind one mutex: transactions
// are short, and SQLite has one writer at a time anyway.
#pragma once

#include <memory>
#include <string>

#include "server/store/metadata_store.h"

namespace qamserve {

// Creates the file and brings its schema up to date. FAILED_PRECONDITION (STORE_VERSION) if a newer program wrote it.
absl::StatusOr<std::unique_ptr<MetadataStore>> OpenSqliteMetadataStore(const std::string& path);

}  // namespace qamserve
