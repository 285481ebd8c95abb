// SHA-256 (FIPS 180-4, by OpenSSL) as lower-case hex: the name of every checkpoint, artifact and blob.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve {

// A digest that is fed in pieces. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;
  ~Sha256();

  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text) { Update(std::as_bytes(std::span(text.data(), text.size()))); }
  // 64 hex digits. The object cannot be fed afterwards.
  std::string Finish();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(std::string_view text);
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);
// 64 lower-case hex digits.
bool IsSha256(std::string_view text);

}  // namespace qamserve
