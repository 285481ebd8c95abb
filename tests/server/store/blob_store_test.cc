#include "server/store/blob_store.h"

#include <sys/resource.h>

#include <chrono>
#include <csignal>
#include <filesystem>

#include "tests/server/store/blob_store_contract.h"

namespace qamserve {
namespace {

struct DirectoryFactory {
  static std::string Missing() { return ""; }
  static int64_t MakeOlder(BlobStore& store, const std::string& digest) {
    constexpr std::chrono::hours kOlder(5);
    std::filesystem::last_write_time(*store.LocalPath(digest), std::filesystem::file_time_type::clock::now() - kOlder);
    return std::chrono::duration_cast<std::chrono::milliseconds>(kOlder).count();
  }
  static std::unique_ptr<BlobStore> Open(const std::string& root) {
    auto store = DirectoryBlobStore::Open({.root = root, .reserve_bytes = 0, .free_bytes = {}});
    return store.ok() ? *std::move(store) : nullptr;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(Directory, BlobStoreContract, DirectoryFactory);

TEST(DirectoryBlobStoreTest, RefusesWhatDoesNotFitBeforeWriting) {
  TempDir dir;
  auto store = DirectoryBlobStore::Open({.root = dir / "store", .reserve_bytes = 100, .free_bytes = [](const auto&) {
                                           return absl::StatusOr<uint64_t>(1000);
                                         }});
  ASSERT_TRUE(store.ok());
  EXPECT_TRUE((*store)->CheckSpace(900).ok());
  const absl::Status full = (*store)->CheckSpace(901);
  EXPECT_EQ(ReasonOf(full), "DISK_FULL");
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_EQ(ReasonOf((*store)->BeginWrite(Sha256Hex("x"), 901).status()), "DISK_FULL");
  EXPECT_EQ(ReasonOf((*store)->CommitBytes(std::string(901, 'x')).status()), "DISK_FULL");
  EXPECT_TRUE((*store)->List()->empty());
}

// A write that fails half-way leaves what had been committed before, and the upload goes on from there.
TEST(DirectoryBlobStoreTest, FailedWriteKeepsWhatWasCommitted) {
  TempDir dir;
  auto store = DirectoryBlobStore::Open({.root = dir / "store", .reserve_bytes = 0, .free_bytes = {}});
  ASSERT_TRUE(store.ok());
  const std::string text(64 * 1024, 'y');
  const std::string digest = Sha256Hex(text);
  auto writer = (*store)->BeginWrite(digest, text.size());
  ASSERT_TRUE((*writer)->Append(0, BytesOf(std::string_view(text).substr(0, 10'000))).ok());
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit small{.rlim_cur = 20'000, .rlim_max = old.rlim_max};
  std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status failed = (*writer)->Append(10'000, BytesOf(std::string_view(text).substr(10'000)));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_FALSE(failed.ok());
  EXPECT_EQ((*writer)->committed(), 10'000u);
  EXPECT_EQ(*(*store)->CommittedBytes(digest), 10'000u);
  ASSERT_TRUE((*writer)->Append(10'000, BytesOf(std::string_view(text).substr(10'000))).ok());
  EXPECT_TRUE((*writer)->Commit().ok());
}

TEST(DirectoryBlobStoreTest, PartialLongerThanTheBlobStartsAgain) {
  TempDir dir;
  const std::string digest = Sha256Hex("abc");
  auto store = DirectoryBlobStore::Open({.root = dir / "store", .reserve_bytes = 0, .free_bytes = {}});
  ASSERT_TRUE(WriteFileAtomically(dir / ("store/partial/" + digest), "something longer").ok());
  auto writer = (*store)->BeginWrite(digest, 3);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ((*writer)->committed(), 0u);
  ASSERT_TRUE((*writer)->Append(0, BytesOf("abc")).ok());
  EXPECT_TRUE((*writer)->Commit().ok());
}

}  // namespace
}  // namespace qamserve
