#include "core/format/gguf_file_writer.h"

#include <filesystem>

#include "core/format/gguf.h"
#include "tests/core/format/format_testing.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

using Declaration = GgufFileWriter::Declaration;

std::span<const std::byte> Bytes(const auto& values) { return std::as_bytes(std::span(values)); }

TEST(GgufFileWriterTest, OurReaderReadsItBack) {
  const TempFolder folder;
  const std::string path = folder / "a.gguf";
  GgufMetadata metadata;
  metadata.AddString("s", "caf\xC3\xA9");
  metadata.AddUint32("u", 4000000000u);
  metadata.AddFloat32("f", 0.1f);
  metadata.AddBool("b", true);
  metadata.AddStrings("ss", std::vector<std::string>{"", "x y"});
  metadata.AddInt32s("is", std::vector<int32_t>{-1, 7});
  metadata.AddFloat32s("fs", std::vector<float>{-0.5f, 2});
  const std::vector<Declaration> tensors = {
      {"half", DType::kF16, {1, 3}}, {"brain", DType::kBF16, {2, 2}}, {"single", DType::kF32, {3}}};
  auto writer = GgufFileWriter::Create(path, metadata, tensors);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x3800}, brain = {0x3f80, 0xc000, 0x3f00, 0x0000};
  const std::vector<float> single = {1, -2, 0.5};
  EXPECT_EQ(writer->Append(Bytes(half)), absl::OkStatus());
  EXPECT_EQ(writer->Append(Bytes(brain).first(2)), absl::OkStatus());  // a tensor may come in pieces
  EXPECT_EQ(writer->Append(Bytes(brain).subspan(2)), absl::OkStatus());
  EXPECT_EQ(writer->Append(Bytes(single)), absl::OkStatus());
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_EQ(writer->Commit(), absl::OkStatus());

  const uint64_t size = std::filesystem::file_size(path);
  EXPECT_EQ(*GgufFileWriter::TotalBytes(metadata, tensors), size);
  const auto reader = GgufReader::Open({"a.gguf", path, size});
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(*(*reader)->GetString("s"), "caf\xC3\xA9");
  EXPECT_EQ(*(*reader)->GetInt("u"), 4000000000);
  EXPECT_EQ(*(*reader)->GetFloat("f"), static_cast<double>(0.1f));
  EXPECT_TRUE(*(*reader)->GetBool("b"));
  EXPECT_THAT(*(*reader)->GetStrings("ss"), testing::ElementsAre("", "x y"));
  EXPECT_THAT(*(*reader)->GetInts("is"), testing::ElementsAre(-1, 7));
  EXPECT_THAT(*(*reader)->GetFloats("fs"), testing::ElementsAre(-0.5, 2));
  for (const auto& [name, shape] : {std::pair{"half", "[1, 3]"}, {"brain", "[2, 2]"}, {"single", "[3]"}}) {
    const TensorInfo* info = (*reader)->Find(name);
    ASSERT_NE(info, nullptr);
    EXPECT_EQ(info->ShapeString(), shape);
    EXPECT_EQ(info->offset % 32, 0u);
    std::vector<float> values(static_cast<size_t>(info->elements()));
    ASSERT_EQ(ReadRows(**reader, *info, 0, info->rows(), values), absl::OkStatus());
    values.resize(3);
    EXPECT_THAT(values, testing::ElementsAre(1, -2, 0.5));
  }
}

TEST(GgufFileWriterTest, WrongDeclarationsAreRefused) {
  const TempFolder folder;
  const auto reason = [&](std::vector<Declaration> tensors) {
    return ReasonOf(GgufFileWriter::Create(folder / "a.gguf", {}, tensors).status());
  };
  EXPECT_EQ(reason({{"a", DType::kQ8_0, {32}}}), "TENSOR_DTYPE_UNSUPPORTED");
  EXPECT_EQ(reason({{"a", DType::kF32, {}}}), "TENSOR_SHAPE");
  EXPECT_EQ(reason({{"a", DType::kF32, {1, 1, 1, 1, 1}}}), "TENSOR_SHAPE");
  EXPECT_EQ(reason({{"a", DType::kF32, {1}}, {"a", DType::kF32, {1}}}), "GGUF_TENSOR");
  EXPECT_EQ(reason({{"", DType::kF32, {1}}}), "GGUF_TENSOR");
}

TEST(GgufFileWriterTest, TooFewOrTooManyBytesLeaveNoFile) {
  const TempFolder folder;
  const std::vector<float> two = {1, 2};
  const std::vector<Declaration> tensors = {{"a", DType::kF32, {2}}, {"b", DType::kF32, {1}}};
  {
    auto writer = GgufFileWriter::Create(folder / "few.gguf", {}, tensors);
    ASSERT_EQ(writer->Append(Bytes(two)), absl::OkStatus());
    EXPECT_EQ(ReasonOf(writer->Commit()), "GGUF_TENSOR");
  }
  {
    auto writer = GgufFileWriter::Create(folder / "many.gguf", {}, tensors);
    ASSERT_EQ(writer->Append(Bytes(two)), absl::OkStatus());
    EXPECT_EQ(ReasonOf(writer->Append(Bytes(two))), "GGUF_TENSOR");
    EXPECT_EQ(ReasonOf(writer->Commit()), "GGUF_TENSOR");  // the first error stays
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace qamserve
