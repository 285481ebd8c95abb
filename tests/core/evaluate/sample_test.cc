// Windows of the model's own samples.
#include <gtest/gtest.h>

#include <set>

#include "core/evaluate/evaluate.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_model.h"

namespace qamserve {
namespace {

using Windows = std::vector<std::vector<int32_t>>;

absl::Status NoProgress(double) { return absl::OkStatus(); }

class SampleTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteTinyModel({}, folder_ / "model").ok());
    auto model = Model::Load(*FileSet::FromPath(folder_ / "model"));
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  absl::StatusOr<Windows> Sample(const std::vector<int32_t>& beginning, int32_t windows, int32_t tokens,
                                 uint64_t seed) {
    ThreadPool pool(2);
    return SampleWindows(*model_, beginning, windows, tokens, seed, pool, NoProgress);
  }

  TempFolder folder_;
  std::shared_ptr<const Model> model_;
};

TEST_F(SampleTest, EveryWindowBeginsAsItWasToldAndGoesOnItsOwnWay) {
  const std::vector<int32_t> beginning = {1, 30, 31, 32, 33};
  const auto windows = Sample(beginning, 3, 24, 1);
  ASSERT_TRUE(windows.ok()) << windows.status();
  std::set<std::vector<int32_t>> different;
  for (const auto& window : *windows) {
    ASSERT_EQ(window.size(), 24u);
    EXPECT_EQ(std::vector<int32_t>(window.begin(), window.begin() + 5), beginning);
    different.insert(window);
  }
  EXPECT_EQ(different.size(), 3u);
  EXPECT_EQ(*Sample(beginning, 3, 24, 1), *windows);
  EXPECT_NE(*Sample(beginning, 3, 24, 2), *windows);
}

TEST_F(SampleTest, AllOfTheBeginningCounts) {
  // The random numbers are the same; that the model saw more than the last token shows in what it makes of them.
  const auto one = Sample({5}, 1, 12, 3), other = Sample({7, 5}, 1, 13, 3);
  ASSERT_TRUE(one.ok() && other.ok());
  EXPECT_NE(std::vector<int32_t>((*one)[0].begin() + 1, (*one)[0].end()),
            std::vector<int32_t>((*other)[0].begin() + 2, (*other)[0].end()));
}

TEST_F(SampleTest, ABeginningThatFillsTheWindowIsRefused) {
  EXPECT_TRUE(Sample({1, 2, 3}, 1, 4, 1).ok());
  for (const std::vector<int32_t>& beginning : {std::vector<int32_t>{}, std::vector<int32_t>{1, 2, 3, 4}}) {
    const absl::Status status = Sample(beginning, 1, 4, 1).status();
    EXPECT_EQ(ReasonOf(status), "WINDOW_TOKENS_RANGE") << status;
  }
}

}  // namespace
}  // namespace qamserve
