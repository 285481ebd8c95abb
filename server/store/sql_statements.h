// The two statements that are not the same for both engines. Internal to server/store.
#pragma once

#include <string>
#include <string_view>

namespace qamserve {

// $1 = job. A row if the job is unfinished; with `for_share` it stays so until the transaction ends.
std::string LockJobSql(std::string_view for_share);

// Leases a task and returns it. $1 = job, $2 = now, $3 = worker, $4 = lease id, $5 = end of the lease, $6 = stage or
// -1.
std::string ClaimSql(std::string_view skip_locked);

}  // namespace qamserve
