#include "server/telemetry/patient_query.h"

#include <absl/synchronization/notification.h>
#include <gtest/gtest.h>

#include <atomic>

namespace qamserve {
namespace {

TEST(PatientQueryTest, EachAnswerIsAFreshOne) {
  std::atomic<int> asked{0};
  PatientQuery<int> query([&]() -> std::optional<int> { return ++asked; });
  EXPECT_EQ(query.Ask(absl::Seconds(20)), 1);
  EXPECT_EQ(query.Ask(absl::Seconds(20)), 2);
}

TEST(PatientQueryTest, FailureIsNoValue) {
  PatientQuery<int> query([]() -> std::optional<int> { return std::nullopt; });
  EXPECT_EQ(query.Ask(absl::Seconds(20)), std::nullopt);
}

TEST(PatientQueryTest, AskersGoOnWithoutAnAnswer) {
  absl::Notification begun, go_on;
  std::atomic<int> asked{0};
  PatientQuery<int> query([&]() -> std::optional<int> {
    if (++asked == 1) {
      begun.Notify();
      go_on.WaitForNotification();
    }
    return asked;
  });
  EXPECT_EQ(query.Ask(absl::Milliseconds(50)), std::nullopt);
  EXPECT_TRUE(begun.HasBeenNotified());
  EXPECT_EQ(query.Ask(absl::Milliseconds(50)), std::nullopt);
  EXPECT_EQ(asked, 1) << "one question at a time";
  go_on.Notify();
  EXPECT_EQ(query.Ask(absl::Seconds(20)), 2) << "not the answer to the question from before";
}

TEST(PatientQueryTest, ItsEndWaitsForTheQuestion) {
  std::atomic<bool> over{false};
  {
    PatientQuery<int> query([&]() -> std::optional<int> {
      absl::SleepFor(absl::Milliseconds(100));
      over = true;
      return 1;
    });
    EXPECT_EQ(query.Ask(absl::Milliseconds(1)), std::nullopt);
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_TRUE(over);
}

}  // namespace
}  // namespace qamserve
