// What the program does with its metadata store and ends: `qamserve migrate`, `qamserve backup FILE` and
// `qamserve restore FILE`, each followed by the flags that say where the store is (--data-dir, --metadata-store).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/options.h"

namespace qamserve {

struct StoreCommand {
  enum class Kind { kMigrate, kBackup, kRestore };
  Kind kind = Kind::kMigrate;
  std::string file;  // of backup and restore
};

// Takes the command off `arguments` (those of main, the program's name first). No value if there is none: the program is
// to serve. INVALID_ARGUMENT (OPTION) if the file is missing.
absl::StatusOr<std::optional<StoreCommand>> TakeStoreCommand(std::vector<std::string>& arguments);

// Returns what to tell the user. An SQLite store is opened only while no server has it (DATA_DIR_LOCKED); a PostgreSQL
// store may be in use, but for restore it must be empty, and nobody should write to it meanwhile. A backup appears
// when it is complete. The errors of MetadataStore and of files.
absl::StatusOr<std::string> RunStoreCommand(const StoreCommand& command, const ServerOptions& options);

}  // namespace qamserve
