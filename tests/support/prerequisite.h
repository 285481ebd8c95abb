// What a test needs of the machine (a database server, say) and does not find. On a developer's machine it skips; where
// CI=true everything was to be there, and it fails: a check that is silently left out for months is no check.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace qamserve {

inline bool PrerequisitesMustBeThere() {
  const char* ci = std::getenv("CI");
  return ci != nullptr && std::string_view(ci) == "true";
}

}  // namespace qamserve

// Ends the test (in SetUp: before its body) unless `missing`, a text that says what is not there, is empty.
#define SKIP_WITHOUT(missing)                                                     \
  do {                                                                            \
    const std::string what_is_missing = (missing);                                \
    if (what_is_missing.empty()) break;                                           \
    if (!::qamserve::PrerequisitesMustBeThere()) GTEST_SKIP() << what_is_missing; \
    FAIL() << what_is_missing << " (where CI=true nothing may be missing)";       \
  } while (false)
