#include "core/format/safetensors.h"

#include <cstring>
#include <filesystem>

#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

constexpr std::string_view kGoldenFile =
#include "tests/core/format/golden/safetensors_file.inc"
    ;

using Declaration = SafetensorsWriter::Declaration;

absl::StatusOr<std::unique_ptr<SafetensorsReader>> OpenFolder(const TestFolder& folder) {
  ASSIGN_OR_RETURN(const FileSet files, FileSet::FromPath(folder.path()));
  return SafetensorsReader::Open(files);
}

std::string Pattern(size_t size, int seed) {
  std::string bytes(size, '\0');
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 7 + static_cast<size_t>(seed));
  return bytes;
}

std::span<const std::byte> AsBytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string ReadAll(const TensorSource& source, const TensorInfo& tensor) {
  std::string bytes(tensor.bytes, '\0');
  EXPECT_TRUE(source.ReadBytes(tensor, 0, std::as_writable_bytes(std::span(bytes.data(), bytes.size()))).ok());
  return bytes;
}

void WriteTensors(const std::string& path, const std::vector<Declaration>& tensors, const std::string& data,
                  const std::map<std::string, std::string>& metadata = {}, uint64_t alignment = 1) {
  absl::StatusOr<SafetensorsWriter> writer = SafetensorsWriter::Create(path, tensors, metadata, alignment);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE(writer->Append(AsBytes(data)).ok());
  ASSERT_TRUE(writer->Commit().ok());
}

void WriteIndex(const TestFolder& folder, std::string_view weight_map) {
  folder.Write("model.safetensors.index.json",
               fmt::format(R"({{"metadata":{{"total_size":12,"x":[null,true,-1,0.5]}},"weight_map":{}}})", weight_map));
}

TEST(SafetensorsReaderTest, ReadsTheFileOfAnIndependentWriter) {
  const TestFolder folder;
  folder.Write("model.safetensors", FromHex(kGoldenFile));
  const auto reader = OpenFolder(folder);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), 3u);
  EXPECT_EQ((*reader)->metadata().at("note"), "caf\u00e9");
  const TensorInfo* norm = (*reader)->Find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->ShapeString(), "[3]");
  std::vector<float> values(3);
  ASSERT_TRUE(ReadRows(**reader, *norm, 0, 1, values).ok());
  EXPECT_THAT(values, testing::ElementsAre(1, 2, 3));
  const TensorInfo* q_proj = (*reader)->Find("model.layers.0.self_attn.q_proj.weight");
  ASSERT_NE(q_proj, nullptr);
  EXPECT_EQ(q_proj->dtype, DType::kF16);
  ASSERT_TRUE(ReadRows(**reader, *q_proj, 1, 2, values).ok());
  EXPECT_THAT(values, testing::ElementsAre(3, 4, 5));
  const TensorInfo* scalar = (*reader)->Find("scalar");
  ASSERT_NE(scalar, nullptr);
  EXPECT_EQ(scalar->dtype, DType::kI64);
  EXPECT_TRUE(scalar->shape.empty());
  EXPECT_EQ(ReadAll(**reader, *scalar), Bytes().Put<int64_t>(-7).str());
  EXPECT_EQ((*reader)->Find("none"), nullptr);
}

TEST(SafetensorsRoundTripTest, EveryPlainType) {
  const TestFolder folder;
  std::vector<Declaration> declarations;
  std::string data;
  for (DType dtype :
       {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kU8, DType::kI16, DType::kI32, DType::kI64}) {
    declarations.push_back({std::string("t.") + DTypeName(dtype), dtype, {2, 64}});
    data += Pattern(static_cast<size_t>(128 * DTypeBlockBytes(dtype)), static_cast<int>(dtype));
  }
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"quote\"", "line\nbreak"}};
  WriteTensors(folder.Path("model.safetensors"), declarations, data, metadata, 128);
  const auto reader = OpenFolder(folder);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->metadata(), metadata);
  ASSERT_EQ((*reader)->tensors().size(), declarations.size());
  size_t offset = 0;
  for (size_t i = 0; i < declarations.size(); ++i) {
    const TensorInfo& tensor = (*reader)->tensors()[i];
    EXPECT_EQ(tensor.name, declarations[i].name);
    EXPECT_EQ(tensor.dtype, declarations[i].dtype);
    EXPECT_EQ(tensor.shape, declarations[i].shape);
    EXPECT_EQ(tensor.offset % 128, 0u);
    EXPECT_EQ(ReadAll(**reader, tensor), data.substr(offset, tensor.bytes));
    offset += tensor.bytes;
  }
  EXPECT_EQ(offset, data.size());
}

TEST(SafetensorsRoundTripTest, EmptyTensorScalarAndNoTensors) {
  const TestFolder folder;
  WriteTensors(folder.Path("a.safetensors"), {{"empty", DType::kF32, {0, 5}}, {"one", DType::kF32, {}}}, "abcd");
  WriteTensors(folder.Path("b.safetensors"), {}, "");
  const auto reader = OpenFolder(folder);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->Find("empty")->bytes, 0u);
  EXPECT_EQ((*reader)->Find("one")->bytes, 4u);
  ExpectAllReadable(**reader);
}

TEST(SafetensorsRoundTripTest, SameInputSameBytes) {
  const TestFolder folder;
  for (const char* name : {"a", "b"}) {
    WriteTensors(folder.Path(name), {{"z", DType::kU8, {128}}, {"a", DType::kU8, {3}}}, std::string(131, 'x'),
                 {{"k", "v"}}, 128);
  }
  EXPECT_EQ(*ReadFile(folder.Path("a"), 1000), *ReadFile(folder.Path("b"), 1000));
}

TEST(SafetensorsWriterTest, WritesExactlyWhatWasDeclared) {
  const TestFolder folder;
  const std::string path = folder.Path("w.safetensors");
  {
    absl::StatusOr<SafetensorsWriter> writer = SafetensorsWriter::Create(path, {{"w", DType::kF32, {4}}}, {});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->Append(AsBytes("0123456")).ok());
    const absl::Status early = writer->Commit();
    EXPECT_EQ(early.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(MessageOf(early), testing::HasSubstr(path));
    ExpectError(writer->Append(AsBytes("0123456789")), "SAFETENSORS_OFFSETS", {path, "10 bytes", "9 "});
    EXPECT_FALSE(writer->Append(AsBytes("789")).ok()) << "the first error sticks";
    EXPECT_FALSE(writer->Commit().ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsWriterTest, TotalBytesIsTheSizeOfTheFile) {
  const TestFolder folder;
  absl::StatusOr<SafetensorsWriter> writer =
      SafetensorsWriter::Create(folder.Path("w"), {{"w", DType::kF32, {4}}}, {}, 4096);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(writer->total_bytes(), 4096u + 16u);
  ASSERT_TRUE(writer->Append(AsBytes(std::string(16, 'x'))).ok());
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(std::filesystem::file_size(folder.Path("w")), writer->total_bytes());
}

TEST(SafetensorsWriterTest, TotalBytesIsKnownBeforeAnythingIsWritten) {
  const TestFolder folder;
  const std::vector<Declaration> tensors{{"a", DType::kU8, {5}}, {"b", DType::kBF16, {3}}};
  const std::map<std::string, std::string> metadata{{"k", "v"}};
  const absl::StatusOr<uint64_t> expected = SafetensorsWriter::TotalBytes(tensors, metadata, 64);
  ASSERT_TRUE(expected.ok()) << expected.status();
  WriteTensors(folder.Path("w"), tensors, std::string(11, 'x'), metadata, 64);
  EXPECT_EQ(std::filesystem::file_size(folder.Path("w")), *expected);
  EXPECT_EQ(ReasonOf(SafetensorsWriter::TotalBytes(tensors, metadata, 3).status()), "SAFETENSORS_OFFSETS");
}

TEST(SafetensorsWriterTest, AHeaderGrowsToTheSizeThatWasPromised) {
  const TestFolder folder;
  const std::vector<Declaration> longer{{"a", DType::kBF16, {64}}}, shorter{{"a", DType::kF16, {64}}};
  const uint64_t promised = *SafetensorsWriter::TotalBytes(longer, {}, 1);
  ASSERT_EQ(*SafetensorsWriter::TotalBytes(shorter, {}, 1), promised - 1);
  for (const uint64_t at_least : {uint64_t{0}, promised - 1, promised, promised + 100}) {
    auto writer = SafetensorsWriter::Create(folder.Path("w"), shorter, {}, 1, at_least);
    ASSERT_TRUE(writer.ok()) << writer.status();
    EXPECT_EQ(writer->total_bytes(), std::max(at_least, promised - 1));
    ASSERT_TRUE(writer->Append(AsBytes(std::string(128, 'x'))).ok());
    ASSERT_TRUE(writer->Commit().ok());
    const auto reader = SafetensorsReader::Open(FileSet("w", {{"w.safetensors", folder.Path("w"), 0}}));
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->Find("a")->bytes, 128u);
  }
}

TEST(SafetensorsWriterTest, OnlyTensorsThatAskForItMustBeAligned) {
  const TestFolder folder;
  const auto create = [&](bool aligned, int64_t first_bytes) {
    return SafetensorsWriter::Create(folder.Path("w"),
                                     {{"a", DType::kU8, {first_bytes}}, {"w", DType::kU8, {1}, aligned}}, {}, 128)
        .status();
  };
  EXPECT_TRUE(create(false, 3).ok());
  EXPECT_TRUE(create(true, 256).ok());
  ExpectError(create(true, 255), "SAFETENSORS_OFFSETS", {"\"w\"", "255", "128"});
}

TEST(SafetensorsWriterTest, RefusesWhatTheReaderWouldRefuse) {
  const TestFolder folder;
  const std::string path = folder.Path("w");
  const auto create = [&](const std::vector<Declaration>& tensors, uint64_t alignment = 1,
                          const std::map<std::string, std::string>& metadata = {}) {
    return SafetensorsWriter::Create(path, tensors, metadata, alignment).status();
  };
  ExpectError(create({{"w", DType::kU8, {1}}, {"w", DType::kU8, {1}}}), "SAFETENSORS_HEADER", {path, "\"w\"", "twice"});
  ExpectError(create({{"w", DType::kQ4_0, {32}}}), "TENSOR_DTYPE_UNSUPPORTED", {path, "\"w\"", "Q4_0"});
  ExpectError(create({{"w", DType::kU8, {-1}}}), "TENSOR_SHAPE", {path, "\"w\"", "-1"});
  ExpectError(create({{"w", DType::kU8, {int64_t{1} << 32, int64_t{1} << 32}}}), "TENSOR_SHAPE", {"\"w\""});
  ExpectError(create({{"w", DType::kF32, {int64_t{1} << 62}}}), "TENSOR_SHAPE", {"\"w\""});
  ExpectError(create({{"w", DType::kU8, {1, 1, 1, 1, 1, 1, 1, 1, 1}}}), "TENSOR_SHAPE", {"9 dimensions", "8"});
  ExpectError(create({{"a", DType::kU8, {3}}, {"w", DType::kU8, {1}, true}}, 2), "SAFETENSORS_OFFSETS",
              {"\"w\"", "3", "2"});
  ExpectError(create({}, 3), "SAFETENSORS_OFFSETS", {"alignment 3"});
  ExpectError(create({}, 8192), "SAFETENSORS_OFFSETS", {"alignment 8192"});
  ExpectError(create({{"", DType::kU8, {1}}}), "SAFETENSORS_HEADER", {path});
  ExpectError(create({{"a\nb", DType::kU8, {1}}}), "SAFETENSORS_HEADER", {"a\\x0ab"});
  ExpectError(create({{"__metadata__", DType::kU8, {1}}}), "SAFETENSORS_HEADER", {"__metadata__"});
  ExpectError(create({{"\xff", DType::kU8, {1}}}), "SAFETENSORS_HEADER", {path});
  ExpectError(create({}, 1, {{"k", "\xff"}}), "SAFETENSORS_HEADER", {path});
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SafetensorsReaderTest, ShardsWithAndWithoutIndex) {
  const TestFolder folder;
  WriteTensors(folder.Path("model-1.safetensors"), {{"a", DType::kU8, {2}}}, "aa", {{"k", "1"}, {"only", "x"}});
  WriteTensors(folder.Path("model-2.safetensors"), {{"b", DType::kU8, {3}}}, "bbb", {{"k", "2"}});
  for (bool with_index : {false, true}) {
    if (with_index) WriteIndex(folder, R"({"a":"model-1.safetensors","b":"model-2.safetensors"})");
    const auto reader = OpenFolder(folder);
    ASSERT_TRUE(reader.ok()) << reader.status();
    ASSERT_EQ((*reader)->tensors().size(), 2u);
    const TensorInfo* b = (*reader)->Find("b");
    ASSERT_NE(b, nullptr);
    EXPECT_EQ((*reader)->file(b->file).path(), folder.Path("model-2.safetensors"));
    EXPECT_EQ(ReadAll(**reader, *b), "bbb");
    EXPECT_EQ((*reader)->metadata().at("k"), "2");
    EXPECT_EQ((*reader)->metadata().at("only"), "x");
  }
}

TEST(SafetensorsReaderTest, WithAnIndexOnlyItsShardsAreRead) {
  const TestFolder folder;
  WriteTensors(folder.Path("model-1.safetensors"), {{"a", DType::kU8, {2}}}, "aa");
  WriteTensors(folder.Path("consolidated.safetensors"), {{"other.layout", DType::kU8, {2}}}, "aa");
  WriteIndex(folder, R"({"a":"model-1.safetensors"})");
  const auto reader = OpenFolder(folder);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->tensors().size(), 1u);
}

TEST(SafetensorsReaderTest, IndexAndShardsMustAgree) {
  const TestFolder folder;
  WriteTensors(folder.Path("model-1.safetensors"), {{"a", DType::kU8, {1}}, {"c", DType::kU8, {1}}}, "ac");
  WriteTensors(folder.Path("model-2.safetensors"), {{"b", DType::kU8, {1}}}, "b");
  const auto expect = [&](std::string_view weight_map, std::string_view reason,
                          std::initializer_list<std::string_view> parts) {
    WriteIndex(folder, weight_map);
    ExpectError(OpenFolder(folder).status(), reason, parts);
  };
  expect(R"({"a":"model-1.safetensors"})", "SAFETENSORS_HEADER", {folder.path(), "\"c\"", "model-1.safetensors"});
  expect(R"({"a":"model-1.safetensors","c":"model-2.safetensors"})", "SAFETENSORS_HEADER",
         {"\"c\"", "model-1.safetensors", "model-2.safetensors"});
  expect(R"({"a":"model-1.safetensors","c":"model-1.safetensors","d":"model-1.safetensors"})", "SAFETENSORS_HEADER",
         {"\"d\"", "model-1.safetensors"});
  expect(R"({"a":"model-1.safetensors","c":"model-3.safetensors"})", "CHECKPOINT_FILE_MISSING",
         {folder.path(), "model-3.safetensors", "\"c\""});
  expect(R"({"a":"../model-1.safetensors"})", "CHECKPOINT_FILE_MISSING", {"../model-1.safetensors"});
  expect(R"({"a":["x"]})", "SAFETENSORS_HEADER", {"model.safetensors.index.json", "\"a\""});
  expect(R"({"a":"model-1.safetensors","a":"model-1.safetensors"})", "SAFETENSORS_HEADER", {"\"a\""});
  expect(R"({"a":)", "SAFETENSORS_HEADER", {"model.safetensors.index.json"});
  expect("{}", "CHECKPOINT_FILE_MISSING", {"safetensors"});
  folder.Write("model.safetensors.index.json", std::string(1'000'000, '['));
  ExpectError(OpenFolder(folder).status(), "SAFETENSORS_HEADER", {"model.safetensors.index.json"});
  folder.Write("model.safetensors.index.json", "{\"x\":" + std::string(1'000'000, '['));
  ExpectError(OpenFolder(folder).status(), "SAFETENSORS_HEADER", {"nesting"});
  folder.Write("model.safetensors.index.json", R"({"x":1})");
  ExpectError(OpenFolder(folder).status(), "SAFETENSORS_HEADER", {"weight_map"});
}

TEST(SafetensorsReaderTest, ATensorInTwoShards) {
  const TestFolder folder;
  WriteTensors(folder.Path("a.safetensors"), {{"w", DType::kU8, {1}}}, "a");
  WriteTensors(folder.Path("b.safetensors"), {{"w", DType::kU8, {1}}}, "b");
  ExpectError(OpenFolder(folder).status(), "SAFETENSORS_HEADER", {"\"w\"", "a.safetensors", "b.safetensors"});
}

TEST(SafetensorsReaderTest, NoShard) {
  const TestFolder folder;
  folder.Write("config.json", "{}");
  ExpectError(OpenFolder(folder).status(), "CHECKPOINT_FILE_MISSING", {folder.path(), "safetensors"});
}

TEST(SafetensorsReaderTest, ReadBytesStaysInsideItsTensor) {
  const TestFolder folder;
  WriteTensors(folder.Path("a.safetensors"), {{"v", DType::kU8, {4}}, {"w", DType::kU8, {4}}}, "vvvvwwww");
  const auto reader = OpenFolder(folder);
  ASSERT_TRUE(reader.ok());
  std::vector<std::byte> out(4);
  const TensorInfo& v = *(*reader)->Find("v");
  EXPECT_TRUE((*reader)->ReadBytes(v, 0, out).ok());
  EXPECT_TRUE((*reader)->ReadBytes(v, 4, std::span(out).first(0)).ok());
  ExpectError((*reader)->ReadBytes(v, 1, out), "TENSOR_RANGE", {folder.path(), "\"v\"", "4 at 1"});
  ExpectError((*reader)->ReadBytes(v, UINT64_MAX - 1, out), "TENSOR_RANGE", {"\"v\""});
  TensorInfo foreign = v;
  foreign.file = 7;
  ExpectError((*reader)->ReadBytes(foreign, 0, out), "TENSOR_RANGE", {"file 7 of 1"});
}

}  // namespace
}  // namespace qamserve
