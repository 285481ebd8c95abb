// Numbers between bounds, as JSON writes them. Integers exactly; other numbers without exponents, of at most
// kMaxNumberDigits digits before and behind the point. Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

// Integers from low to high. REQUIRES: low <= high.
Grammar::Node IntegerRange(Grammar& grammar, int64_t low, int64_t high);

struct NumberBound {
  bool negative = false;
  uint64_t whole = 0;    // digits before the point
  std::string fraction;  // and behind it, without zeros at the end
  bool exclusive = false;
};

// From a JSON number ("-1.5"). INVALID_ARGUMENT (CONSTRAINT_INVALID) if it has an exponent or too many digits for a
// number beyond it to be told from it: an exclusive bound and its neighbours have kMaxNumberDigits together, at least
// one of them behind the point.
absl::StatusOr<NumberBound> ParseNumberBound(std::string text, bool exclusive);

// No bound is one at the limit of digits.
Grammar::Node NumberRange(Grammar& grammar, const std::optional<NumberBound>& low,
                          const std::optional<NumberBound>& high);

}  // namespace qamserve::constraint
