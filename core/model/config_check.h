// The limits of a ModelConfig, shared by the readers of config.json and of GGUF metadata. Internal to core/model.
#pragma once

#include <string_view>

#include "core/base/status.h"
#include "core/model/config.h"

namespace qamserve {

// A few times past the largest published models of these families, and small enough that no product of two sizes
// overflows 63 bits.
inline constexpr int64_t kMaxVocabSize = int64_t{1} << 22;
inline constexpr int64_t kMaxHiddenSize = int64_t{1} << 17;
inline constexpr int64_t kMaxIntermediateSize = int64_t{1} << 20;
inline constexpr int64_t kMaxLayers = 1024;
inline constexpr int64_t kMaxHeads = 1024;
inline constexpr int64_t kMaxHeadDim = 1024;
inline constexpr int64_t kMaxContext = int64_t{1} << 24;

// What an architecture fixes, whatever its files say: biases, norms, activation, embedding scale.
void SetArchitectureTraits(ModelConfig& config);

// INVALID_ARGUMENT (CONFIG_FIELD) names `where`, the Hugging Face name of the field, its value and its limits.
absl::Status CheckModelConfig(const ModelConfig& config, std::string_view where);

}  // namespace qamserve
