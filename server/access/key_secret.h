// The secrets of API keys: "qsk-" and 43 digits of base 62, which hold 256 bits from the system's random source.
//
// Stored is their SHA-256, without salt and without a slow hash. Those are for passwords, which people choose and which
// can be tried one after the other; 2^256 secrets cannot, and a check costs every call. A key is looked up by its
// digest: how long a lookup takes tells at most about digests, and nobody can choose a secret by its digest.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

inline constexpr std::string_view kSecretPrefix = "qsk-";
inline constexpr size_t kSecretDigits = 43;

std::string NewSecret();
// 64 hex digits.
std::string DigestOfSecret(std::string_view secret);
// Prefix and four digits, to tell keys apart: of 256 bits it gives away 24.
std::string HintOfSecret(std::string_view secret);

// The secret in "Bearer SECRET" (RFC 6750; the word in any case), or nothing.
std::optional<std::string_view> SecretInAuthorization(std::string_view authorization);

// A key that is given from outside: 32 to 256 characters of printable ASCII without spaces. INVALID_ARGUMENT
// (ADMIN_KEY); `source` says where it came from. The message does not quote it.
absl::Status CheckGivenSecret(std::string_view source, std::string_view secret);

}  // namespace qamserve
