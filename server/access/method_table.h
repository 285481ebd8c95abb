// What each call needs: the one table of methods and scopes. A test walks the API's descriptors and fails for a method
// that is not in it; at run time such a method is refused.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/store/access_records.h"

namespace qamserve {

struct MethodRule {
  std::string_view service;  // "JobService"
  std::string_view method;
  ScopeSet scopes;         // any of these, or kAdmin, will do; empty = any key
  bool changes = false;    // changes something: stands in the audit log whatever its outcome
  bool inference = false;  // counts against KeyLimits::concurrent_requests and tokens_per_minute
  bool counted = true;     // counts against KeyLimits::requests_per_minute
};

std::span<const MethodRule> MethodTable();
// Null if there is none.
const MethodRule* FindMethodRule(std::string_view service, std::string_view method);

// "read", "upload", "quantize", "infer", "admin".
std::string_view ScopeName(Scope scope);
// "read or infer".
std::string ScopeNames(ScopeSet scopes, std::string_view between = " or ");

}  // namespace qamserve
