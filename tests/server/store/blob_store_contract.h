// The test suite of every BlobStore. Another implementation plugs in with a factory of its own and
// INSTANTIATE_TYPED_TEST_SUITE_P. Factory::Open(root) opens a store; opened again with the same root it has the same
// content. Factory::MakeOlder(store, digest) makes a blob older, or waits until it is, by the milliseconds that it
// returns. Factory::Missing() says why its tests cannot run here; empty = they can.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <string>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/blob_store.h"
#include "tests/server/store/bytes_of.h"
#include "tests/server/store/temp_dir.h"
#include "tests/support/prerequisite.h"

namespace qamserve {

template <typename Factory>
class BlobStoreContract : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT(Factory::Missing());
    Reopen();
  }
  void Reopen() {
    store_.reset();
    store_ = Factory::Open(dir_ / "store");
    ASSERT_NE(store_, nullptr);
  }
  std::string ReadAll(const std::string& digest) {
    std::string bytes(store_->Size(digest).value(), '\0');
    EXPECT_TRUE(store_->Read(digest, 0, std::as_writable_bytes(std::span(bytes.data(), bytes.size()))).ok());
    return bytes;
  }

  TempDir dir_;
  std::unique_ptr<BlobStore> store_;
};
TYPED_TEST_SUITE_P(BlobStoreContract);

TYPED_TEST_P(BlobStoreContract, WritesInPiecesAndReadsBack) {
  const std::string text = "hello, blob";
  const std::string digest = Sha256Hex(text);
  EXPECT_FALSE(*this->store_->Has(digest));
  auto writer = this->store_->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append(0, BytesOf("hello")).ok());
  ASSERT_TRUE((*writer)->Append(5, BytesOf(", blob")).ok());
  EXPECT_FALSE(*this->store_->Has(digest)) << "visible before Commit";
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_TRUE(*this->store_->Has(digest));
  EXPECT_EQ(this->ReadAll(digest), text);
  EXPECT_EQ(ReadFile(*this->store_->LocalPath(digest), 100).value(), text);
  std::byte part[4];
  ASSERT_TRUE(this->store_->Read(digest, 7, part).ok());
  EXPECT_EQ(std::string(reinterpret_cast<char*>(part), 4), "blob");
  EXPECT_EQ(ReasonOf(this->store_->Read(digest, 8, part)), "BLOB_RANGE");
  EXPECT_EQ(ReasonOf(this->store_->BeginWrite(digest, text.size()).status()), "BLOB_EXISTS");
}

TYPED_TEST_P(BlobStoreContract, GoesOnAfterARestart) {
  const std::string text(100'000, 'x');
  const std::string digest = Sha256Hex(text);
  {
    auto writer = this->store_->BeginWrite(digest, text.size());
    ASSERT_TRUE((*writer)->Append(0, BytesOf(std::string_view(text).substr(0, 40'000))).ok());
  }
  this->Reopen();
  EXPECT_EQ(*this->store_->CommittedBytes(digest), 40'000u);
  auto writer = this->store_->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->committed(), 40'000u);
  EXPECT_EQ((*writer)->head().size(), 16u);
  ASSERT_TRUE((*writer)->Append(40'000, BytesOf(std::string_view(text).substr(40'000))).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_EQ(this->ReadAll(digest), text);
  EXPECT_TRUE(this->store_->ListPartials()->empty());
}

TYPED_TEST_P(BlobStoreContract, RefusesWrongOffsetsSizesAndDigests) {
  const std::string digest = Sha256Hex("right");
  auto writer = this->store_->BeginWrite(digest, 5);
  ASSERT_TRUE(writer.ok());
  const absl::Status offset = (*writer)->Append(3, BytesOf("r"));
  EXPECT_EQ(ReasonOf(offset), "UPLOAD_OFFSET");
  EXPECT_NE(MessageOf(offset).find("expected offset 0"), std::string::npos) << offset;
  EXPECT_EQ(ReasonOf((*writer)->Append(0, BytesOf("wrongs"))), "UPLOAD_SIZE");
  ASSERT_TRUE((*writer)->Append(0, BytesOf("wr")).ok());
  EXPECT_EQ(ReasonOf((*writer)->Commit()), "UPLOAD_INCOMPLETE");
  ASSERT_TRUE((*writer)->Append(2, BytesOf("ong")).ok());
  EXPECT_EQ(ReasonOf((*writer)->Commit()), "UPLOAD_DIGEST");
  writer->reset();
  EXPECT_FALSE(*this->store_->Has(digest));
  EXPECT_EQ(*this->store_->CommittedBytes(digest), 0u);
  EXPECT_EQ(ReasonOf(this->store_->BeginWrite("../../etc/passwd", 5).status()), "BLOB_DIGEST");
  EXPECT_EQ(ReasonOf(this->store_->LocalPath(digest).status()), "BLOB_NOT_FOUND");
}

TYPED_TEST_P(BlobStoreContract, HasOneWriterOfADigest) {
  const std::string digest = Sha256Hex("busy");
  auto first = this->store_->BeginWrite(digest, 4);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(ReasonOf(this->store_->BeginWrite(digest, 4).status()), "UPLOAD_BUSY");
  EXPECT_EQ(ReasonOf(this->store_->DeletePartial(digest)), "UPLOAD_BUSY");
  first->reset();
  EXPECT_TRUE(this->store_->BeginWrite(digest, 4).ok());
  EXPECT_TRUE(this->store_->DeletePartial(digest).ok());
}

TYPED_TEST_P(BlobStoreContract, TakesFilesIn) {
  ASSERT_TRUE(WriteFileAtomically(this->dir_ / "moved", "moved").ok());
  ASSERT_TRUE(WriteFileAtomically(this->dir_ / "copied", "copied").ok());
  auto moved = this->store_->CommitFile(this->dir_ / "moved");
  ASSERT_TRUE(moved.ok()) << moved.status();
  EXPECT_EQ(moved->digest, Sha256Hex("moved"));
  EXPECT_EQ(moved->size, 5u);
  EXPECT_FALSE(std::filesystem::exists(this->dir_ / "moved"));
  auto copied = this->store_->CopyFile(this->dir_ / "copied");
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_TRUE(std::filesystem::exists(this->dir_ / "copied"));
  ASSERT_TRUE(this->store_->CommitBytes("").ok());
  EXPECT_EQ(this->ReadAll(copied->digest), "copied");
  // Again: the same blob.
  ASSERT_TRUE(this->store_->CopyFile(this->dir_ / "copied").ok());
  EXPECT_EQ(this->store_->List()->size(), 3u);
}

TYPED_TEST_P(BlobStoreContract, Deletes) {
  const std::string digest = this->store_->CommitBytes("gone")->digest;
  const int64_t modified = this->store_->List()->front().modified_ms;
  EXPECT_FALSE(*this->store_->DeleteIfOlder(digest, modified));
  EXPECT_TRUE(*this->store_->Has(digest));
  EXPECT_TRUE(*this->store_->DeleteIfOlder(digest, modified + 1));
  EXPECT_FALSE(*this->store_->Has(digest));
  EXPECT_TRUE(this->store_->Delete(digest).ok());
  EXPECT_FALSE(*this->store_->DeleteIfOlder(digest, std::numeric_limits<int64_t>::max()));
}

TYPED_TEST_P(BlobStoreContract, CommittingAgainMakesABlobYoung) {
  const std::string digest = this->store_->CommitBytes("again")->digest;
  const int64_t older = TypeParam::MakeOlder(*this->store_, digest);
  const int64_t before = this->store_->List()->front().modified_ms;
  ASSERT_TRUE(this->store_->CommitBytes("again").ok());
  const int64_t renewed = this->store_->List()->front().modified_ms;
  EXPECT_GE(renewed, before + older);
  EXPECT_FALSE(*this->store_->DeleteIfOlder(digest, renewed)) << "its first time counts";
  EXPECT_TRUE(*this->store_->DeleteIfOlder(digest, renewed + 1));
  EXPECT_TRUE(this->store_->List()->empty());
}

// Larger than what a store takes at once, so that it comes in pieces.
TYPED_TEST_P(BlobStoreContract, LargeBlobsComeBackAsTheyWere) {
  const std::string text = PatternOf(12'000'000, 'x');
  const std::string digest = Sha256Hex(text);
  constexpr size_t kChunk = 700'001;
  size_t sent = 0;
  {
    auto writer = this->store_->BeginWrite(digest, text.size());
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (; sent < 7'000'000; sent += kChunk) {
      ASSERT_TRUE((*writer)->Append(sent, BytesOf(std::string_view(text).substr(sent, kChunk))).ok());
    }
  }
  EXPECT_EQ(*this->store_->CommittedBytes(digest), sent);
  ASSERT_EQ(this->store_->ListPartials()->size(), 1u);
  EXPECT_EQ(this->store_->ListPartials()->front().digest, digest);
  this->Reopen();
  auto writer = this->store_->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_EQ((*writer)->committed(), sent);
  ASSERT_TRUE((*writer)->Append(sent, BytesOf(std::string_view(text).substr(sent))).ok());
  const absl::Status committed = (*writer)->Commit();
  ASSERT_TRUE(committed.ok()) << committed;
  EXPECT_TRUE(this->ReadAll(digest) == text);
  EXPECT_TRUE(this->store_->ListPartials()->empty());
  // As a file, too.
  ASSERT_TRUE(this->store_->Delete(digest).ok());
  EXPECT_FALSE(*this->store_->Has(digest));
  ASSERT_TRUE(WriteFileAtomically(this->dir_ / "large", text).ok());
  ASSERT_EQ(this->store_->CommitFile(this->dir_ / "large")->digest, digest);
  EXPECT_TRUE(this->ReadAll(digest) == text);
  EXPECT_TRUE(this->store_->SweepLeftovers(std::numeric_limits<int64_t>::max()).ok());
  EXPECT_EQ(*this->store_->Size(digest), text.size());
}

TYPED_TEST_P(BlobStoreContract, ThrowsAwayWhatIsDiscarded) {
  const std::string text = PatternOf(9'000'000, 'd');
  const std::string digest = Sha256Hex(text);
  auto writer = this->store_->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Append(0, BytesOf(std::string_view(text).substr(0, 8'500'000))).ok());
  ASSERT_TRUE((*writer)->Discard().ok());
  writer->reset();
  EXPECT_EQ(*this->store_->CommittedBytes(digest), 0u);
  EXPECT_TRUE(this->store_->ListPartials()->empty());
  auto again = this->store_->BeginWrite(digest, text.size());
  ASSERT_TRUE((*again)->Append(0, BytesOf(text)).ok());
  again->reset();
  EXPECT_EQ(*this->store_->CommittedBytes(digest), text.size());
  ASSERT_TRUE(this->store_->DeletePartial(digest).ok());
  EXPECT_EQ(*this->store_->CommittedBytes(digest), 0u);
}

REGISTER_TYPED_TEST_SUITE_P(BlobStoreContract, WritesInPiecesAndReadsBack, GoesOnAfterARestart,
                            RefusesWrongOffsetsSizesAndDigests, HasOneWriterOfADigest, TakesFilesIn, Deletes,
                            CommittingAgainMakesABlobYoung, LargeBlobsComeBackAsTheyWere, ThrowsAwayWhatIsDiscarded);

}  // namespace qamserve
