#include "tests/bench/load_target.h"

#include <arpa/inet.h>

namespace qamserve {
namespace {

bool IsLoopbackNumber(const std::string& host) {
  in_addr v4;
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  return host == "[::1]";
}

}  // namespace

absl::Status CheckLoadAddress(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon != std::string::npos && colon + 1 < address.size() && IsLoopbackNumber(address.substr(0, colon)) &&
      address.find_first_not_of("0123456789", colon + 1) == std::string::npos) {
    return absl::OkStatus();
  }
  return InvalidArgument("LOAD_ADDRESS", "the address must be 127.0.0.1:PORT or [::1]:PORT, this machine; got \"{}\"",
                         address);
}

}  // namespace qamserve
