// Texts that tests compare answers with. QAMSERVE_UPDATE_GOLDEN=1 writes them anew; read what changed before keeping
// it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>

namespace qamserve {

// QAMSERVE_GOLDEN_FOLDER is the program's own (CMakeLists.txt).
inline void ExpectGolden(const std::string& name, const std::string& text) {
  const std::string path = std::string(QAMSERVE_GOLDEN_FOLDER) + "/" + name;
  if (std::getenv("QAMSERVE_UPDATE_GOLDEN") != nullptr) std::ofstream(path, std::ios::binary) << text;
  std::ostringstream golden;
  golden << std::ifstream(path, std::ios::binary).rdbuf();
  EXPECT_EQ(text, golden.str()) << path;
}

}  // namespace qamserve
