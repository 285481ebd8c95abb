#include "client/qamctl/text.h"

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

int Columns(std::string_view text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char c) { return !IsContinuation(c); }));
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

std::string Clip(std::string_view text, int columns) {
  if (Columns(text) <= columns) return std::string(text);
  size_t end = 0;
  for (int used = 0; used < columns - 1; ++used) {
    ++end;
    while (end < text.size() && IsContinuation(text[end])) ++end;
  }
  return std::string(text.substr(0, end)) + "…";
}

std::string Table::ToString() const {
  std::vector<int> widths;
  for (const Column& column : columns_) widths.push_back(Columns(column.title));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < widths.size() && i < row.size(); ++i) widths[i] = std::max(widths[i], Columns(row[i]));
  }
  std::string text;
  const auto append = [&](const auto& cell_of) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) line += "  ";
      AppendCell(line, cell_of(i), widths[i], columns_[i].align);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  };
  append([&](size_t i) { return columns_[i].title; });
  for (const auto& row : rows_) append([&](size_t i) { return i < row.size() ? row[i] : std::string(); });
  return text;
}

}  // namespace qamserve::qamctl
