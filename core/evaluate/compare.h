// Two models' next-token distributions, compared token by token without ever holding the logits of a vocabulary.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/thread_pool.h"
#include "core/kernels/kernels.h"
#include "core/model/linear.h"

namespace qamserve {

// Of one position.
struct TokenComparison {
  double base_nll = 0;   // -log p(target)
  double other_nll = 0;  // likewise; equal to base_nll if there is no other model
  double kl = 0;         // KL(base || other), nats
  bool same_top = true;  // both put the same token first
  int32_t base_top = 0;  // the one that each puts first; of equals the lower id
  int32_t other_top = 0;
};

// Goes through both heads a block of the vocabulary at a time, with running maxima and sums, so memory is independent
// of the vocabulary. `base_hidden` and `other_hidden` are normalized hidden states [n][cols of their head]; targets [n]
// are the tokens that follow. Both heads have the same rows. `other` and `other_hidden` may be null: then only base_nll
// and base_top are meaningful.
std::vector<TokenComparison> CompareTokens(const Linear& base, const float* base_hidden, const Linear* other,
                                           const float* other_hidden, const std::vector<int32_t>& targets,
                                           const Kernels& kernels, ThreadPool& pool);

}  // namespace qamserve
