// URLs of Amazon S3's REST protocol, path style, written as the signatures of libcurl 7.88 want them: names of the
// query in order, every value percent-encoded with upper-case digits ('/' too), "name=" where there is no value, and a
// path in which all but letters, digits, "-._~" and '/' is encoded.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace qamserve {

// `key` may be empty: the bucket itself. Names and values of `query` are plain text.
std::string S3Url(std::string_view endpoint, std::string_view bucket, std::string_view key,
                  const std::map<std::string, std::string>& query = {});

}  // namespace qamserve
