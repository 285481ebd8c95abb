// Files that are damaged or made to do damage.
#include "core/base/rng.h"
#include "core/format/gguf.h"
#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

constexpr char kName[] = "x.gguf";

constexpr uint32_t kU8 = 0, kU32 = 4, kF32 = 6, kBool = 7, kString = 8, kArray = 9, kU64 = 10;  // value types
constexpr uint32_t kTypeF32 = 0, kTypeQ4_0 = 2;                                                 // tensor types

Bytes Start(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
  return Bytes().Raw("GGUF").Put(version).Put(tensors).Put(keys);
}

Bytes& AddTensor(Bytes& file, std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type,
                 uint64_t offset) {
  file.String(name).Put(static_cast<uint32_t>(dimensions.size()));
  for (uint64_t dimension : dimensions) file.Put(dimension);
  return file.Put(type).Put(offset);
}

// The header, then `data_bytes` of data.
std::string Finish(Bytes file, size_t data_bytes, size_t alignment = 32) {
  return file.PadTo(alignment).Raw(std::string(data_bytes, 'd')).str();
}

std::string OneTensor(const std::vector<uint64_t>& dimensions, uint32_t type, uint64_t offset, size_t data_bytes) {
  Bytes file = Start(1, 0);
  return Finish(AddTensor(file, "w", dimensions, type, offset), data_bytes);
}

std::string OneKey(const Bytes& value) { return Finish(Start(0, 1).String("k").Raw(value.str()), 0); }

Bytes GoodHeader() {
  Bytes file = Start(2, 6);
  file.String("general.alignment").Put(kU32).Put<uint32_t>(64);
  file.String("s").Put(kString).String("text");
  file.String("f").Put(kF32).Put(1.5f);
  file.String("b").Put(kBool).Put<uint8_t>(1);
  file.String("a").Put(kArray).Put(kU8).Put<uint64_t>(3).Raw("abc");
  file.String("t").Put(kArray).Put(kString).Put<uint64_t>(2).String("x").String("");
  AddTensor(file, "v", {3, 2}, kTypeF32, 64);
  return AddTensor(file, "w", {64}, kTypeQ4_0, 0);
}

std::string GoodFile() { return Finish(GoodHeader(), 64 + 24, 64); }

class GgufHostileTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<GgufReader>> Open(std::string_view bytes) const {
    return GgufReader::Open({kName, folder_.Write(kName, bytes), bytes.size()});
  }
  void ExpectRefused(std::string_view bytes, std::string_view reason,
                     std::initializer_list<std::string_view> parts) const {
    const absl::Status status = Open(bytes).status();
    ExpectError(status, reason, parts);
    ExpectError(status, reason, {kName});
  }
  const TestFolder folder_;
};

TEST_F(GgufHostileTest, TheUndamagedFileIsFine) {
  for (uint32_t version : {2u, 3u}) {
    std::string bytes = GoodFile();
    bytes[4] = static_cast<char>(version);
    const auto reader = Open(bytes);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->tensors()[0].name, "w") << "in file order, not table order";
    EXPECT_EQ((*reader)->tensors()[1].ShapeString(), "[2, 3]");
    EXPECT_EQ((*reader)->tensors()[0].offset % 64, 0u);
    ExpectAllReadable(**reader);
  }
}

TEST_F(GgufHostileTest, TruncatedAnywhere) {
  const std::string good = GoodFile();
  for (size_t size = 0; size < good.size(); ++size) {
    const absl::Status status = Open(good.substr(0, size)).status();
    EXPECT_FALSE(status.ok()) << size;
    EXPECT_THAT(MessageOf(status), testing::HasSubstr(kName)) << size;
  }
}

TEST_F(GgufHostileTest, AnyBitFlipParsesOrIsAnError) {
  const std::string good = GoodFile();
  int refused = 0;
  for (size_t bit = 0; bit < 8 * GoodHeader().str().size(); ++bit) {
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

TEST_F(GgufHostileTest, RandomDamageParsesOrIsAnError) {
  const std::string good = GoodFile();
  const size_t header_bytes = GoodHeader().str().size();
  Rng rng(2);
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (uint64_t edits = 1 + rng.NextU64() % 4; edits > 0; --edits) {
      // Mostly values at the borders of what fits; 8 bytes at once half of the time, as counts and sizes have.
      constexpr uint64_t kValues[] = {0, 1, 255, 256, UINT32_MAX, uint64_t{1} << 32, INT64_MAX, UINT64_MAX};
      const uint64_t value = kValues[rng.NextU64() % std::size(kValues)];
      const size_t width = rng.NextU64() % 2 == 0 ? 1 : 8;
      bad.replace(24 + rng.NextU64() % (header_bytes - 24), width, reinterpret_cast<const char*>(&value), width);
    }
    const auto reader = Open(bad);
    if (reader.ok()) ExpectAllReadable(**reader);
  }
}

TEST_F(GgufHostileTest, MagicAndVersion) {
  ExpectRefused("GGML" + GoodFile().substr(4), "GGUF_HEADER", {"GGUF"});
  ExpectRefused(Start(0, 0, 1).str(), "GGUF_HEADER", {"version 1"});
  ExpectRefused(Start(0, 0, 4).str(), "GGUF_HEADER", {"version 4"});
  ExpectRefused(Start(0, 0, 0x03000000).str(), "GGUF_HEADER", {"big-endian"});
  EXPECT_TRUE(Open(Start(0, 0).str()).ok());
}

TEST_F(GgufHostileTest, CountsAreHeldAgainstTheFile) {
  for (uint64_t count : {uint64_t{1}, uint64_t{1000}, uint64_t{1} << 32, uint64_t{INT64_MAX}, UINT64_MAX}) {
    ExpectRefused(Start(count, 0).str(), "GGUF_HEADER", {std::to_string(count), "tensors"});
    ExpectRefused(Start(0, count).str(), "GGUF_HEADER", {std::to_string(count), "keys"});
  }
}

TEST_F(GgufHostileTest, StringsAndArraysAreHeldAgainstTheFile) {
  for (uint64_t size : {uint64_t{1000}, uint64_t{1} << 32, uint64_t{INT64_MAX}, UINT64_MAX}) {
    ExpectRefused(OneKey(Bytes().Put(kString).Put(size)), "GGUF_HEADER", {"\"k\"", std::to_string(size)});
    ExpectRefused(Start(0, 1).Put(size).Raw("kkkkkkkkkkkk").str(), "GGUF_HEADER", {"key 1 of 1"});
  }
  for (uint32_t type : {kU8, kU64, kString}) {
    ExpectRefused(OneKey(Bytes().Put(kArray).Put(type).Put<uint64_t>(1000)), "GGUF_HEADER", {"\"k\""});
    ExpectRefused(OneKey(Bytes().Put(kArray).Put(type).Put<uint64_t>(UINT64_MAX)), "GGUF_METADATA",
                  {"\"k\"", "16777216"});
    ExpectRefused(OneKey(Bytes().Put(kArray).Put(type).Put(uint64_t{1} << 61)), "GGUF_METADATA", {"\"k\""});
  }
  ExpectRefused(Finish(Start(0, 1).String(std::string(65'536, 'k')).Put(kU8).Put<uint8_t>(0), 0), "GGUF_METADATA",
                {"65535"});
}

TEST_F(GgufHostileTest, Values) {
  ExpectRefused(OneKey(Bytes().Put<uint32_t>(13).Put<uint64_t>(0)), "GGUF_METADATA", {"\"k\"", "type 13"});
  ExpectRefused(OneKey(Bytes().Put(kBool).Put<uint8_t>(2)), "GGUF_METADATA", {"\"k\"", "value 2"});
  ExpectRefused(OneKey(Bytes().Put(kArray).Put(kArray).Put<uint64_t>(0)), "GGUF_METADATA", {"\"k\"", "type 9"});
  ExpectRefused(OneKey(Bytes().Put(kArray).Put<uint32_t>(99).Put<uint64_t>(0)), "GGUF_METADATA", {"\"k\"", "type 99"});
  Bytes twice = Start(0, 2);
  twice.String("k").Put(kU8).Put<uint8_t>(0).String("k").Put(kU8).Put<uint8_t>(0);
  ExpectRefused(twice.str(), "GGUF_METADATA", {"\"k\"", "twice"});
  ExpectRefused(Finish(Start(0, 1).String("").Put(kU8).Put<uint8_t>(0), 0), "GGUF_METADATA", {"key"});
  ExpectRefused(Finish(Start(0, 1).String("a\nb").Put(kU8).Put<uint8_t>(0), 0), "GGUF_METADATA", {"a\\x0ab"});
}

TEST_F(GgufHostileTest, Alignment) {
  const auto aligned = [](const Bytes& value) {
    return Finish(Start(0, 1).String("general.alignment").Raw(value.str()), 0);
  };
  for (uint32_t alignment : {0u, 3u, 48u, 1u << 21, UINT32_MAX}) {
    ExpectRefused(aligned(Bytes().Put(kU32).Put(alignment)), "GGUF_METADATA", {"general.alignment"});
  }
  ExpectRefused(aligned(Bytes().Put(kString).String("32")), "GGUF_METADATA", {"general.alignment"});
  ExpectRefused(aligned(Bytes().Put(kU64).Put(UINT64_MAX)), "GGUF_METADATA", {"general.alignment"});
  EXPECT_TRUE(Open(aligned(Bytes().Put(kU32).Put<uint32_t>(1))).ok());
}

TEST_F(GgufHostileTest, TensorTypes) {
  for (uint32_t type : {4u, 5u, 9u, 15u, 16u, 23u, 28u, 29u, 31u, 39u, 1000u, UINT32_MAX}) {
    ExpectRefused(OneTensor({256}, type, 0, 4096), "TENSOR_DTYPE_UNSUPPORTED",
                  {"\"w\"", fmt::format("type {} ", type)});
  }
  struct Known {
    uint32_t number;
    DType dtype;
  };
  for (const Known& known : {Known{0, DType::kF32},
                             {1, DType::kF16},
                             {2, DType::kQ4_0},
                             {3, DType::kQ4_1},
                             {6, DType::kQ5_0},
                             {7, DType::kQ5_1},
                             {8, DType::kQ8_0},
                             {10, DType::kQ2_K},
                             {11, DType::kQ3_K},
                             {12, DType::kQ4_K},
                             {13, DType::kQ5_K},
                             {14, DType::kQ6_K},
                             {24, DType::kI8},
                             {25, DType::kI16},
                             {26, DType::kI32},
                             {27, DType::kI64},
                             {30, DType::kBF16}}) {
    const auto reader = Open(OneTensor({256}, known.number, 0, 4096));
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_EQ((*reader)->tensors()[0].dtype, known.dtype);
  }
}

TEST_F(GgufHostileTest, Shapes) {
  const auto refused = [&](const std::vector<uint64_t>& dimensions, uint32_t type) {
    ExpectRefused(OneTensor(dimensions, type, 0, 64), "GGUF_TENSOR", {"\"w\""});
  };
  refused({0}, kTypeF32);
  refused({4, 0}, kTypeF32);
  refused({UINT64_MAX}, kTypeF32);
  refused({uint64_t{1} << 63}, kTypeF32);
  refused({uint64_t{1} << 62}, kTypeF32);
  refused({uint64_t{1} << 32, uint64_t{1} << 32}, kTypeF32);
  refused({1, 1, 1, 1, 1}, kTypeF32);
  refused({33}, kTypeQ4_0);
  refused({16, 2}, kTypeQ4_0);  // 32 weights, but rows of half a block
  ExpectRefused(Finish(Start(1, 0).String("w").Put(UINT32_MAX).Put(uint64_t{1}).Put(uint64_t{1}), 64), "GGUF_TENSOR",
                {"\"w\"", "4294967295 dimensions"});
}

TEST_F(GgufHostileTest, Offsets) {
  EXPECT_TRUE(Open(OneTensor({8}, kTypeF32, 32, 64)).ok());
  ExpectRefused(OneTensor({8}, kTypeF32, 32, 63), "GGUF_TENSOR", {"\"w\"", "32 bytes at 32", "63"});
  ExpectRefused(OneTensor({8}, kTypeF32, 64, 63), "GGUF_TENSOR", {"\"w\""});
  ExpectRefused(OneTensor({8}, kTypeF32, 16, 64), "GGUF_TENSOR", {"\"w\"", "multiple of 32"});
  ExpectRefused(OneTensor({8}, kTypeF32, UINT64_MAX - 31, 64), "GGUF_TENSOR", {"\"w\""});
  Bytes overlapping = Start(2, 0);
  AddTensor(overlapping, "v", {9}, kTypeF32, 0);
  AddTensor(overlapping, "w", {1}, kTypeF32, 32);
  ExpectRefused(Finish(overlapping, 64), "GGUF_TENSOR", {"\"w\"", "\"v\""});
}

TEST_F(GgufHostileTest, Names) {
  Bytes twice = Start(2, 0);
  AddTensor(twice, "w", {8}, kTypeF32, 0);
  AddTensor(twice, "w", {8}, kTypeF32, 32);
  ExpectRefused(Finish(twice, 64), "GGUF_TENSOR", {"\"w\"", "twice"});
  Bytes unnamed = Start(1, 0);
  ExpectRefused(Finish(AddTensor(unnamed, "", {8}, kTypeF32, 0), 64), "GGUF_TENSOR", {"tensor name"});
  Bytes control = Start(1, 0);
  ExpectRefused(Finish(AddTensor(control, "a\x1b[2J", {8}, kTypeF32, 0), 64), "GGUF_TENSOR", {"a\\x1b[2J"});
  Bytes binary = Start(1, 0);
  ExpectRefused(Finish(AddTensor(binary, "a\xff", {8}, kTypeF32, 0), 64), "GGUF_TENSOR", {"a\\xff"});
}

}  // namespace
}  // namespace qamserve
