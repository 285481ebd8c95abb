// SqlDatabase in one SQLite file: WAL, synchronous FULL, foreign keys. One connection writes, behind one mutex:
// transactions are short, and SQLite has one writer at a time anyway. Reads have connections of their own, so that a
// long one (a backup) and the disk behind a commit hold up nobody. Parameters $1, $2, ... are bound by name. The file
// belongs to one process; listeners and Exclusive are of this process, and the clock is the system's. Internal to
// server/store.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/store/sql_database.h"
#include "server/store/store_event_dispatcher.h"
#include "server/store/store_observer.h"

namespace qamserve {

class SqliteConnection;

class SqliteDatabase : public SqlDatabase {
 public:
  // Creates the file if there is none. Errors: those of SqlTransaction; FAILED_PRECONDITION (STORE_READ_ONLY) if the
  // file or its folder may not be written.
  static absl::StatusOr<std::unique_ptr<SqliteDatabase>> Open(
      const std::string& path, std::shared_ptr<StoreObserver> observer = std::make_shared<StoreObserver>());
  ~SqliteDatabase() override;

  absl::Status Transact(absl::FunctionRef<absl::Status(SqlTransaction&)> body) override;
  absl::Status Read(absl::FunctionRef<absl::Status(SqlTransaction&)> body) override;
  bool shared() const override { return false; }
  int64_t NowMs() override;
  std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event) override;
  absl::Status Exclusive(const std::string& name, absl::FunctionRef<absl::Status()> body) override;
  std::string Describe() override;
  std::string_view skip_locked() const override { return ""; }
  std::string_view for_update() const override { return ""; }

 private:
  SqliteDatabase(std::string path, std::shared_ptr<StoreObserver> observer, std::unique_ptr<SqliteConnection> writer);
  absl::Status Write(absl::FunctionRef<absl::Status(SqlTransaction&)> body);
  absl::Status ReadOnce(absl::FunctionRef<absl::Status(SqlTransaction&)> body);
  absl::StatusOr<std::unique_ptr<SqliteConnection>> TakeReader();
  void PutReader(std::unique_ptr<SqliteConnection> reader);
  std::shared_ptr<absl::Mutex> NamedMutex(const std::string& name);

  const std::string path_;
  const std::shared_ptr<StoreObserver> observer_;
  absl::Mutex write_mutex_;
  std::unique_ptr<SqliteConnection> writer_ ABSL_GUARDED_BY(write_mutex_);
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<SqliteConnection>> readers_ ABSL_GUARDED_BY(mutex_);  // that are idle
  std::map<std::string, std::weak_ptr<absl::Mutex>> named_ ABSL_GUARDED_BY(mutex_);
  StoreEventDispatcher dispatcher_;
};

}  // namespace qamserve
