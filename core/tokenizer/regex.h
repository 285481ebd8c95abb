// Pre-tokenizer patterns, run by PCRE2 with its JIT. Patterns are written for Oniguruma (the engine of the Hugging
// Face tokenizers); what differs between the two is translated or refused. Thread safety: const after Compile.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

struct pcre2_real_code_8;

namespace qamserve {

// [begin, end) in bytes.
struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
};

class Regex {
 public:
  // INVALID_ARGUMENT (TOKENIZER_INVALID) if it does not compile, UNIMPLEMENTED (TOKENIZER_UNSUPPORTED) for
  // classes inside classes and intersections (&&), which PCRE2 would read as plain characters. A pattern has 64 KiB at
  // most.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  // The matches of one byte or more, from left to right. A pattern that backtracks past its limit ends the search;
  // what follows then counts as no match. REQUIRES: IsRepairedUtf8(text).
  std::vector<TextSpan> FindAll(std::string_view text) const;

 private:
  explicit Regex(std::shared_ptr<const pcre2_real_code_8> code) : code_(std::move(code)) {}
  std::shared_ptr<const pcre2_real_code_8> code_;
};

}  // namespace qamserve
