// The "normalizer" of tokenizer.json: NFC, NFD, NFKC, NFKD, Prepend, Replace, Strip, and sequences of these.
// Thread safety: const after Create.
#pragma once

#include <string>
#include <vector>

#include "core/tokenizer/json_fields.h"
#include "core/tokenizer/regex.h"

namespace qamserve {

class Normalizer {
 public:
  // `component` may be null. UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) names a type that is not known.
  static absl::StatusOr<Normalizer> Create(const Json* component);

  // REQUIRES: IsRepairedUtf8(text) if needs_utf8().
  std::string Apply(std::string text) const;
  bool empty() const { return steps_.empty(); }
  bool needs_utf8() const { return needs_utf8_; }

 private:
  enum class Kind { kNfc, kNfd, kNfkc, kNfkd, kPrepend, kReplace, kReplaceRegex, kStrip };
  struct Step {
    Kind kind = Kind::kNfc;
    std::string from;          // kPrepend, kReplace
    std::string to;            // kReplace, kReplaceRegex
    std::vector<Regex> regex;  // one for kReplaceRegex
    bool left = false;         // kStrip
    bool right = false;
  };

  absl::Status Add(const Json& component, int depth);
  absl::Status AddReplace(const Json& component);
  static std::string ApplyStep(const Step& step, std::string text);

  std::vector<Step> steps_;
  bool needs_utf8_ = false;
};

}  // namespace qamserve
