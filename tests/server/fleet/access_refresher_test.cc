// API keys in two processes over one store.
#include "server/fleet/access_refresher.h"

#include <gmock/gmock.h>

#include "tests/server/fleet/fleet_fixture.h"

namespace qamserve {
namespace {

class AccessRefresherTest : public FleetTest {
 protected:
  // A process.
  struct Process {
    Process(MetadataStore& store, absl::Duration interval)
        : access(AccessControl::Open({}, store).value()), refresher(*access, store, interval, nullptr) {}
    std::unique_ptr<AccessControl> access;
    AccessRefresher refresher;
  };

  static std::string ReasonFor(Process& process, const std::string& secret) {
    const absl::Status status =
        process.access->Admit("Bearer " + secret, FindMethodRule("SystemService", "GetSystem")).status;
    return status.ok() ? "" : ReasonOf(status);
  }
};

TEST_F(AccessRefresherTest, KeysMadeAndRevokedByOneAreSeenByAll) {
  // Far apart: what is seen has been told.
  Process first(*store_, absl::Hours(1));
  Process second(*store_, absl::Hours(1));
  EXPECT_FALSE(second.access->keys_required());
  const auto admin = first.access->Create({.display_name = "admin", .scopes = {Scope::kAdmin}});
  ASSERT_TRUE(admin.ok()) << admin.status();
  EXPECT_TRUE(Eventually([&] { return second.access->keys_required(); }));
  EXPECT_EQ(ReasonFor(second, admin->secret), "");
  const auto reader = second.access->Create({.display_name = "reader", .scopes = {Scope::kRead}});
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_TRUE(Eventually([&] { return ReasonFor(first, reader->secret).empty(); }));
  const auto rotated = first.access->Rotate(reader->key.id, 0, 0);
  ASSERT_TRUE(rotated.ok()) << rotated.status();
  EXPECT_TRUE(Eventually([&] { return ReasonFor(second, rotated->secret).empty(); }));
  EXPECT_EQ(ReasonFor(second, reader->secret), "KEY_EXPIRED");
  ASSERT_TRUE(first.access->Revoke(reader->key.id, "").ok());
  EXPECT_TRUE(Eventually([&] { return ReasonFor(second, rotated->secret) == "KEY_REVOKED"; }));
  ASSERT_TRUE(second.access->Delete(reader->key.id).ok());
  EXPECT_TRUE(Eventually([&] { return ReasonFor(first, rotated->secret) == "KEY_UNKNOWN"; }));
}

TEST_F(AccessRefresherTest, CountsGoOnOverARefresh) {
  Process process(*store_, absl::Hours(1));
  KeyLimits limits;
  limits.requests_per_minute = 2;
  const auto key =
      process.access->Create({.display_name = "k", .scopes = {Scope::kAdmin, Scope::kRead}, .limits = limits});
  ASSERT_TRUE(key.ok());
  EXPECT_EQ(ReasonFor(process, key->secret), "");
  ASSERT_TRUE(process.access->Refresh().ok());
  EXPECT_EQ(ReasonFor(process, key->secret), "");
  ASSERT_TRUE(process.access->Refresh().ok());
  EXPECT_EQ(ReasonFor(process, key->secret), "KEY_LIMIT");
}

TEST_F(AccessRefresherTest, AStoreThatLostItsKeysOpensNoDoor) {
  Process process(*store_, absl::Hours(1));
  const auto key = process.access->Create({.display_name = "admin", .scopes = {Scope::kAdmin}});
  ASSERT_TRUE(key.ok());
  ASSERT_TRUE(store_->DeleteKey(key->key.id).ok());
  EXPECT_EQ(ReasonOf(process.access->Refresh()), "LAST_KEY");
  EXPECT_TRUE(process.access->keys_required());
  EXPECT_EQ(ReasonFor(process, "wrong"), "KEY_UNKNOWN");
}

}  // namespace
}  // namespace qamserve
