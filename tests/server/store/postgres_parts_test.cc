// The parts of the PostgreSQL store that need no server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/store/postgres_address.h"
#include "server/store/postgres_clock.h"
#include "server/store/postgres_errors.h"
#include "server/store/postgres_events.h"
#include "server/store/postgres_metadata_store.h"

namespace qamserve {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

PostgresAddress Parse(const std::string& uri) {
  auto address = ParsePostgresUri(uri, {});
  EXPECT_TRUE(address.ok()) << address.status();
  return address.value_or(PostgresAddress{});
}

absl::Status ParseError(const std::string& uri) { return ParsePostgresUri(uri, {}).status(); }

TEST(PostgresAddressTest, TakesAUriApartAndShowsItWithoutThePassword) {
  const PostgresAddress address = Parse("postgresql://ada:s%40cret@db.example:5433/qam?sslmode=verify-full");
  ASSERT_EQ(address.hosts.size(), 1u);
  EXPECT_THAT(address.hosts[0], Contains(Pair("host", "db.example")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("port", "5433")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("user", "ada")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("password", "s@cret")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("dbname", "qam")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("sslmode", "verify-full")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("client_encoding", "UTF8")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("keepalives_idle", "10")));
  EXPECT_EQ(address.shown, "postgresql://ada@db.example:5433/qam");
}

TEST(PostgresAddressTest, LeavesToTheUriWhatItSays) {
  const PostgresAddress address = Parse("postgres:///qam?host=/run/pg&keepalives_idle=99&application_name=mine");
  EXPECT_THAT(address.hosts[0], Contains(Pair("host", "/run/pg")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("keepalives_idle", "99")));
  EXPECT_THAT(address.hosts[0], Contains(Pair("application_name", "mine")));
  EXPECT_EQ(address.shown, "postgresql:///run/pg/qam");
}

TEST(PostgresAddressTest, MakesAPlaceOfEachHost) {
  const PostgresAddress address = Parse("postgresql://a:1,b,c:3/d?target_session_attrs=read-write");
  ASSERT_EQ(address.hosts.size(), 3u);
  EXPECT_THAT(address.hosts[0], Contains(Pair("port", "1")));
  EXPECT_THAT(address.hosts[1], Contains(Pair("host", "b")));
  EXPECT_THAT(address.hosts[1], Not(Contains(Pair("port", testing::_))));
  EXPECT_THAT(address.hosts[2], Contains(Pair("host", "c")));
  // The store looks for the right server by itself, one after the other.
  EXPECT_THAT(address.hosts[2], Not(Contains(Pair("target_session_attrs", testing::_))));
  EXPECT_EQ(address.shown, "postgresql://a:1,b,c:3/d");
  EXPECT_EQ(Parse("postgresql:///d?host=a,b&port=7").hosts[1].back(),
            std::make_pair(std::string("port"), std::string("7")));
  EXPECT_EQ(Parse("postgresql:///d?hostaddr=10.0.0.1,10.0.0.2").hosts.size(), 2u);
}

TEST(PostgresAddressTest, RefusesWhatItCannotRead) {
  for (const char* uri :
       {"mysql://h/d", "host=h", "postgresql://u:secret@h/d?nonsense=1", "postgresql://u:se%zzcret@h/d",
        "postgresql://u:secret/x@h/d", "postgresql://a,b/d?port=1,2,3",
        "postgresql:///d?host=a,b&hostaddr=1.1.1.1,2.2.2.2,3.3.3.3", "postgresql://h/d?target_session_attrs=standby"}) {
    const absl::Status status = ParseError(uri);
    EXPECT_EQ(ReasonOf(status), "STORE_URI") << uri;
    EXPECT_THAT(MessageOf(status), Not(HasSubstr("cret"))) << uri;
  }
}

TEST(PostgresAddressTest, IsToldFromAPath) {
  EXPECT_TRUE(IsPostgresUri("postgresql://h/d"));
  EXPECT_TRUE(IsPostgresUri("postgres://h/d"));
  EXPECT_FALSE(IsPostgresUri("/var/lib/qamserve/meta.sqlite"));
  EXPECT_FALSE(IsPostgresUri(""));
}

TEST(PostgresErrorsTest, SqlStatesBecomeReasons) {
  const auto reason = [](const char* sqlstate) { return std::string(ClassifySqlState(sqlstate).reason); };
  EXPECT_EQ(reason("40001"), "STORE_CONFLICT");
  EXPECT_EQ(reason("40P01"), "STORE_CONFLICT");
  EXPECT_EQ(reason("55P03"), "STORE_CONFLICT");
  EXPECT_EQ(reason("23505"), "STORE_CONSTRAINT");
  EXPECT_EQ(reason("53100"), "DISK_FULL");
  EXPECT_EQ(reason("25006"), "STORE_READ_ONLY");
  EXPECT_EQ(reason("28P01"), "STORE_CREDENTIALS");
  EXPECT_EQ(reason("28000"), "STORE_CREDENTIALS");
  EXPECT_EQ(reason("42501"), "STORE_CREDENTIALS");
  EXPECT_EQ(reason("3D000"), "STORE_MISSING");
  EXPECT_EQ(reason("22021"), "STORE_VALUE");
  EXPECT_EQ(reason("XX001"), "STORE_CORRUPT");
  EXPECT_EQ(reason("57P01"), "STORE_UNAVAILABLE");
  EXPECT_EQ(reason("42P01"), "STORE_UNAVAILABLE");
  EXPECT_EQ(reason(""), "STORE_UNAVAILABLE");
  EXPECT_TRUE(ClassifySqlState("57P01").session_ends);
  EXPECT_TRUE(ClassifySqlState("08006").session_ends);
  EXPECT_FALSE(ClassifySqlState("23505").session_ends);
}

TEST(PostgresErrorsTest, TheLastCodeOfConnectingCounts) {
  EXPECT_EQ(SqlStateOfConnectError("connection to server on socket \"/s\" failed: FATAL:  28P01: password "
                                   "authentication failed for user \"a\"\nLOCATION:  auth_failed, auth.c:335\n"),
            "28P01");
  EXPECT_EQ(SqlStateOfConnectError(
                "connection to server at \"a\" failed: FATAL:  57P03: the database system is starting "
                "up\nconnection to server at \"b\" failed: FATAL:  3D000: database \"x\" does not exist\n"),
            "3D000");
  // The severity is translated, the code is not.
  EXPECT_EQ(SqlStateOfConnectError("Verbindung: FATAL:  3D000: Datenbank »x« existiert nicht\n"), "3D000");
  EXPECT_EQ(SqlStateOfConnectError("connection to server at \"a\" failed: Connection refused\n\tIs it running?\n"), "");
  EXPECT_EQ(SqlStateOfConnectError(":  "), "");
  EXPECT_EQ(SqlStateOfConnectError(""), "");
}

TEST(PostgresErrorsTest, OneLineHasNoPlacesInTheSource) {
  EXPECT_EQ(OneLine("FATAL:  28P01: password authentication failed\nLOCATION:  auth_failed, auth.c:335\n"),
            "FATAL:  28P01: password authentication failed");
  EXPECT_EQ(OneLine("one\n\ttwo\n"), "one; two");
  EXPECT_EQ(OneLine(""), "");
}

PostgresClock::Sample Sample(int64_t server, int64_t server_us, int64_t asked_us, int64_t answered_us) {
  return {.server_start_us = server, .server_us = server_us, .asked_us = asked_us, .answered_us = answered_us};
}

// How far the clock is ahead of BootTimeUs, in ms.
int64_t OffsetMs(const PostgresClock& clock) {
  while (true) {
    const int64_t before_us = BootTimeUs();
    const int64_t now_ms = clock.NowMs();
    // Unless something else ran in between.
    if (BootTimeUs() - before_us < 500) return now_ms - before_us / 1000;
  }
}

constexpr int64_t kSecond = 1'000'000;

TEST(PostgresClockTest, KeepsTheSampleThatIsKnownBest) {
  PostgresClock clock;
  EXPECT_EQ(clock.NowMs(), 0);
  const int64_t now = BootTimeUs();
  // 100 s ahead, known to 10 ms.
  clock.Add(Sample(1, now + 100 * kSecond, now - 10'000, now + 10'000));
  EXPECT_NEAR(OffsetMs(clock), 100'000, 2);
  // Known to 500 ms and 300 ms off: the one before stays.
  clock.Add(Sample(1, now + kSecond + 100 * kSecond + 300'000, now + kSecond - 500'000, now + kSecond + 500'000));
  EXPECT_NEAR(OffsetMs(clock), 100'000, 2);
  // Known to 1 ms: better.
  clock.Add(Sample(1, now + 2 * kSecond + 100 * kSecond + 5'000, now + 2 * kSecond - 1'000, now + 2 * kSecond + 1'000));
  EXPECT_NEAR(OffsetMs(clock), 100'005, 2);
  // Known to 2 ms, but 20 s later, when two clocks may have moved apart by as much.
  clock.Add(
      Sample(1, now + 22 * kSecond + 100 * kSecond + 9'000, now + 22 * kSecond - 2'000, now + 22 * kSecond + 2'000));
  EXPECT_NEAR(OffsetMs(clock), 100'009, 2);
}

TEST(PostgresClockTest, FollowsAClockThatWasSetAndAnotherServer) {
  PostgresClock clock;
  const int64_t now = BootTimeUs();
  clock.Add(Sample(1, now + 100 * kSecond, now - 1'000, now + 1'000));
  // An hour back, known worse: no error of asking explains that.
  clock.Add(Sample(1, now - 3500 * kSecond, now - 50'000, now + 50'000));
  EXPECT_NEAR(OffsetMs(clock), -3'500'000, 2);
  clock.Add(Sample(2, now + 7'000, now - 50'000, now + 50'000));
  EXPECT_NEAR(OffsetMs(clock), 7, 2);
}

StoreEvent Event(StoreEvent::Kind kind, const std::string& id = "") { return {.kind = kind, .id = id}; }

std::vector<std::string> Lines(const std::vector<StoreEvent>& events) {
  std::vector<std::string> lines;
  for (const StoreEvent& event : events) lines.push_back(std::to_string(static_cast<int>(event.kind)) + event.id);
  return lines;
}

TEST(PostgresEventsTest, SurviveTheWay) {
  using Kind = StoreEvent::Kind;
  const std::vector<StoreEvent> events = {Event(Kind::kJob, "0123"), Event(Kind::kWork), Event(Kind::kServing),
                                          Event(Kind::kAccess), Event(Kind::kMissed)};
  const auto payloads = EncodeEvents({.sender = "me", .events = events, .ping = true});
  ASSERT_EQ(payloads.size(), 1u);
  EXPECT_EQ(payloads[0], "me\njob 0123\nwork\nserving\naccess\nmissed\nping");
  const EventMessage message = DecodeEvents(payloads[0]);
  EXPECT_EQ(message.sender, "me");
  EXPECT_TRUE(message.ping);
  EXPECT_EQ(Lines(message.events), Lines(events));
  EXPECT_TRUE(EncodeEvents({.sender = "me"}).empty());
}

TEST(PostgresEventsTest, FillPayloadsUpToTheLimit) {
  EventMessage message{.sender = "me"};
  for (int i = 0; i < 1000; ++i) message.events.push_back(Event(StoreEvent::Kind::kJob, std::to_string(100'000 + i)));
  const auto payloads = EncodeEvents(message);
  EXPECT_EQ(payloads.size(), 2u);
  std::vector<StoreEvent> all;
  for (const std::string& payload : payloads) {
    EXPECT_LT(payload.size(), 8000u);
    const EventMessage part = DecodeEvents(payload);
    EXPECT_EQ(part.sender, "me");
    all.insert(all.end(), part.events.begin(), part.events.end());
  }
  EXPECT_EQ(Lines(all), Lines(message.events));
}

TEST(PostgresEventsTest, WhatIsNotUnderstoodMeansLookAtEverything) {
  const auto missed = ElementsAre(testing::Field(&StoreEvent::kind, StoreEvent::Kind::kMissed));
  EXPECT_THAT(DecodeEvents("me\nof a later program").events, missed);
  const auto broken = EncodeEvents({.sender = "me", .events = {Event(StoreEvent::Kind::kJob, "a\nwork")}});
  ASSERT_EQ(broken.size(), 1u);
  EXPECT_THAT(DecodeEvents(broken[0]).events, missed);
  EXPECT_TRUE(DecodeEvents("").events.empty());
}

}  // namespace
}  // namespace qamserve
