// What a client shows a server, and what it wants to see: TLS files and API keys, read and checked.
#pragma once

#include <string>

#include "core/base/status.h"

namespace qamserve {

// PEM texts of a TLS connection.
struct ClientTls {
  std::string ca_pem;           // who may sign the server's certificate; empty = no TLS at all
  std::string certificate_pem;  // of the client, where the server asks for one
  std::string key_pem;
};

// INVALID_ARGUMENT (TLS_FILES) if a certificate or key is given without the other or without a CA; the errors of
// ReadFile. Empty paths are not read.
absl::StatusOr<ClientTls> ReadClientTls(const std::string& ca, const std::string& certificate, const std::string& key);

// The text of a file without white space around it. INVALID_ARGUMENT (API_KEY) as CheckApiKey; the errors of ReadFile.
absl::StatusOr<std::string> ReadApiKey(const std::string& path);

// INVALID_ARGUMENT (API_KEY) names `source`, and does not quote the key: it is empty, longer than 1024 bytes, or has
// other characters than printable ASCII without spaces.
absl::Status CheckApiKey(const std::string& source, const std::string& key);

}  // namespace qamserve
