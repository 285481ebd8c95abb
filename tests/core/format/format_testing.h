// What the tests of core/format share: a folder that cleans up after itself, GGUF bytes piece by piece, and checks of
// what an error says.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/file.h"
#include "core/format/tensor.h"

namespace qamserve {

class TestFolder {
 public:
  TestFolder() {
    std::string pattern = ::testing::TempDir() + "/qamserve_format_XXXXXX";
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~TestFolder() { EXPECT_TRUE(RemoveAll(path_).ok()); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string Path(std::string_view name) const { return fmt::format("{}/{}", path_, name); }
  // Without fsync: some tests write thousands of variants.
  std::string Write(std::string_view name, std::string_view bytes) const {
    std::ofstream(Path(name), std::ios::binary | std::ios::trunc) << bytes;
    return Path(name);
  }

 private:
  std::string path_;
};

// `status` has `reason`, and its message holds every one of `parts`.
inline void ExpectError(const absl::Status& status, std::string_view reason,
                        std::initializer_list<std::string_view> parts) {
  EXPECT_EQ(ReasonOf(status), reason) << status.ToString();
  for (std::string_view part : parts) EXPECT_THAT(MessageOf(status), ::testing::HasSubstr(std::string(part)));
}

// Little-endian values and length-prefixed strings, as GGUF has them.
class Bytes {
 public:
  template <typename T>
  Bytes& Put(T value) {
    out_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  Bytes& Raw(std::string_view bytes) {
    out_ += bytes;
    return *this;
  }
  Bytes& String(std::string_view text) { return Put<uint64_t>(text.size()).Raw(text); }
  Bytes& PadTo(size_t alignment) {
    out_.append((alignment - out_.size() % alignment) % alignment, '\0');
    return *this;
  }
  const std::string& str() const { return out_; }

 private:
  std::string out_;
};

inline std::string FromHex(std::string_view hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16));
  }
  return bytes;
}

// Reads every tensor through to its last byte; what the header let through must be readable.
inline void ExpectAllReadable(const TensorSource& source) {
  for (const TensorInfo& tensor : source.tensors()) {
    std::vector<std::byte> bytes(tensor.bytes);
    EXPECT_TRUE(source.ReadBytes(tensor, 0, bytes).ok()) << tensor.name;
    EXPECT_EQ(source.Find(tensor.name), &tensor);
    if (tensor.dtype >= DType::kI8 && tensor.dtype <= DType::kI64) continue;
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    EXPECT_TRUE(ReadRows(source, tensor, 0, tensor.rows(), values).ok()) << tensor.name;
  }
}

}  // namespace qamserve
