#include "server/store_commands.h"

#include <fstream>
#include <memory>
#include <utility>

#include "core/base/file.h"
#include "server/data_dir.h"
#include "server/store/postgres_metadata_store.h"
#include "server/store/sqlite_metadata_store.h"

namespace qamserve {
namespace {

struct OpenedStore {
  std::optional<DataDir> data_dir;  // whose lock is held
  std::unique_ptr<MetadataStore> store;
};

absl::StatusOr<OpenedStore> OpenStore(const ServerOptions& options, SchemaPolicy schema) {
  OpenedStore opened;
  if (options.InFleet()) {
    PostgresOptions postgres;
    postgres.schema = schema;
    ASSIGN_OR_RETURN(opened.store, OpenPostgresMetadataStore(options.metadata_store, postgres));
    return opened;
  }
  absl::StatusOr<DataDir> data_dir = DataDir::Open(options.data_dir);
  if (ReasonOf(data_dir.status()) == "DATA_DIR_LOCKED") {
    return Annotate(data_dir.status(), "stop the server first, or use qamctl admin backup");
  }
  RETURN_IF_ERROR(data_dir.status());
  opened.data_dir.emplace(*std::move(data_dir));
  SqliteOptions sqlite;
  sqlite.schema = schema;
  ASSIGN_OR_RETURN(opened.store, OpenSqliteMetadataStore(opened.data_dir->database(), sqlite));
  return opened;
}

absl::StatusOr<std::string> Migrate(const ServerOptions& options) {
  ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(options, SchemaPolicy::kMigrate));
  ASSIGN_OR_RETURN(const SchemaInfo schema, opened.store->Schema());
  return fmt::format("{}: schema {}; programs from schema {} on can use it", schema.engine, schema.version,
                     schema.oldest_program);
}

absl::StatusOr<std::string> Backup(const ServerOptions& options, const std::string& path) {
  ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(options, SchemaPolicy::kRefuse));
  ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::Create(path));
  int64_t lines = 0;
  RETURN_IF_ERROR(opened.store->Backup([&](const std::string& line) -> absl::Status {
    ++lines;
    RETURN_IF_ERROR(file.Append(line));
    return file.Append(std::string_view("\n"));
  }));
  RETURN_IF_ERROR(file.Commit());
  // Neither the header nor the last line is a row.
  return fmt::format("{} rows are in {}; blobs are not part of it", lines - 2, path);
}

absl::StatusOr<std::string> Restore(const ServerOptions& options, const std::string& path) {
  std::ifstream file(path);
  if (!file) return ErrnoToStatus("open", path);
  ASSIGN_OR_RETURN(const OpenedStore opened, OpenStore(options, SchemaPolicy::kMigrate));
  int64_t lines = 0;
  const auto next_line = [&]() -> absl::StatusOr<std::optional<std::string>> {
    // A transaction that is tried again begins at the beginning.
    std::string line;
    if (std::getline(file, line)) {
      ++lines;
      return line;
    }
    if (file.bad()) return ErrnoToStatus("read", path);
    return std::nullopt;
  };
  RETURN_IF_ERROR(opened.store->Restore(next_line));
  return fmt::format("{} rows are in the store again", lines - 2);
}

}  // namespace

absl::StatusOr<std::optional<StoreCommand>> TakeStoreCommand(std::vector<std::string>& arguments) {
  if (arguments.size() < 2) return std::nullopt;
  StoreCommand command;
  if (arguments[1] == "migrate") {
    arguments.erase(arguments.begin() + 1);
    return command;
  }
  if (arguments[1] != "backup" && arguments[1] != "restore") return std::nullopt;
  command.kind = arguments[1] == "backup" ? StoreCommand::Kind::kBackup : StoreCommand::Kind::kRestore;
  if (arguments.size() < 3 || arguments[2].starts_with("-")) {
    return InvalidArgument("OPTION", "qamserve {} needs a file: qamserve {} FILE [--data-dir DIR | --metadata-store URI]",
                           arguments[1], arguments[1]);
  }
  command.file = arguments[2];
  arguments.erase(arguments.begin() + 1, arguments.begin() + 3);
  return command;
}

absl::StatusOr<std::string> RunStoreCommand(const StoreCommand& command, const ServerOptions& options) {
  switch (command.kind) {
    case StoreCommand::Kind::kMigrate:
      return Migrate(options);
    case StoreCommand::Kind::kBackup:
      return Backup(options, command.file);
    case StoreCommand::Kind::kRestore:
      return Restore(options, command.file);
  }
  return Internal("STORE_COMMAND", "unknown command");
}

}  // namespace qamserve
