// Rows of jobs and tasks, for sql_jobs.cc and sql_lease.cc. Internal to server/store.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "server/store/sql_database.h"

namespace qamserve {

// The columns of `tasks` in the order in which ReadTask takes them.
inline constexpr const char* kTaskColumns =
    "job, position, stage, state, name, spec_json, cost, weights, attempts, not_before_ms, worker, lease_id,"
    " lease_expires_ms, outcome_json, done_sequence, seconds, error_reason, error_message, error_code, version, round,"
    " progress, lapses";
TaskRecord ReadTask(SqlRow& row);

// `rest` is what follows FROM and the table. Blobs are not read: READY and LEASED tasks have none.
absl::Status QueryTasks(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                        std::vector<TaskRecord>& out);
absl::Status QueryJobs(SqlTransaction& transaction, const char* rest, std::initializer_list<SqlValue> values,
                       std::vector<JobRecord>& out);

}  // namespace qamserve
