#include "server/store/blob_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>
#include <barrier>
#include <cstring>
#include <filesystem>
#include <thread>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "tests/server/store/temp_dir.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

// A blob in memory that counts how it is read, and may fail.
class MemorySource final : public BlobSource {
 public:
  explicit MemorySource(std::string bytes) : bytes(std::move(bytes)) {}
  absl::StatusOr<uint64_t> Size() override {
    ++sizes;
    return bytes.size();
  }
  absl::Status Read(uint64_t offset, uint64_t size, const Piece& piece) override {
    ++reads;
    if (reads > fail_after) return Unavailable("S3_UNAVAILABLE", "the source is away");
    read_bytes += size;
    const auto all = std::as_bytes(std::span(bytes.data(), bytes.size()));
    // In two pieces, as they may come.
    RETURN_IF_ERROR(piece(all.subspan(offset, size / 2)));
    return piece(all.subspan(offset + size / 2, size - size / 2));
  }

  std::string bytes;
  std::atomic<int> sizes{0};
  std::atomic<int> reads{0};
  std::atomic<uint64_t> read_bytes{0};
  int fail_after = 1 << 30;
};

class CacheObserver : public StoreObserver {
 public:
  void OnCacheLookup(bool hit) override { ++(hit ? hits : misses); }
  void OnCacheEviction(uint64_t bytes) override { evicted += bytes; }
  void OnCacheSize(uint64_t bytes, uint64_t limit) override {
    size = bytes;
    limit_bytes = limit;
  }
  void OnCorruptBlob() override { ++corrupt; }
  std::atomic<int> hits{0};
  std::atomic<int> misses{0};
  std::atomic<int> corrupt{0};
  std::atomic<uint64_t> evicted{0};
  std::atomic<uint64_t> size{0};
  std::atomic<uint64_t> limit_bytes{0};
};

class BlobCacheTest : public testing::Test {
 protected:
  void SetUp() override { Reopen(); }

  void Reopen() {
    cache_.reset();
    BlobCacheOptions options;
    options.folder = dir_ / "cache";
    options.max_bytes = max_bytes_;
    options.reserve_bytes = 100;
    options.hold_ms = 1000;
    options.part_bytes = 10;
    options.transfers = 3;
    options.observer = observer_;
    options.free_bytes = [this](const std::string&) { return absl::StatusOr<uint64_t>(free_bytes_); };
    options.steady_ms = [this] { return now_ms_; };
    auto cache = BlobCache::Open(options);
    ASSERT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
  }

  // Contents of the copy, fetched if need be.
  std::string Get(MemorySource& source) {
    const auto path = cache_->Get(Sha256Hex(source.bytes), source);
    return path.ok() ? ReadFile(*path, 1 << 20).value() : ReasonOf(path.status());
  }
  bool Has(const MemorySource& source) { return !cache_->Find(Sha256Hex(source.bytes)).value().empty(); }
  std::string PathOf(const MemorySource& source) { return dir_ / ("cache/files/" + Sha256Hex(source.bytes)); }
  void Later() { now_ms_ += 2000; }

  TempDir dir_;
  uint64_t max_bytes_ = 100;
  uint64_t free_bytes_ = 1'000'000;
  int64_t now_ms_ = 1;
  std::shared_ptr<CacheObserver> observer_ = std::make_shared<CacheObserver>();
  std::shared_ptr<BlobCache> cache_;
};

TEST_F(BlobCacheTest, FetchesOnceAndChecks) {
  MemorySource source("0123456789abcdefghijklmnopqrstuvwxyz");
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(source.reads, 4);
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(source.reads, 4);
  EXPECT_EQ(observer_->hits, 1);
  EXPECT_EQ(observer_->misses, 1);
  EXPECT_EQ(observer_->size, source.bytes.size());
  EXPECT_EQ(observer_->limit_bytes, max_bytes_);
  // It is there for the next process, too.
  Reopen();
  EXPECT_EQ(observer_->size, source.bytes.size());
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(source.reads, 4);
  MemorySource empty("");
  EXPECT_EQ(Get(empty), "");
}

TEST_F(BlobCacheTest, BytesThatAreNotTheBlobAreRefused) {
  MemorySource source("0123456789abcdef");
  const std::string digest = Sha256Hex("something else of the name");
  const auto path = cache_->Get(digest, source);
  EXPECT_EQ(ReasonOf(path.status()), "BLOB_CORRUPT");
  EXPECT_TRUE(absl::IsDataLoss(path.status()));
  EXPECT_THAT(MessageOf(path.status()), HasSubstr(digest));
  EXPECT_EQ(observer_->corrupt, 1);
  EXPECT_TRUE(fs::is_empty(dir_ / "cache/files"));
  EXPECT_TRUE(fs::is_empty(dir_ / "cache/partial"));
}

TEST_F(BlobCacheTest, GoesOnWithWhatAnEarlierProcessHad) {
  MemorySource source(std::string(95, 'x'));
  source.fail_after = 6;
  EXPECT_EQ(Get(source), "S3_UNAVAILABLE");
  const uint64_t before = source.read_bytes;
  EXPECT_GE(before, 40u);
  Reopen();
  source.fail_after = 1 << 30;
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_LE(source.read_bytes, source.bytes.size() + 20) << "parts that were there came again";
  EXPECT_TRUE(fs::is_empty(dir_ / "cache/partial"));
}

// The power went: what the marks say is there is not.
TEST_F(BlobCacheTest, APartThatWasLostComesAgain) {
  MemorySource source(std::string(95, 'x'));
  source.fail_after = 6;
  EXPECT_EQ(Get(source), "S3_UNAVAILABLE");
  cache_.reset();
  fs::resize_file(dir_ / ("cache/partial/" + Sha256Hex(source.bytes)), 0);
  source.fail_after = 1 << 30;
  Reopen();
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(observer_->corrupt, 0);
}

TEST_F(BlobCacheTest, SeveralCallersShareOneFetching) {
  MemorySource source(std::string(90, 'y'));
  constexpr int kCallers = 8;
  std::barrier start(kCallers);
  std::atomic<int> good{0};
  std::vector<std::thread> threads;
  threads.reserve(kCallers);
  for (int i = 0; i < kCallers; ++i) {
    threads.emplace_back([&] {
      start.arrive_and_wait();
      good += Get(source) == source.bytes ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, kCallers);
  EXPECT_EQ(source.read_bytes, source.bytes.size());
  EXPECT_EQ(source.sizes, 1);
}

TEST_F(BlobCacheTest, ThrowsTheLeastRecentlyUsedOut) {
  MemorySource a(std::string(40, 'a')), b(std::string(40, 'b')), c(std::string(40, 'c'));
  Get(a);
  Get(b);
  Get(a);
  Later();
  EXPECT_EQ(Get(c), c.bytes);
  EXPECT_FALSE(Has(b));
  EXPECT_TRUE(Has(a));
  EXPECT_EQ(observer_->evicted, 40u);
  EXPECT_EQ(observer_->size, 80u);
  // The order outlives the process.
  Later();
  Has(c);
  Reopen();
  EXPECT_EQ(Get(b), b.bytes);
  EXPECT_FALSE(Has(a));
  EXPECT_TRUE(Has(c));
}

TEST_F(BlobCacheTest, WhatWasHandedOutStaysForAWhile) {
  MemorySource a(std::string(60, 'a')), b(std::string(60, 'b'));
  Get(a);
  const auto refused = cache_->Get(Sha256Hex(b.bytes), b);
  EXPECT_EQ(ReasonOf(refused.status()), "DISK_FULL");
  EXPECT_THAT(MessageOf(refused.status()), testing::AllOf(HasSubstr("of 60 bytes"), HasSubstr("limit is 100 bytes")));
  EXPECT_TRUE(Has(a));
  Later();
  EXPECT_EQ(Get(b), b.bytes);
  EXPECT_FALSE(Has(a));
}

TEST_F(BlobCacheTest, WhatIsMappedStays) {
  MemorySource a(std::string(60, 'a')), b(std::string(60, 'b'));
  {
    const MappedFile mapped = MappedFile::Open(cache_->Get(Sha256Hex(a.bytes), a).value()).value();
    Later();
    EXPECT_EQ(Get(b), "DISK_FULL");
    EXPECT_EQ(std::memcmp(mapped.bytes().data(), a.bytes.data(), 60), 0);
  }
  EXPECT_EQ(Get(b), b.bytes);
}

TEST_F(BlobCacheTest, WhatCannotFitAtAllDrivesNothingOut) {
  MemorySource a(std::string(60, 'a')), huge(std::string(101, 'h'));
  Get(a);
  Later();
  EXPECT_EQ(Get(huge), "DISK_FULL");
  EXPECT_TRUE(Has(a));
}

TEST_F(BlobCacheTest, LeavesTheDiskItsReserve) {
  max_bytes_ = 0;
  Reopen();
  MemorySource a(std::string(60, 'a'));
  free_bytes_ = 159;
  EXPECT_EQ(Get(a), "DISK_FULL");
  free_bytes_ = 160;
  EXPECT_EQ(Get(a), a.bytes);
  // Room for others' files.
  Later();
  free_bytes_ = 1000;
  cache_->FreeDisk(900);
  EXPECT_TRUE(Has(a));
  Later();
  cache_->FreeDisk(901);
  EXPECT_FALSE(Has(a));
}

TEST_F(BlobCacheTest, AlteredCopiesAreFetchedAgain) {
  MemorySource source("0123456789abcdef");
  Get(source);
  // Written to: another modification time.
  fs::permissions(PathOf(source), fs::perms::owner_write, fs::perm_options::add);
  ASSERT_TRUE(WriteFileAtomically(PathOf(source), "0123456789abcdeX").ok());
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(observer_->corrupt, 1);
  // Cut, with the time put back.
  const auto time = fs::last_write_time(PathOf(source));
  fs::permissions(PathOf(source), fs::perms::owner_write, fs::perm_options::add);
  fs::resize_file(PathOf(source), 5);
  fs::last_write_time(PathOf(source), time);
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(observer_->corrupt, 2);
  // Gone.
  fs::remove(PathOf(source));
  EXPECT_EQ(Get(source), source.bytes);
  // Changed while no process looked, with the time put back: small files are hashed.
  cache_.reset();
  fs::permissions(PathOf(source), fs::perms::owner_write, fs::perm_options::add);
  std::string other = source.bytes;
  other[3] = '?';
  const std::string path = PathOf(source);
  fs::remove(path);
  ASSERT_TRUE(WriteFileAtomically(path, other).ok());
  fs::last_write_time(path, time);
  Reopen();
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(observer_->corrupt, 3);
}

TEST_F(BlobCacheTest, TakesFilesInWithoutFetching) {
  MemorySource source(std::string(50, 't'));
  ASSERT_TRUE(WriteFileAtomically(dir_ / "finished", source.bytes).ok());
  cache_->Take(dir_ / "finished", Sha256Hex(source.bytes));
  EXPECT_FALSE(fs::exists(dir_ / "finished"));
  EXPECT_EQ(Get(source), source.bytes);
  EXPECT_EQ(source.reads, 0);
  // Again, and one that does not fit: gone from their place all the same.
  ASSERT_TRUE(WriteFileAtomically(dir_ / "again", source.bytes).ok());
  cache_->Take(dir_ / "again", Sha256Hex(source.bytes));
  EXPECT_FALSE(fs::exists(dir_ / "again"));
  const std::string large(200, 'l');
  ASSERT_TRUE(WriteFileAtomically(dir_ / "large", large).ok());
  cache_->Take(dir_ / "large", Sha256Hex(large));
  EXPECT_FALSE(fs::exists(dir_ / "large"));
  EXPECT_EQ(cache_->Find(Sha256Hex(large)).value(), "");
  cache_->Remove(Sha256Hex(source.bytes));
  EXPECT_FALSE(Has(source));
  EXPECT_EQ(observer_->size, 0u);
}

// Room for uploads counts; files of those that were given up go first.
TEST_F(BlobCacheTest, UploadsCountAndTheirLeftoversGoFirst) {
  // Whole blocks, which is what a disk has.
  max_bytes_ = 40'960;
  Reopen();
  const std::string digest = Sha256Hex("upload");
  MemorySource a(std::string(20'000, 'a'));
  {
    const auto room = cache_->Reserve(cache_->UploadPath(digest), 30'000);
    ASSERT_TRUE(room.ok());
    EXPECT_EQ(Get(a), "DISK_FULL");
    EXPECT_EQ(ReasonOf(cache_->Reserve(cache_->UploadPath(Sha256Hex("other")), 20'000).status()), "DISK_FULL");
    ASSERT_TRUE(WriteFileAtomically(cache_->UploadPath(digest), std::string(24'000, 'u')).ok());
  }
  ASSERT_EQ(cache_->ListUploads()->size(), 1u);
  EXPECT_EQ(cache_->ListUploads()->front().digest, digest);
  EXPECT_EQ(cache_->ListUploads()->front().size, 24'000u);
  Reopen();
  EXPECT_EQ(cache_->ListUploads()->size(), 1u) << "it fits as it is";
  EXPECT_EQ(Get(a), a.bytes);
  EXPECT_TRUE(cache_->ListUploads()->empty());
  cache_->RemoveUpload(digest);
}

}  // namespace
}  // namespace qamserve
