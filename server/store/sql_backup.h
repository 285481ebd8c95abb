// What a backup of the metadata holds, for sql_backup.cc and tests. Internal to server/store.
//
// A backup is lines of JSON. The first is {"qamserve_backup":1,"schema":VERSION,"engine":...,"created_ms":...}, then
// there is one for each row, {"table":NAME,"row":{COLUMN:VALUE,...}}, tables in an order in which they can be inserted,
// and the last is {"rows":COUNT,"sha256":...}: of all lines before it, each with a newline behind it. Numbers that rows
// got from the store (`sequence`) are kept. Rows of instances and replicas are not part of it: they are of processes
// that run.
#pragma once

#include <span>

namespace qamserve {

// Columns by type, separated by spaces. A column that is not in a row of an older schema version takes its default.
struct BackupTable {
  const char* name;
  const char* texts;
  const char* integers;
  const char* reals;
  const char* order;  // by what rows are sorted, so that equal stores make equal lines
};

std::span<const BackupTable> BackupTables();

}  // namespace qamserve
