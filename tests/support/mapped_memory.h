// How much of a mapped file is in this process's memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace qamserve {

// Bytes of all mappings of the file `path` that are resident, by /proc/self/smaps.
inline int64_t ResidentBytesOf(const std::string& path) {
  const std::string name = std::filesystem::canonical(path).string();
  std::ifstream smaps("/proc/self/smaps");
  int64_t bytes = 0;
  bool of_file = false;
  for (std::string line; std::getline(smaps, line);) {
    std::istringstream words(line);
    std::string first;
    words >> first;
    // A mapping begins with its addresses; the lines about it with a name and a colon.
    if (!first.ends_with(':')) of_file = line.ends_with(name);
    int64_t kib = 0;
    if (of_file && first == "Rss:" && words >> kib) bytes += kib * 1024;
  }
  return bytes;
}

}  // namespace qamserve
