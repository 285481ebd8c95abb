// Regular expressions: what ECMA-262, PCRE and Python agree on, over code points. Alternation, groups (named or not,
// all the same here), classes, \d \w \s and their negations (ASCII digits, letters and white space), escapes, * + ?
// {m,n} and their lazy forms, and the anchors ^ and $ at the ends of the expression or of one of its alternatives.
// Backreferences, lookaround, flags, word boundaries, Unicode properties and possessive repetitions are refused by
// name.
#pragma once

#include <functional>
#include <string_view>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

struct PatternOptions {
  // How one code point of a set is written; Grammar::Class if empty.
  std::function<Grammar::Node(Grammar&, const CodePointSet&)> encode;
  // The expression may match anywhere within the text, where it has no anchors; otherwise it is the whole text.
  bool search = false;
};

// INVALID_ARGUMENT (CONSTRAINT_INVALID) names the byte of `text`. The sizes of `grammar` apply. REQUIRES: valid UTF-8.
absl::StatusOr<Grammar::Node> AddPattern(std::string_view text, Grammar& grammar, const PatternOptions& options = {});

}  // namespace qamserve::constraint
