// The "post_processor" of tokenizer.json: the ids put around a text. TemplateProcessing, ByteLevel (which changes
// offsets only) and Sequences of them.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tokenizer/json_fields.h"

namespace qamserve {

struct SpecialFrame {
  std::vector<int32_t> before;
  std::vector<int32_t> after;
  bool from_template = false;  // the file says what goes around a text, even if it is nothing
};

// `component` may be null. Ids must lie in [0, size): INVALID_ARGUMENT (TOKENIZER_INVALID).
absl::StatusOr<SpecialFrame> ReadPostProcessor(const Json* component, int32_t size);

}  // namespace qamserve
