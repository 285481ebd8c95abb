// Ranges of code points as ranges of UTF-8 bytes. Thread-safe.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

struct ByteRange {
  uint8_t low = 0;
  uint8_t high = 0;
};

// The characters whose bytes lie in bytes[0], ..., bytes[size - 1], in order: any such bytes are one.
struct Utf8Sequence {
  std::array<ByteRange, 4> bytes;
  int size = 0;
};

// Appends sequences that together are exactly the code points of `range`. REQUIRES: no surrogates in it, last at most
// kMaxCodePoint.
void AppendUtf8Sequences(CodePointRange range, std::vector<Utf8Sequence>& out);

}  // namespace qamserve::constraint
