// Idempotency of mutating calls by request id.
#pragma once

#include <absl/functional/function_ref.h>

#include <string>
#include <string_view>

#include "core/base/status.h"
#include "server/store/metadata_store.h"

namespace qamserve {

// How long an answer is remembered.
inline constexpr int64_t kRequestRetentionMs = int64_t{24} * 3600 * 1000;

// Runs `action`, which returns the resource name that is the answer (or ""), and remembers the answer under
// `request_id`; if the id is known, returns the remembered answer and runs nothing. Failures are not remembered. An
// empty `request_id` just runs `action`. `payload` is anything that tells requests apart.
// INVALID_ARGUMENT (REQUEST_ID): more than 64 bytes or other than letters, digits, '-', '_'. ALREADY_EXISTS
// (REQUEST_ID_REUSED): the id was used for another method or payload.
absl::StatusOr<std::string> RunOnce(MetadataStore& store, const std::string& request_id, std::string_view method,
                                    std::string_view payload, int64_t now_ms,
                                    absl::FunctionRef<absl::StatusOr<std::string>()> action);

}  // namespace qamserve
