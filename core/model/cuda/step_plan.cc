#include "core/model/cuda/step_plan.h"

#include <algorithm>

namespace qamserve {
namespace {

// A chunk's place in the step.
struct Rows {
  int64_t first = 0;
  int64_t tokens = 0;
  int64_t position = 0;  // of the first
  int64_t table = 0;
};

AttentionTile TileOf(const Rows& rows, int64_t token, int64_t tokens, int64_t head, int64_t heads, int64_t window) {
  AttentionTile tile;
  tile.row = static_cast<int32_t>(rows.first + token);
  tile.tokens = static_cast<int32_t>(tokens);
  tile.head = static_cast<int32_t>(head);
  tile.heads = static_cast<int32_t>(heads);
  const int64_t position = rows.position + token;
  // Sums run in lanes of the key's position: a later start keeps it modulo 8.
  const int64_t begin = window > 0 ? std::max<int64_t>(0, position - window + 1) & ~int64_t{7} : 0;
  tile.position = static_cast<int32_t>(position);
  tile.begin = static_cast<int32_t>(begin);
  tile.keys = static_cast<int32_t>((position + tokens - begin + 7) & ~int64_t{7});
  tile.table = static_cast<int32_t>(rows.table);
  return tile;
}

// Puts a tile behind the others, in the last pass or in a new one if it has too many scores for that.
void AddTile(AttentionTile tile, int64_t most_scores, AttentionPlan& plan, int64_t& scores) {
  const int64_t own = int64_t{tile.keys} * tile.tokens * tile.heads;
  int64_t before = 0;
  if (!plan.tiles.empty()) {
    const AttentionTile& last = plan.tiles.back();
    before = last.scores + int64_t{last.keys} * last.tokens * last.heads;
  }
  if (plan.passes.empty() || before + own > most_scores) {
    plan.passes.push_back({static_cast<int64_t>(plan.tiles.size()), 0, 0});
    before = 0;
  }
  tile.scores = before;
  scores = std::max(scores, before + own);
  AttentionPass& pass = plan.passes.back();
  pass.most_keys = std::max(pass.most_keys, (tile.keys + kKeySteps - 1) / kKeySteps * kKeySteps);
  ++pass.tiles;
  plan.tiles.push_back(tile);
}

void AddTiles(const ModelConfig& config, const Rows& rows, int64_t window, int64_t most_scores, AttentionPlan& plan,
              int64_t& scores) {
  const int64_t group = config.num_heads / config.num_kv_heads;
  const int64_t heads = std::min<int64_t>(group, kTileQueries), tokens = kTileQueries / heads;
  for (int64_t token = 0; token < rows.tokens; token += tokens) {
    const int64_t count = std::min(tokens, rows.tokens - token);
    for (int64_t head = 0; head < config.num_heads;) {
      const int64_t n = std::min(heads, group - head % group);
      AddTile(TileOf(rows, token, count, head, n, window), most_scores, plan, scores);
      head += n;
    }
  }
}

}  // namespace

std::vector<int64_t> StepPlan::Key(int64_t generation) const {
  std::vector<int64_t> key = {generation, rows(), static_cast<int64_t>(wanted.size())};
  for (const AttentionPlan* plan : {&global, &sliding}) {
    key.push_back(static_cast<int64_t>(plan->passes.size()));
    for (const AttentionPass& pass : plan->passes) key.insert(key.end(), {pass.first_tile, pass.tiles, pass.most_keys});
  }
  return key;
}

StepPlan::StepPlan(const ModelConfig& config, std::span<const SequenceChunk> chunks, int64_t most_scores) {
  const bool slides = config.sliding_window > 0 && std::find(config.layer_slides.begin(), config.layer_slides.end(),
                                                             true) != config.layer_slides.end();
  for (const SequenceChunk& chunk : chunks) {
    const Rows piece{rows(), static_cast<int64_t>(chunk.tokens.size()), chunk.cache->length(),
                     static_cast<int64_t>(blocks.size())};
    blocks.insert(blocks.end(), chunk.cache->blocks().begin(), chunk.cache->blocks().end());
    for (int64_t i = 0; i < piece.tokens; ++i) {
      tokens.push_back(chunk.tokens[static_cast<size_t>(i)]);
      positions.push_back(static_cast<int32_t>(piece.position + i));
      tables.push_back(static_cast<int32_t>(piece.table));
      if (chunk.all_logits || i + 1 == piece.tokens) wanted.push_back(static_cast<int32_t>(piece.first + i));
    }
    AddTiles(config, piece, 0, most_scores, global, scores);
    if (slides) AddTiles(config, piece, config.sliding_window, most_scores, sliding, scores);
  }
}

}  // namespace qamserve
