#include "core/tokenizer/template_text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <string_view>
#include <utility>
#include <vector>

#include "core/tokenizer/utf8.h"

namespace qamserve {
namespace {

using jinja::value;

class Writer {
 public:
  explicit Writer(const JsonStyle& style)
      : style_(style),
        item_separator_(style.item_separator.value_or(style.indent ? "," : ", ")),
        key_separator_(style.key_separator.value_or(": ")) {}

  void Write(const value& v, size_t level) {
    if (const auto* flag = jinja::cast_val<jinja::value_bool>(v)) {
      out_ += flag->as_bool() ? "true" : "false";
    } else if (const auto* whole = jinja::cast_val<jinja::value_int>(v)) {
      fmt::format_to(std::back_inserter(out_), "{}", whole->as_int());
    } else if (const auto* number = jinja::cast_val<jinja::value_float>(v)) {
      out_ += JsonFloat(number->as_float());
    } else if (jinja::is_val<jinja::value_string>(v)) {
      WriteText(v->as_string().str());
    } else if (jinja::is_val<jinja::value_array>(v)) {
      WriteArray(v->as_array(), level);
    } else if (jinja::is_val<jinja::value_object>(v)) {
      WriteObject(v->as_ordered_object(), level);
    } else {
      out_ += "null";
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  static std::string JsonFloat(double number) {
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
    return PythonFloat(number);
  }

  void NewLine(size_t level) {
    if (!style_.indent) return;
    out_ += '\n';
    out_.append(level * static_cast<size_t>(std::max<int64_t>(0, *style_.indent)), ' ');
  }

  void WriteArray(const std::vector<value>& items, size_t level) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += item_separator_;
      NewLine(level + 1);
      Write(items[i], level + 1);
    }
    if (!items.empty()) NewLine(level);
    out_ += ']';
  }

  void WriteObject(const std::vector<std::pair<value, value>>& members, size_t level) {
    std::vector<std::pair<std::string, const value*>> fields;
    fields.reserve(members.size());
    for (const auto& [key, item] : members) fields.emplace_back(key->as_string().str(), &item);
    if (style_.sort_keys) {
      std::stable_sort(fields.begin(), fields.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    out_ += '{';
    for (size_t i = 0; i < fields.size(); ++i) {
      if (i > 0) out_ += item_separator_;
      NewLine(level + 1);
      WriteText(fields[i].first);
      out_ += key_separator_;
      Write(*fields[i].second, level + 1);
    }
    if (!fields.empty()) NewLine(level);
    out_ += '}';
  }

  void WriteText(std::string_view text) {
    out_ += '"';
    while (!text.empty()) {
      const auto byte = static_cast<unsigned char>(text[0]);
      const std::optional<Utf8Char> character = byte < 0x80 ? Utf8Char{byte, 1} : DecodeUtf8(text);
      if (byte < 0x80 || (style_.ensure_ascii && character)) {
        WriteCharacter(character->code_point);
      } else {
        out_ += text.substr(0, character ? character->length : 1);
      }
      text.remove_prefix(character ? character->length : 1);
    }
    out_ += '"';
  }

  void WriteCharacter(uint32_t c) {
    constexpr std::string_view kEscaped = "\"\\\b\f\n\r\t";
    constexpr std::string_view kEscapes = "\"\\bfnrt";
    const size_t at = c < 0x80 ? kEscaped.find(static_cast<char>(c)) : std::string_view::npos;
    if (at != std::string_view::npos) {
      out_ += '\\';
      out_ += kEscapes[at];
    } else if (c >= 0x20 && c < 0x7F) {
      out_ += static_cast<char>(c);
    } else if (c == 0x7F) {
      out_ += '\x7f';
    } else if (c < 0x10000) {
      fmt::format_to(std::back_inserter(out_), "\\u{:04x}", c);
    } else {
      fmt::format_to(std::back_inserter(out_), "\\u{:04x}\\u{:04x}", 0xD800 + ((c - 0x10000) >> 10),
                     0xDC00 + (c & 0x3FF));
    }
  }

  const JsonStyle& style_;
  const std::string item_separator_;
  const std::string key_separator_;
  std::string out_;
};

// What str.isprintable says no to.
bool IsPrintable(uint32_t code_point) {
  if (code_point == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code_point))) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

// repr of a text.
void AppendQuoted(std::string_view text, std::string& out) {
  const bool single = text.find('\'') == std::string_view::npos || text.find('"') != std::string_view::npos;
  const char quote = single ? '\'' : '"';
  out += quote;
  while (!text.empty()) {
    const std::optional<Utf8Char> character = DecodeUtf8(text);
    const size_t length = character ? character->length : 1;
    const uint32_t c = character ? character->code_point : static_cast<unsigned char>(text[0]);
    const std::string_view bytes = text.substr(0, length);
    if (c == '\\' || c == static_cast<unsigned char>(quote)) {
      out.append("\\").append(bytes);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (IsPrintable(c)) {
      out += bytes;
    } else if (c < 0x100) {
      fmt::format_to(std::back_inserter(out), "\\x{:02x}", c);
    } else if (c < 0x10000) {
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
    } else {
      fmt::format_to(std::back_inserter(out), "\\U{:08x}", c);
    }
    text.remove_prefix(length);
  }
  out += quote;
}

void AppendPython(const value& v, bool quoted, std::string& out) {
  if (v->is_undefined()) {
    if (quoted) out += "Undefined";
  } else if (v->is_none()) {
    out += "None";
  } else if (jinja::is_val<jinja::value_string>(v)) {
    const std::string text = v->as_string().str();
    if (quoted) {
      AppendQuoted(text, out);
    } else {
      out += text;
    }
  } else if (const auto* number = jinja::cast_val<jinja::value_float>(v)) {
    out += PythonFloat(number->as_float());
  } else if (jinja::is_val<jinja::value_array>(v)) {
    const bool tuple = jinja::is_val<jinja::value_tuple>(v);
    const std::vector<value>& items = v->as_array();
    out += tuple ? '(' : '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += ", ";
      AppendPython(items[i], /*quoted=*/true, out);
    }
    if (tuple && items.size() == 1) out += ',';
    out += tuple ? ')' : ']';
  } else if (jinja::is_val<jinja::value_object>(v)) {
    out += '{';
    bool first = true;
    for (const auto& [key, item] : v->as_ordered_object()) {
      if (!std::exchange(first, false)) out += ", ";
      AppendPython(key, /*quoted=*/true, out);
      out += ": ";
      AppendPython(item, /*quoted=*/true, out);
    }
    out += '}';
  } else {
    out += v->as_string().str();
  }
}

}  // namespace

std::string PythonText(const value& v) {
  std::string out;
  AppendPython(v, /*quoted=*/false, out);
  return out;
}

std::string JsonText(const value& v, const JsonStyle& style) {
  Writer writer(style);
  writer.Write(v, 0);
  return writer.Take();
}

std::string PythonFloat(double number) {
  // "-d.ddde-dd": the shortest digits that give the number again.
  char text[32];
  const char* end = std::to_chars(std::begin(text), std::end(text), number, std::chars_format::scientific).ptr;
  std::string_view rest(text, static_cast<size_t>(end - text));
  std::string out;
  if (rest.starts_with('-')) {
    out = "-";
    rest.remove_prefix(1);
  }
  const size_t e = rest.find('e');
  if (e == std::string_view::npos) return out.append(rest);  // not finite
  std::string digits(rest.substr(0, 1));
  if (e > 2) digits += rest.substr(2, e - 2);
  const int exponent = std::atoi(std::string(rest.substr(e + 1)).c_str());
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out.append(".").append(digits, 1);
    return out + fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  const int whole = exponent + 1;  // digits before the point
  if (whole <= 0) {
    const int zeros = -whole;
    return out.append("0.").append(static_cast<size_t>(zeros), '0').append(digits);
  }
  if (count <= whole) {
    const int zeros = whole - count;
    return out.append(digits).append(static_cast<size_t>(zeros), '0').append(".0");
  }
  const auto point = static_cast<size_t>(whole);
  return out.append(digits, 0, point).append(".").append(digits, point);
}

}  // namespace qamserve
