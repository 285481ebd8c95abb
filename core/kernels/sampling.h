// Choosing a token from a row of logits on this machine's cores: what other devices are compared with. sampling_row.h
// says what is chosen.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/kernels/sampling_row.h"

namespace qamserve {

// Memory that is kept from row to row; at most 16 bytes a token of the vocabulary. Not thread-safe.
struct SampleScratch {
  struct Candidate {
    uint64_t weight = 0;
    float logit = 0;
    int32_t token = 0;
  };
  std::vector<Candidate> candidates;
};

// Chooses from `logits`, which are adjusted and masked in place (minus infinity where a token is not allowed). Throws
// std::bad_alloc.
SampleResult SampleLogits(const Kernels& kernels, std::span<float> logits, const SampleRow& row,
                          SampleScratch& scratch);

// The choice alone, from logits that were adjusted and masked before. kChosen or kNothing; `own` is the logit here.
// Throws std::bad_alloc.
SampleResult SampleAdjusted(const Kernels& kernels, std::span<const float> logits, const SampleRow& row,
                            SampleScratch& scratch);

// The adjustment of a token of `row`, or null.
const LogitAdjustment* FindAdjustment(const SampleRow& row, int32_t token);

// The `n` best, best first, fewer if there are not so many; returns how many.
int32_t FindBestLogits(std::span<const float> logits, int32_t n, BestLogit* best);

// log(sum of exp(logit)), of the largest logit and the sum of all weights at temperature 1: off by less than 1e-6.
double LogSumOf(float largest, uint64_t total);

}  // namespace qamserve
