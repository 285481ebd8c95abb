// ArtifactService.DownloadFile as an HTTP download: the file's bytes as they are, its size as Content-Length, its
// SHA-256 as ETag, one range of it (206, 416, If-Range), conditions (304) and HEAD. The next piece is read when the
// last one has left.
#pragma once

#include <memory>
#include <string>

#include "core/base/status.h"
#include "server/http/exchange.h"
#include "server/http/local_calls.h"
#include "server/http/rest/binding.h"

namespace qamserve::rest {

// Whether `route` is that of DownloadFile, the one call that has such an answer.
bool IsDownload(const HttpRoute& route);

// `request` is a DownloadFileRequest with artifact and file. INVALID_ARGUMENT (QUERY_PARAMETER) for offset and limit,
// in place of which Range stands. Returns at once; the answer keeps itself and `calls` alive.
absl::Status AnswerDownload(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalCalls> calls,
                            const google::protobuf::Message& request, const CallMetadata& metadata);

}  // namespace qamserve::rest
