#include "server/store/queue_order.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace qamserve {
namespace {

QueuedJob Job(const std::string& id, int64_t sequence, int32_t priority = 0, const std::string& project = "",
              int64_t created_ms = 0) {
  return {.id = id, .project = project, .priority = priority, .created_ms = created_ms, .sequence = sequence};
}

std::vector<std::string> Order(std::vector<QueuedJob> jobs, const std::map<std::string, int64_t>& running = {},
                               int64_t now_ms = 0) {
  OrderQueue(jobs, running, now_ms);
  std::vector<std::string> ids;
  ids.reserve(jobs.size());
  for (const QueuedJob& job : jobs) ids.push_back(job.id);
  return ids;
}

TEST(QueueOrderTest, PriorityGrowsWithTimeUpToALimit) {
  const QueuedJob job = Job("a", 1, 3, "", 1000);
  EXPECT_EQ(EffectivePriority(job, 0), 3) << "a clock that was set back";
  EXPECT_EQ(EffectivePriority(job, 1000), 3);
  EXPECT_EQ(EffectivePriority(job, 1000 + kAgingMs - 1), 3);
  EXPECT_EQ(EffectivePriority(job, 1000 + kAgingMs), 4);
  EXPECT_EQ(EffectivePriority(job, 1000 + kMaxAgingPoints * kAgingMs), 3 + kMaxAgingPoints);
  EXPECT_EQ(EffectivePriority(job, 1000 + 5 * kMaxAgingPoints * kAgingMs), 3 + kMaxAgingPoints);
  constexpr int32_t kMost = std::numeric_limits<int32_t>::max();
  EXPECT_EQ(EffectivePriority(Job("b", 1, kMost), kAgingMs), int64_t{kMost} + 1);
}

TEST(QueueOrderTest, PriorityComesFirstThenProjectThenAge) {
  EXPECT_THAT(Order({Job("old", 1), Job("young", 2), Job("urgent", 3, 1)}),
              testing::ElementsAre("urgent", "old", "young"));
  const std::vector<QueuedJob> jobs = {Job("a1", 1, 0, "a"), Job("a2", 2, 0, "a"), Job("b1", 3, 0, "b"),
                                       Job("urgent", 4, 1, "a"), Job("none", 5)};
  EXPECT_THAT(Order(jobs), testing::ElementsAre("urgent", "a1", "a2", "b1", "none"));
  EXPECT_THAT(Order(jobs, {{"a", 1}}), testing::ElementsAre("urgent", "b1", "none", "a1", "a2"));
  EXPECT_THAT(Order(jobs, {{"a", 2}, {"b", 3}, {"", 1}}), testing::ElementsAre("urgent", "none", "a1", "a2", "b1"));
  EXPECT_THAT(Order({}), testing::IsEmpty());
}

// Projects share the workers although one of them has been waiting for hours longer.
TEST(QueueOrderTest, AgeDoesNotDecideBetweenProjectsOfOnePriority) {
  const std::vector<QueuedJob> jobs = {Job("old1", 1, 0, "old", 0), Job("old2", 2, 0, "old", 0),
                                       Job("new1", 3, 0, "new", 90 * kAgingMs)};
  EXPECT_THAT(Order(jobs, {}, 90 * kAgingMs), testing::ElementsAre("old1", "old2", "new1"));
  EXPECT_THAT(Order(jobs, {{"old", 1}}, 90 * kAgingMs), testing::ElementsAre("new1", "old1", "old2"));
  EXPECT_THAT(Order(jobs, {{"old", 2}, {"new", 2}}, 90 * kAgingMs), testing::ElementsAre("old1", "old2", "new1"));
}

// A job that has grown overtakes what is more important, and takes nobody of its own priority with it.
TEST(QueueOrderTest, OnlyWhatHasWaitedOvertakes) {
  const std::vector<QueuedJob> jobs = {Job("old", 1, 0, "a", 0), Job("new", 2, 0, "a", 20 * kAgingMs),
                                       Job("urgent", 3, 5, "a", 20 * kAgingMs)};
  EXPECT_THAT(Order(jobs, {}, 20 * kAgingMs), testing::ElementsAre("old", "urgent", "new"));
  // One behind a project that has less under way waits for it: their row is being worked on.
  const std::vector<QueuedJob> others = {Job("old", 1, 0, "a", 0), Job("new", 2, 0, "b", 20 * kAgingMs),
                                         Job("urgent", 3, 5, "b", 20 * kAgingMs)};
  EXPECT_THAT(Order(others, {{"a", 3}}, 20 * kAgingMs), testing::ElementsAre("urgent", "new", "old"));
}

TEST(QueueOrderTest, WhatIsLessImportantIsLateAndNotForgotten) {
  const std::vector<QueuedJob> jobs = {Job("patient", 1, 0, "", 0), Job("new", 2, 6, "", 5 * kAgingMs)};
  EXPECT_THAT(Order(jobs, {}, 5 * kAgingMs), testing::ElementsAre("new", "patient"));
  const std::vector<QueuedJob> later = {Job("patient", 1, 0, "", 0), Job("new", 2, 6, "", 7 * kAgingMs)};
  EXPECT_THAT(Order(later, {}, 7 * kAgingMs), testing::ElementsAre("patient", "new"));
  // What is far more important is never overtaken.
  const std::vector<QueuedJob> far = {Job("patient", 1, 0, "", 0), Job("far", 2, 101, "", 1000 * kAgingMs)};
  EXPECT_THAT(Order(far, {}, 1000 * kAgingMs), testing::ElementsAre("far", "patient"));
}

}  // namespace
}  // namespace qamserve
