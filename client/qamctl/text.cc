#include "client/qamctl/text.h"

#include <absl/strings/str_replace.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <ctime>

namespace qamserve::qamctl {
namespace {

// Of the 64 digits of a digest; 48 bits do not collide by accident in one store.
constexpr size_t kShortDigest = 12;

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// The first character of a text, with its bytes; what is not UTF-8 counts as characters of some sort.
struct Character {
  char32_t code = 0;
  std::string_view bytes;
};
Character FirstOf(std::string_view text) {
  const size_t longest = static_cast<unsigned char>(text[0]) < 0xc0 ? 1 : std::min<size_t>(4, text.size());
  size_t n = 1;
  while (n < longest && IsContinuation(text[n])) ++n;
  const auto byte = [&](size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  // Of a leading byte the bits below its ones and a zero.
  char32_t code = n == 1 ? byte(0) : byte(0) & (0x7fu >> n);
  for (size_t i = 1; i < n; ++i) code = code << 6 | (byte(i) & 0x3f);
  return {code, text.substr(0, n)};
}

struct CodeRange {
  char32_t first;
  char32_t last;
};
bool IsIn(const auto& ranges, char32_t code) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [&](const CodeRange& r) { return r.first <= code && code <= r.last; });
}

// Unicode's East Asian Width W and F, by blocks, and the blocks of combining characters, joiners and selectors.
constexpr std::array kWide = {CodeRange{0x1100, 0x115f},   CodeRange{0x2e80, 0xa4cf},   CodeRange{0xac00, 0xd7a3},
                              CodeRange{0xf900, 0xfaff},   CodeRange{0xfe30, 0xfe6f},   CodeRange{0xff00, 0xff60},
                              CodeRange{0xffe0, 0xffe6},   CodeRange{0x1f300, 0x1f64f}, CodeRange{0x1f680, 0x1f6ff},
                              CodeRange{0x1f900, 0x1faff}, CodeRange{0x20000, 0x3fffd}};
constexpr std::array kNarrowest = {CodeRange{0x300, 0x36f}, CodeRange{0x200b, 0x200f}, CodeRange{0x20d0, 0x20ff},
                                   CodeRange{0xfe00, 0xfe0f}};

int ColumnsOf(char32_t code) { return IsIn(kNarrowest, code) ? 0 : IsIn(kWide, code) ? 2 : 1; }

// The bytes at the start of `text` that fit into `columns`.
size_t PrefixFor(std::string_view text, int columns) {
  size_t end = 0;
  while (end < text.size()) {
    const Character c = FirstOf(text.substr(end));
    columns -= ColumnsOf(c.code);
    if (columns < 0) break;
    end += c.bytes.size();
  }
  return end;
}

void AppendCell(std::string& line, std::string_view cell, int width, Align align) {
  const std::string padding(static_cast<size_t>(std::max(0, width - Columns(cell))), ' ');
  if (align == Align::kRight) line += padding;
  line += cell;
  if (align == Align::kLeft) line += padding;
}

}  // namespace

std::string HumanBytes(double bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string HumanCount(double count) {
  constexpr std::array kUnits = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  while (count >= 1000 && unit + 1 < kUnits.size()) {
    count /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f}", count) : fmt::format("{:.1f}{}", count, kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

std::string HumanTime(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0) return "";
  const auto seconds = static_cast<time_t>(time.seconds());
  std::tm parts{};
  if (gmtime_r(&seconds, &parts) == nullptr) return "";
  return fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec);
}

std::string LastPart(std::string_view name) { return std::string(name.substr(name.find_last_of('/') + 1)); }

std::string ShortName(std::string_view name) {
  const std::string id = LastPart(name);
  if (id.size() != 64) return std::string(name);
  return std::string(name.substr(0, name.size() - id.size() + kShortDigest));
}

std::string WithoutPrefix(std::string_view text, std::string_view prefix) {
  return std::string(text.starts_with(prefix) ? text.substr(prefix.size()) : text);
}

std::string Bar(double fraction, int width) {
  const int full = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * width);
  return "[" + std::string(static_cast<size_t>(full), '#') + std::string(static_cast<size_t>(width - full), '-') + "]";
}

std::string Percent(double part, double whole) { return fmt::format("{:.4g} %", whole > 0 ? 100 * part / whole : 0.0); }

int Columns(std::string_view text) {
  int columns = 0;
  while (!text.empty()) {
    const Character c = FirstOf(text);
    columns += ColumnsOf(c.code);
    text.remove_prefix(c.bytes.size());
  }
  return columns;
}

std::string Clip(std::string_view text, int columns) {
  if (Columns(text) <= columns) return std::string(text);
  return std::string(text.substr(0, PrefixFor(text, columns - 1))) + "…";
}

std::string ClipMiddle(std::string_view text, int columns) {
  int surplus = Columns(text) - columns;
  if (surplus <= 0) return std::string(text);
  const size_t head = PrefixFor(text, (columns - 1) / 2);
  size_t tail = head;
  for (++surplus; surplus > 0 && tail < text.size();) {
    const Character c = FirstOf(text.substr(tail));
    surplus -= ColumnsOf(c.code);
    tail += c.bytes.size();
  }
  return std::string(text.substr(0, head)) + "…" + std::string(text.substr(tail));
}

std::string Shown(std::string_view text, bool keep_lines) {
  std::string shown;
  while (!text.empty()) {
    const Character c = FirstOf(text);
    const bool kept = keep_lines && (c.code == '\n' || c.code == '\t');
    const bool control = c.code < 0x20 || (0x7f <= c.code && c.code < 0xa0);
    shown += control && !kept ? std::string_view("\ufffd") : c.bytes;
    text.remove_prefix(c.bytes.size());
  }
  return shown;
}

std::string OnOneLine(std::string_view text) {
  return Shown(absl::StrReplaceAll(absl::string_view(text.data(), text.size()), {{"\n", "\\n"}, {"\t", "\\t"}}));
}

std::vector<std::string> Flow(const std::vector<std::string>& parts, int columns) {
  std::vector<std::string> lines;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    if (!lines.empty() && Columns(lines.back()) + 2 + Columns(part) <= columns) {
      lines.back() += "  " + part;
    } else {
      lines.push_back(ClipMiddle(part, columns));
    }
  }
  return lines;
}

void Table::Add(const std::vector<std::string>& row) {
  std::vector<std::string>& cells = rows_.emplace_back();
  for (const std::string& cell : row) cells.push_back(Shown(cell));
}

std::vector<std::string> Table::ToLines() const {
  std::vector<int> widths;
  for (const Column& column : columns_) widths.push_back(Columns(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < widths.size() && i < row.size(); ++i) widths[i] = std::max(widths[i], Columns(row[i]));
  }
  std::vector<std::string> lines;
  const auto append = [&](const auto& cell_of) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) line += "  ";
      AppendCell(line, cell_of(i), widths[i], columns_[i].align);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    lines.push_back(std::move(line));
  };
  append([&](size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) append([&](size_t i) { return i < row.size() ? row[i] : std::string(); });
  return lines;
}

std::string Table::ToString() const {
  std::string text;
  for (const std::string& line : ToLines()) text += line + "\n";
  return text;
}

}  // namespace qamserve::qamctl
