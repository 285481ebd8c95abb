// Heads and attention on a device against the CPU's, over contexts and shapes that models of a test's size do not have:
// scores that the softmax takes in several pieces, steps that take several passes, wide heads, groups of all sizes.
// Built twice: with the device's threads in turn on this machine, and for a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "core/base/rng.h"
#include "core/kernels/cuda/forward/attention_blocks.h"
#include "core/model/attention.h"
#include "core/model/cuda/step_plan.h"
#include "core/model/forward.h"
#include "tests/support/forward_test_device.h"

namespace qamserve {
namespace {

struct Shape {
  int64_t heads, kv_heads, head_dim;
  std::vector<int64_t> contexts;  // tokens of each sequence
  int64_t window = 0;
  KvFormat format;
  bool qk_norm = false;
};

ModelConfig ConfigOf(const Shape& shape) {
  ModelConfig config;
  config.num_layers = 1;
  config.num_heads = shape.heads;
  config.num_kv_heads = shape.kv_heads;
  config.head_dim = shape.head_dim;
  config.sliding_window = shape.window;
  config.layer_slides = {shape.window > 0};
  config.attention_scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  return config;
}

std::vector<float> Gaussian(int64_t n, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& v : out) v = static_cast<float>(rng.NextGaussian());
  return out;
}

// The first difference alone: there may be a million.
void ExpectSame(const std::vector<float>& got, const std::vector<float>& expected, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], expected[i]) << what << ", at " << i;
}

// Sequences on the CPU: the queries, keys and values of all their tokens, one sequence behind the other.
class OnCpu {
 public:
  explicit OnCpu(const Shape& shape) : config_(ConfigOf(shape)), layout_(config_, 1, shape.format) {
    for (const int64_t tokens : shape.contexts) {
      first_row_.push_back(rows_);
      rows_ += tokens;
    }
    q_ = Gaussian(rows_ * config_.q_size(), 1);
    k_ = Gaussian(rows_ * config_.kv_size(), 2);
    v_ = Gaussian(rows_ * config_.kv_size(), 3);
    if (shape.qk_norm) {
      q_norm_ = Gaussian(config_.head_dim, 4);
      k_norm_ = Gaussian(config_.head_dim, 5);
    }
    const int64_t positions = *std::max_element(shape.contexts.begin(), shape.contexts.end());
    const int64_t half = config_.head_dim / 2;
    cosines_.resize(static_cast<size_t>(positions * half));
    sines_.resize(cosines_.size());
    std::vector<float> local(static_cast<size_t>(2 * half));
    const RopeFrequencies frequencies = MakeRopeFrequencies(config_);
    for (int64_t p = 0; p < positions; ++p) {
      RopeAngles(frequencies, p,
                 {cosines_.data() + p * half, sines_.data() + p * half, local.data(), local.data() + half});
    }
  }

  const ModelConfig& config() const { return config_; }
  const KvLayout& layout() const { return layout_; }
  int64_t rows() const { return rows_; }
  int64_t first_row(size_t sequence) const { return first_row_[sequence]; }
  const std::vector<float>& q() const { return q_; }
  const std::vector<float>& k() const { return k_; }
  const std::vector<float>& v() const { return v_; }
  const std::vector<float>& q_norm() const { return q_norm_; }
  const std::vector<float>& k_norm() const { return k_norm_; }
  const std::vector<float>& cosines() const { return cosines_; }
  const std::vector<float>& sines() const { return sines_; }

  // q or k, normed and rotated, where position[row] is that of a row.
  std::vector<float> Finished(std::vector<float> x, int64_t heads, const std::vector<float>& norm,
                              const std::vector<int32_t>& positions) const {
    const int64_t d = config_.head_dim, half = d / 2;
    for (int64_t i = 0; i < rows_ * heads; ++i) {
      float* const head = x.data() + i * d;
      const int64_t angle = positions[static_cast<size_t>(i / heads)] * half;
      const float* const cosines = cosines_.data() + angle;
      const float* const sines = sines_.data() + angle;
      if (!norm.empty()) {
        ScalarKernels().rms_norm(head, norm.data(), static_cast<float>(config_.rms_eps), d, head);
      }
      for (int64_t j = 0; j < half; ++j) {
        const float a = head[j], b = head[j + half];
        head[j] = a * cosines[j] - b * sines[j];
        head[j + half] = b * cosines[j] + a * sines[j];
      }
    }
    return x;
  }

  // What the last `last[i]` tokens of sequence i see, one sequence behind the other. `q` are those tokens' and `k` all
  // tokens', both finished.
  std::vector<float> Attended(const std::vector<float>& q, const std::vector<float>& k,
                              const std::vector<int64_t>& last) const {
    ThreadPool pool(1);
    std::vector<std::unique_ptr<KvCache>> caches;
    std::vector<LayerKv> layers;
    std::vector<BatchSpan> spans;
    int64_t row = 0;
    for (size_t i = 0; i < last.size(); ++i) {
      const int64_t tokens = (i + 1 < last.size() ? first_row_[i + 1] : rows_) - first_row_[i];
      const KvFormat format{layout_.type(), layout_.block_tokens()};
      caches.push_back(std::make_unique<KvCache>(config_, tokens, format));
      EXPECT_TRUE(caches.back()->Reserve(tokens));
      layers.emplace_back(*caches.back(), 0);
      const int64_t from = first_row_[i] * config_.kv_size();
      AppendKeysAndValues(config_, k.data() + from, v_.data() + from, tokens, 0, layers.back(), BestKernels());
      spans.push_back({row, last[i], tokens - last[i]});
      row += last[i];
    }
    std::vector<float> out(q.size());
    Attend(config_, config_.sliding_window, spans, layers, q.data(), out.data(), BestKernels(), pool);
    return out;
  }

 private:
  const ModelConfig config_;
  const KvLayout layout_;
  int64_t rows_ = 0;
  std::vector<int64_t> first_row_;
  std::vector<float> q_, k_, v_, q_norm_, k_norm_, cosines_, sines_;
};

class AttentionOps : public ForwardDeviceTest {
 protected:
  // The sequences' blocks, which lie mixed up.
  void Take(const OnCpu& cpu, const Shape& shape) {
    caches_.clear();
    int64_t blocks = 0;
    for (const int64_t tokens : shape.contexts) blocks += cpu.layout().BlocksFor(tokens);
    pool_ = std::make_unique<KvPool>(cpu.layout(), blocks, KvMemory::kElsewhere);
    for (size_t i = 0; i < shape.contexts.size(); ++i) caches_.push_back(std::make_unique<KvCache>(*pool_));
    for (int64_t reserved = 0; pool_->available() > 0;) {
      reserved += cpu.layout().block_tokens();
      for (size_t i = 0; i < caches_.size(); ++i) {
        ASSERT_TRUE(caches_[i]->Reserve(std::min(reserved, shape.contexts[i])));
      }
    }
    kv_ = {static_cast<uint8_t*>(Allocate(blocks * cpu.layout().block_bytes())),
           cpu.layout().block_bytes(),
           cpu.layout().TileOffset(0, 1),
           static_cast<int32_t>(cpu.layout().block_tokens()),
           static_cast<int32_t>(cpu.layout().head_dim()),
           cpu.layout().type() == KvType::kInt8};
  }

  // The step that feeds the last `last[i]` tokens of sequence i.
  StepPlan PlanOf(const OnCpu& cpu, const Shape& shape, const std::vector<int64_t>& last, int64_t most_scores) {
    std::vector<std::vector<int32_t>> tokens;
    std::vector<SequenceChunk> chunks;
    for (size_t i = 0; i < last.size(); ++i) tokens.emplace_back(static_cast<size_t>(last[i]));
    for (size_t i = 0; i < last.size(); ++i) {
      caches_[i]->SetLength(shape.contexts[i] - last[i]);
      chunks.push_back({tokens[i], caches_[i].get()});
    }
    return StepPlan(cpu.config(), chunks, most_scores);
  }

  // Puts all keys and values into the cache; returns the finished queries.
  std::vector<float> RunHeads(const OnCpu& cpu, const StepPlan& plan) {
    HeadsArgs args;
    float* const q = Upload(cpu.q());
    args.q = q;
    args.k = Upload(cpu.k());
    args.v = Upload(cpu.v());
    args.rows = cpu.rows();
    args.heads = static_cast<int32_t>(cpu.config().num_heads);
    args.kv_heads = static_cast<int32_t>(cpu.config().num_kv_heads);
    args.q_norm = cpu.q_norm().empty() ? nullptr : Upload(cpu.q_norm());
    args.k_norm = cpu.k_norm().empty() ? nullptr : Upload(cpu.k_norm());
    args.eps = static_cast<float>(cpu.config().rms_eps);
    args.cosines = Upload(cpu.cosines());
    args.sines = Upload(cpu.sines());
    args.positions = Upload(plan.positions);
    args.tables = Upload(plan.tables);
    args.blocks = Upload(plan.blocks);
    args.kv = kv_;
    const absl::Status status = device().Heads(args);
    EXPECT_TRUE(status.ok()) << status;
    return Download(q, static_cast<int64_t>(cpu.q().size()));
  }

  // Keys or values of all rows as the cache has them.
  std::vector<float> Cached(const OnCpu& cpu, const StepPlan& plan, bool values) {
    std::vector<uint8_t> bytes = Download(kv_.data, pool_->total() * kv_.block_bytes);
    KvView here = kv_;
    here.data = bytes.data();
    std::vector<float> out;
    for (size_t row = 0; row < plan.positions.size(); ++row) {
      const int position = plan.positions[row], token = position % kv_.block_tokens;
      const auto entry = static_cast<size_t>(plan.tables[row]) + static_cast<size_t>(position / kv_.block_tokens);
      const int32_t block = plan.blocks[entry];
      for (int32_t head = 0; head < cpu.config().num_kv_heads; ++head) {
        const KvTile tile(here, block, head);
        for (int i = 0; i < kv_.head_dim; ++i) out.push_back(values ? tile.Value(token, i) : tile.Key(token, i));
      }
    }
    return out;
  }

  // In the plan's passes, as a model runs them.
  std::vector<float> RunAttention(const OnCpu& cpu, const StepPlan& plan, const std::vector<float>& q) {
    const AttentionPlan& attention = cpu.config().sliding_window > 0 ? plan.sliding : plan.global;
    auto* const out = static_cast<float*>(Allocate(static_cast<int64_t>(q.size()) * 4));
    AttendArgs args;
    args.q = Upload(q);
    args.out = out;
    args.heads = static_cast<int32_t>(cpu.config().num_heads);
    args.kv_heads = static_cast<int32_t>(cpu.config().num_kv_heads);
    args.window = static_cast<int32_t>(cpu.config().sliding_window);
    args.scale = static_cast<float>(cpu.config().attention_scale);
    args.blocks = Upload(plan.blocks);
    args.kv = kv_;
    args.scores = static_cast<float*>(Allocate(plan.scores * 4));
    const AttentionTile* const tiles = Upload(attention.tiles);
    for (const AttentionPass& pass : attention.passes) {
      args.tiles = tiles + pass.first_tile;
      args.tile_count = pass.tiles;
      args.most_keys = pass.most_keys;
      const absl::Status status = device().Attend(args);
      EXPECT_TRUE(status.ok()) << status;
    }
    return Download(out, static_cast<int64_t>(q.size()));
  }

  // Feeds whole sequences and compares what their last `last[i]` tokens see; in one pass, and in passes of one tile.
  void ExpectTheCpu(const Shape& shape, const std::vector<int64_t>& last) {
    const std::string what = std::to_string(shape.heads) + " heads over " + std::to_string(shape.kv_heads) + " of " +
                             std::to_string(shape.head_dim);
    const OnCpu cpu(shape);
    const ModelConfig& config = cpu.config();
    ASSERT_NO_FATAL_FAILURE(Take(cpu, shape));
    const StepPlan all = PlanOf(cpu, shape, shape.contexts, INT64_MAX);
    const std::vector<float> q = RunHeads(cpu, all);
    const std::vector<float> k = cpu.Finished(cpu.k(), config.num_kv_heads, cpu.k_norm(), all.positions);
    ASSERT_NO_FATAL_FAILURE(
        ExpectSame(q, cpu.Finished(cpu.q(), config.num_heads, cpu.q_norm(), all.positions), what + ", queries"));
    if (shape.format.type == KvType::kF32) {
      ASSERT_NO_FATAL_FAILURE(ExpectSame(Cached(cpu, all, false), k, what + ", keys"));
      ASSERT_NO_FATAL_FAILURE(ExpectSame(Cached(cpu, all, true), cpu.v(), what + ", values"));
    }
    std::vector<float> wanted_q;
    for (size_t i = 0; i < last.size(); ++i) {
      const int64_t end = cpu.first_row(i) + shape.contexts[i];
      wanted_q.insert(wanted_q.end(), q.begin() + (end - last[i]) * config.q_size(), q.begin() + end * config.q_size());
    }
    const std::vector<float> expected = cpu.Attended(wanted_q, k, last);
    for (const bool one_pass : {true, false}) {
      const StepPlan step = PlanOf(cpu, shape, last, one_pass ? INT64_MAX : 1);
      const AttentionPlan& attention = shape.window > 0 ? step.sliding : step.global;
      ASSERT_GT(attention.tiles.size(), 1u) << what;
      ASSERT_EQ(attention.passes.size(), one_pass ? 1u : attention.tiles.size()) << what;
      ASSERT_NO_FATAL_FAILURE(ExpectSame(RunAttention(cpu, step, wanted_q), expected,
                                         what + (one_pass ? ", in one pass" : ", in passes of a tile")));
    }
  }

 private:
  std::unique_ptr<KvPool> pool_;
  std::vector<std::unique_ptr<KvCache>> caches_;  // of pool_, which has no memory of its own
  KvView kv_;
};

// Past the 2048 scores that the softmax takes at a time, by less than a piece and by more; beside a sequence whose
// tiles are far shorter.
TEST_F(AttentionOps, LongContexts) {
  static_assert(SoftmaxBlock::kPiece == 2048);
  ExpectTheCpu({.heads = 4, .kv_heads = 2, .head_dim = 64, .contexts = {2049, 21}}, {3, 2});
  ExpectTheCpu({.heads = 2, .kv_heads = 1, .head_dim = 64, .contexts = {70, 4303}}, {1, 2});
  ExpectTheCpu({.heads = 2, .kv_heads = 2, .head_dim = 64, .contexts = {2048, 2056}}, {1, 1});
}

TEST_F(AttentionOps, LongContextsInEightBits) {
  ExpectTheCpu({.heads = 4,
                .kv_heads = 2,
                .head_dim = 64,
                .contexts = {2100, 33},
                .format = {.type = KvType::kInt8, .block_tokens = 64}},
               {3, 33});
}

// One query head for each KV head, several, all, and more than a tile of 8 takes.
TEST_F(AttentionOps, GroupsAndHeadsOfEverySize) {
  for (const int64_t head_dim : {64, 128, 256}) {
    ExpectTheCpu({.heads = 3, .kv_heads = 3, .head_dim = head_dim, .contexts = {90, 40}, .qk_norm = true}, {11, 1});
    ExpectTheCpu({.heads = 6, .kv_heads = 2, .head_dim = head_dim, .contexts = {90, 40}}, {5, 40});
    ExpectTheCpu({.heads = 8, .kv_heads = 1, .head_dim = head_dim, .contexts = {50, 40}}, {2, 3});
    ExpectTheCpu({.heads = 12, .kv_heads = 1, .head_dim = head_dim, .contexts = {50, 40}, .qk_norm = true}, {2, 3});
  }
  ExpectTheCpu({.heads = 2, .kv_heads = 1, .head_dim = 256, .contexts = {2060, 9}}, {5, 1});
}

// A window that is itself longer than a piece, and ones within a block.
TEST_F(AttentionOps, Windows) {
  ExpectTheCpu({.heads = 2, .kv_heads = 1, .head_dim = 64, .contexts = {2500, 300}, .window = 2060}, {6, 2});
  ExpectTheCpu({.heads = 4, .kv_heads = 2, .head_dim = 128, .contexts = {300, 30}, .window = 19}, {9, 30});
}

}  // namespace
}  // namespace qamserve
