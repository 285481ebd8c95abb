// Numbers, names and tables as people read them. Pure functions.
#pragma once

#include <google/protobuf/timestamp.pb.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qamserve::qamctl {

std::string HumanBytes(double bytes);      // "12.3 MiB"
std::string HumanCount(double count);      // "134.5M"
std::string HumanSeconds(double seconds);  // "8.2 s", "3 min 20 s", "2 h 5 min"; negative: "?"
// "2024-05-01 13:37:00" in UTC; empty for a time that is not set.
std::string HumanTime(const google::protobuf::Timestamp& time);
// "artifacts/0123456789ab" for "artifacts/" and 64 hex digits: enough to type. Other names stay whole.
std::string ShortName(std::string_view name);
// The part after the last '/'.
std::string LastPart(std::string_view name);
// "QUEUED" for "JOB_STATE_QUEUED".
std::string WithoutPrefix(std::string_view text, std::string_view prefix);
// "[####----]" of `width` cells.
std::string Bar(double fraction, int width);
// "5 %", "33.33 %": part of a whole in four digits; "0 %" if the whole is 0.
std::string Percent(double part, double whole);
// Columns that a text takes on a screen: two for a wide East Asian character or an emoji, none for a combining one.
int Columns(std::string_view text);
// At most `columns` columns, ending in "…" where something was cut.
std::string Clip(std::string_view text, int columns);
// The same with "…" in the middle: names differ at their ends.
std::string ClipMiddle(std::string_view text, int columns);
// Without control characters, which a terminal would obey: each becomes U+FFFD. Line ends and tabs stay if
// `keep_lines`.
std::string Shown(std::string_view text, bool keep_lines = false);
// The same with "\n" and "\t" written out for line ends and tabs.
std::string OnOneLine(std::string_view text);
// `parts` in order, two spaces apart, on as many lines of at most `columns` columns as it takes; empty parts are left
// out. A part that is wider than a line is cut in the middle.
std::vector<std::string> Flow(const std::vector<std::string>& parts, int columns);

enum class Align { kLeft, kRight };

// Rows under a header, each column as wide as its widest cell.
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // Control characters are shown as Shown does.
  void Add(const std::vector<std::string>& row);
  std::string ToString() const;  // each line ends with \n
  std::vector<std::string> ToLines() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace qamserve::qamctl
