// Which steps are kept as graphs, and what becomes of those that cannot be: without a GPU.
#include "core/kernels/cuda/forward/graph_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace qamserve {
namespace {

class GraphCacheTest : public testing::Test {
 protected:
  // What was done for `key`: "queued", or tries of "record" and then "launched" or "queued".
  std::string Repeat(const std::vector<int64_t>& key) {
    done_.clear();
    const absl::Status status = cache_.Repeat(
        key,
        [this] {
          done_ += "queued";
          return queue_status_;
        },
        [this](absl::FunctionRef<absl::Status()>, std::unique_ptr<int>& graph) {
          done_ += "record ";
          graph = std::make_unique<int>(++graphs_);  // one that fails may leave something behind
          return record_status_;
        },
        [this](const std::unique_ptr<int>& graph) {
          done_ += "launched " + std::to_string(*graph);
          return absl::OkStatus();
        });
    return status.ok() ? done_ : done_ + ": " + ReasonOf(status);
  }

  GraphCache<std::unique_ptr<int>> cache_;
  absl::Status queue_status_, record_status_;
  int graphs_ = 0;
  std::string done_;
};

TEST_F(GraphCacheTest, AStepIsRecordedWhenItComesAgain) {
  EXPECT_EQ(Repeat({1}), "queued");
  EXPECT_EQ(Repeat({2}), "queued");
  EXPECT_EQ(Repeat({1}), "record launched 1");
  EXPECT_EQ(Repeat({1}), "launched 1");
  EXPECT_EQ(Repeat({2}), "record launched 2");
  EXPECT_EQ(Repeat({1}), "launched 1");
  EXPECT_EQ(cache_.refused(), 0);
}

TEST_F(GraphCacheTest, AStepThatCannotBeRecordedIsQueuedAsItIsAndNotTriedAgain) {
  record_status_ = ResourceExhausted("CUDA_MEMORY", "no memory for a graph");
  EXPECT_EQ(Repeat({1}), "queued");
  EXPECT_EQ(Repeat({1}), "record queued");
  EXPECT_EQ(Repeat({1}), "queued");
  record_status_ = absl::OkStatus();
  EXPECT_EQ(Repeat({1}), "queued") << "though there would be memory now";
  EXPECT_EQ(cache_.refused(), 1);
  EXPECT_EQ(Repeat({2}), "queued");
  EXPECT_EQ(Repeat({2}), "record launched 2") << "others are tried";
  EXPECT_EQ(cache_.refused(), 1);
}

// What the step itself runs into is the answer, not what its recording ran into.
TEST_F(GraphCacheTest, ErrorsOfTheStepAreItsOwn) {
  EXPECT_EQ(Repeat({1}), "queued");
  record_status_ = ResourceExhausted("CUDA_MEMORY", "no memory for a graph");
  queue_status_ = Internal("CUDA_LOST", "the device is lost");
  EXPECT_EQ(Repeat({1}), "record queued: CUDA_LOST");
  EXPECT_EQ(Repeat({1}), "queued: CUDA_LOST");
  EXPECT_EQ(Repeat({3}), "queued: CUDA_LOST");
}

TEST_F(GraphCacheTest, KeepsNoMoreThanItsMost) {
  for (int64_t i = 0; i < kMostGraphs; ++i) {
    EXPECT_EQ(Repeat({i}), "queued");
    EXPECT_EQ(Repeat({i}), "record launched " + std::to_string(i + 1));
  }
  EXPECT_EQ(Repeat({0}), "launched 1") << "all fit";
  EXPECT_EQ(Repeat({kMostGraphs}), "queued");
  EXPECT_EQ(Repeat({0}), "queued") << "all went for the one too many";
}

TEST_F(GraphCacheTest, KnowsWhatWasRefusedWhenOthersGo) {
  record_status_ = ResourceExhausted("CUDA_MEMORY", "no memory for a graph");
  EXPECT_EQ(Repeat({-1}), "queued");
  EXPECT_EQ(Repeat({-1}), "record queued");
  record_status_ = absl::OkStatus();
  for (int64_t i = 0; i < 2 * kMostGraphs; ++i) EXPECT_EQ(Repeat({i}), "queued");
  EXPECT_EQ(Repeat({-1}), "queued");
  EXPECT_EQ(cache_.refused(), 1);
  // But not for ever: who refuses everything is asked again.
  record_status_ = ResourceExhausted("CUDA_MEMORY", "no memory for a graph");
  for (int64_t i = 0; i < kMostGraphs; ++i) {
    Repeat({1000 + i});
    Repeat({1000 + i});
  }
  record_status_ = absl::OkStatus();
  EXPECT_EQ(Repeat({-1}), "queued");
  EXPECT_EQ(Repeat({-1}).substr(0, 15), "record launched");
}

}  // namespace
}  // namespace qamserve
