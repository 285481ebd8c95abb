// Reading rows: pages, and lists that begin anew when a transaction runs again. Internal to server/store.
#pragma once

#include <absl/functional/function_ref.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/store/metadata_store.h"
#include "server/store/sql_database.h"

namespace qamserve {

// Limit and position of a page: rows with sequence < before, `size` of them.
struct PageBounds {
  int64_t size = 0;
  int64_t before = 0;
};
absl::StatusOr<PageBounds> ParsePage(const PageRequest& page);

// A row of a list, with its place in it.
template <typename Record>
struct Sequenced {
  int64_t sequence = 0;
  Record record;
};

// Cuts a list that was read with one row more than the page has, and makes the token of the next page.
template <typename Record>
Page<Record> CutPage(std::vector<Sequenced<Record>> rows, const PageBounds& bounds) {
  Page<Record> page;
  const auto size = static_cast<size_t>(bounds.size);
  if (rows.size() > size) {
    rows.resize(size);
    page.next_page_token = std::to_string(rows.back().sequence);
  }
  page.items.reserve(rows.size());
  for (Sequenced<Record>& row : rows) page.items.push_back(std::move(row.record));
  return page;
}

// What `query` appends to an empty list, in one snapshot.
template <typename Record>
absl::StatusOr<std::vector<Record>> ReadList(
    SqlDatabase& database, absl::FunctionRef<absl::Status(SqlTransaction&, std::vector<Record>&)> query) {
  std::vector<Record> found;
  RETURN_IF_ERROR(database.Read([&](SqlTransaction& transaction) {
    found.clear();
    return query(transaction, found);
  }));
  return found;
}

// The same for a query that finds one record at most.
template <typename Record>
absl::StatusOr<std::optional<Record>> ReadFirst(
    SqlDatabase& database, absl::FunctionRef<absl::Status(SqlTransaction&, std::vector<Record>&)> query) {
  ASSIGN_OR_RETURN(std::vector<Record> found, ReadList<Record>(database, query));
  if (found.empty()) return std::nullopt;
  return std::optional<Record>(std::move(found.front()));
}

// Three columns: error_reason, error_message, error_code.
void ReadError(SqlRow& row, ErrorRecord& error);

// The files of the row `owner` in a table such as upload_files, in order.
absl::Status InsertFiles(SqlTransaction& transaction, std::string_view table, const std::string& owner,
                         const std::vector<FileRecord>& files);
absl::Status ReadFiles(SqlTransaction& transaction, std::string_view table, const std::string& owner,
                       std::vector<FileRecord>& files);

// Inserts an artifact with its files, if there is none of its digest.
absl::Status InsertArtifact(SqlTransaction& transaction, const ArtifactRecord& artifact);

}  // namespace qamserve
