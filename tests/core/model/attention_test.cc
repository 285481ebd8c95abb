// Attention over blocks gives the bits of attention over contiguous keys and values, whatever the size of a block;
// 8-bit caches stay within the error of their rounding.
#include "core/model/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/base/rng.h"
#include "core/model/forward.h"

namespace qamserve {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();

ModelConfig Config(int64_t heads, int64_t kv_heads, int64_t head_dim) {
  ModelConfig config;
  config.num_layers = 3;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.attention_scale = 1 / std::sqrt(static_cast<double>(head_dim));
  return config;
}

std::vector<float> Random(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = static_cast<float>(rng.NextGaussian());
  return v;
}

// Queries, keys and values of `tokens` tokens of one sequence.
struct Inputs {
  Inputs(const ModelConfig& config, int64_t tokens, uint64_t seed)
      : tokens(tokens),
        q(Random(tokens * config.q_size(), seed)),
        k(Random(tokens * config.kv_size(), seed + 1)),
        v(Random(tokens * config.kv_size(), seed + 2)) {}
  int64_t tokens;
  std::vector<float> q, k, v;
};

// Query by query over contiguous keys [keys][d] and values [d][keys], in the lanes that kernels.h defines: what results
// must equal to the last bit.
std::vector<float> Contiguous(const ModelConfig& config, int64_t window, const Inputs& in) {
  const Kernels& kernels = ScalarKernels();
  const int64_t d = config.head_dim, padded = (in.tokens + 7) / 8 * 8;
  std::vector<float> out(in.q.size());
  for (int64_t h = 0; h < config.num_heads; ++h) {
    const int64_t kv_head = h / (config.num_heads / config.num_kv_heads);
    std::vector<float> keys(static_cast<size_t>(padded * d)), values(static_cast<size_t>(d * padded));
    for (int64_t t = 0; t < in.tokens; ++t) {
      for (int64_t i = 0; i < d; ++i) {
        const auto from = static_cast<size_t>(t * config.kv_size() + kv_head * d + i);
        keys[static_cast<size_t>(t * d + i)] = in.k[from];
        values[static_cast<size_t>(i * padded + t)] = in.v[from];
      }
    }
    for (int64_t t = 0; t < in.tokens; ++t) {
      std::vector<float> scores(static_cast<size_t>(padded), kNone);
      const float* query = in.q.data() + t * config.q_size() + h * d;
      kernels.dense_matmul({query, d, {keys.data(), DenseType::kF32, d}, scores.data(), padded, 1, t + 1, d});
      for (int64_t i = 0; i <= t; ++i) {
        float& score = scores[static_cast<size_t>(i)];
        score = window > 0 && i <= t - window ? kNone : score * static_cast<float>(config.attention_scale);
      }
      kernels.softmax(scores.data(), padded);
      kernels.dense_matmul({scores.data(),
                            padded,
                            {values.data(), DenseType::kF32, padded},
                            out.data() + t * config.q_size() + h * d,
                            d,
                            1,
                            d,
                            padded});
    }
  }
  return out;
}

// In chunks of `chunk` tokens, as layer `layer` of `cache`.
std::vector<float> InChunks(const ModelConfig& config, int64_t window, const Inputs& in, int64_t chunk, KvCache& cache,
                            int64_t layer, ThreadPool& pool) {
  std::vector<float> out(in.q.size());
  const LayerKv kv(cache, layer);
  for (int64_t at = 0; at < in.tokens; at += chunk) {
    const BatchSpan span{0, std::min(chunk, in.tokens - at), at};
    AppendKeysAndValues(config, in.k.data() + at * config.kv_size(), in.v.data() + at * config.kv_size(), span.tokens,
                        at, kv, BestKernels());
    Attend(config, window, {&span, 1}, {&kv, 1}, in.q.data() + at * config.q_size(), out.data() + at * config.q_size(),
           BestKernels(), pool);
  }
  return out;
}

// Fills the memory that the pool's blocks will have with NaN, as a sequence that went wrong would leave it.
void Poison(KvPool& pool) {
  std::vector<KvPool::Block> blocks;
  while (pool.available() > 0) {
    blocks.push_back(pool.Take());
    auto* floats = reinterpret_cast<float*>(pool.data(blocks.back()));
    std::fill_n(floats, pool.layout().block_bytes() / 4, std::numeric_limits<float>::quiet_NaN());
  }
  for (const KvPool::Block block : blocks) pool.Release(block);
}

TEST(AttentionTest, BlocksOfAnySizeGiveTheBitsOfContiguousMemory) {
  ThreadPool one(1), four(4);
  const ModelConfig configs[] = {Config(6, 2, 16), Config(4, 4, 8), Config(8, 1, 24)};
  for (const ModelConfig& config : configs) {
    const Inputs in(config, 101, 7);
    for (const int64_t window : {0, 13, 40}) {
      const std::vector<float> wanted = Contiguous(config, window, in);
      for (const int64_t block_tokens : {8, 16, 32, 64, 128}) {
        const KvLayout layout(config, config.num_layers, {KvType::kF32, block_tokens});
        for (const int64_t chunk : {1, 7, 33, 101}) {
          KvPool pool(layout, layout.BlocksFor(in.tokens));
          Poison(pool);
          KvCache cache(pool);
          ASSERT_TRUE(cache.Reserve(in.tokens));
          EXPECT_EQ(InChunks(config, window, in, chunk, cache, 2, chunk == 7 ? four : one), wanted)
              << config.num_heads << " heads, window " << window << ", blocks of " << block_tokens << ", chunks of "
              << chunk;
        }
      }
    }
  }
}

// Several sequences in one call, their blocks taken in turn from one pool.
TEST(AttentionTest, SequencesThatShareAPoolDoNotMeet) {
  const ModelConfig config = Config(6, 2, 16);
  ThreadPool threads(3);
  const Inputs a(config, 50, 1), b(config, 50, 20);
  KvPool pool(KvLayout(config, config.num_layers, {KvType::kF32, 8}), 14);
  KvCache caches[] = {KvCache(pool), KvCache(pool)};
  std::vector<float> out(2 * a.q.size());
  std::vector<float> q = a.q;
  q.insert(q.end(), b.q.begin(), b.q.end());
  for (int64_t t = 0; t < 50; t += 10) {
    ASSERT_TRUE(caches[0].Reserve(t + 10));
    ASSERT_TRUE(caches[1].Reserve(t + 10));
    const LayerKv kvs[] = {{caches[0], 1}, {caches[1], 1}};
    const BatchSpan spans[] = {{t, 10, t}, {50 + t, 10, t}};
    AppendKeysAndValues(config, a.k.data() + t * config.kv_size(), a.v.data() + t * config.kv_size(), 10, t, kvs[0],
                        BestKernels());
    AppendKeysAndValues(config, b.k.data() + t * config.kv_size(), b.v.data() + t * config.kv_size(), 10, t, kvs[1],
                        BestKernels());
    Attend(config, 0, spans, kvs, q.data(), out.data(), BestKernels(), threads);
  }
  std::vector<float> wanted = Contiguous(config, 0, a);
  const std::vector<float> second = Contiguous(config, 0, b);
  wanted.insert(wanted.end(), second.begin(), second.end());
  EXPECT_EQ(out, wanted);
}

// Keys and values rounded to 127 steps of their largest entry, by plain division.
Inputs Rounded(const ModelConfig& config, Inputs in) {
  const int64_t d = config.head_dim;
  for (std::vector<float>* rows : {&in.k, &in.v}) {
    for (size_t at = 0; at < rows->size(); at += static_cast<size_t>(d)) {
      double largest = 0;
      for (int64_t i = 0; i < d; ++i)
        largest = std::max(largest, std::abs(double{(*rows)[at + static_cast<size_t>(i)]}));
      for (int64_t i = 0; i < d; ++i) {
        float& x = (*rows)[at + static_cast<size_t>(i)];
        x = static_cast<float>(std::nearbyint(x / (largest / 127)) * (largest / 127));
      }
    }
  }
  return in;
}

TEST(AttentionTest, EightBitsRoundKeysAndValuesAndNothingElse) {
  const ModelConfig config = Config(6, 2, 16);
  ThreadPool threads(2);
  const Inputs in(config, 75, 5);
  const std::vector<float> exact = Contiguous(config, 30, in), rounded = Contiguous(config, 30, Rounded(config, in));
  std::vector<float> first;
  for (const int64_t block_tokens : {8, 32, 64}) {
    for (const int64_t chunk : {1, 20, 75}) {
      KvCache cache(config, 75, {KvType::kInt8, block_tokens});
      const std::vector<float> out = InChunks(config, 30, in, chunk, cache, 0, threads);
      if (first.empty()) first = out;
      EXPECT_EQ(out, first) << "blocks of " << block_tokens << ", chunks of " << chunk;
    }
  }
  double off_rounded = 0, off_exact = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    off_rounded = std::max(off_rounded, std::abs(double{first[i]} - rounded[i]));
    off_exact = std::max(off_exact, std::abs(double{first[i]} - exact[i]));
  }
  EXPECT_LT(off_rounded, 1e-5) << "floats' own rounding";
  EXPECT_GT(off_exact, 1e-4) << "or nothing was rounded";
  // Half a step of values of at most 4.5 is 0.018; keys shift weights by about as much.
  EXPECT_LT(off_exact, 0.1);
}

TEST(AttentionTest, AZeroKeyInEightBitsIsZero) {
  const ModelConfig config = Config(2, 1, 8);
  ThreadPool threads(1);
  Inputs in(config, 9, 5);
  std::fill(in.k.begin(), in.k.end(), 0.0f);
  std::fill(in.v.begin(), in.v.end(), 0.0f);
  KvCache cache(config, 9, {KvType::kInt8, 8});
  for (const float x : InChunks(config, 0, in, 4, cache, 0, threads)) EXPECT_EQ(x, 0);
}

}  // namespace
}  // namespace qamserve
