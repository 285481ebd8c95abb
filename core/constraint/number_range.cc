#include "core/constraint/number_range.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/constraint/json_parts.h"

namespace qamserve::constraint {
namespace {

using Node = Grammar::Node;

constexpr uint64_t kLargestWhole = 999'999'999'999'999;  // kMaxNumberDigits nines

Node Digit(Grammar& grammar, char first, char last) {
  if (first > last) return grammar.Never();
  return grammar.Class({{static_cast<uint32_t>(first), static_cast<uint32_t>(last)}});
}

Node AnyDigits(Grammar& grammar, size_t min, size_t max) {
  return grammar.Repeat(Digit(grammar, '0', '9'), static_cast<uint32_t>(min), static_cast<uint32_t>(max));
}

// Numbers of as many digits as `low` and `high` have both.
Node SameLength(Grammar& grammar, std::string_view low, std::string_view high) {
  if (low.empty()) return grammar.Empty();
  const auto all = [](std::string_view text, char c) { return text.find_first_not_of(c) == std::string_view::npos; };
  if (all(low, '0') && all(high, '9')) return AnyDigits(grammar, low.size(), low.size());
  const std::string_view low_rest = low.substr(1);
  const std::string_view high_rest = high.substr(1);
  if (low[0] == high[0]) {
    return grammar.Sequence({Digit(grammar, low[0], low[0]), SameLength(grammar, low_rest, high_rest)});
  }
  const size_t rest = low_rest.size();
  const auto next = static_cast<char>(low[0] + 1);
  const auto previous = static_cast<char>(high[0] - 1);
  return grammar.Alternatives(
      {grammar.Sequence({Digit(grammar, low[0], low[0]), SameLength(grammar, low_rest, std::string(rest, '9'))}),
       grammar.Sequence({Digit(grammar, next, previous), AnyDigits(grammar, rest, rest)}),
       grammar.Sequence({Digit(grammar, high[0], high[0]), SameLength(grammar, std::string(rest, '0'), high_rest)})});
}

// Numbers without sign from low to high.
Node Magnitudes(Grammar& grammar, uint64_t low, uint64_t high) {
  std::vector<Node> ways;
  const std::string first = std::to_string(low);
  const std::string last = std::to_string(high);
  for (size_t digits = first.size(); digits <= last.size(); ++digits) {
    const std::string from = digits == first.size() ? first : "1" + std::string(digits - 1, '0');
    const std::string to = digits == last.size() ? last : std::string(digits, '9');
    ways.push_back(SameLength(grammar, from, to));
  }
  return grammar.Alternatives(ways);
}

// Digits behind a point, of which there may be none.
struct Digits {
  Node some;
  bool none = false;
};

// The digits of fractions between two others. `left` is how many there may be.
class Fractions {
 public:
  explicit Fractions(Grammar& grammar) : grammar_(grammar) {}

  Digits Any(size_t left) { return {left == 0 ? grammar_.Never() : AnyDigits(grammar_, 1, left), true}; }
  Digits AtLeast(std::string_view bound, bool exclusive, size_t left) {
    if (bound.empty() && !exclusive) return Any(left);
    if (left == 0) return {grammar_.Never(), false};
    if (bound.empty())
      return {grammar_.Alternatives({After('1', '9', Any(left - 1)), After('0', '0', AtLeast("", true, left - 1))}),
              false};
    return {grammar_.Alternatives({After(static_cast<char>(bound[0] + 1), '9', Any(left - 1)),
                                   After(bound[0], bound[0], AtLeast(bound.substr(1), exclusive, left - 1))}),
            false};
  }
  Digits AtMost(std::string_view bound, bool exclusive, size_t left) {
    if (bound.empty()) {
      if (exclusive) return {grammar_.Never(), false};
      return {left == 0 ? grammar_.Never() : grammar_.Repeat(Digit(grammar_, '0', '0'), 1, static_cast<uint32_t>(left)),
              true};
    }
    if (left == 0) return {grammar_.Never(), true};
    return {grammar_.Alternatives({After('0', static_cast<char>(bound[0] - 1), Any(left - 1)),
                                   After(bound[0], bound[0], AtMost(bound.substr(1), exclusive, left - 1))}),
            true};
  }
  // REQUIRES: low <= high.
  Digits Between(std::string_view low, bool low_exclusive, std::string_view high, bool high_exclusive, size_t left) {
    if (high.empty()) {
      // Both are zero.
      if (low_exclusive) return {grammar_.Never(), false};
      return AtMost("", high_exclusive, left);
    }
    const bool none = low.empty() && !low_exclusive;
    if (left == 0) return {grammar_.Never(), none};
    const char first = low.empty() ? '0' : low[0];
    const std::string_view low_rest = low.substr(std::min<size_t>(1, low.size()));
    const std::string_view high_rest = high.substr(1);
    if (first == high[0]) {
      return {After(first, first, Between(low_rest, low_exclusive, high_rest, high_exclusive, left - 1)), none};
    }
    return {grammar_.Alternatives({After(first, first, AtLeast(low_rest, low_exclusive, left - 1)),
                                   After(static_cast<char>(first + 1), static_cast<char>(high[0] - 1), Any(left - 1)),
                                   After(high[0], high[0], AtMost(high_rest, high_exclusive, left - 1))}),
            none};
  }
  // With the point, where there are some.
  Node WithPoint(const Digits& digits) {
    const Node some = grammar_.Sequence({grammar_.Literal("."), digits.some});
    return digits.none ? grammar_.Optional(some) : some;
  }

 private:
  Node After(char first, char last, const Digits& rest) {
    return grammar_.Sequence({Digit(grammar_, first, last), rest.none ? grammar_.Optional(rest.some) : rest.some});
  }

  Grammar& grammar_;
};

// Digits behind the point such that a number beyond an exclusive bound is another double than the bound.
size_t FractionDigits(const std::optional<NumberBound>& bound) {
  if (!bound || !bound->exclusive || (bound->whole == 0 && bound->fraction.empty())) return kMaxNumberDigits;
  return kMaxNumberDigits - std::to_string(bound->whole).size();
}

// Numbers without sign; both bounds are of what has no sign.
Node DecimalMagnitudes(Grammar& grammar, const NumberBound& low, const std::optional<NumberBound>& high,
                       size_t digits) {
  Fractions fractions(grammar);
  const auto with_whole = [&](uint64_t from, uint64_t to, const Digits& fraction) {
    if (from > to) return grammar.Never();
    return grammar.Sequence({Magnitudes(grammar, from, to), fractions.WithPoint(fraction)});
  };
  if (high && (high->whole < low.whole || (high->whole == low.whole && high->fraction < low.fraction))) {
    return grammar.Never();
  }
  if (high && high->whole == low.whole) {
    return with_whole(low.whole, low.whole,
                      fractions.Between(low.fraction, low.exclusive, high->fraction, high->exclusive, digits));
  }
  const Node first = with_whole(low.whole, low.whole, fractions.AtLeast(low.fraction, low.exclusive, digits));
  if (!high) {
    return grammar.Alternatives({first, with_whole(low.whole + 1, kLargestWhole, fractions.Any(digits))});
  }
  return grammar.Alternatives(
      {first, with_whole(low.whole + 1, high->whole - 1, fractions.Any(digits)),
       with_whole(high->whole, high->whole, fractions.AtMost(high->fraction, high->exclusive, digits))});
}

}  // namespace

Node IntegerRange(Grammar& grammar, int64_t low, int64_t high) {
  // The magnitude of the smallest integer is no int64_t.
  const auto magnitude = [](int64_t value) { return uint64_t{0} - static_cast<uint64_t>(value); };
  std::vector<Node> ways;
  if (low < 0) {
    const Node minus = grammar.Literal("-");
    ways.push_back(
        grammar.Sequence({minus, Magnitudes(grammar, magnitude(std::min<int64_t>(high, -1)), magnitude(low))}));
  }
  if (high >= 0)
    ways.push_back(Magnitudes(grammar, static_cast<uint64_t>(std::max<int64_t>(low, 0)), static_cast<uint64_t>(high)));
  return grammar.Alternatives(ways);
}

absl::StatusOr<NumberBound> ParseNumberBound(std::string text, bool exclusive) {
  NumberBound bound{.exclusive = exclusive};
  std::string_view rest = text;
  if (rest.starts_with('-')) {
    bound.negative = true;
    rest.remove_prefix(1);
  }
  const size_t point = std::min(rest.find('.'), rest.size());
  const std::string_view whole = rest.substr(0, point);
  std::string_view fraction = point < rest.size() ? rest.substr(point + 1) : "";
  while (fraction.ends_with('0')) fraction.remove_suffix(1);
  const bool digits_only =
      (std::string(whole) + std::string(fraction)).find_first_not_of("0123456789") == std::string::npos;
  const size_t room = kMaxNumberDigits - (exclusive ? 1 : 0);
  if (!digits_only || whole.empty() || whole.size() > room || whole.size() + fraction.size() > kMaxNumberDigits) {
    return InvalidArgument("CONSTRAINT_INVALID", "a bound of {} cannot be kept exactly by writing digits", text);
  }
  for (const char digit : whole) bound.whole = bound.whole * 10 + static_cast<uint64_t>(digit - '0');
  bound.fraction = fraction;
  if (bound.whole == 0 && bound.fraction.empty()) bound.negative = false;
  return bound;
}

Node NumberRange(Grammar& grammar, const std::optional<NumberBound>& low, const std::optional<NumberBound>& high) {
  const size_t digits = std::min(FractionDigits(low), FractionDigits(high));
  const NumberBound zero;
  std::vector<Node> ways;
  // Minus zero is zero: it is written where zero is inside.
  if (!low || low->negative) {
    const NumberBound nearest = !high                                                            ? zero
                                : high->negative || (high->whole == 0 && high->fraction.empty()) ? *high
                                                                                                 : zero;
    ways.push_back(grammar.Sequence({grammar.Literal("-"), DecimalMagnitudes(grammar, nearest, low, digits)}));
  }
  if (!high || !high->negative) {
    const NumberBound nearest = low && !low->negative ? *low : zero;
    ways.push_back(DecimalMagnitudes(grammar, nearest, high, digits));
  }
  return grammar.Alternatives(ways);
}

}  // namespace qamserve::constraint
