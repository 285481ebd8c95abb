#include "server/telemetry/process_stats.h"

#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <system_error>

namespace qamserve {
namespace {

// Of /proc/self/stat, counted behind the ")" that ends the program's name; see proc(5), where it is field 22.
constexpr int kStartField = 19;

double SecondsOf(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

std::optional<double> ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double total = 0;
  double resident = 0;
  if (!(statm >> total >> resident)) return std::nullopt;
  return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
}

// When the system started, in seconds since 1970.
std::optional<double> BootTime() {
  std::ifstream stat("/proc/stat");
  std::string word;
  double seconds = 0;
  while (stat >> word) {
    if (word == "btime") return stat >> seconds ? std::optional(seconds) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<double> OpenFiles() {
  std::error_code error;
  double count = 0;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end; it.increment(error)) {
    ++count;
  }
  if (error || count == 0) return std::nullopt;
  return count - 1;  // without the one that lists them
}

}  // namespace

std::optional<double> ProcessStartTime() {
  std::ifstream stat("/proc/self/stat");
  std::string line;
  std::getline(stat, line);
  const size_t name_end = line.rfind(')');
  const std::optional<double> boot = BootTime();
  if (name_end == std::string::npos || !boot) return std::nullopt;
  size_t at = name_end + 1;
  for (int i = 0; i < kStartField && at != std::string::npos; ++i) at = line.find(' ', at + 1);
  if (at == std::string::npos) return std::nullopt;
  const double ticks = std::strtod(line.c_str() + at, nullptr);
  return *boot + ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void WriteProcessStats(Metrics::GaugeWriter& writer) {
  const auto set = [&writer](Metric metric, const std::optional<double>& value) {
    if (value) writer.Set(metric, {}, *value);
  };
  set(Metric::kResidentMemoryBytes, ResidentBytes());
  set(Metric::kOpenFds, OpenFiles());
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) writer.Set(Metric::kMaxFds, {}, static_cast<double>(files.rlim_cur));
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) == 0) {
    writer.Set(Metric::kCpuSecondsTotal, {}, SecondsOf(usage.ru_utime) + SecondsOf(usage.ru_stime));
  }
}

void WriteDiskStats(const std::string& path, Metrics::GaugeWriter& writer) {
  struct statvfs disk {};
  if (statvfs(path.c_str(), &disk) != 0) return;
  const auto block = static_cast<double>(disk.f_frsize);
  writer.Set(Metric::kDataDiskBytes, {}, static_cast<double>(disk.f_blocks) * block);
  writer.Set(Metric::kDataDiskFreeBytes, {}, static_cast<double>(disk.f_bavail) * block);
}

}  // namespace qamserve
