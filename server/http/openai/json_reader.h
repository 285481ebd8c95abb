// Strict reading of request bodies: whatever is not as it should be is an error that names the member by its path
// ("messages[1].content"), as OpenAI's own errors do. Nothing here throws. Not thread-safe.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

namespace qamserve::openai {

// Keeps the order of members: schemas and tools go on to templates and grammars as they were written.
using Json = nlohmann::ordered_json;

// More than tools with nested schemas need; everything that copies or prints JSON does so by recursion.
inline constexpr int kMaxJsonDepth = 64;
// Of one object: ordered JSON looks members up one by one. logit_bias may have 1024.
inline constexpr size_t kMaxJsonMembers = 4096;
// Objects, arrays and members of a whole text: each costs some 100 bytes, however short it is written.
inline constexpr size_t kMaxJsonParts = 65536;

// An INVALID_ARGUMENT of which ParamOf is `param`.
absl::Status FieldError(std::string_view reason, std::string_view param, std::string message);
// The path of the member that an error is about; "" if it is about none.
std::string ParamOf(const absl::Status& status);

// INVALID_ARGUMENT: JSON_INVALID says where, JSON_LIMIT names the limit above that is passed, JSON_DUPLICATE the member
// that comes twice.
absl::StatusOr<Json> ParseJsonText(std::string_view text);

// The members of one object. The first error stays in `status`, which readers of one request share; from then on
// nothing is read. null is the same as absent. `object` and `status` must outlive it.
class Members {
 public:
  // INVALID_TYPE unless `object` is one. `path` is "" for the body itself.
  Members(const Json& object, std::string path, absl::Status& status);

  bool ok() const { return status_.ok(); }
  // Null if it is absent; counts as known.
  const Json* Find(std::string_view name);
  const Json* Require(std::string_view name);  // MISSING_REQUIRED_PARAMETER

  // True if it is there and of the type; `out` is untouched otherwise. INVALID_TYPE, INVALID_VALUE (limits).
  bool Read(std::string_view name, std::string& out);
  bool Read(std::string_view name, bool& out);
  bool Read(std::string_view name, double& out);
  bool Read(std::string_view name, int64_t& out, int64_t least, int64_t most);
  // One of `values`.
  bool ReadOneOf(std::string_view name, std::initializer_list<std::string_view> values, std::string& out);
  std::string RequireText(std::string_view name);

  // Known, of no effect here and harmless to leave aside.
  void Ignore(std::initializer_list<std::string_view> names);
  // Known and not supported: UNSUPPORTED_PARAMETER with `why` if it is there.
  void Refuse(std::string_view name, std::string_view why);
  // UNKNOWN_PARAMETER for a member that none of the above named.
  void RefuseOthers();

  std::string PathOf(std::string_view name) const;
  void Fail(std::string_view reason, std::string_view name, std::string message);
  absl::Status& status() { return status_; }

 private:
  const Json& object_;
  const std::string path_;
  absl::Status& status_;
  std::vector<std::string_view> known_;
};

// "a string", "an array", ... for messages.
std::string_view TypeNameOf(const Json& value);
// INVALID_TYPE: "'param' must be `wanted`; got an array".
absl::Status TypeError(std::string_view param, std::string_view wanted, const Json& value);
// An integer, or a number without a fraction, from `least` to `most`. INVALID_TYPE, INVALID_VALUE.
absl::StatusOr<int64_t> IntegerOf(const Json& value, std::string_view param, int64_t least, int64_t most);
// As text again, on one line.
std::string TextOf(const Json& value);

}  // namespace qamserve::openai
