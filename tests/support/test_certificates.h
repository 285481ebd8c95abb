// Certificates made by the openssl command: a CA, and what it signs. Each takes a moment: elliptic curves.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "core/base/file.h"

namespace qamserve {

// A CA in `folder`, whose files are NAME.crt and NAME.key.
class TestCa {
 public:
  TestCa(std::string folder, std::string name) : base_(folder + "/" + name), folder_(std::move(folder)) {
    Run("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj '/CN=" + name + "' -keyout " +
        base_ + ".key -out " + base_ + ".crt");
  }

  std::string certificate() const { return base_ + ".crt"; }

  // FOLDER/NAME.crt and .key, for 127.0.0.1 and localhost; `days` may be 0: it expires at once.
  void Sign(const std::string& name, int days = 30) const {
    const std::string path = folder_ + "/" + name;
    EXPECT_TRUE(WriteFileAtomically(path + ".ext", "subjectAltName=DNS:localhost,IP:127.0.0.1\n").ok());
    Run("req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj '/CN=" + name + "' -keyout " + path +
        ".key -out " + path + ".csr");
    Run("x509 -req -in " + path + ".csr -CA " + base_ + ".crt -CAkey " + base_ + ".key -CAcreateserial -days " +
        std::to_string(days) + " -extfile " + path + ".ext -out " + path + ".crt");
  }

  // Any openssl command.
  static void Run(const std::string& arguments) {
    const std::string command = "openssl " + arguments + " >/dev/null 2>&1";
    // NOLINTNEXTLINE(cert-env33-c): a test's own command
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }

 private:
  std::string base_;
  std::string folder_;
};

inline std::string ReadText(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  return text.ok() ? *text : "";
}

}  // namespace qamserve
