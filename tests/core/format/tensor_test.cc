#include "core/format/tensor.h"

#include <cstring>
#include <numeric>

#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

// A source of one tensor in memory that remembers the largest read.
class MemorySource : public TensorSource {
 public:
  MemorySource(TensorInfo info, std::string bytes) : tensors_{std::move(info)}, bytes_(std::move(bytes)) {}
  const std::vector<TensorInfo>& tensors() const override { return tensors_; }
  const TensorInfo* Find(std::string_view) const override { return tensors_.data(); }
  const std::string& origin() const override { return origin_; }
  absl::Status ReadBytes(const TensorInfo&, uint64_t offset, std::span<std::byte> out) const override {
    if (offset + out.size() > bytes_.size()) return DataLoss("FILE_TRUNCATED", "beyond the end");
    if (!out.empty()) std::memcpy(out.data(), bytes_.data() + offset, out.size());
    largest_read_ = std::max(largest_read_, out.size());
    return absl::OkStatus();
  }
  size_t largest_read() const { return largest_read_; }

 private:
  std::vector<TensorInfo> tensors_;
  std::string bytes_;
  std::string origin_ = "memory.gguf";
  mutable size_t largest_read_ = 0;
};

TensorInfo Info(DType dtype, std::vector<int64_t> shape) {
  return {.name = "w", .dtype = dtype, .shape = std::move(shape)};
}

TEST(TensorInfoTest, Shapes) {
  EXPECT_EQ(Info(DType::kF32, {576, 1536}).ShapeString(), "[576, 1536]");
  EXPECT_EQ(Info(DType::kF32, {}).ShapeString(), "[]");
  EXPECT_EQ(Info(DType::kF32, {}).elements(), 1);
  EXPECT_EQ(Info(DType::kF32, {5}).rows(), 1);
  EXPECT_EQ(Info(DType::kF32, {2, 3, 5}).rows(), 6);
  EXPECT_EQ(Info(DType::kF32, {2, 3, 5}).cols(), 5);
  EXPECT_EQ(Info(DType::kF32, {2, 0}).rows(), 0);
}

// A block's bytes from the bits of its parts; a wrong number in the table would shift every tensor behind it.
TEST(DTypeTest, Tables) {
  EXPECT_STREQ(DTypeName(DType::kF32), "F32");
  EXPECT_STREQ(DTypeName(DType::kI64), "I64");
  EXPECT_STREQ(DTypeName(DType::kQ4_0), "Q4_0");
  EXPECT_STREQ(DTypeName(DType::kQ6_K), "Q6_K");
  EXPECT_EQ(DTypeBlockElements(DType::kBF16), 1);
  EXPECT_EQ(DTypeBlockBytes(DType::kBF16), 2);
  EXPECT_EQ(DTypeBlockElements(DType::kQ8_0), 32);
  EXPECT_EQ(DTypeBlockBytes(DType::kQ5_1), 2 + 2 + 32 * 5 / 8);
  EXPECT_EQ(DTypeBlockElements(DType::kQ2_K), 256);
  EXPECT_EQ(DTypeBlockBytes(DType::kQ6_K), 256 * 6 / 8 + 16 + 2);
}

TEST(ReadRowsTest, AnyRangeOfRows) {
  std::vector<float> values(7 * 5);
  std::iota(values.begin(), values.end(), -3.5f);
  const MemorySource source(Info(DType::kF32, {7, 5}),
                            std::string(reinterpret_cast<const char*>(values.data()), values.size() * 4));
  for (int64_t begin = 0; begin <= 7; ++begin) {
    for (int64_t end = begin; end <= 7; ++end) {
      std::vector<float> out(static_cast<size_t>((end - begin) * 5));
      ASSERT_TRUE(ReadRows(source, source.tensors()[0], begin, end, out).ok());
      EXPECT_TRUE(std::equal(out.begin(), out.end(), values.begin() + begin * 5));
    }
  }
}

TEST(ReadRowsTest, ReadsInBoundedChunksThatMayEndInsideARow) {
  constexpr int64_t kCols = 96;
  constexpr int64_t kRows = 1500;  // 144000 weights: two chunks and a bit, the borders inside rows
  Bytes stored;
  for (int64_t i = 0; i < kRows * kCols / 32; ++i) {
    stored.Put<uint16_t>(0x3c00);  // scale 1
    for (int j = 0; j < 32; ++j) stored.Put(static_cast<int8_t>((i * 32 + j) % 255 - 127));
  }
  const MemorySource source(Info(DType::kQ8_0, {kRows, kCols}), stored.str());
  std::vector<float> out((kRows - 1) * kCols);
  ASSERT_TRUE(ReadRows(source, source.tensors()[0], 1, kRows, out).ok());
  for (size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], static_cast<float>((i + kCols) % 255) - 127) << i;
  EXPECT_LE(source.largest_read(), size_t{256} << 10);
}

TEST(ReadRowsTest, RefusesWhatDoesNotFit) {
  const MemorySource source(Info(DType::kF32, {4, 2}), std::string(32, '\0'));
  const TensorInfo& tensor = source.tensors()[0];
  std::vector<float> out(2);
  ExpectError(ReadRows(source, tensor, 4, 5, out), "TENSOR_RANGE", {"memory.gguf", "\"w\"", "4 rows", "4 to 5"});
  ExpectError(ReadRows(source, tensor, -1, 0, out), "TENSOR_RANGE", {"-1 to 0"});
  ExpectError(ReadRows(source, tensor, 2, 1, out), "TENSOR_RANGE", {"2 to 1"});
  ExpectError(ReadRows(source, tensor, 0, 2, out), "TENSOR_RANGE", {"4 values", "holds 2"});
}

TEST(ReadRowsTest, ErrorsNameFileAndTensor) {
  const MemorySource integers(Info(DType::kI32, {1, 4}), std::string(16, '\0'));
  std::vector<float> out(4);
  ExpectError(ReadRows(integers, integers.tensors()[0], 0, 1, out), "TENSOR_DTYPE_UNSUPPORTED",
              {"memory.gguf", "\"w\"", "I32"});
  const MemorySource truncated(Info(DType::kF16, {1, 4}), std::string(7, '\0'));
  EXPECT_EQ(ReasonOf(ReadRows(truncated, truncated.tensors()[0], 0, 1, out)), "FILE_TRUNCATED");
}

}  // namespace
}  // namespace qamserve
