#include "core/constraint/utf8_ranges.h"

#include <algorithm>

namespace qamserve::constraint {
namespace {

int EncodeUtf8(uint32_t code, std::array<uint8_t, 4>& out) {
  if (code < 0x80) {
    out[0] = static_cast<uint8_t>(code);
    return 1;
  }
  const int size = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (int i = size - 1; i > 0; --i, code >>= 6)
    out[static_cast<size_t>(i)] = static_cast<uint8_t>(0x80 | (code & 0x3F));
  constexpr uint32_t kLead[] = {0, 0, 0xC0, 0xE0, 0xF0};
  out[0] = static_cast<uint8_t>(kLead[size] | code);
  return size;
}

}  // namespace

void AppendUtf8Sequences(CodePointRange range, std::vector<Utf8Sequence>& out) {
  // A range is cut where the length changes, and where its ends do not fill the 64 (4096, 262144) code points that
  // share all bytes but the last one (two, three). What is left over goes on in the loop.
  while (range.first <= range.last) {
    uint32_t last = range.last;
    for (const uint32_t longest : {0x7Fu, 0x7FFu, 0xFFFFu}) {
      if (range.first <= longest) last = std::min(last, longest);
    }
    if (last >= 0x80) {
      for (int bits = 6; bits <= 18; bits += 6) {
        const uint32_t mask = (1u << bits) - 1;
        if ((range.first & ~mask) == (last & ~mask)) break;
        if ((range.first & mask) != 0) {
          last = range.first | mask;
          break;
        }
        if ((last & mask) != mask) last = (last & ~mask) - 1;
      }
    }
    std::array<uint8_t, 4> low, high;
    Utf8Sequence sequence;
    sequence.size = EncodeUtf8(range.first, low);
    EncodeUtf8(last, high);
    for (size_t i = 0; i < static_cast<size_t>(sequence.size); ++i) sequence.bytes[i] = {low[i], high[i]};
    out.push_back(sequence);
    range.first = last + 1;
  }
}

}  // namespace qamserve::constraint
