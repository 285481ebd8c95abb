// Choosing tokens on a device against SampleLogits: the same to the last bit. Built twice: with the device's threads in
// turn on this machine, and for a GPU.
#include <gtest/gtest.h>

#include <limits>

#include "core/kernels/sampling.h"
#include "tests/core/kernels/sample_problems.h"
#include "tests/support/forward_test_device.h"

namespace qamserve {
namespace {

class SampleOps : public ForwardDeviceTest {
 protected:
  struct Chosen {
    std::vector<SampleResult> results;
    std::vector<float> logits;  // adjusted and masked
    std::vector<std::vector<LogitAdjustment>> adjustments;
  };

  Chosen Sample(std::vector<SampleProblem>& problems) {
    const auto vocab = static_cast<int64_t>(problems[0].logits.size()), count = static_cast<int64_t>(problems.size());
    std::vector<float> logits;
    std::vector<SampleRow> rows;
    std::vector<LogitAdjustment*> adjustments;
    for (const SampleProblem& p : problems) {
      logits.insert(logits.end(), p.logits.begin(), p.logits.end());
      rows.push_back(p.row);
      rows.back().row = count - static_cast<int64_t>(rows.size());  // in another order than their results
      rows.back().adjustments = Upload(p.adjustments);
      rows.back().adjustment_count = static_cast<int64_t>(p.adjustments.size());
      rows.back().allowed = p.allowed.empty() ? nullptr : Upload(p.allowed);
    }
    std::vector<float> reversed;
    for (int64_t i = count; i-- > 0;) {
      reversed.insert(reversed.end(), logits.begin() + i * vocab, logits.begin() + (i + 1) * vocab);
    }
    SampleArgs args;
    args.logits = Upload(reversed);
    args.vocab = vocab;
    args.rows = Upload(rows);
    args.results = static_cast<SampleResult*>(Allocate(count * static_cast<int64_t>(sizeof(SampleResult))));
    args.count = count;
    const absl::Status status = device().Sample(args);
    EXPECT_TRUE(status.ok()) << status;
    Chosen out;
    out.results = Download(args.results, count);
    out.logits = Download(args.logits, count * vocab);
    for (const SampleRow& row : rows) {
      out.adjustments.push_back(Download<LogitAdjustment>(row.adjustments, row.adjustment_count));
    }
    return out;
  }

  static void ExpectSame(const SampleResult& got, const SampleResult& expected, const std::string& what) {
    ASSERT_EQ(got.outcome, expected.outcome) << what;
    if (got.outcome == SampleOutcome::kNotFinite) return;
    EXPECT_EQ(got.own_largest, expected.own_largest) << what;
    EXPECT_EQ(got.own_total, expected.own_total) << what;
    ASSERT_EQ(got.best_count, expected.best_count) << what;
    for (int32_t i = 0; i < got.best_count; ++i) {
      EXPECT_EQ(got.best[i].logit, expected.best[i].logit) << what << ", best " << i;
      EXPECT_EQ(got.best[i].token, expected.best[i].token) << what << ", best " << i;
    }
    if (got.outcome == SampleOutcome::kNothing) return;
    EXPECT_EQ(got.token, expected.token) << what;
    EXPECT_EQ(got.own, expected.own) << what;
  }

  // Counts those that were left to the host.
  int ExpectTheReference(int64_t vocab, int count) {
    std::vector<SampleProblem> problems = SampleProblems(vocab, static_cast<uint64_t>(1000 + vocab), count);
    const Chosen chosen = Sample(problems);
    SampleScratch scratch;
    int undecided = 0;
    for (size_t i = 0; i < problems.size(); ++i) {
      SampleProblem& p = problems[i];
      std::vector<float> logits = p.logits;
      const SampleResult expected = SampleLogits(ScalarKernels(), logits, p.Row(), scratch);
      const auto first = chosen.logits.begin() + static_cast<ptrdiff_t>((problems.size() - 1 - i) * logits.size());
      EXPECT_TRUE(std::equal(logits.begin(), logits.end(), first)) << p.what << ": adjusted logits";
      for (size_t a = 0; a < p.adjustments.size(); ++a) {
        EXPECT_EQ(chosen.adjustments[i][a].own, p.adjustments[a].own) << p.what;
      }
      SampleResult got = chosen.results[i];
      if (got.outcome == SampleOutcome::kUndecided) {
        ++undecided;
        EXPECT_TRUE(p.row.top_k > SampleBlock::kTop || p.row.top_p < 1) << p.what;
        got.outcome = expected.outcome;  // chosen on the host from the same logits
        got.token = expected.token;
        got.own = expected.own;
      }
      ExpectSame(got, expected, p.what);
    }
    return undecided;
  }
};

TEST_F(SampleOps, GivesWhatTheHostGives) {
  for (const int64_t vocab : {1, 2, 31, 33, 320, 1023, 1024}) EXPECT_EQ(ExpectTheReference(vocab, 120), 0) << vocab;
  ExpectTheReference(1025, 60);
  EXPECT_GT(ExpectTheReference(5003, 60), 0) << "some want more tokens than are sorted";
}

TEST_F(SampleOps, LargeVocabularies) { ExpectTheReference(129280, 16); }

// What a model says is decided here, unless top-p asks for more than a thousand tokens.
TEST_F(SampleOps, OrdinaryDrawsAreDecided) {
  std::vector<SampleProblem> problems = SampleProblems(40000, 3, 12);
  Rng rng(4);
  for (SampleProblem& p : problems) {
    for (float& logit : p.logits) logit = RandomLogit(LogitKind::kSpike, rng) * 3;
    p.row.temperature = 1;
    p.row.top_p = 0.9;
    p.row.top_k = 50;
  }
  for (const SampleResult& result : Sample(problems).results) EXPECT_NE(result.outcome, SampleOutcome::kUndecided);
}

TEST_F(SampleOps, NotFiniteIsSaid) {
  std::vector<SampleProblem> problems = SampleProblems(700, 9, 4);
  problems[0].logits[699] = std::numeric_limits<float>::infinity();
  problems[1].logits[0] = std::numeric_limits<float>::quiet_NaN();
  problems[2].logits[350] = -std::numeric_limits<float>::infinity();
  const std::vector<SampleResult> results = Sample(problems).results;
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(results[i].outcome, SampleOutcome::kNotFinite) << i;
  EXPECT_NE(results[3].outcome, SampleOutcome::kNotFinite);
}

}  // namespace
}  // namespace qamserve
