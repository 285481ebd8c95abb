#include "core/format/gguf.h"

#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

constexpr std::string_view kGoldenFile =
#include "tests/core/format/golden/gguf_file.inc"
    ;

class GgufTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string bytes = FromHex(kGoldenFile);
    auto reader = GgufReader::Open({"golden.gguf", folder_.Write("blob", bytes), bytes.size()});
    ASSERT_TRUE(reader.ok()) << reader.status();
    reader_ = *std::move(reader);
  }
  const TestFolder folder_;
  std::unique_ptr<GgufReader> reader_;
};

TEST_F(GgufTest, TensorsOfAnIndependentWriter) {
  ASSERT_EQ(reader_->tensors().size(), 2u);
  EXPECT_EQ(reader_->origin(), "golden.gguf");
  const TensorInfo* norm = reader_->Find("output_norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->ShapeString(), "[3]");
  std::vector<float> values(3);
  ASSERT_TRUE(ReadRows(*reader_, *norm, 0, 1, values).ok());
  EXPECT_THAT(values, testing::ElementsAre(1, 2, 3));
  const TensorInfo* q = reader_->Find("blk.0.attn_q.weight");
  ASSERT_NE(q, nullptr);
  EXPECT_EQ(q->dtype, DType::kF16);
  EXPECT_EQ(q->ShapeString(), "[2, 3]");
  ASSERT_TRUE(ReadRows(*reader_, *q, 1, 2, values).ok());
  EXPECT_THAT(values, testing::ElementsAre(3, 4, 5));
  EXPECT_EQ(reader_->Find("none"), nullptr);
  ExpectAllReadable(*reader_);
}

TEST_F(GgufTest, MetadataOfAnIndependentWriter) {
  EXPECT_EQ(*reader_->GetString("general.architecture"), "llama");
  EXPECT_EQ(*reader_->GetInt("llama.block_count"), 2);
  EXPECT_EQ(*reader_->GetInt("test.i8"), -7);
  EXPECT_EQ(*reader_->GetFloat("llama.attention.layer_norm_rms_epsilon"), 0.5);
  EXPECT_EQ(*reader_->GetFloat("test.f64"), 0.1);
  EXPECT_TRUE(*reader_->GetBool("test.bool"));
  EXPECT_THAT(*reader_->GetInts("test.ints"), testing::ElementsAre(1, -2, 3));
  EXPECT_THAT(*reader_->GetFloats("test.floats"), testing::ElementsAre(0.5, -1.25));
  EXPECT_THAT(*reader_->GetStrings("tokenizer.ggml.tokens"), testing::ElementsAre("<s>", "", "\u2581caf\u00e9"));
  EXPECT_EQ(std::get<std::vector<bool>>(reader_->metadata().at("test.bools")), (std::vector<bool>{true, false}));
  EXPECT_TRUE(reader_->Has("test.i8"));
  EXPECT_FALSE(reader_->Has("test.i9"));
}

TEST_F(GgufTest, NumbersConvertWhereTheyFit) {
  EXPECT_EQ(*reader_->GetFloat("test.i8"), -7);
  EXPECT_EQ(*reader_->GetFloat("llama.block_count"), 2);
  EXPECT_THAT(*reader_->GetFloats("test.ints"), testing::ElementsAre(1, -2, 3));
  EXPECT_EQ(*reader_->GetFloat("test.u64"), 18446744073709551615.0);
  ExpectError(reader_->GetInt("test.u64").status(), "GGUF_KEY_TYPE", {"golden.gguf", "test.u64"});
  ExpectError(reader_->GetInt("test.f64").status(), "GGUF_KEY_TYPE", {"golden.gguf", "test.f64"});
}

TEST_F(GgufTest, LookUpsNameFileAndKey) {
  const auto expect = [](const absl::Status& status, std::string_view reason, std::string_view key) {
    ExpectError(status, reason, {"golden.gguf", key});
  };
  expect(reader_->GetString("none").status(), "GGUF_KEY_MISSING", "none");
  EXPECT_EQ(reader_->GetInts("none").status().code(), absl::StatusCode::kNotFound);
  expect(reader_->GetString("test.i8").status(), "GGUF_KEY_TYPE", "test.i8");
  expect(reader_->GetBool("test.i8").status(), "GGUF_KEY_TYPE", "test.i8");
  expect(reader_->GetFloat("test.bool").status(), "GGUF_KEY_TYPE", "test.bool");
  expect(reader_->GetInts("test.floats").status(), "GGUF_KEY_TYPE", "test.floats");
  expect(reader_->GetInts("test.i8").status(), "GGUF_KEY_TYPE", "test.i8");
  expect(reader_->GetFloats("tokenizer.ggml.tokens").status(), "GGUF_KEY_TYPE", "tokenizer.ggml.tokens");
  expect(reader_->GetStrings("test.ints").status(), "GGUF_KEY_TYPE", "test.ints");
}

TEST_F(GgufTest, ReadBytesStaysInsideItsTensor) {
  const TensorInfo& norm = *reader_->Find("output_norm.weight");
  std::vector<std::byte> out(12);
  EXPECT_TRUE(reader_->ReadBytes(norm, 0, out).ok());
  ExpectError(reader_->ReadBytes(norm, 1, out), "TENSOR_RANGE", {"golden.gguf", "output_norm.weight"});
  ExpectError(reader_->ReadBytes(norm, UINT64_MAX, out), "TENSOR_RANGE", {"output_norm.weight"});
}

}  // namespace
}  // namespace qamserve
