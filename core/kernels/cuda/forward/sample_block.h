// Choosing a token from a row of logits (core/kernels/sampling_row.h) by a block of threads, for host and device
// (block.h): the token, and the figures of log-probabilities, that SampleLogits gives on the host. Sums are of whole
// numbers, so threads add in any order. Where tokens must be sorted, the kTop best are found by the digits of their
// keys; a draw that more than those can decide is left to the host (kUndecided).
//
// A block passes over the row's logits, which lie in the second-level cache, three times where tokens are not sorted
// and about seven times where they are, twice more for log-probabilities. Not measured yet.
#pragma once

#include <cstdint>

#include "core/codec/half.h"
#include "core/kernels/cuda/forward/args.h"
#include "core/kernels/cuda/forward/block.h"
#include "core/kernels/cuda/forward/float_math.h"
#include "core/kernels/sampling_row.h"

namespace qamserve {

// The count before. Threads of a block may meet; the host runs them one after the other.
QAMSERVE_HOST_DEVICE inline uint32_t CountOne(uint32_t* count) {
#if defined(__CUDA_ARCH__)
  return atomicAdd(count, 1u);
#else
  return (*count)++;
#endif
}

QAMSERVE_HOST_DEVICE inline uint64_t SampleWeight(float logit, float largest, float inverse) {
  return SampleWeightOf(BitsOfFloat(ExpNonPositive((logit - largest) * inverse)));
}

struct SampleBlock {
  using Args = SampleArgs;
  static constexpr int kThreads = 1024;
  static constexpr int kTop = 1024;
  static constexpr int kGroup = 32;  // threads that take a run of tokens together
  static constexpr int kGroups = kThreads / kGroup;
  static constexpr int kDigitBits = 11;
  static constexpr int kDigits = 1 << kDigitBits;
  static constexpr int kDigitGroups = kDigits / kGroup;
  static constexpr float kNever = -INFINITY;

  struct Shared {
    uint64_t sums[kThreads];      // of all weights
    uint64_t cut_sums[kThreads];  // of those that min-p leaves
    uint64_t group_sums[kGroups];
    uint64_t group_cut_sums[kGroups];
    uint64_t keys[kTop];  // the best tokens, best first
    uint64_t prefix;      // of the keys that are looked for
    float largest[kThreads];
    float largest_groups[kGroups];
    float own;
    uint32_t counts[kThreads];
    uint32_t group_counts[kGroups];
    uint32_t digits[kDigits];
    uint32_t digit_groups[kDigitGroups];
    uint32_t wanted;  // of the keys that begin with `prefix`
    uint32_t found;
    int32_t exact;
    int32_t not_finite;
    int32_t token;
    SampleOutcome outcome;
  };
  static int64_t Blocks(const Args& a) { return a.count; }
  static int64_t SharedBytes(const Args&) { return static_cast<int64_t>(sizeof(Shared)); }

  // A row, and the run of its tokens that a group of threads takes.
  struct Row {
    const SampleRow& wanted;
    float* logits;
    int64_t n;
    QAMSERVE_HOST_DEVICE int64_t RunLength() const { return (n + kThreads - 1) / kThreads * kGroup; }
    // body(token) for this thread's tokens of its group's run.
    template <typename Body>
    QAMSERVE_HOST_DEVICE void ForOwn(int thread, const Body& body) const {
      const int64_t begin = thread / kGroup * RunLength();
      const int64_t end = begin + RunLength() < n ? begin + RunLength() : n;
      for (int64_t i = begin + thread % kGroup; i < end; i += kGroup) body(static_cast<int32_t>(i));
    }
  };

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void FindLargest(const Row& row, Shared& s, const Each& each) {
    each([&](int thread) {
      float most = kNever;
      row.ForOwn(thread, [&](int32_t token) { most = row.logits[token] > most ? row.logits[token] : most; });
      s.largest[thread] = most;
    });
    GroupMaxima<kThreads>(s.largest, s.largest_groups, each);
  }

  // Candidates and sums of their weights, by groups.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void AddWeights(const Row& row, float inverse, double min_p, Shared& s,
                                              const Each& each) {
    each([&](int thread) {
      const float largest = LargestOf(s.largest_groups);
      uint64_t sum = 0, cut_sum = 0;
      uint32_t count = 0;
      row.ForOwn(thread, [&](int32_t token) {
        if (row.logits[token] == kNever) return;
        const uint64_t weight = SampleWeight(row.logits[token], largest, inverse);
        ++count;
        sum += weight;
        cut_sum += AfterMinP(weight, min_p);
      });
      s.sums[thread] = sum;
      s.cut_sums[thread] = cut_sum;
      s.counts[thread] = count;
    });
    each([&](int thread) {
      if (thread >= kGroups) return;
      s.group_sums[thread] = SumOf(s.sums + kGroup * thread, kGroup);
      s.group_cut_sums[thread] = SumOf(s.cut_sums + kGroup * thread, kGroup);
      s.group_counts[thread] = SumOf(s.counts + kGroup * thread, kGroup);
    });
  }
  template <typename T>
  QAMSERVE_HOST_DEVICE static T SumOf(const T* values, int count) {
    T sum = 0;
    for (int i = 0; i < count; ++i) sum += values[i];
    return sum;
  }

  // s.token <- the first of the tokens with the largest logit.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void FindBest(const Row& row, Shared& s, const Each& each) {
    each([&](int thread) {
      const float largest = LargestOf(s.largest_groups);
      int64_t first = row.n;
      row.ForOwn(thread, [&](int32_t token) {
        if (row.logits[token] == largest && token < first) first = token;
      });
      s.counts[thread] = static_cast<uint32_t>(first);
    });
    each([&](int thread) {
      if (thread >= kGroups) return;
      uint32_t first = s.counts[kGroup * thread];
      for (int i = 1; i < kGroup; ++i) {
        if (s.counts[kGroup * thread + i] < first) first = s.counts[kGroup * thread + i];
      }
      s.group_counts[thread] = first;
    });
    each([&](int thread) {
      if (thread != 0) return;
      uint32_t first = s.group_counts[0];
      for (int i = 1; i < kGroups; ++i) first = s.group_counts[i] < first ? s.group_counts[i] : first;
      s.token = static_cast<int32_t>(first);
    });
  }

  // The index of the part that `left` falls into, of which it is made to count from the beginning.
  QAMSERVE_HOST_DEVICE static int FindPart(const uint64_t* parts, uint64_t& left) {
    int i = 0;
    while (left >= parts[i]) left -= parts[i++];
    return i;
  }

  // s.token <- what is drawn of the weights that AddWeights has added up, of which there are some.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void DrawByToken(const Row& row, float inverse, Shared& s, const Each& each) {
    uint64_t left = HighProduct(row.wanted.draw, SumOf(s.group_cut_sums, kGroups));
    const int group = FindPart(s.group_cut_sums, left);
    const int64_t begin = group * row.RunLength();
    const int64_t end = begin + row.RunLength() < row.n ? begin + row.RunLength() : row.n;
    const int64_t each_takes = (end - begin + kThreads - 1) / kThreads;
    const auto weight = [&](int64_t token) {
      return AfterMinP(SampleWeight(row.logits[token], LargestOf(s.largest_groups), inverse), row.wanted.min_p);
    };
    each([&](int thread) {
      uint64_t sum = 0;
      for (int64_t i = begin + thread * each_takes; i < end && i < begin + (thread + 1) * each_takes; ++i) {
        sum += weight(i);
      }
      s.cut_sums[thread] = sum;
    });
    each([&](int thread) {
      if (thread < kGroups) s.group_sums[thread] = SumOf(s.cut_sums + kGroup * thread, kGroup);
    });
    each([&](int thread) {
      if (thread != 0) return;
      uint64_t rest = left;
      const int part = kGroup * FindPart(s.group_sums, rest);
      int64_t token = begin + (part + FindPart(s.cut_sums + part, rest)) * each_takes;
      for (uint64_t w = weight(token); rest >= w; w = weight(token)) {
        rest -= w;
        ++token;
      }
      s.token = static_cast<int32_t>(token);
    });
  }

  // The `wanted` best of `candidates` tokens (or all, if there are fewer) in s.keys; returns how many.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static int FindTop(const Row& row, int wanted, int64_t candidates, Shared& s, const Each& each) {
    int high = 0;  // a key is taken if it is at least s.prefix from this bit on
    each([&](int thread) {
      if (thread != 0) return;
      s.prefix = 0;
      s.wanted = static_cast<uint32_t>(wanted);
      s.found = 0;
    });
    if (candidates > wanted) {
      for (high = 64; high > 0;) {
        const int shift = high > kDigitBits ? high - kDigitBits : 0;
        CountDigits(row, high, shift, s, each);
        high = shift;
        if (s.exact != 0) break;
      }
    }
    each([&](int thread) {
      row.ForOwn(thread, [&](int32_t token) {
        if (row.logits[token] == kNever) return;
        const uint64_t key = SampleKey(row.logits[token], token);
        if (key >> high >= s.prefix) s.keys[CountOne(&s.found)] = key;
      });
    });
    const int count = candidates < wanted ? static_cast<int>(candidates) : wanted;
    SortKeys(count, s, each);
    return count;
  }

  // Of the keys that begin with s.prefix above bit `high`, finds the digit down to bit `shift` of the last that is
  // wanted.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void CountDigits(const Row& row, int high, int shift, Shared& s, const Each& each) {
    each([&](int thread) {
      for (int i = thread; i < kDigits; i += kThreads) s.digits[i] = 0;
    });
    each([&](int thread) {
      const uint64_t mask = (uint64_t{1} << (high - shift)) - 1;
      row.ForOwn(thread, [&](int32_t token) {
        if (row.logits[token] == kNever) return;
        const uint64_t key = SampleKey(row.logits[token], token);
        if (high == 64 || key >> high == s.prefix) CountOne(&s.digits[key >> shift & mask]);
      });
    });
    each([&](int thread) {
      if (thread < kDigitGroups) s.digit_groups[thread] = SumOf(s.digits + kGroup * thread, kGroup);
    });
    each([&](int thread) {
      if (thread != 0) return;
      uint32_t left = s.wanted;
      int group = kDigitGroups - 1;
      while (s.digit_groups[group] < left) left -= s.digit_groups[group--];
      int digit = kGroup * group + kGroup - 1;
      while (s.digits[digit] < left) left -= s.digits[digit--];
      s.prefix = s.prefix << (high - shift) | static_cast<uint64_t>(digit);
      s.wanted = left;
      s.exact = s.digits[digit] == left ? 1 : 0;
    });
  }

  // Batcher's bitonic network, largest first.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void SortKeys(int count, Shared& s, const Each& each) {
    int size = 1;
    while (size < count) size *= 2;
    each([&](int thread) {
      for (int i = count + thread; i < size; i += kThreads) s.keys[i] = 0;  // below all of a token
    });
    for (int run = 2; run <= size; run *= 2) {
      for (int apart = run / 2; apart > 0; apart /= 2) {
        each([&](int thread) {
          for (int i = thread; i < size; i += kThreads) {
            const int other = i ^ apart;
            if (other < i || (s.keys[i] < s.keys[other]) != ((i & run) == 0)) continue;
            const uint64_t key = s.keys[i];
            s.keys[i] = s.keys[other];
            s.keys[other] = key;
          }
        });
      }
    }
  }

  // s.token and s.outcome <- what is drawn from the best tokens, in that order.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void DrawInOrder(const Row& row, float inverse, int64_t candidates, Shared& s,
                                               const Each& each) {
    const SampleRow& w = row.wanted;
    const bool cuts_top_k = w.top_k > 0 && w.top_k < candidates;
    const int64_t left_by_top_k = cuts_top_k ? w.top_k : candidates;
    const uint64_t all = SumOf(s.group_sums, kGroups);
    if (cuts_top_k && w.top_k > kTop) {
      each([&](int thread) {
        if (thread == 0) s.outcome = SampleOutcome::kUndecided;
      });
      return;
    }
    const int count = FindTop(row, cuts_top_k ? w.top_k : kTop, candidates, s, each);
    each([&](int thread) {
      const float largest = LargestOf(s.largest_groups);
      for (int i = thread; i < count; i += kThreads) {
        s.sums[i] = SampleWeight(LogitOfKey(s.keys[i]), largest, inverse);
      }
    });
    each([&](int thread) {
      if (thread != 0) return;
      const uint64_t total = cuts_top_k ? SumOf(s.sums, count) : all;
      int kept = count;
      if (w.top_p < 1) {
        uint64_t sum = 0;
        for (kept = 0; kept < count && !ReachesTopP(sum, total, w.top_p); ++kept) sum += s.sums[kept];
        if (!ReachesTopP(sum, total, w.top_p) && count < left_by_top_k) {
          s.outcome = SampleOutcome::kUndecided;
          return;
        }
      }
      uint64_t drawn_from = 0;
      for (int i = 0; i < kept; ++i) {
        s.sums[i] = AfterMinP(s.sums[i], w.min_p);
        drawn_from += s.sums[i];
      }
      uint64_t left = HighProduct(w.draw, drawn_from);
      s.token = TokenOfKey(s.keys[drawn_from == 0 ? 0 : FindPart(s.sums, left)]);
    });
  }

  // s.token and s.outcome <- the choice from adjusted logits.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Choose(const Row& row, Shared& s, const Each& each) {
    FindLargest(row, s, each);
    const bool nothing = LargestOf(s.largest_groups) == kNever;
    each([&](int thread) {
      if (thread == 0) s.outcome = nothing ? SampleOutcome::kNothing : SampleOutcome::kChosen;
    });
    if (nothing) return;
    if (row.wanted.temperature > 0) {
      const float inverse = SampleInverse(row.wanted.temperature);
      AddWeights(row, inverse, row.wanted.min_p, s, each);
      const int64_t candidates = SumOf(s.group_counts, kGroups);
      if (DrawsInOrder(row.wanted, candidates)) return DrawInOrder(row, inverse, candidates, s, each);
      if (SumOf(s.group_cut_sums, kGroups) > 0) return DrawByToken(row, inverse, s, each);
    }
    FindBest(row, s, each);
  }

  // The figures of log-probabilities, of logits that are still the model's.
  template <typename Each>
  QAMSERVE_HOST_DEVICE static void ReportOwn(const Row& row, SampleResult& out, Shared& s, const Each& each) {
    AddWeights(row, SampleInverse(1), 0, s, each);
    each([&](int thread) {
      if (thread != 0) return;
      out.own_largest = LargestOf(s.largest_groups);
      out.own_total = SumOf(s.group_sums, kGroups);
    });
    if (row.wanted.logprobs == 0) return;
    const int count = FindTop(row, row.wanted.logprobs, row.n, s, each);
    each([&](int thread) {
      if (thread == 0) out.best_count = count;
      if (thread < count) out.best[thread] = {LogitOfKey(s.keys[thread]), TokenOfKey(s.keys[thread])};
    });
  }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Adjust(const Row& row, const Each& each) {
    const SampleRow& w = row.wanted;
    each([&](int thread) {
      for (int64_t i = thread; i < w.adjustment_count; i += kThreads) {
        float& logit = row.logits[w.adjustments[i].token];
        w.adjustments[i].own = logit;
        logit = AdjustLogit(logit, w.adjustments[i]);
      }
    });
    if (w.allowed == nullptr) return;
    each([&](int thread) {
      row.ForOwn(thread, [&](int32_t token) {
        if ((w.allowed[token / 64] >> (token % 64) & 1) == 0) row.logits[token] = kNever;
      });
    });
  }

  template <typename Each>
  QAMSERVE_HOST_DEVICE static void Run(const Args& a, int64_t block, unsigned char* shared, const Each& each) {
    Shared& s = *reinterpret_cast<Shared*>(shared);
    const SampleRow& w = a.rows[block];
    SampleResult& out = a.results[block];
    const Row row{w, a.logits + w.row * a.vocab, a.vocab};
    each([&](int thread) {
      if (thread != 0) return;
      out = SampleResult();
      s.not_finite = 0;
      s.token = 0;
    });
    each([&](int thread) {
      uint32_t worst = 0;
      row.ForOwn(thread, [&](int32_t token) {
        const uint32_t exponent = BitsOfFloat(row.logits[token]) & 0x7f800000u;
        worst = exponent > worst ? exponent : worst;
      });
      if (worst == 0x7f800000u) s.not_finite = 1;
    });
    if (s.not_finite != 0) {
      each([&](int thread) {
        if (thread == 0) out.outcome = SampleOutcome::kNotFinite;
      });
      return;
    }
    if (w.logprobs >= 0) {
      FindLargest(row, s, each);
      ReportOwn(row, out, s, each);
    }
    Adjust(row, each);
    Choose(row, s, each);
    each([&](int thread) {
      if (thread == 0) s.own = row.logits[s.token];
    });
    each([&](int thread) {
      for (int64_t i = thread; i < w.adjustment_count; i += kThreads) {
        if (w.adjustments[i].token == s.token) s.own = w.adjustments[i].own;
      }
    });
    each([&](int thread) {
      if (thread != 0) return;
      out.outcome = s.outcome;
      out.token = s.token;
      out.own = s.own;
    });
  }
};

}  // namespace qamserve
