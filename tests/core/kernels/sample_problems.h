// Rows of logits to choose from, with everything that a chooser may get wrong.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/kernels/sampling_row.h"

namespace qamserve {

// A row with what it is chosen by; copies point to their own.
struct SampleProblem {
  std::vector<float> logits;
  SampleRow row;
  std::vector<LogitAdjustment> adjustments;
  std::vector<uint64_t> allowed;
  std::string what;

  // The row with pointers to what is here.
  SampleRow Row(int64_t at = 0) {
    SampleRow out = row;
    out.row = at;
    out.adjustments = adjustments.data();
    out.adjustment_count = static_cast<int64_t>(adjustments.size());
    out.allowed = allowed.empty() ? nullptr : allowed.data();
    return out;
  }
};

enum class LogitKind { kGaussian, kEqual, kFewValues, kHuge, kTiny, kSpike };
inline constexpr LogitKind kLogitKinds[] = {LogitKind::kGaussian, LogitKind::kEqual, LogitKind::kFewValues,
                                            LogitKind::kHuge,     LogitKind::kTiny,  LogitKind::kSpike};

inline float RandomLogit(LogitKind kind, Rng& rng) {
  const auto gaussian = static_cast<float>(rng.NextGaussian());
  switch (kind) {
    case LogitKind::kGaussian:
      return 4 * gaussian;
    case LogitKind::kEqual:
      return 1.5f;
    case LogitKind::kFewValues:  // zeros of both signs among them
      return static_cast<float>(static_cast<int>(rng.NextU64() % 4) - 2) * (gaussian < 0 ? 1.0f : -1.0f);
    case LogitKind::kHuge:
      return gaussian * 1e37f;
    case LogitKind::kTiny:
      return gaussian * 1e-39f;
    case LogitKind::kSpike:
      return rng.NextU64() % 97 == 0 ? 30 + gaussian : gaussian;
  }
  return 0;
}

// Every cut at every strength, alone and together, with and without adjustments and a mask, at every temperature.
inline std::vector<SampleProblem> SampleProblems(int64_t vocab, uint64_t seed, int count) {
  Rng rng(seed);
  const double temperatures[] = {0, 1, 0.7, 1.8, 100, 1e-3, 1e-320};
  const int32_t top_ks[] = {0, 0, 1, 2, 40, 1024, 1025, 5000};
  const double top_ps[] = {1, 1, 0.95, 0.5, 1e-9, 0.999999};
  const double min_ps[] = {0, 0, 0.05, 0.999};
  const int32_t logprobs[] = {-1, -1, 0, 1, 5, kMaxBestLogits};
  const auto any = [&](const auto& of) { return of[rng.NextU64() % std::size(of)]; };
  std::vector<SampleProblem> out;
  for (int i = 0; i < count; ++i) {
    SampleProblem p;
    const LogitKind kind = any(kLogitKinds);
    for (int64_t token = 0; token < vocab; ++token) p.logits.push_back(RandomLogit(kind, rng));
    p.row.temperature = any(temperatures);
    p.row.top_k = any(top_ks);
    p.row.top_p = any(top_ps);
    p.row.min_p = any(min_ps);
    p.row.logprobs = any(logprobs);
    p.row.draw = i % 16 == 0 ? 0 : i % 16 == 1 ? ~uint64_t{0} : rng.NextU64();
    if (rng.NextU64() % 3 == 0) {
      for (int64_t token = 0; token < vocab; ++token) {
        if (rng.NextU64() % 7 != 0) continue;
        p.adjustments.push_back({.token = static_cast<int32_t>(token)});
        LogitAdjustment& a = p.adjustments.back();
        if (rng.NextU64() % 2 == 0) a.penalty = 1.3f;
        if (rng.NextU64() % 2 == 0) a.bias = static_cast<float>(3 * rng.NextGaussian());
        if (rng.NextU64() % 2 == 0) a.less = 0.5f;
      }
    }
    if (rng.NextU64() % 3 == 0) {
      const bool few = rng.NextU64() % 2 == 0;
      p.allowed.resize(static_cast<size_t>((vocab + 63) / 64));
      for (uint64_t& word : p.allowed) word = few ? rng.NextU64() & rng.NextU64() & rng.NextU64() : rng.NextU64();
    }
    p.what = "vocabulary " + std::to_string(vocab) + ", problem " + std::to_string(i) + ": logits " +
             std::to_string(static_cast<int>(kind)) + ", temperature " + std::to_string(p.row.temperature) +
             ", top_k " + std::to_string(p.row.top_k) + ", top_p " + std::to_string(p.row.top_p) + ", min_p " +
             std::to_string(p.row.min_p) + ", " + std::to_string(p.adjustments.size()) + " adjustments" +
             (p.allowed.empty() ? "" : ", masked");
    out.push_back(std::move(p));
  }
  return out;
}

}  // namespace qamserve
