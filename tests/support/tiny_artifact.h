// A tiny model quantized on the spot, for tests of what is done with artifacts.
#pragma once

#include <string>

#include "core/quantize/quantize.h"
#include "tests/support/tiny_model.h"

namespace qamserve {

// Writes the checkpoint to FOLDER/model and its artifact to FOLDER/artifact.
absl::Status WriteTinyArtifact(const TinyModelOptions& model, const QuantizeSpec& spec, const std::string& folder);

}  // namespace qamserve
