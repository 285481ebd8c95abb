// API keys: who may call what, and how much of it. Start here for server/access.
//
// While the store has no key and no admin key was given from outside, everyone is admitted. From the first key on each
// call must carry one. All keys are held in memory, so that a check costs a hash and a lookup and no SQL; when a key
// was used last, and what it has uploaded today, is written at most once a minute. Counts per minute and of running
// requests begin anew with the process.
//
// Where several processes share the store each has all keys; Refresh takes over what the others did, and a change of keys
// excludes those of the others. Limits are counted by each process for itself.
//
// Thread-safe. Callers must not outlive their AccessControl.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/functional/function_ref.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "core/base/status.h"
#include "server/access/access_journal.h"
#include "server/access/method_table.h"
#include "server/access/rate_limit.h"
#include "server/store/metadata_store.h"

namespace qamserve {

inline constexpr size_t kMaxKeys = 10'000;
inline constexpr size_t kMaxKeyNameBytes = 200;
inline constexpr int64_t kMaxGraceSeconds = int64_t{30} * 24 * 3600;
inline constexpr int64_t kMaxTtlSeconds = int64_t{10} * 366 * 24 * 3600;
// The id of the key that is given from outside (AccessOptions::admin_key). Ids of stored keys are hexadecimal.
inline constexpr std::string_view kGivenKeyId = "given";

struct AccessOptions {
  // A key with every scope that is not stored, for containers; empty = none. See CheckGivenSecret.
  std::string admin_key;
  std::function<int64_t()> now_ms = SystemNowMs;
  JournalOptions journal;
};

enum class KeyState { kValid = 1, kExpired = 2, kRevoked = 3 };
KeyState StateOf(const KeyRecord& key, int64_t now_ms);

struct CreateKeyArgs {
  std::string display_name;
  ScopeSet scopes;
  KeyLimits limits;
  int64_t ttl_seconds = 0;  // 0 = never expires
  std::string request_id;
  std::string payload;  // tells requests apart; see RunOnce
};
struct KeyWithSecret {
  KeyRecord key;
  std::string secret;  // empty if the request was answered before
};
// -1 = no limit.
struct KeyAllowance {
  int64_t requests_left = -1;
  int64_t tokens_left = -1;
  int64_t upload_bytes_left = -1;
};

struct KeyEntry;      // a key and what is counted of it
struct RunningPlace;  // held while a request runs; gives the key's place back

// Who a call comes from; copies are the same caller. When the last one goes, the key has its place among concurrent
// requests back.
class Caller {
 public:
  // Id of the key; empty where the server has no keys, or the caller sent none that it knows.
  const std::string& key() const { return key_; }
  ScopeSet scopes() const { return scopes_; }
  bool MayUse(Scope scope) const { return scopes_.Has(scope) || scopes_.Has(Scope::kAdmin); }
  // As if this caller had gone.
  void GiveUpPlace() { place_ = nullptr; }

 private:
  friend class AccessControl;
  std::string key_;
  ScopeSet scopes_;
  std::shared_ptr<KeyEntry> entry_;  // null without a key
  std::shared_ptr<RunningPlace> place_;
};

class AccessControl {
 public:
  struct Admission {
    absl::Status status;
    Caller caller;  // of a call that is refused: its key, if that is known
  };

  // Reads all keys. `store` must outlive this.
  static absl::StatusOr<std::unique_ptr<AccessControl>> Open(AccessOptions options, MetadataStore& store);
  // Writes what is not yet written.
  ~AccessControl();

  // Whether calls must carry a key.
  bool keys_required() const;

  // --- Calls ---
  // Checks the key of a call and counts the call; where no keys are required the caller may do everything.
  // `authorization` as it came, empty if there was none. UNAUTHENTICATED (KEY_MISSING, KEY_UNKNOWN, KEY_EXPIRED,
  // KEY_REVOKED), PERMISSION_DENIED (KEY_SCOPE; METHOD_SCOPE if `rule` is null), RESOURCE_EXHAUSTED (KEY_LIMIT) with a
  // delay.
  Admission Admit(std::string_view authorization, const MethodRule* rule);
  // PERMISSION_DENIED (KEY_SCOPE): for what a request asks beside its method. `what` names it.
  static absl::Status CheckScope(const Caller& caller, Scope scope, std::string_view what);
  // Prompt and answer of a request that has ended, or that got as far.
  void CountTokens(const Caller& caller, int64_t tokens);
  // Counts bytes that are about to be stored. RESOURCE_EXHAUSTED (KEY_LIMIT) with a delay, and nothing is counted.
  absl::Status CountUpload(const Caller& caller, int64_t bytes);
  KeyAllowance Left(const Caller& caller);

  // --- Keys ---
  // INVALID_ARGUMENT (KEY_DISPLAY_NAME, KEY_SCOPES, KEY_LIMITS, KEY_TTL), FAILED_PRECONDITION (FIRST_KEY_ADMIN): the
  // first key without kAdmin, where none is given from outside. RESOURCE_EXHAUSTED (KEY_COUNT).
  absl::StatusOr<KeyWithSecret> Create(const CreateKeyArgs& args);
  // NOT_FOUND (KEY_NOT_FOUND), here and below. The key from outside can be got, and nothing else.
  absl::StatusOr<KeyRecord> Get(const std::string& id);
  absl::StatusOr<Page<KeyRecord>> List(const PageRequest& page);
  // The old secret is valid for `grace_seconds` more; one that is older still ends at once. INVALID_ARGUMENT
  // (KEY_GRACE, KEY_TTL), FAILED_PRECONDITION (KEY_REVOKED; KEY_EXPIRED without a `ttl_seconds`).
  absl::StatusOr<KeyWithSecret> Rotate(const std::string& id, int64_t grace_seconds, int64_t ttl_seconds);
  // FAILED_PRECONDITION (LAST_ADMIN_KEY) if no valid key with kAdmin would be left. A revoked one stays as it is.
  absl::StatusOr<KeyRecord> Revoke(const std::string& id, const std::string& request_id);
  // FAILED_PRECONDITION: KEY_VALID; LAST_KEY, since without keys everyone would be admitted.
  absl::Status Delete(const std::string& id);
  int64_t now_ms() const { return options_.now_ms(); }
  // Takes over what other processes have done to the keys. Counts of keys that stay go on. The errors of the store;
  // FAILED_PRECONDITION (LAST_KEY) and no change if it has none any more.
  absl::Status Refresh();

  // --- Audit log ---
  // Time is filled in. Of callers without a key that is known, no more than 60 events a minute are kept: they could
  // drive out everything else.
  void Audit(AuditRecord event);
  // What was audited before is in it.
  absl::StatusOr<Page<AuditRecord>> ListAudit(const PageRequest& page, const std::string& key);

 private:
  friend struct RunningPlace;
  AccessControl(AccessOptions options, MetadataStore& store);
  void Insert(const KeyRecord& record) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Index(const std::shared_ptr<KeyEntry>& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Replace(const KeyRecord& record) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::StatusOr<std::shared_ptr<KeyEntry>> FindSecret(std::string_view authorization, int64_t now_ms)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status TakePlace(const std::shared_ptr<KeyEntry>& entry, const MethodRule& rule, int64_t now_ms, Caller& caller)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void NoteUse(KeyEntry& entry, int64_t now_ms) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckNewKey(const CreateKeyArgs& args) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  // Runs `change`, which holds write_mutex_, while no other process changes keys, with the keys as they are.
  absl::Status Change(absl::FunctionRef<absl::Status()> change) ABSL_LOCKS_EXCLUDED(write_mutex_);
  absl::Status ReadKeys() ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<KeyWithSecret> CreateChecked(const CreateKeyArgs& args) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<KeyWithSecret> RotateChecked(const std::string& id, int64_t grace_seconds, int64_t ttl_seconds)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::Status RevokeChecked(const std::string& id, const std::string& request_id)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::Status DeleteChecked(const std::string& id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  absl::StatusOr<KeyRecord> Stored(const std::string& id) ABSL_LOCKS_EXCLUDED(mutex_);
  bool HasOtherAdmin(const std::string& id) ABSL_LOCKS_EXCLUDED(mutex_);
  void GiveBack(KeyEntry& entry) ABSL_LOCKS_EXCLUDED(mutex_);

  const AccessOptions options_;
  MetadataStore& store_;
  // Held while keys are changed, so that a check and the write that it allows belong together. Before mutex_.
  absl::Mutex write_mutex_;
  mutable absl::Mutex mutex_ ABSL_ACQUIRED_AFTER(write_mutex_);
  std::map<std::string, std::shared_ptr<KeyEntry>> by_id_ ABSL_GUARDED_BY(mutex_);  // stored keys
  std::unordered_map<std::string, std::shared_ptr<KeyEntry>> by_digest_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<KeyEntry> given_;  // null = none; const after Open
  MinuteBucket unknown_events_ ABSL_GUARDED_BY(mutex_);
  AccessJournal journal_;
};

}  // namespace qamserve
