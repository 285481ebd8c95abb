#include "server/access/access_control.h"

#include <absl/time/time.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "server/access/key_entry.h"
#include "server/access/key_secret.h"
#include "server/access/retry_delay.h"

namespace qamserve {
namespace {

constexpr int64_t kDayMs = int64_t{24} * 3600 * 1000;
// How often the use of a key is written.
constexpr int64_t kUseIntervalMs = 60'000;
constexpr int64_t kUnknownEventsPerMinute = 60;
constexpr ScopeSet kAllScopes = {Scope::kRead, Scope::kUpload, Scope::kQuantize, Scope::kInfer, Scope::kAdmin};

template <typename... Args>
absl::Status Unauthenticated(std::string_view reason, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kUnauthenticated, reason, fmt::format(format, std::forward<Args>(args)...));
}

template <typename... Args>
absl::Status PermissionDenied(std::string_view reason, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(absl::StatusCode::kPermissionDenied, reason, fmt::format(format, std::forward<Args>(args)...));
}

int64_t SecondsOf(int64_t ms) { return (ms + 999) / 1000; }

std::string DateOf(int64_t ms) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", absl::FromUnixMillis(ms), absl::UTCTimeZone());
}

absl::Status LimitReached(std::string_view limit, int64_t value, int64_t wait_ms) {
  const int64_t seconds = std::max<int64_t>(SecondsOf(wait_ms), 1);
  return WithRetryDelay(
      ResourceExhausted("KEY_LIMIT", "this key may have {} {}; try again in {} s", value, limit, seconds), seconds);
}

}  // namespace

KeyState StateOf(const KeyRecord& key, int64_t now_ms) {
  if (key.revoked_ms != 0) return KeyState::kRevoked;
  return key.expires_ms != 0 && key.expires_ms <= now_ms ? KeyState::kExpired : KeyState::kValid;
}

AccessControl::AccessControl(AccessOptions options, MetadataStore& store)
    : options_(std::move(options)),
      store_(store),
      unknown_events_(kUnknownEventsPerMinute),
      journal_(options_.journal, store) {}

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Open(AccessOptions options, MetadataStore& store) {
  auto access = std::unique_ptr<AccessControl>(new AccessControl(std::move(options), store));
  ASSIGN_OR_RETURN(const std::vector<KeyRecord> keys, store.ListAllKeys());
  absl::MutexLock lock(&access->mutex_);
  for (const KeyRecord& key : keys) access->Insert(key);
  const std::string& secret = access->options_.admin_key;
  if (secret.empty()) return access;
  RETURN_IF_ERROR(CheckGivenSecret("the admin key", secret));
  KeyRecord given;
  given.id = std::string(kGivenKeyId);
  given.display_name = "the server's own admin key";
  given.scopes = kAllScopes;
  given.digest = DigestOfSecret(secret);
  given.created_ms = access->now_ms();
  access->given_ = std::make_shared<KeyEntry>(given);
  access->by_digest_[given.digest] = access->given_;
  return access;
}

AccessControl::~AccessControl() {
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, entry] : by_id_) {
    if (entry->use_unwritten) journal_.SetUse(id, entry->record.use);
  }
}

bool AccessControl::keys_required() const {
  absl::MutexLock lock(&mutex_);
  return !by_digest_.empty();
}

void AccessControl::Insert(const KeyRecord& record) { Index(std::make_shared<KeyEntry>(record)); }

void AccessControl::Index(const std::shared_ptr<KeyEntry>& entry) {
  const KeyRecord& record = entry->record;
  by_id_[record.id] = entry;
  by_digest_[record.digest] = entry;
  if (!record.previous_digest.empty()) by_digest_[record.previous_digest] = entry;
}

AccessControl::Admission AccessControl::Admit(std::string_view authorization, const MethodRule* rule) {
  Admission admission;
  Caller& caller = admission.caller;
  if (rule == nullptr) {
    // Our own fault, but never an open door.
    admission.status = PermissionDenied("METHOD_SCOPE", "no scope is known for this method, so nobody may call it");
    return admission;
  }
  const int64_t now_ms = options_.now_ms();
  absl::MutexLock lock(&mutex_);
  if (by_digest_.empty()) {
    caller.scopes_ = kAllScopes;
    return admission;
  }
  const absl::StatusOr<std::shared_ptr<KeyEntry>> entry = FindSecret(authorization, now_ms);
  if (!entry.ok()) {
    admission.status = entry.status();
    return admission;
  }
  caller.key_ = (*entry)->record.id;
  caller.scopes_ = (*entry)->record.scopes;
  caller.entry_ = *entry;
  admission.status = TakePlace(*entry, *rule, now_ms, caller);
  return admission;
}

absl::StatusOr<std::shared_ptr<KeyEntry>> AccessControl::FindSecret(std::string_view authorization, int64_t now_ms) {
  const std::optional<std::string_view> secret = SecretInAuthorization(authorization);
  if (!secret) {
    return Unauthenticated("KEY_MISSING",
                           "this server asks for an API key: send \"authorization: Bearer KEY\" with the call");
  }
  const std::string digest = DigestOfSecret(*secret);
  const auto found = by_digest_.find(digest);
  if (found == by_digest_.end()) return Unauthenticated("KEY_UNKNOWN", "this server does not know that API key");
  const KeyRecord& key = found->second->record;
  switch (StateOf(key, now_ms)) {
    case KeyState::kRevoked:
      return Unauthenticated("KEY_REVOKED", "API key keys/{} was revoked on {}", key.id, DateOf(key.revoked_ms));
    case KeyState::kExpired:
      return Unauthenticated("KEY_EXPIRED", "API key keys/{} expired on {}", key.id, DateOf(key.expires_ms));
    case KeyState::kValid:
      break;
  }
  if (digest != key.digest && key.previous_expires_ms <= now_ms) {
    return Unauthenticated("KEY_EXPIRED", "API key keys/{} has a new secret; this one was valid until {}", key.id,
                           DateOf(key.previous_expires_ms));
  }
  return found->second;
}

// Limits are looked at first and counted together, so that a call that is refused for one does not count for another.
absl::Status AccessControl::TakePlace(const std::shared_ptr<KeyEntry>& entry, const MethodRule& rule, int64_t now_ms,
                                      Caller& caller) {
  const ScopeSet needed = rule.scopes;
  if (!needed.empty() && !caller.MayUse(Scope::kAdmin) && !caller.scopes_.HasAnyOf(needed)) {
    return PermissionDenied("KEY_SCOPE", "{}.{} needs a key with scope {}; keys/{} has {}", rule.service, rule.method,
                            ScopeNames(needed), caller.key_, ScopeNames(caller.scopes_, " and "));
  }
  const KeyLimits& limits = entry->record.limits;
  if (rule.counted) {
    if (const int64_t wait_ms = entry->requests.WaitMs(now_ms); wait_ms > 0) {
      return LimitReached("requests a minute", limits.requests_per_minute, wait_ms);
    }
  }
  if (rule.inference) {
    if (const int64_t wait_ms = entry->tokens.WaitMs(now_ms); wait_ms > 0) {
      return LimitReached("tokens a minute", limits.tokens_per_minute, wait_ms);
    }
    if (limits.concurrent_requests != 0 && entry->running >= limits.concurrent_requests) {
      return LimitReached("requests at a time", limits.concurrent_requests, 1000);
    }
    ++entry->running;
    caller.place_ = std::make_shared<RunningPlace>(*this, entry);
  }
  if (rule.counted) entry->requests.Take(1, now_ms);
  NoteUse(*entry, now_ms);
  return absl::OkStatus();
}

void AccessControl::GiveBack(KeyEntry& entry) {
  absl::MutexLock lock(&mutex_);
  --entry.running;
}

void AccessControl::NoteUse(KeyEntry& entry, int64_t now_ms) {
  entry.record.use.last_used_ms = now_ms;
  if (&entry == given_.get()) return;
  entry.use_unwritten = true;
  if (now_ms >= entry.use_written_ms && now_ms - entry.use_written_ms < kUseIntervalMs) return;
  entry.use_written_ms = now_ms;
  entry.use_unwritten = false;
  journal_.SetUse(entry.record.id, entry.record.use);
}

absl::Status AccessControl::CheckScope(const Caller& caller, Scope scope, std::string_view what) {
  if (caller.MayUse(scope)) return absl::OkStatus();
  return PermissionDenied("KEY_SCOPE", "{} needs a key with scope {}; keys/{} has {}", what, ScopeName(scope),
                          caller.key_, ScopeNames(caller.scopes_, " and "));
}

void AccessControl::CountTokens(const Caller& caller, int64_t tokens) {
  if (caller.entry_ == nullptr || tokens <= 0) return;
  const int64_t now_ms = options_.now_ms();
  absl::MutexLock lock(&mutex_);
  caller.entry_->tokens.Take(tokens, now_ms);
}

absl::Status AccessControl::CountUpload(const Caller& caller, int64_t bytes) {
  if (caller.entry_ == nullptr) return absl::OkStatus();
  const int64_t now_ms = options_.now_ms();
  absl::MutexLock lock(&mutex_);
  KeyEntry& entry = *caller.entry_;
  KeyUse& use = entry.record.use;
  if (use.upload_day != now_ms / kDayMs) {
    use.upload_day = now_ms / kDayMs;
    use.upload_bytes = 0;
  }
  const int64_t limit = entry.record.limits.upload_bytes_per_day;
  if (limit != 0 && bytes > limit - use.upload_bytes) {
    return LimitReached("bytes uploaded a day (UTC)", limit, kDayMs - now_ms % kDayMs);
  }
  use.upload_bytes += bytes;
  NoteUse(entry, now_ms);
  return absl::OkStatus();
}

KeyAllowance AccessControl::Left(const Caller& caller) {
  KeyAllowance left;
  if (caller.entry_ == nullptr) return left;
  const int64_t now_ms = options_.now_ms();
  absl::MutexLock lock(&mutex_);
  KeyEntry& entry = *caller.entry_;
  left.requests_left = entry.requests.Left(now_ms);
  left.tokens_left = entry.tokens.Left(now_ms);
  const int64_t limit = entry.record.limits.upload_bytes_per_day;
  if (limit != 0) {
    const KeyUse& use = entry.record.use;
    left.upload_bytes_left = limit - (use.upload_day == now_ms / kDayMs ? use.upload_bytes : 0);
  }
  return left;
}

void AccessControl::Audit(AuditRecord event) {
  event.time_ms = options_.now_ms();
  absl::MutexLock lock(&mutex_);
  if (event.key.empty() && !by_digest_.empty()) {
    if (unknown_events_.WaitMs(event.time_ms) > 0) return;
    unknown_events_.Take(1, event.time_ms);
  }
  journal_.Add(std::move(event));
}

absl::StatusOr<Page<AuditRecord>> AccessControl::ListAudit(const PageRequest& page, const std::string& key) {
  journal_.Flush();
  return store_.ListAuditEvents(page, key);
}

}  // namespace qamserve
