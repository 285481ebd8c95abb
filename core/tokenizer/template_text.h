// Values of chat templates as Python prints them, which is not what the engine does: json.dumps with transformers'
// settings for the filter "tojson", and str for what a template prints. 1.0 stays 1.0, numbers keep all their digits,
// None is printed, and lists and mappings are too. Internal to core/tokenizer; sees the engine's headers. Pure
// functions.
#pragma once

#include <jinja/runtime.h>

#include <cstdint>
#include <optional>
#include <string>

namespace qamserve {

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  std::optional<int64_t> indent;              // all in one line if there is none
  std::optional<std::string> item_separator;  // ", ", or "," with an indent
  std::optional<std::string> key_separator;   // ": "
};

// Undefined and what is no JSON becomes null. Recursive: the caller bounds the nesting of `v`, and what the style adds.
std::string JsonText(const jinja::value& v, const JsonStyle& style);

// str(v). Recursive, as JsonText. What Python has no value like (functions) is as the engine has it.
std::string PythonText(const jinja::value& v);

// As Python prints a float: the fewest digits that are this number, with an exponent below 1e-4 and from 1e16 on.
std::string PythonFloat(double number);

}  // namespace qamserve
