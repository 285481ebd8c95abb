#include "server/store/sql_backup.h"

#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/base/digest.h"
#include "server/store/sql_metadata_store.h"

namespace qamserve {
namespace {

using nlohmann::json;

constexpr int kFormat = 1;
// More than any table has columns.
constexpr size_t kMaxColumns = 40;

constexpr const char* kFileTexts = "owner name sha256 external_path";
constexpr const char* kFileIntegers = "position size_bytes external_mtime_ns";
constexpr const char* kFileOrder = "owner, position";

constexpr std::array<BackupTable, 17> kTables = {{
    {"uploads", "id display_name content_key result", "kind created_ms", "", "id"},
    {"upload_files", kFileTexts, kFileIntegers, "", kFileOrder},
    {"checkpoints", "digest display_name architecture", "sequence parameters size_bytes created_ms", "", "sequence"},
    {"checkpoint_files", kFileTexts, kFileIntegers, "", kFileOrder},
    {"texts", "digest display_name name external_path", "size_bytes external_mtime_ns created_ms", "", "digest"},
    {"artifacts", "digest display_name checkpoint architecture codec job quality_json tensors_json",
     "sequence size_bytes created_ms", "bpw", "sequence"},
    {"artifact_files", kFileTexts, kFileIntegers, "", kFileOrder},
    {"served_models", "name source", "context_tokens created_ms replicas", "drain_seconds", "name"},
    {"aliases", "name etag", "updated_ms", "", "name"},
    {"alias_targets", "alias model", "position weight", "", "alias, position"},
    {"requests", "request_id method payload_digest answer", "created_ms", "", "request_id"},
    {"jobs",
     ("id key display_name checkpoint artifact spec_json estimate_json quality_json load_as pool error_reason"
      " error_message project codec_version trace_parent"),
     "sequence kind state priority error_code created_ms started_ms ended_ms version", "", "sequence"},
    {"tasks", "job name spec_json worker outcome_json error_reason error_message",
     ("position stage state weights attempts not_before_ms lease_id lease_expires_ms done_sequence error_code version"
      " round lapses"),
     "cost seconds progress", "job, position"},
    {"task_blobs", "job sha256", "task position", "", "job, task, position"},
    {"settings", "key value", "", "", "key"},
    {"api_keys", "id display_name hint digest previous_digest",
     ("sequence scopes requests_per_minute tokens_per_minute concurrent_requests upload_bytes_per_day"
      " previous_expires_ms created_ms expires_ms revoked_ms last_used_ms upload_day upload_bytes"),
     "", "sequence"},
    {"audit_events", "key method resource code reason peer", "sequence time_ms", "", "sequence"},
}};

enum class ColumnType { kText, kInteger, kReal };
struct Column {
  std::string name;
  ColumnType type = ColumnType::kText;
};

std::vector<Column> ColumnsOf(const BackupTable& table) {
  std::vector<Column> columns;
  columns.reserve(kMaxColumns);
  const auto add = [&](const char* names, ColumnType type) {
    for (absl::string_view name : absl::StrSplit(names, ' ', absl::SkipEmpty())) {
      columns.push_back({.name = std::string(name), .type = type});
    }
  };
  add(table.texts, ColumnType::kText);
  add(table.integers, ColumnType::kInteger);
  add(table.reals, ColumnType::kReal);
  return columns;
}

std::string NamesOf(const std::vector<Column>& columns) {
  return absl::StrJoin(columns, ", ", [](std::string* out, const Column& column) { out->append(column.name); });
}

// Text that is not UTF-8 (of a file's name, say) cannot be written as JSON: what is wrong in it is replaced.
std::string LineOf(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

// Gives lines away and sums them up.
class BackupWriter {
 public:
  explicit BackupWriter(absl::FunctionRef<absl::Status(const std::string& line)> sink) : sink_(sink) {}

  absl::Status Put(const json& value) {
    const std::string line = LineOf(value);
    digest_.Update(line);
    digest_.Update("\n");
    return sink_(line);
  }
  absl::Status PutTable(SqlTransaction& transaction, const BackupTable& table);
  absl::Status End() { return sink_(LineOf({{"rows", rows_}, {"sha256", digest_.Finish()}})); }

 private:
  absl::FunctionRef<absl::Status(const std::string& line)> sink_;
  Sha256 digest_;
  int64_t rows_ = 0;
};

absl::Status BackupWriter::PutTable(SqlTransaction& transaction, const BackupTable& table) {
  const std::vector<Column> columns = ColumnsOf(table);
  const std::string sql = fmt::format("SELECT {} FROM {} ORDER BY {}", NamesOf(columns), table.name, table.order);
  absl::Status status;
  RETURN_IF_ERROR(transaction.Query(sql.c_str(), {}, [&](SqlRow& row) {
    if (!status.ok()) return;
    json values = json::object();
    for (const Column& column : columns) {
      json& value = values[column.name];
      if (column.type == ColumnType::kText) value = row.Text();
      if (column.type == ColumnType::kInteger) value = row.Int();
      if (column.type != ColumnType::kReal) continue;
      const double real = row.Real();
      if (!std::isfinite(real)) {
        status = DataLoss("STORE_CORRUPT", "{}.{} is not a number in a row", table.name, column.name);
        return;
      }
      value = real;
    }
    ++rows_;
    status = Put({{"table", table.name}, {"row", std::move(values)}});
  }));
  return status;
}

template <size_t... I>
absl::StatusOr<int64_t> RunWith(SqlTransaction& transaction, const char* sql, const std::vector<SqlValue>& values,
                                std::index_sequence<I...>) {
  return transaction.Run(sql, {values[I]...});
}
template <size_t N = 1>
absl::StatusOr<int64_t> RunWithAll(SqlTransaction& transaction, const char* sql, const std::vector<SqlValue>& values) {
  if (values.size() == N) return RunWith(transaction, sql, values, std::make_index_sequence<N>());
  if constexpr (N < kMaxColumns) return RunWithAll<N + 1>(transaction, sql, values);
  return Internal("BACKUP_COLUMNS", "{} values; a table has 1 to {}", values.size(), kMaxColumns);
}

// Takes lines and puts their rows into empty tables.
class Restorer {
 public:
  Restorer(SqlTransaction& transaction, absl::FunctionRef<absl::StatusOr<std::optional<std::string>>()> next_line,
           int32_t program_version)
      : transaction_(transaction), next_line_(next_line), program_version_(program_version) {}

  absl::Status Run();

 private:
  absl::Status Corrupt(const std::string& why) const {
    return DataLoss("BACKUP_CORRUPT", "line {} of the backup: {}", line_number_, why);
  }
  // Reads a line into line_ and value_; false at the end.
  absl::StatusOr<bool> Next();
  void AddToDigest() {
    digest_.Update(line_);
    digest_.Update("\n");
  }
  absl::Status TakeHeader();
  absl::Status TakeRow();
  absl::Status TakeEnd();

  SqlTransaction& transaction_;
  absl::FunctionRef<absl::StatusOr<std::optional<std::string>>()> next_line_;
  const int32_t program_version_;
  int64_t schema_ = 0;
  int64_t line_number_ = 0;
  int64_t rows_ = 0;
  std::string line_;
  json value_;
  const json none_;
  Sha256 digest_;
};

absl::StatusOr<bool> Restorer::Next() {
  ASSIGN_OR_RETURN(std::optional<std::string> line, next_line_());
  ++line_number_;
  if (!line) return false;
  line_ = *std::move(line);
  value_ = json::parse(line_, nullptr, false);
  if (!value_.is_object()) return Corrupt("it is not a JSON object");
  return true;
}

// A member of an object; null if there is none.
const json& Member(const json& object, const char* name, const json& none) {
  const auto it = object.find(name);
  return it == object.end() ? none : *it;
}

std::optional<int64_t> IntegerOf(const json& value) {
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (!value.is_number_integer() || (value.is_number_unsigned() && value.get<uint64_t>() > kMax)) return std::nullopt;
  return value.get<int64_t>();
}

absl::Status Restorer::TakeHeader() {
  ASSIGN_OR_RETURN(const bool there, Next());
  if (!there || IntegerOf(Member(value_, "qamserve_backup", none_)) != kFormat) {
    return Corrupt(fmt::format("a backup begins with {{\"qamserve_backup\":{},...}}", kFormat));
  }
  const std::optional<int64_t> schema = IntegerOf(Member(value_, "schema", none_));
  if (!schema) return Corrupt("no schema version is given");
  if (*schema > program_version_) {
    return FailedPrecondition("STORE_VERSION", "the backup has schema version {}; this program knows up to {}", *schema,
                              program_version_);
  }
  schema_ = *schema;
  AddToDigest();
  return absl::OkStatus();
}

// Whether `value` is what the column holds; appends it.
bool AppendValue(const json& value, ColumnType type, std::vector<SqlValue>& values) {
  switch (type) {
    case ColumnType::kText:
      if (!value.is_string()) return false;
      values.emplace_back(value.get_ref<const std::string&>());
      return true;
    case ColumnType::kInteger: {
      const std::optional<int64_t> integer = IntegerOf(value);
      if (!integer) return false;
      values.emplace_back(*integer);
      return true;
    }
    case ColumnType::kReal:
      if (!value.is_number()) return false;
      values.emplace_back(value.get<double>());
      return true;
  }
  return false;
}

absl::Status Restorer::TakeRow() {
  const json& name = Member(value_, "table", none_);
  const json& row = Member(value_, "row", none_);
  const auto table = std::find_if(kTables.begin(), kTables.end(), [&](const BackupTable& t) {
    return name.is_string() && name.get_ref<const std::string&>() == t.name;
  });
  if (table == kTables.end() || !row.is_object() || row.empty()) return Corrupt("it is no row of a known table");
  std::vector<Column> present;
  std::vector<SqlValue> values;
  for (const Column& column : ColumnsOf(*table)) {
    const auto it = row.find(column.name);
    if (it != row.end()) {
      if (!AppendValue(*it, column.type, values)) {
        return Corrupt(fmt::format("{}.{} has a value of another type", table->name, column.name));
      }
      present.push_back(column);
    } else if (schema_ == program_version_) {
      return Corrupt(fmt::format("{}.{} is missing", table->name, column.name));
    }
  }
  if (present.size() != row.size()) return Corrupt(fmt::format("{} has columns that are not known", table->name));
  std::vector<std::string> numbers;
  numbers.reserve(present.size());
  for (size_t i = 1; i <= present.size(); ++i) numbers.push_back(fmt::format("${}", i));
  const std::string sql =
      fmt::format("INSERT INTO {} ({}) VALUES ({})", table->name, NamesOf(present), absl::StrJoin(numbers, ", "));
  const absl::Status status = RunWithAll(transaction_, sql.c_str(), values).status();
  // What the tables do not take: a row that is there twice, one without the row that it belongs to.
  if (absl::IsAlreadyExists(status) || absl::IsInvalidArgument(status)) return Corrupt(MessageOf(status));
  RETURN_IF_ERROR(status);
  ++rows_;
  AddToDigest();
  return absl::OkStatus();
}

absl::Status Restorer::TakeEnd() {
  const std::string digest = digest_.Finish();
  if (IntegerOf(Member(value_, "rows", none_)) != rows_)
    return Corrupt(fmt::format("{} rows were read, not as many as it says", rows_));
  const json& stated = Member(value_, "sha256", none_);
  if (!stated.is_string() || stated.get_ref<const std::string&>() != digest) {
    return Corrupt("the lines before do not have the SHA-256 that it says");
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> more, next_line_());
  if (!more) return absl::OkStatus();
  ++line_number_;
  return Corrupt("it is behind the end");
}

absl::Status Restorer::Run() {
  for (const BackupTable& table : kTables) {
    bool empty = true;
    RETURN_IF_ERROR(transaction_.Query(fmt::format("SELECT 1 FROM {} LIMIT 1", table.name).c_str(), {},
                                       [&](SqlRow&) { empty = false; }));
    if (empty) continue;
    return FailedPrecondition("STORE_NOT_EMPTY",
                              "the metadata store has rows in {}; a backup is restored into a new one", table.name);
  }
  RETURN_IF_ERROR(TakeHeader());
  for (;;) {
    ASSIGN_OR_RETURN(const bool there, Next());
    if (!there) return Corrupt("it is missing; the backup was cut off");
    if (value_.contains("rows")) return TakeEnd();
    RETURN_IF_ERROR(TakeRow());
  }
}

}  // namespace

std::span<const BackupTable> BackupTables() { return kTables; }

absl::Status SqlMetadataStore::Backup(absl::FunctionRef<absl::Status(const std::string& line)> sink) {
  ASSIGN_OR_RETURN(const SchemaInfo info, Schema());
  if (info.version > info.program_version) {
    return FailedPrecondition(
        "STORE_VERSION", "the metadata store has schema version {}; this program knows {} and would leave the rest out",
        info.version, info.program_version);
  }
  bool begun = false;
  return database_->Read([&](SqlTransaction& transaction) -> absl::Status {
    // Lines that were given away cannot be taken back.
    if (std::exchange(begun, true)) {
      return Unavailable("BACKUP_INTERRUPTED", "the connection to the metadata store broke; begin the backup again");
    }
    BackupWriter writer(sink);
    RETURN_IF_ERROR(writer.Put({{"qamserve_backup", kFormat},
                                {"schema", schema_.program_version()},
                                {"engine", database_->Describe()},
                                {"created_ms", NowMs()}}));
    for (const BackupTable& table : kTables) RETURN_IF_ERROR(writer.PutTable(transaction, table));
    return writer.End();
  });
}

absl::Status SqlMetadataStore::Restore(absl::FunctionRef<absl::StatusOr<std::optional<std::string>>()> next_line) {
  bool begun = false;
  return database_->Transact([&](SqlTransaction& transaction) -> absl::Status {
    if (std::exchange(begun, true)) {
      return Unavailable("RESTORE_INTERRUPTED", "the connection to the metadata store broke; begin the restore again");
    }
    RETURN_IF_ERROR(Restorer(transaction, next_line, schema_.program_version()).Run());
    for (const char* query : schema_.after_restore) {
      RETURN_IF_ERROR(transaction.Query(query, {}, [](SqlRow&) {}));
    }
    transaction.Tell({.kind = StoreEvent::Kind::kMissed, .id = ""});
    return absl::OkStatus();
  });
}

}  // namespace qamserve
