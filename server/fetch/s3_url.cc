#include "server/fetch/s3_url.h"

#include "server/fetch/http_client.h"

namespace qamserve {

std::string S3Url(std::string_view endpoint, std::string_view bucket, std::string_view key,
                  const std::map<std::string, std::string>& query) {
  while (endpoint.ends_with('/')) endpoint.remove_suffix(1);
  std::string url = fmt::format("{}/{}", endpoint, EncodeForUrl(bucket, false));
  if (!key.empty()) url += "/" + EncodeForUrl(key, true);
  char mark = '?';
  for (const auto& [name, value] : query) {
    url += fmt::format("{}{}={}", mark, EncodeForUrl(name, false), EncodeForUrl(value, false));
    mark = '&';
  }
  return url;
}

}  // namespace qamserve
