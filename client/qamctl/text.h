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
// At most `columns` characters, the last one "…" where something was cut.
std::string Clip(std::string_view text, int columns);

enum class Align { kLeft, kRight };

// Rows under a header, each column as wide as its widest cell.
class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString() const;  // each line ends with \n

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace qamserve::qamctl
