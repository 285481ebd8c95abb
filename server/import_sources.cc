#include "server/import_sources.h"

#include <fstream>
#include <string>

namespace qamserve {
namespace {

absl::StatusOr<std::string> ReadToken(const std::string& path) {
  std::ifstream file(path);
  std::string token;
  std::string more;
  if (!(file >> token) || (file >> more)) {
    return FailedPrecondition("OPTION", "--hub-token-file {}: there must be one token in it", path);
  }
  return token;
}

}  // namespace

absl::StatusOr<RemoteOptions> RemoteOptionsOf(const ServerOptions& options) {
  RemoteOptions remote;
  remote.hub_endpoint = options.hub_endpoint == "off" ? "" : options.hub_endpoint;
  if (options.hub_token_file.empty()) {
    remote.hub_token = options.import_secrets.hub_token;
  } else {
    ASSIGN_OR_RETURN(remote.hub_token, ReadToken(options.hub_token_file));
  }
  remote.s3_endpoint = options.s3_endpoint;
  remote.s3_key = {.region = options.s3_region,
                   .access_key = options.import_secrets.s3_access_key,
                   .secret_key = options.import_secrets.s3_secret_key,
                   .session_token = options.import_secrets.s3_session_token};
  return remote;
}

}  // namespace qamserve
