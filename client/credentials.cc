#include "client/credentials.h"

#include <absl/strings/ascii.h>

#include <algorithm>

#include "core/base/file.h"

namespace qamserve {
namespace {

constexpr uint64_t kMaxPemBytes = uint64_t{4} << 20;
constexpr size_t kMaxKeyBytes = 1024;

absl::Status ReadPem(const std::string& path, std::string& pem) {
  if (path.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(pem, ReadFile(path, kMaxPemBytes));
  if (pem.find("-----BEGIN ") != std::string::npos) return absl::OkStatus();
  return InvalidArgument("TLS_FILES", "{} is not a PEM file (\"-----BEGIN ...\")", path);
}

}  // namespace

absl::StatusOr<ClientTls> ReadClientTls(const std::string& ca, const std::string& certificate, const std::string& key) {
  if (certificate.empty() != key.empty()) {
    return InvalidArgument("TLS_FILES", "a client certificate and its key belong together: give both or none");
  }
  if (ca.empty() && !certificate.empty()) {
    return InvalidArgument("TLS_FILES", "a client certificate needs a CA for the server's certificate beside it");
  }
  ClientTls tls;
  RETURN_IF_ERROR(ReadPem(ca, tls.ca_pem));
  RETURN_IF_ERROR(ReadPem(certificate, tls.certificate_pem));
  RETURN_IF_ERROR(ReadPem(key, tls.key_pem));
  return tls;
}

absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  ASSIGN_OR_RETURN(std::string key, ReadFile(path, kMaxPemBytes));
  absl::StripAsciiWhitespace(&key);
  RETURN_IF_ERROR(CheckApiKey(path, key));
  return key;
}

absl::Status CheckApiKey(const std::string& source, const std::string& key) {
  const bool plain =
      std::all_of(key.begin(), key.end(), [](char c) { return absl::ascii_isgraph(static_cast<unsigned char>(c)); });
  if (plain && !key.empty() && key.size() <= kMaxKeyBytes) return absl::OkStatus();
  return InvalidArgument("API_KEY", "{} has no API key in it: 1 to {} characters of printable ASCII without spaces",
                         source, kMaxKeyBytes);
}

}  // namespace qamserve
