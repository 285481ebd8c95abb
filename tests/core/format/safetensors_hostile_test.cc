// Files that are damaged or made to do damage.
#include "core/base/rng.h"
#include "core/format/safetensors.h"
#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

constexpr char kName[] = "x.safetensors";

std::string FileOf(std::string_view header, size_t data_bytes) {
  return Bytes().String(header).Raw(std::string(data_bytes, 'd')).str();
}

class SafetensorsHostileTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(std::string_view bytes) const {
    const std::string path = folder_.Write(kName, bytes);
    return SafetensorsReader::Open(FileSet(folder_.path(), {{kName, path, bytes.size()}}));
  }
  // Every error names the file.
  void ExpectRefused(std::string_view bytes, std::string_view reason,
                     std::initializer_list<std::string_view> parts) const {
    const absl::Status status = Open(bytes).status();
    ExpectError(status, reason, parts);
    ExpectError(status, reason, {kName});
  }
  // A tensor "w" declared by `fields`, over `data_bytes` of data.
  void ExpectTensorRefused(std::string_view fields, size_t data_bytes, std::string_view reason,
                           std::initializer_list<std::string_view> parts) const {
    SCOPED_TRACE(std::string(fields));
    ExpectRefused(FileOf(fmt::format(R"({{"w":{{{}}}}})", fields), data_bytes), reason, parts);
  }
  const TestFolder folder_;
};

const char kGood[] =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
    R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"e":{"dtype":"I8","shape":[0],"data_offsets":[32,32]}}  )";

TEST_F(SafetensorsHostileTest, TheUndamagedFileIsFine) {
  const auto reader = Open(FileOf(kGood, 32));
  ASSERT_TRUE(reader.ok()) << reader.status();
  ExpectAllReadable(**reader);
}

TEST_F(SafetensorsHostileTest, TruncatedAnywhere) {
  const std::string good = FileOf(kGood, 32);
  for (size_t size = 0; size < good.size(); ++size) {
    const absl::Status status = Open(good.substr(0, size)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << size << " " << status;
    EXPECT_THAT(MessageOf(status), testing::HasSubstr(kName)) << size;
  }
  EXPECT_FALSE(Open(good + "d").ok()) << "bytes after the last tensor";
}

TEST_F(SafetensorsHostileTest, AnyBitFlipParsesOrIsAnError) {
  const std::string good = FileOf(kGood, 32);
  int refused = 0;
  for (size_t bit = 0; bit < 8 * (8 + sizeof(kGood) - 1); ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    const auto reader = Open(bad);
    if (reader.ok()) {
      ExpectAllReadable(**reader);
    } else {
      ++refused;
      EXPECT_THAT(MessageOf(reader.status()), testing::HasSubstr(kName)) << bit;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST_F(SafetensorsHostileTest, RandomDamageParsesOrIsAnError) {
  const std::string good = FileOf(kGood, 32);
  constexpr std::string_view kSplices[] = {"{",   "}", "[", "]", "\"", ",", ":", "-1", "1e999", "18446744073709551616",
                                           "null"};
  Rng rng(1);
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (uint64_t edits = 1 + rng.NextU64() % 4; edits > 0; --edits) {
      const size_t at = 8 + rng.NextU64() % (sizeof(kGood) - 1);
      const std::string_view splice = kSplices[rng.NextU64() % std::size(kSplices)];
      bad.replace(at, splice.size(), splice);
    }
    const auto reader = Open(bad);
    if (reader.ok()) ExpectAllReadable(**reader);
  }
}

TEST_F(SafetensorsHostileTest, HeaderLength) {
  const auto with_length = [](uint64_t length) { return Bytes().Put(length).Raw("{}").str(); };
  ExpectRefused(with_length(3), "SAFETENSORS_HEADER", {"3 bytes", "file of 10"});
  ExpectRefused(with_length(100'000'000), "SAFETENSORS_HEADER", {"file of 10"});
  ExpectRefused(with_length(100'000'001), "SAFETENSORS_HEADER", {"limit is 100000000"});
  ExpectRefused(with_length(UINT64_MAX), "SAFETENSORS_HEADER", {"18446744073709551615", "limit"});
  ExpectRefused(with_length(UINT64_MAX - 7), "SAFETENSORS_HEADER", {"limit"});
  ExpectRefused(with_length(0), "SAFETENSORS_HEADER", {"brace"});
}

TEST_F(SafetensorsHostileTest, JsonThatIsNotAHeader) {
  for (std::string_view header :
       {"[]", "null", "\xef\xbb\xbf{}", " {}", "{", "{}{}", "{}x", "{\"a\":1}", "{\"a\":[]}", "{\"a\"}",
        "{\"a\":\"b\"}", "{\"\xff\":{}}", "{\"__metadata__\":[]}", "{\"__metadata__\":{\"a\":1}}",
        "{\"__metadata__\":{\"a\":{}}}", "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}",
        "{\"__metadata__\":{},\"__metadata__\":{}}"}) {
    SCOPED_TRACE(header);
    ExpectRefused(FileOf(header, 0), "SAFETENSORS_HEADER", {});
  }
  ExpectRefused(FileOf("{\"a\":{\"b\":" + std::string(5'000'000, '['), 0), "SAFETENSORS_HEADER", {"\"a\""});
  ExpectRefused(FileOf(std::string(5'000'000, '{'), 0), "SAFETENSORS_HEADER", {});
}

TEST_F(SafetensorsHostileTest, Fields) {
  ExpectTensorRefused(R"("shape":[1],"data_offsets":[0,1])", 1, "SAFETENSORS_HEADER", {"\"w\"", "no dtype"});
  ExpectTensorRefused(R"("dtype":"U8","data_offsets":[0,1])", 1, "SAFETENSORS_HEADER", {"\"w\"", "no shape"});
  ExpectTensorRefused(R"("dtype":"U8","shape":[1])", 1, "SAFETENSORS_HEADER", {"\"w\"", "no data_offsets"});
  ExpectTensorRefused(R"("dtype":"U8","dtype":"U8")", 1, "SAFETENSORS_HEADER", {"\"w\"", "second dtype"});
  ExpectTensorRefused(R"("color":"U8")", 1, "SAFETENSORS_HEADER", {"\"w\"", "color"});
  ExpectTensorRefused(R"("dtype":7)", 1, "SAFETENSORS_HEADER", {"\"w\"", "dtype"});
  ExpectTensorRefused(R"("dtype":["U8"])", 1, "SAFETENSORS_HEADER", {"\"w\"", "dtype"});
  ExpectTensorRefused(R"("shape":3)", 1, "SAFETENSORS_HEADER", {"\"w\"", "shape"});
  ExpectTensorRefused(R"("shape":"3")", 1, "SAFETENSORS_HEADER", {"\"w\"", "shape"});
  ExpectTensorRefused(R"("shape":[-3])", 1, "SAFETENSORS_HEADER", {"\"w\"", "negative"});
  ExpectTensorRefused(R"("shape":[1.5])", 1, "SAFETENSORS_HEADER", {"\"w\"", "shape"});
  ExpectTensorRefused(R"("shape":[[1]])", 1, "SAFETENSORS_HEADER", {"\"w\"", "shape"});
  ExpectTensorRefused(R"("shape":[99999999999999999999])", 1, "SAFETENSORS_HEADER", {"\"w\"", "shape"});
  ExpectTensorRefused(R"("data_offsets":[0])", 1, "SAFETENSORS_HEADER", {"\"w\"", "pair"});
  ExpectTensorRefused(R"("data_offsets":[0,1,2])", 1, "SAFETENSORS_HEADER", {"\"w\"", "data_offsets"});
  ExpectTensorRefused(R"("data_offsets":{})", 1, "SAFETENSORS_HEADER", {"\"w\"", "data_offsets"});
}

TEST_F(SafetensorsHostileTest, DTypes) {
  for (std::string_view dtype : {"F64", "BOOL", "F8_E4M3", "f32", "Q4_0", ""}) {
    ExpectTensorRefused(fmt::format(R"("dtype":"{}","shape":[1],"data_offsets":[0,1])", dtype), 1,
                        "TENSOR_DTYPE_UNSUPPORTED", {"\"w\"", dtype});
  }
}

TEST_F(SafetensorsHostileTest, Shapes) {
  ExpectTensorRefused(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])", 8, "TENSOR_SHAPE",
                      {"\"w\"", "[3]", "12", "8"});
  ExpectTensorRefused(R"("dtype":"F32","shape":[],"data_offsets":[0,0])", 0, "TENSOR_SHAPE", {"\"w\""});
  // Products that wrap to something that fits: elements, bytes, and partial products behind a zero.
  ExpectTensorRefused(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])", 0, "TENSOR_SHAPE",
                      {"\"w\""});
  ExpectTensorRefused(R"("dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0])", 0, "TENSOR_SHAPE",
                      {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[4294967296,4294967296,0],"data_offsets":[0,0])", 0, "TENSOR_SHAPE",
                      {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0])", 0, "TENSOR_SHAPE",
                      {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0])", 0, "TENSOR_SHAPE",
                      {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])", 1, "TENSOR_SHAPE",
                      {"\"w\"", "8"});
}

TEST_F(SafetensorsHostileTest, Offsets) {
  ExpectTensorRefused(R"("dtype":"U8","shape":[4],"data_offsets":[4,0])", 4, "SAFETENSORS_OFFSETS", {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])", 3, "SAFETENSORS_OFFSETS",
                      {"\"w\"", "which has 3"});
  ExpectTensorRefused(R"("dtype":"U8","shape":[4],"data_offsets":[0,4])", 5, "SAFETENSORS_OFFSETS",
                      {"\"w\"", "5 bytes"});
  ExpectTensorRefused(R"("dtype":"U8","shape":[4],"data_offsets":[1,5])", 5, "SAFETENSORS_OFFSETS", {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[4],"data_offsets":[18446744073709551612,18446744073709551616])", 5,
                      "SAFETENSORS_HEADER", {"\"w\""});
  ExpectTensorRefused(R"("dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615])", 5,
                      "SAFETENSORS_OFFSETS", {"\"w\""});
  const auto two = [](std::string_view second) {
    return fmt::format(R"({{"v":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"w":{}}})", second);
  };
  ExpectRefused(FileOf(two(R"({"dtype":"U8","shape":[4],"data_offsets":[3,7]})"), 7), "SAFETENSORS_OFFSETS", {"\"w\""});
  ExpectRefused(FileOf(two(R"({"dtype":"U8","shape":[4],"data_offsets":[0,4]})"), 4), "SAFETENSORS_OFFSETS", {});
  ExpectRefused(FileOf(two(R"({"dtype":"U8","shape":[4],"data_offsets":[5,9]})"), 9), "SAFETENSORS_OFFSETS", {"\"w\""});
  EXPECT_TRUE(Open(FileOf(two(R"({"dtype":"U8","shape":[4],"data_offsets":[4,8]})"), 8)).ok());
}

TEST_F(SafetensorsHostileTest, Names) {
  const auto named = [](const std::string& name) {
    return FileOf(fmt::format(R"({{"{}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}})", name), 1);
  };
  EXPECT_TRUE(Open(named(std::string(512, 'n'))).ok());
  ExpectRefused(named(std::string(513, 'n')), "SAFETENSORS_HEADER", {"nnn", "513", "512"});
  ExpectRefused(named(""), "SAFETENSORS_HEADER", {"tensor name"});
  ExpectRefused(named("a\\u0000b"), "SAFETENSORS_HEADER", {"a\\x00b", "control"});
  ExpectRefused(
      FileOf(
          R"({"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
          2),
      "SAFETENSORS_HEADER", {"\"w\"", "twice"});
}

}  // namespace
}  // namespace qamserve
