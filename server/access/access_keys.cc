// The part of AccessControl that makes and changes keys.
#include <algorithm>
#include <utility>

#include "server/access/access_control.h"
#include "server/access/key_entry.h"
#include "server/access/key_secret.h"
#include "server/store/request_ids.h"

namespace qamserve {
namespace {

absl::Status CheckRange(std::string_view reason, std::string_view field, int64_t value, int64_t limit) {
  if (value >= 0 && value <= limit) return absl::OkStatus();
  return InvalidArgument(reason, "{} must be 0 to {}; got {}", field, limit, value);
}

absl::Status CheckLimits(const KeyLimits& limits) {
  constexpr std::string_view kReason = "KEY_LIMITS";
  constexpr int64_t kMax32 = 2'147'483'647;
  constexpr int64_t kMaxUpload = int64_t{1} << 60;
  RETURN_IF_ERROR(CheckRange(kReason, "limits.requests_per_minute", limits.requests_per_minute, kMax32));
  RETURN_IF_ERROR(CheckRange(kReason, "limits.tokens_per_minute", limits.tokens_per_minute, kMax32));
  RETURN_IF_ERROR(CheckRange(kReason, "limits.concurrent_requests", limits.concurrent_requests, kMax32));
  return CheckRange(kReason, "limits.upload_bytes_per_day", limits.upload_bytes_per_day, kMaxUpload);
}

}  // namespace

absl::Status AccessControl::CheckNewKey(const CreateKeyArgs& args) const {
  if (args.display_name.empty() || args.display_name.size() > kMaxKeyNameBytes) {
    return InvalidArgument("KEY_DISPLAY_NAME", "display_name must have 1 to {} bytes; got {}", kMaxKeyNameBytes,
                           args.display_name.size());
  }
  if (args.scopes.empty()) return InvalidArgument("KEY_SCOPES", "scopes must name at least one scope");
  RETURN_IF_ERROR(CheckLimits(args.limits));
  RETURN_IF_ERROR(CheckRange("KEY_TTL", "ttl_seconds", args.ttl_seconds, kMaxTtlSeconds));
  absl::MutexLock lock(&mutex_);
  if (by_id_.empty() && given_ == nullptr && !args.scopes.Has(Scope::kAdmin)) {
    return FailedPrecondition("FIRST_KEY_ADMIN",
                              "the first key must have scope admin: once there is a key, nobody without one can make "
                              "another");
  }
  if (by_id_.size() < kMaxKeys) return absl::OkStatus();
  return ResourceExhausted(
      "KEY_COUNT", "there are {} keys, which is the limit; delete some that are expired or revoked", by_id_.size());
}

absl::Status AccessControl::Change(absl::FunctionRef<absl::Status()> change) {
  const auto locked = [&]() -> absl::Status {
    absl::MutexLock lock(&write_mutex_);
    if (store_.shared()) RETURN_IF_ERROR(ReadKeys());
    return change();
  };
  return store_.shared() ? store_.Exclusive("keys", locked) : locked();
}

absl::Status AccessControl::Refresh() {
  absl::MutexLock lock(&write_mutex_);
  return ReadKeys();
}

absl::Status AccessControl::ReadKeys() {
  ASSIGN_OR_RETURN(const std::vector<KeyRecord> keys, store_.ListAllKeys());
  absl::MutexLock lock(&mutex_);
  if (keys.empty() && !by_id_.empty()) {
    // Nobody deletes the last key (LAST_KEY). A store that was emptied behind our back is no reason to let everyone in.
    return FailedPrecondition("LAST_KEY", "the store has no API keys any more; the {} known here stay as they are",
                              by_id_.size());
  }
  std::map<std::string, std::shared_ptr<KeyEntry>> before;
  before.swap(by_id_);
  by_digest_.clear();
  if (given_ != nullptr) by_digest_[given_->record.digest] = given_;
  for (const KeyRecord& key : keys) {
    const auto found = before.find(key.id);
    if (found == before.end()) {
      Insert(key);
      continue;
    }
    KeyEntry& entry = *found->second;
    const KeyUse use = entry.record.use;
    entry.record = key;
    // Written at most once a minute, so what is here is newer unless another process has used the key since.
    entry.record.use.last_used_ms = std::max(use.last_used_ms, key.use.last_used_ms);
    entry.record.use.upload_day = use.upload_day;
    entry.record.use.upload_bytes = use.upload_bytes;
    Index(found->second);
  }
  return absl::OkStatus();
}

absl::StatusOr<KeyWithSecret> AccessControl::Create(const CreateKeyArgs& args) {
  absl::StatusOr<KeyWithSecret> made;
  RETURN_IF_ERROR(Change([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    made = CreateChecked(args);
    return made.status();
  }));
  return made;
}

absl::StatusOr<KeyWithSecret> AccessControl::CreateChecked(const CreateKeyArgs& args) {
  KeyWithSecret made;
  const int64_t now = now_ms();
  ASSIGN_OR_RETURN(
      const std::string name,
      RunOnce(store_, args.request_id, "CreateKey", args.payload, now, [&]() -> absl::StatusOr<std::string> {
        write_mutex_.AssertHeld();
        RETURN_IF_ERROR(CheckNewKey(args));
        made.secret = NewSecret();
        made.key.id = RandomId();
        made.key.display_name = args.display_name;
        made.key.scopes = args.scopes;
        made.key.limits = args.limits;
        made.key.hint = HintOfSecret(made.secret);
        made.key.digest = DigestOfSecret(made.secret);
        made.key.created_ms = now;
        made.key.expires_ms = args.ttl_seconds == 0 ? 0 : now + args.ttl_seconds * 1000;
        RETURN_IF_ERROR(store_.InsertKey(made.key));
        absl::MutexLock entries(&mutex_);
        Insert(made.key);
        return ResourceName("keys", made.key.id);
      }));
  if (!made.secret.empty()) return made;
  ASSIGN_OR_RETURN(const std::string id, ParseResourceName("keys", name));
  ASSIGN_OR_RETURN(made.key, Stored(id));
  return made;
}

absl::StatusOr<KeyRecord> AccessControl::Stored(const std::string& id) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return NotFound("KEY_NOT_FOUND", "there is no key {}", id);
  return found->second->record;
}

absl::StatusOr<KeyRecord> AccessControl::Get(const std::string& id) {
  if (id != kGivenKeyId || given_ == nullptr) return Stored(id);
  absl::MutexLock lock(&mutex_);
  return given_->record;
}

absl::StatusOr<Page<KeyRecord>> AccessControl::List(const PageRequest& request) {
  ASSIGN_OR_RETURN(Page<KeyRecord> page, store_.ListKeys(request));
  absl::MutexLock lock(&mutex_);
  for (KeyRecord& key : page.items) {
    // What was used since it was last written.
    if (const auto found = by_id_.find(key.id); found != by_id_.end()) key.use = found->second->record.use;
  }
  return page;
}

void AccessControl::Replace(const KeyRecord& record) {
  absl::MutexLock lock(&mutex_);
  const auto found = by_id_.find(record.id);
  if (found == by_id_.end()) return;
  const std::shared_ptr<KeyEntry> entry = found->second;
  by_digest_.erase(entry->record.digest);
  by_digest_.erase(entry->record.previous_digest);
  const KeyUse use = entry->record.use;
  entry->record = record;
  entry->record.use = use;
  by_digest_[record.digest] = entry;
  if (!record.previous_digest.empty()) by_digest_[record.previous_digest] = entry;
}

absl::StatusOr<KeyWithSecret> AccessControl::Rotate(const std::string& id, int64_t grace_seconds, int64_t ttl_seconds) {
  RETURN_IF_ERROR(CheckRange("KEY_GRACE", "grace_seconds", grace_seconds, kMaxGraceSeconds));
  RETURN_IF_ERROR(CheckRange("KEY_TTL", "ttl_seconds", ttl_seconds, kMaxTtlSeconds));
  absl::StatusOr<KeyWithSecret> made;
  RETURN_IF_ERROR(Change([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    made = RotateChecked(id, grace_seconds, ttl_seconds);
    return made.status();
  }));
  return made;
}

absl::StatusOr<KeyWithSecret> AccessControl::RotateChecked(const std::string& id, int64_t grace_seconds,
                                                           int64_t ttl_seconds) {
  KeyWithSecret made;
  ASSIGN_OR_RETURN(made.key, Stored(id));
  const int64_t now = now_ms();
  const KeyState state = StateOf(made.key, now);
  if (state == KeyState::kRevoked) {
    return FailedPrecondition("KEY_REVOKED", "keys/{} was revoked; make another key", id);
  }
  if (state == KeyState::kExpired && ttl_seconds == 0) {
    return FailedPrecondition("KEY_EXPIRED", "keys/{} has expired; give ttl_seconds to make it valid again", id);
  }
  made.secret = NewSecret();
  made.key.previous_digest = std::exchange(made.key.digest, DigestOfSecret(made.secret));
  made.key.previous_expires_ms = now + grace_seconds * 1000;
  made.key.hint = HintOfSecret(made.secret);
  if (ttl_seconds != 0) made.key.expires_ms = now + ttl_seconds * 1000;
  RETURN_IF_ERROR(store_.UpdateKey(made.key));
  Replace(made.key);
  return made;
}

bool AccessControl::HasOtherAdmin(const std::string& id) {
  const int64_t now = now_ms();
  absl::MutexLock lock(&mutex_);
  return given_ != nullptr || std::any_of(by_id_.begin(), by_id_.end(), [&](const auto& item) {
           const KeyRecord& key = item.second->record;
           return key.id != id && key.scopes.Has(Scope::kAdmin) && StateOf(key, now) == KeyState::kValid;
         });
}

absl::StatusOr<KeyRecord> AccessControl::Revoke(const std::string& id, const std::string& request_id) {
  RETURN_IF_ERROR(Change([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    return RevokeChecked(id, request_id);
  }));
  return Stored(id);
}

absl::Status AccessControl::RevokeChecked(const std::string& id, const std::string& request_id) {
  return RunOnce(
             store_, request_id, "RevokeKey", id, now_ms(),
             [&]() -> absl::StatusOr<std::string> {
               ASSIGN_OR_RETURN(KeyRecord key, Stored(id));
               if (key.revoked_ms != 0) return ResourceName("keys", id);
               if (key.scopes.Has(Scope::kAdmin) && StateOf(key, now_ms()) == KeyState::kValid && !HasOtherAdmin(id)) {
                 return FailedPrecondition("LAST_ADMIN_KEY",
                                           "keys/{} is the last valid key with scope admin; make another first", id);
               }
               key.revoked_ms = now_ms();
               RETURN_IF_ERROR(store_.UpdateKey(key));
               Replace(key);
               return ResourceName("keys", id);
             })
      .status();
}

absl::Status AccessControl::Delete(const std::string& id) {
  return Change([&]() -> absl::Status {
    write_mutex_.AssertHeld();
    return DeleteChecked(id);
  });
}

absl::Status AccessControl::DeleteChecked(const std::string& id) {
  ASSIGN_OR_RETURN(const KeyRecord key, Stored(id));
  if (StateOf(key, now_ms()) == KeyState::kValid) {
    return FailedPrecondition("KEY_VALID", "keys/{} is valid; revoke it first", id);
  }
  {
    absl::MutexLock entries(&mutex_);
    if (by_id_.size() == 1) {
      return FailedPrecondition("LAST_KEY", "keys/{} is the last key: a server without keys answers everyone", id);
    }
  }
  RETURN_IF_ERROR(store_.DeleteKey(id));
  absl::MutexLock entries(&mutex_);
  by_id_.erase(id);
  by_digest_.erase(key.digest);
  by_digest_.erase(key.previous_digest);
  return absl::OkStatus();
}

}  // namespace qamserve
