// Rows of API keys and of the audit log. As in records.h: ids are bare, times are milliseconds since 1970, 0 = not yet.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace qamserve {

// What a key may be used for; the numbers are those of the API and of stored rows.
enum class Scope { kRead = 1, kUpload = 2, kQuantize = 3, kInfer = 4, kAdmin = 5 };

// A set of scopes, as bits 1 << Scope.
class ScopeSet {
 public:
  constexpr ScopeSet() = default;
  constexpr ScopeSet(std::initializer_list<Scope> scopes) {
    for (const Scope scope : scopes) Add(scope);
  }
  static constexpr ScopeSet FromBits(uint32_t bits) {
    ScopeSet set;
    set.bits_ = bits;
    return set;
  }
  constexpr void Add(Scope scope) { bits_ |= uint32_t{1} << static_cast<int>(scope); }
  constexpr bool Has(Scope scope) const { return (bits_ >> static_cast<int>(scope) & 1) != 0; }
  constexpr bool HasAnyOf(ScopeSet other) const { return (bits_ & other.bits_) != 0; }
  constexpr bool empty() const { return bits_ == 0; }
  constexpr uint32_t bits() const { return bits_; }

 private:
  uint32_t bits_ = 0;
};

// 0 = no limit.
struct KeyLimits {
  int32_t requests_per_minute = 0;
  int32_t tokens_per_minute = 0;
  int32_t concurrent_requests = 0;
  int64_t upload_bytes_per_day = 0;
};

// When a key was used last and what it has uploaded.
struct KeyUse {
  int64_t last_used_ms = 0;
  int64_t upload_day = 0;  // days since 1970, UTC, that upload_bytes belong to
  int64_t upload_bytes = 0;
};

// An API key. Of the secret only its SHA-256 is kept.
struct KeyRecord {
  std::string id;
  std::string display_name;
  ScopeSet scopes;
  KeyLimits limits;
  std::string hint;             // first characters of the secret
  std::string digest;           // SHA-256 of the secret, hex
  std::string previous_digest;  // of the secret before the last rotation, or empty
  int64_t previous_expires_ms = 0;
  int64_t created_ms = 0;
  int64_t expires_ms = 0;  // 0 = never
  int64_t revoked_ms = 0;
  KeyUse use;
};

struct AuditRecord {
  int64_t sequence = 0;  // set by the store: 1, 2, ...
  int64_t time_ms = 0;
  std::string key;  // id of an API key, or empty
  std::string method;
  std::string resource;
  std::string code;
  std::string reason;
  std::string peer;
};

}  // namespace qamserve
