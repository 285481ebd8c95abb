// GBNF, the notation of grammars that llama.cpp made common: rules "name ::= ...", beginning with "root". Literals in
// double quotes and classes in brackets, both with the escapes \n \r \t \\ \" \[ \] \- \^ and \xHH \uHHHH \UHHHHHHHH;
// '.' for any code point; '|', groups, * + ? {m} {m,} {m,n} and comments from '#' to the end of the line. A rule may go
// on over several lines; it ends where the next one begins.
#pragma once

#include <string_view>

#include "core/constraint/grammar.h"

namespace qamserve::constraint {

// The rule "root". INVALID_ARGUMENT (CONSTRAINT_INVALID) names line and column, or a rule that is used and not defined.
// Left recursion is found by CompileProgram. The sizes of `grammar` apply. REQUIRES: valid UTF-8.
absl::StatusOr<uint32_t> AddGbnf(std::string_view text, Grammar& grammar);

}  // namespace qamserve::constraint
