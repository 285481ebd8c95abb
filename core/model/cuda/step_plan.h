// A step of several sequences as arrays that a device reads: which token, position and blocks each row has, and how its
// attention is cut into tiles. Pure arithmetic on this side.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/kernels/cuda/forward/args.h"
#include "core/model/config.h"
#include "core/model/model.h"

namespace qamserve {

// Tiles that are run together: their scores are in memory at the same time.
struct AttentionPass {
  int64_t first_tile = 0;
  int64_t tiles = 0;
  int32_t most_keys = 0;  // of any tile, rounded up to kKeySteps: steps that follow each other are alike
};
inline constexpr int32_t kKeySteps = 256;

struct AttentionPlan {
  std::vector<AttentionTile> tiles;
  std::vector<AttentionPass> passes;
};

struct StepPlan {
  // `most_scores`: floats of scores of a pass, unless one tile has more (8 for each of its keys).
  StepPlan(const ModelConfig& config, std::span<const SequenceChunk> chunks, int64_t most_scores);

  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
  // The same for steps whose operations and arguments are the same, given `generation` of the memory they are in.
  std::vector<int64_t> Key(int64_t generation) const;

  std::vector<int32_t> tokens;     // [rows]
  std::vector<int32_t> positions;  // [rows]
  std::vector<int32_t> tables;     // [rows]: where its sequence's blocks begin
  std::vector<int32_t> blocks;
  std::vector<int32_t> wanted;  // rows whose hidden states are asked for
  AttentionPlan global;
  AttentionPlan sliding;  // empty if no layer slides
  int64_t scores = 0;     // floats that the largest pass takes
};

}  // namespace qamserve
