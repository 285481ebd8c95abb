// Keys, scopes and limits on a clock that stands still until it is told.
#include "server/access/access_control.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "server/access/retry_delay.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/temp_dir.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

constexpr int64_t kHourMs = 3'600'000;
// 2026-01-01 06:00 UTC: not the beginning of a day.
constexpr int64_t kStartMs = 1'767'247'200'000;

class AccessControlTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }

  void Reopen() {
    access_.reset();
    store_.reset();
    auto store = OpenSqliteMetadataStore(dir_ / "meta");
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    AccessOptions options;
    options.admin_key = admin_key_;
    options.now_ms = [this] { return now_ms_; };
    options.journal.keep = 100;
    auto access = AccessControl::Open(options, *store_);
    ASSERT_TRUE(access.ok()) << access.status();
    access_ = *std::move(access);
  }

  KeyWithSecret Make(ScopeSet scopes, KeyLimits limits = {}, int64_t ttl_seconds = 0) {
    auto made = access_->Create(
        {.display_name = "k", .scopes = scopes, .limits = limits, .ttl_seconds = ttl_seconds, .request_id = ""});
    EXPECT_TRUE(made.ok()) << made.status();
    return made.ok() ? *std::move(made) : KeyWithSecret();
  }

  AccessControl::Admission Call(const std::string& secret, std::string_view service, std::string_view method) {
    return access_->Admit(secret.empty() ? "" : "Bearer " + secret, FindMethodRule(service, method));
  }
  std::string Refused(const std::string& secret, std::string_view service = "JobService",
                      std::string_view method = "GetJob") {
    return ReasonOf(Call(secret, service, method).status);
  }
  AccessControl::Admission Generate(const std::string& secret) { return Call(secret, "InferenceService", "Generate"); }

  TempDir dir_;
  int64_t now_ms_ = kStartMs;
  std::string admin_key_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<AccessControl> access_;
};

TEST_F(AccessControlTest, WithoutKeysEveryoneMayDoEverything) {
  EXPECT_FALSE(access_->keys_required());
  const auto admission = Call("", "ServingService", "LoadModel");
  EXPECT_TRUE(admission.status.ok());
  EXPECT_TRUE(admission.caller.MayUse(Scope::kAdmin));
  EXPECT_EQ(admission.caller.key(), "");
  EXPECT_TRUE(Call("any", "AccessService", "CreateKey").status.ok());
  EXPECT_EQ(access_->Left(admission.caller).requests_left, -1);
}

TEST_F(AccessControlTest, TheFirstKeyMustBeAnAdminAndThenAllNeedOne) {
  EXPECT_EQ(ReasonOf(access_->Create({.display_name = "k", .scopes = {Scope::kInfer}}).status()), "FIRST_KEY_ADMIN");
  EXPECT_FALSE(access_->keys_required());
  const KeyWithSecret admin = Make({Scope::kAdmin});
  EXPECT_TRUE(access_->keys_required());
  EXPECT_TRUE(admin.secret.starts_with("qsk-"));
  EXPECT_EQ(admin.key.hint, admin.secret.substr(0, 8));
  EXPECT_EQ(Refused(""), "KEY_MISSING");
  EXPECT_EQ(Refused("qsk-nobody"), "KEY_UNKNOWN");
  EXPECT_EQ(Refused(admin.secret + "x"), "KEY_UNKNOWN");
  EXPECT_EQ(Refused(admin.secret), "");
  EXPECT_EQ(ReasonOf(access_->Admit("Basic " + admin.secret, FindMethodRule("JobService", "GetJob")).status),
            "KEY_MISSING");
  EXPECT_EQ(ReasonOf(access_->Admit("bearer " + admin.secret, FindMethodRule("JobService", "GetJob")).status), "");
  const absl::Status missing = Call("", "JobService", "GetJob").status;
  EXPECT_EQ(missing.code(), absl::StatusCode::kUnauthenticated);
  EXPECT_THAT(MessageOf(missing), HasSubstr("authorization: Bearer"));
  Reopen();
  EXPECT_TRUE(access_->keys_required());
  EXPECT_EQ(Refused(admin.secret), "");
  EXPECT_EQ(Refused(""), "KEY_MISSING");
}

TEST_F(AccessControlTest, SecretsAreNotInTheStore) {
  const KeyWithSecret admin = Make({Scope::kAdmin});
  const auto keys = *store_->ListAllKeys();
  ASSERT_EQ(keys.size(), 1u);
  EXPECT_EQ(keys[0].digest.size(), 64u);
  EXPECT_EQ(keys[0].digest.find(admin.secret.substr(4)), std::string::npos);
  EXPECT_EQ(keys[0].hint.size(), 8u);
}

TEST_F(AccessControlTest, ScopesDecideByMethod) {
  const std::string admin = Make({Scope::kAdmin}).secret;
  const std::string reader = Make({Scope::kRead}).secret;
  const std::string uploader = Make({Scope::kUpload}).secret;
  const std::string quantizer = Make({Scope::kQuantize}).secret;
  const std::string talker = Make({Scope::kInfer}).secret;
  const auto allowed = [&](std::string_view service, std::string_view method) {
    std::string who;
    for (const auto& [name, secret] : std::map<std::string, std::string>{
             {"a", admin}, {"i", talker}, {"q", quantizer}, {"r", reader}, {"u", uploader}}) {
      if (Call(secret, service, method).status.ok()) who += name;
    }
    return who;
  };
  EXPECT_EQ(allowed("CheckpointService", "UploadFile"), "au");
  EXPECT_EQ(allowed("CheckpointService", "QueryUpload"), "aru");
  EXPECT_EQ(allowed("CheckpointService", "DeleteCheckpoint"), "a");
  EXPECT_EQ(allowed("JobService", "CreateQuantizeJob"), "aq");
  EXPECT_EQ(allowed("JobService", "WatchJob"), "aqr");
  EXPECT_EQ(allowed("JobService", "DeleteJob"), "a");
  EXPECT_EQ(allowed("ArtifactService", "DownloadFile"), "ar");
  EXPECT_EQ(allowed("ServingService", "LoadModel"), "a");
  EXPECT_EQ(allowed("ServingService", "ListServedModels"), "air");
  EXPECT_EQ(allowed("InferenceService", "Chat"), "ai");
  EXPECT_EQ(allowed("AccessService", "CreateKey"), "a");
  EXPECT_EQ(allowed("AccessService", "GetCaller"), "aiqru");
  EXPECT_EQ(allowed("AccessService", "ListAuditEvents"), "a");
  EXPECT_EQ(allowed("SystemService", "GetSystem"), "ar");
  const auto refused = Call(reader, "ServingService", "LoadModel");
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ReasonOf(refused.status), "KEY_SCOPE");
  EXPECT_THAT(MessageOf(refused.status), HasSubstr("needs a key with scope admin"));
  EXPECT_THAT(MessageOf(refused.status), HasSubstr("has read"));
  EXPECT_FALSE(refused.caller.key().empty()) << "the audit log tells who was refused";
  // A method that nobody gave a scope is closed, not open.
  EXPECT_EQ(ReasonOf(access_->Admit("Bearer " + admin, FindMethodRule("JobService", "Surprise")).status),
            "METHOD_SCOPE");
}

TEST_F(AccessControlTest, KeysExpireAndAreRevokedAndDeleted) {
  const KeyWithSecret admin = Make({Scope::kAdmin});
  const KeyWithSecret brief = Make({Scope::kRead}, {}, 10);
  now_ms_ += 9'999;
  EXPECT_EQ(Refused(brief.secret), "");
  EXPECT_EQ(ReasonOf(access_->Delete(brief.key.id)), "KEY_VALID");
  now_ms_ += 1;
  EXPECT_EQ(Refused(brief.secret), "KEY_EXPIRED");
  EXPECT_EQ(StateOf(*access_->Get(brief.key.id), now_ms_), KeyState::kExpired);
  ASSERT_TRUE(access_->Delete(brief.key.id).ok());
  EXPECT_EQ(Refused(brief.secret), "KEY_UNKNOWN");
  EXPECT_EQ(ReasonOf(access_->Get(brief.key.id).status()), "KEY_NOT_FOUND");

  const KeyWithSecret other = Make({Scope::kRead});
  auto revoked = access_->Revoke(other.key.id, "");
  ASSERT_TRUE(revoked.ok()) << revoked.status();
  EXPECT_EQ(StateOf(*revoked, now_ms_), KeyState::kRevoked);
  EXPECT_EQ(Refused(other.secret), "KEY_REVOKED");
  EXPECT_TRUE(access_->Revoke(other.key.id, "").ok()) << "twice is once";
  EXPECT_EQ(ReasonOf(access_->Rotate(other.key.id, 0, 60).status()), "KEY_REVOKED");
  EXPECT_EQ(ReasonOf(access_->Revoke("0123", "").status()), "KEY_NOT_FOUND");
  Reopen();
  EXPECT_EQ(Refused(other.secret), "KEY_REVOKED");
}

TEST_F(AccessControlTest, NeitherTheLastAdminNorTheLastKeyGoes) {
  const KeyWithSecret admin = Make({Scope::kAdmin}, {}, 3600);
  const KeyWithSecret second = Make({Scope::kAdmin}, {}, 60);
  ASSERT_TRUE(access_->Revoke(admin.key.id, "").ok());
  EXPECT_EQ(ReasonOf(access_->Revoke(second.key.id, "").status()), "LAST_ADMIN_KEY");
  EXPECT_EQ(Refused(second.secret), "");
  ASSERT_TRUE(access_->Delete(admin.key.id).ok());
  now_ms_ += 60'000;  // the last one has expired: nobody may come in, and deleting it would let everybody in
  EXPECT_EQ(ReasonOf(access_->Delete(second.key.id)), "LAST_KEY");
  EXPECT_EQ(Refused(""), "KEY_MISSING");
  EXPECT_EQ(Refused(second.secret), "KEY_EXPIRED");
}

TEST_F(AccessControlTest, ARotatedSecretIsValidForItsGrace) {
  const KeyWithSecret admin = Make({Scope::kAdmin});
  const KeyWithSecret first = Make({Scope::kRead});
  const auto second = access_->Rotate(first.key.id, 60, 0);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_NE(second->secret, first.secret);
  EXPECT_EQ(second->key.id, first.key.id);
  EXPECT_EQ(Refused(first.secret), "");
  EXPECT_EQ(Refused(second->secret), "");
  now_ms_ += 60'000;
  EXPECT_EQ(Refused(first.secret), "KEY_EXPIRED");
  EXPECT_THAT(MessageOf(Call(first.secret, "JobService", "GetJob").status), HasSubstr("has a new secret"));
  EXPECT_EQ(Refused(second->secret), "");
  Reopen();
  EXPECT_EQ(Refused(first.secret), "KEY_EXPIRED");
  EXPECT_EQ(Refused(second->secret), "");
  // Without grace it ends at once, and so does one that is older still.
  const auto third = access_->Rotate(first.key.id, 60, 0);
  const auto fourth = access_->Rotate(first.key.id, 0, 0);
  EXPECT_EQ(Refused(second->secret), "KEY_UNKNOWN");
  EXPECT_EQ(Refused(third->secret), "KEY_EXPIRED");
  EXPECT_EQ(Refused(fourth->secret), "");
  EXPECT_EQ(ReasonOf(access_->Rotate(first.key.id, -1, 0).status()), "KEY_GRACE");
  EXPECT_EQ(ReasonOf(access_->Rotate(first.key.id, 30 * 24 * 3600 + 1, 0).status()), "KEY_GRACE");
  EXPECT_EQ(ReasonOf(access_->Rotate(first.key.id, 0, -1).status()), "KEY_TTL");
}

TEST_F(AccessControlTest, RotationMayGiveAnExpiredKeyMoreTime) {
  Make({Scope::kAdmin});
  const KeyWithSecret brief = Make({Scope::kRead}, {}, 10);
  now_ms_ += 10'000;
  EXPECT_EQ(ReasonOf(access_->Rotate(brief.key.id, 0, 0).status()), "KEY_EXPIRED");
  const auto again = access_->Rotate(brief.key.id, 0, 20);
  ASSERT_TRUE(again.ok()) << again.status();
  now_ms_ += 19'999;
  EXPECT_EQ(Refused(again->secret), "");
  now_ms_ += 1;
  EXPECT_EQ(Refused(again->secret), "KEY_EXPIRED");
}

TEST_F(AccessControlTest, RequestsAMinuteFillEvenly) {
  Make({Scope::kAdmin});
  const KeyWithSecret key = Make({Scope::kRead}, {.requests_per_minute = 6});
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Refused(key.secret), "") << i;
  const auto refused = Call(key.secret, "JobService", "GetJob");
  EXPECT_EQ(refused.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(refused.status), "KEY_LIMIT");
  EXPECT_EQ(RetryDelaySecondsOf(refused.status), 10);
  EXPECT_THAT(MessageOf(refused.status), HasSubstr("6 requests a minute"));
  now_ms_ += 4'000;
  EXPECT_EQ(RetryDelaySecondsOf(Call(key.secret, "JobService", "GetJob").status), 6);
  // Asking what is left is free.
  const auto caller = Call(key.secret, "AccessService", "GetCaller");
  ASSERT_TRUE(caller.status.ok());
  EXPECT_EQ(access_->Left(caller.caller).requests_left, 0);
  now_ms_ += 6'000;
  EXPECT_EQ(access_->Left(caller.caller).requests_left, 1);
  EXPECT_EQ(Refused(key.secret), "");
  EXPECT_EQ(Refused(key.secret), "KEY_LIMIT");
  now_ms_ += 10 * kHourMs;
  EXPECT_EQ(access_->Left(caller.caller).requests_left, 6) << "no more than a minute's worth gathers";
  now_ms_ -= 10 * kHourMs;  // a clock that is set back gives nothing
  for (int i = 0; i < 6; ++i) EXPECT_EQ(Refused(key.secret), "") << i;
  EXPECT_EQ(Refused(key.secret), "KEY_LIMIT");
}

TEST_F(AccessControlTest, TokensAreOwedAndThenWaitedFor) {
  Make({Scope::kAdmin});
  const KeyWithSecret key = Make({Scope::kInfer}, {.tokens_per_minute = 60});
  {
    const auto call = Generate(key.secret);
    ASSERT_TRUE(call.status.ok());
    access_->CountTokens(call.caller, 90);  // more than there were: only known at the end
    EXPECT_EQ(access_->Left(call.caller).tokens_left, 0);
  }
  EXPECT_EQ(RetryDelaySecondsOf(Generate(key.secret).status), 31);
  // Other calls need no tokens.
  EXPECT_TRUE(Call(key.secret, "ServingService", "ListServedModels").status.ok());
  now_ms_ += 30'000;
  EXPECT_EQ(RetryDelaySecondsOf(Generate(key.secret).status), 1);
  now_ms_ += 1'000;
  const auto call = Generate(key.secret);
  EXPECT_TRUE(call.status.ok()) << call.status;
  EXPECT_EQ(access_->Left(call.caller).tokens_left, 1);
}

TEST_F(AccessControlTest, ConcurrentRequestsAreGivenBackAtTheirEnd) {
  Make({Scope::kAdmin});
  const KeyWithSecret key = Make({Scope::kInfer}, {.concurrent_requests = 2});
  auto one = Generate(key.secret);
  auto two = Generate(key.secret);
  ASSERT_TRUE(one.status.ok() && two.status.ok());
  const auto three = Generate(key.secret);
  EXPECT_EQ(ReasonOf(three.status), "KEY_LIMIT");
  EXPECT_THAT(MessageOf(three.status), HasSubstr("2 requests at a time"));
  EXPECT_TRUE(Call(key.secret, "ServingService", "ListServedModels").status.ok());
  one.caller.GiveUpPlace();
  auto four = Generate(key.secret);
  EXPECT_TRUE(four.status.ok());
  EXPECT_EQ(ReasonOf(Generate(key.secret).status), "KEY_LIMIT");
  { const AccessControl::Admission gone = std::move(four); }
  EXPECT_TRUE(Generate(key.secret).status.ok());
  // A key that goes while its call runs.
  ASSERT_TRUE(access_->Revoke(key.key.id, "").ok());
  ASSERT_TRUE(access_->Delete(key.key.id).ok());
  access_->CountTokens(two.caller, 5);
  EXPECT_EQ(access_->Left(two.caller).tokens_left, -1);
}

TEST_F(AccessControlTest, ManyThreadsNeverHaveMorePlacesThanThereAre) {
  Make({Scope::kAdmin});
  const KeyWithSecret key = Make({Scope::kInfer}, {.concurrent_requests = 3});
  std::atomic<int> running{0};
  std::atomic<int> most{0};
  std::atomic<int> admitted{0};
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        // One of them changes the key under the others.
        if (t == 0 && i == 100) {
          EXPECT_TRUE(access_->Rotate(key.key.id, 3600, 0).ok());
        }
        auto call = Generate(key.secret);
        if (!call.status.ok()) continue;
        const int now = ++running;
        for (int seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
        ++admitted;
        access_->CountTokens(call.caller, 1);
        --running;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(admitted, 0);
  EXPECT_LE(most, 3);
  const std::string secret = access_->Rotate(key.key.id, 0, 0)->secret;
  const auto one = Generate(secret);
  const auto two = Generate(secret);
  const auto three = Generate(secret);
  EXPECT_TRUE(one.status.ok() && two.status.ok() && three.status.ok()) << "every place was given back";
  EXPECT_EQ(ReasonOf(Generate(secret).status), "KEY_LIMIT");
}

TEST_F(AccessControlTest, UploadedBytesAreCountedByTheDayAndOverARestart) {
  Make({Scope::kAdmin});
  const KeyWithSecret key = Make({Scope::kUpload}, {.upload_bytes_per_day = 1000});
  auto call = Call(key.secret, "CheckpointService", "UploadFile");
  ASSERT_TRUE(call.status.ok());
  EXPECT_TRUE(access_->CountUpload(call.caller, 600).ok());
  const absl::Status refused = access_->CountUpload(call.caller, 401);
  EXPECT_EQ(ReasonOf(refused), "KEY_LIMIT");
  EXPECT_EQ(RetryDelaySecondsOf(refused), 18 * 3600) << "until midnight, UTC";
  EXPECT_EQ(access_->Left(call.caller).upload_bytes_left, 400) << "what was refused is not counted";
  call = {};
  Reopen();
  call = Call(key.secret, "CheckpointService", "UploadFile");
  EXPECT_EQ(access_->Left(call.caller).upload_bytes_left, 400);
  EXPECT_TRUE(access_->CountUpload(call.caller, 400).ok());
  EXPECT_FALSE(access_->CountUpload(call.caller, 1).ok());
  now_ms_ += 18 * kHourMs;
  EXPECT_EQ(access_->Left(call.caller).upload_bytes_left, 1000);
  EXPECT_TRUE(access_->CountUpload(call.caller, 1000).ok());
}

TEST_F(AccessControlTest, LastUseIsWrittenOnceAMinute) {
  Make({Scope::kAdmin});
  const KeyWithSecret key = Make({Scope::kRead});
  const auto stored = [&] {
    EXPECT_TRUE(access_->ListAudit({}, "").ok());  // waits until all is written
    const std::vector<KeyRecord> keys = *store_->ListAllKeys();
    for (const KeyRecord& record : keys) {
      if (record.id == key.key.id) return record.use.last_used_ms;
    }
    return int64_t{-1};
  };
  EXPECT_EQ(stored(), 0);
  EXPECT_EQ(Refused(key.secret), "");
  EXPECT_EQ(stored(), kStartMs);
  now_ms_ += 59'999;
  EXPECT_EQ(Refused(key.secret), "");
  EXPECT_EQ(stored(), kStartMs);
  EXPECT_EQ(access_->Get(key.key.id)->use.last_used_ms, kStartMs + 59'999);
  EXPECT_EQ(access_->List({})->items[0].use.last_used_ms, kStartMs + 59'999);
  now_ms_ += 1;
  EXPECT_EQ(Refused(key.secret), "");
  EXPECT_EQ(stored(), kStartMs + 60'000);
  now_ms_ += 5;
  EXPECT_EQ(Refused(key.secret), "");
  Reopen();
  EXPECT_EQ(stored(), kStartMs + 60'005) << "the end writes what is left";
}

TEST_F(AccessControlTest, AKeyFromOutsideOpensTheDoorAndIsNotStored) {
  admin_key_ = "a-secret-of-the-cluster-0123456789abcdef";
  Reopen();
  EXPECT_TRUE(access_->keys_required());
  EXPECT_EQ(Refused(""), "KEY_MISSING");
  const auto call = Call(admin_key_, "AccessService", "CreateKey");
  ASSERT_TRUE(call.status.ok());
  EXPECT_EQ(call.caller.key(), kGivenKeyId);
  EXPECT_TRUE(store_->ListAllKeys()->empty());
  EXPECT_TRUE(access_->Get(std::string(kGivenKeyId)).ok());
  EXPECT_TRUE(access_->List({})->items.empty());
  EXPECT_EQ(ReasonOf(access_->Revoke(std::string(kGivenKeyId), "").status()), "KEY_NOT_FOUND");
  // There is an admin: the first stored key need not be one, and the last stored admin may go.
  const KeyWithSecret reader = Make({Scope::kRead});
  const KeyWithSecret admin = Make({Scope::kAdmin});
  EXPECT_TRUE(access_->Revoke(admin.key.id, "").ok());
  admin_key_ = "";
  Reopen();
  EXPECT_EQ(Refused("a-secret-of-the-cluster-0123456789abcdef"), "KEY_UNKNOWN");
  EXPECT_EQ(Refused(reader.secret), "");
}

TEST_F(AccessControlTest, RefusesBadKeysByName) {
  const auto refused = [&](const CreateKeyArgs& args) { return ReasonOf(access_->Create(args).status()); };
  const ScopeSet admin = {Scope::kAdmin};
  EXPECT_EQ(refused({.display_name = "", .scopes = admin}), "KEY_DISPLAY_NAME");
  EXPECT_EQ(refused({.display_name = std::string(201, 'x'), .scopes = admin}), "KEY_DISPLAY_NAME");
  EXPECT_EQ(refused({.display_name = "k", .scopes = {}}), "KEY_SCOPES");
  EXPECT_EQ(refused({.display_name = "k", .scopes = admin, .limits = {.requests_per_minute = -1}}), "KEY_LIMITS");
  EXPECT_EQ(refused({.display_name = "k", .scopes = admin, .limits = {.upload_bytes_per_day = -1}}), "KEY_LIMITS");
  EXPECT_EQ(refused({.display_name = "k", .scopes = admin, .ttl_seconds = -1}), "KEY_TTL");
  EXPECT_EQ(refused({.display_name = "k", .scopes = admin, .ttl_seconds = kMaxTtlSeconds + 1}), "KEY_TTL");
  EXPECT_EQ(refused({.display_name = "k", .scopes = admin, .request_id = "no spaces"}), "REQUEST_ID");
  EXPECT_FALSE(access_->keys_required());
}

TEST_F(AccessControlTest, TheSameRequestIdMakesOneKeyAndShowsItsSecretOnce) {
  const CreateKeyArgs args = {.display_name = "k", .scopes = {Scope::kAdmin}, .request_id = "r1", .payload = "p"};
  const auto first = access_->Create(args);
  const auto again = access_->Create(args);
  ASSERT_TRUE(first.ok() && again.ok());
  EXPECT_FALSE(first->secret.empty());
  EXPECT_EQ(again->secret, "");
  EXPECT_EQ(again->key.id, first->key.id);
  EXPECT_EQ(store_->ListAllKeys()->size(), 1u);
}

TEST_F(AccessControlTest, UnknownCallersCannotFillTheAuditLog) {
  Make({Scope::kAdmin});
  for (int i = 0; i < 500; ++i) access_->Audit({.method = "JobService.GetJob", .code = "UNAUTHENTICATED"});
  access_->Audit({.key = "k1", .method = "JobService.DeleteJob", .code = "PERMISSION_DENIED"});
  auto page = *access_->ListAudit({.page_size = 1000, .page_token = ""}, "");
  EXPECT_EQ(page.items.size(), 61u);
  EXPECT_EQ(page.items[0].key, "k1");
  EXPECT_EQ(page.items[0].time_ms, kStartMs);
  now_ms_ += 1'000;
  access_->Audit({.method = "JobService.GetJob", .code = "UNAUTHENTICATED"});
  EXPECT_EQ(access_->ListAudit({.page_size = 1000, .page_token = ""}, "")->items.size(), 62u);
  // Of those with a key, the newest 100 stay, as this test's options say.
  for (int i = 0; i < 300; ++i) access_->Audit({.key = "k2", .method = "M", .code = "OK"});
  page = *access_->ListAudit({.page_size = 1000, .page_token = ""}, "");
  EXPECT_EQ(page.items.size(), 100u);
}

TEST(AccessJournalTest, TellsWhatItCouldNotKeep) {
  TempDir dir;
  auto store = OpenSqliteMetadataStore(dir / "meta");
  std::vector<std::string> errors;
  {
    AccessJournal journal({.keep = 1000,
                           .max_queued = 0,
                           .on_error = [&](const absl::Status& error) { errors.push_back(ReasonOf(error)); }},
                          **store);
    journal.Add({.method = "M"});
    journal.Flush();
  }
  EXPECT_THAT(errors, testing::ElementsAre("AUDIT_DROPPED"));
  EXPECT_TRUE((*store)->ListAuditEvents({}, "")->items.empty());
}

}  // namespace
}  // namespace qamserve
