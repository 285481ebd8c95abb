#include "server/access/key_secret.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <sys/random.h>

#include <algorithm>
#include <array>

#include "core/base/digest.h"

namespace qamserve {
namespace {

constexpr std::string_view kDigits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
constexpr std::string_view kBearer = "bearer ";
constexpr size_t kMinGivenBytes = 32;
constexpr size_t kMaxGivenBytes = 256;

using Bits256 = std::array<uint32_t, 8>;

Bits256 RandomBits() {
  Bits256 bits{};
  // getrandom gives up to 256 bytes at once and does not fail once the system has booted.
  while (::getrandom(bits.data(), sizeof bits, 0) != static_cast<ssize_t>(sizeof bits)) {
  }
  return bits;
}

// Divides the number whose most significant word comes first; returns the remainder.
uint32_t DivideBy(Bits256& number, uint32_t divisor) {
  uint64_t rest = 0;
  for (uint32_t& word : number) {
    rest = (rest << 32) | word;
    word = static_cast<uint32_t>(rest / divisor);
    rest %= divisor;
  }
  return static_cast<uint32_t>(rest);
}

}  // namespace

std::string NewSecret() {
  Bits256 bits = RandomBits();
  std::string secret(kSecretPrefix);
  // 62^43 > 2^256: the digits hold all of it.
  for (size_t i = 0; i < kSecretDigits; ++i) secret += kDigits[DivideBy(bits, static_cast<uint32_t>(kDigits.size()))];
  return secret;
}

std::string DigestOfSecret(std::string_view secret) { return Sha256Hex(secret); }

std::string HintOfSecret(std::string_view secret) { return std::string(secret.substr(0, kSecretPrefix.size() + 4)); }

std::optional<std::string_view> SecretInAuthorization(std::string_view authorization) {
  const absl::string_view text(authorization.data(), authorization.size());
  if (!absl::StartsWithIgnoreCase(text, absl::string_view(kBearer.data(), kBearer.size()))) return std::nullopt;
  std::string_view secret = authorization.substr(kBearer.size());
  while (secret.starts_with(' ')) secret.remove_prefix(1);
  while (secret.ends_with(' ')) secret.remove_suffix(1);
  if (secret.empty()) return std::nullopt;
  return secret;
}

absl::Status CheckGivenSecret(std::string_view source, std::string_view secret) {
  const bool printable =
      std::all_of(secret.begin(), secret.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
  if (printable && secret.size() >= kMinGivenBytes && secret.size() <= kMaxGivenBytes) return absl::OkStatus();
  return InvalidArgument("ADMIN_KEY",
                         "{} has {} bytes; an admin key has {} to {} characters of ASCII that can be printed, without "
                         "spaces, from a random source",
                         source, secret.size(), kMinGivenBytes, kMaxGivenBytes);
}

}  // namespace qamserve
