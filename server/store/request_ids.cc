#include "server/store/request_ids.h"

#include <algorithm>

#include "core/base/digest.h"

namespace qamserve {
namespace {

absl::Status CheckRequestId(const std::string& id) {
  const bool plain =
      std::all_of(id.begin(), id.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_'; });
  if (id.size() <= 64 && plain) return absl::OkStatus();
  return InvalidArgument("REQUEST_ID",
                         "request_id has {} bytes; it may have 64 at most, of letters, digits, '-' and '_'", id.size());
}

absl::StatusOr<std::string> AnswerOf(const RequestRecord& known, std::string_view method,
                                     const std::string& payload_digest) {
  if (known.method == method && known.payload_digest == payload_digest) return known.answer;
  return AlreadyExists("REQUEST_ID_REUSED", "request_id {} was used for another {} request", known.request_id,
                       known.method);
}

}  // namespace

absl::StatusOr<std::string> RunOnce(MetadataStore& store, const std::string& request_id, std::string_view method,
                                    std::string_view payload, int64_t now_ms,
                                    absl::FunctionRef<absl::StatusOr<std::string>()> action) {
  if (request_id.empty()) return action();
  RETURN_IF_ERROR(CheckRequestId(request_id));
  const std::string payload_digest = Sha256Hex(payload);
  ASSIGN_OR_RETURN(auto known, store.FindRequest(request_id));
  if (known) return AnswerOf(*known, method, payload_digest);
  ASSIGN_OR_RETURN(std::string answer, action());
  const absl::Status put = store.PutRequest({.request_id = request_id,
                                             .method = std::string(method),
                                             .payload_digest = payload_digest,
                                             .answer = answer,
                                             .created_ms = now_ms});
  if (put.ok()) return answer;
  if (!absl::IsAlreadyExists(put)) return put;
  // A call with the same id was faster; actions are idempotent by content, so both did the same.
  ASSIGN_OR_RETURN(known, store.FindRequest(request_id));
  if (!known) return put;
  return AnswerOf(*known, method, payload_digest);
}

}  // namespace qamserve
