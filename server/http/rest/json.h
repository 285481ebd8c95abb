// JSON <-> messages by the proto3 mapping (protobuf.dev/programming-guides/proto3/#json), strict on the way in.
// Reading: lowerCamelCase or the proto's own names; unknown fields, fields given twice, arrays in place of single
// values and the reverse are errors that name the field's path ("spec.rates[0].bpw"); 64-bit integers as numbers or
// strings, enums by name or number, null = not given. Writing: lowerCamelCase, fields with their zero too, 64-bit
// integers as strings, enums by name. Pure functions.
#pragma once

#include <google/protobuf/message.h>

#include <string>
#include <string_view>

#include "core/base/status.h"

namespace qamserve::rest {

// More than any request needs; far below protobuf's own limit of 100.
inline constexpr size_t kMaxJsonDepth = 32;
// Digits of a number: doubles need 17, and nobody waits for a megabyte of them.
inline constexpr size_t kMaxNumberBytes = 64;

// INVALID_ARGUMENT, with the field (errors.h) where there is one: JSON_SYNTAX says where, JSON_DEPTH and JSON_NUMBER
// name their limit, JSON_FIELD is everything else.
absl::Status FromJson(std::string_view text, google::protobuf::Message* message);

// On one line. INTERNAL (JSON_ANSWER): never of a message that our own services made.
absl::StatusOr<std::string> ToJson(const google::protobuf::Message& message);

}  // namespace qamserve::rest
