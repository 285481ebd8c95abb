#include "core/base/digest.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/base/file.h"

namespace qamserve {
namespace {

// FIPS 180-4 examples.
constexpr char kEmpty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
constexpr char kMillionA[] = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";

TEST(DigestTest, KnownAnswers) {
  EXPECT_EQ(Sha256Hex(""), kEmpty);
  EXPECT_EQ(Sha256Hex("abc"), kAbc);
  EXPECT_EQ(Sha256Hex(std::string(1'000'000, 'a')), kMillionA);
}

TEST(DigestTest, PiecesGiveTheDigestOfTheWhole) {
  const std::string text(1'000'000, 'a');
  for (size_t piece : {1u, 63u, 64u, 65u, 4096u, 999'999u}) {
    Sha256 digest;
    for (size_t i = 0; i < text.size(); i += piece) digest.Update(std::string_view(text).substr(i, piece));
    EXPECT_EQ(digest.Finish(), kMillionA) << piece;
  }
}

TEST(DigestTest, MovedDigestGoesOn) {
  Sha256 first;
  first.Update("a");
  Sha256 second = std::move(first);
  second.Update("bc");
  EXPECT_EQ(second.Finish(), kAbc);
}

TEST(DigestTest, OfFile) {
  // More than one read buffer of 1 MiB.
  std::string text(3'000'001, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31);
  const std::string path = fmt::format("{}/qamserve_digest_test_{}", ::testing::TempDir(), ::getpid());
  ASSERT_TRUE(WriteFileAtomically(path, text).ok());
  EXPECT_EQ(*Sha256OfFile(path), Sha256Hex(text));
  ASSERT_TRUE(RemoveAll(path).ok());
  EXPECT_EQ(ReasonOf(Sha256OfFile(path).status()), "FILE_NOT_FOUND");
}

TEST(DigestTest, IsSha256) {
  EXPECT_TRUE(IsSha256(kAbc));
  EXPECT_FALSE(IsSha256(""));
  EXPECT_FALSE(IsSha256(std::string(kAbc).substr(1)));
  EXPECT_FALSE(IsSha256(std::string(kAbc) + "0"));
  EXPECT_FALSE(IsSha256(std::string(63, 'a') + "A"));
  EXPECT_FALSE(IsSha256(std::string(63, 'a') + "g"));
  EXPECT_FALSE(IsSha256(std::string(63, 'a') + "/"));
}

}  // namespace
}  // namespace qamserve
