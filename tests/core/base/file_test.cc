#include "core/base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>

#include "tests/support/mapped_memory.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(CreateDirectories(folder_).ok()); }
  void TearDown() override { EXPECT_TRUE(RemoveAll(folder_).ok()); }
  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  int FilesInFolder() const {
    return static_cast<int>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  const std::string folder_ = fmt::format("{}/qamserve_file_test_{}", ::testing::TempDir(), ::getpid());
};

std::span<std::byte> Writable(std::string& text) { return std::as_writable_bytes(std::span(text.data(), text.size())); }

std::string_view AsText(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST_F(FileTest, WritesAndReadsBack) {
  const std::string path = Path("a");
  ASSERT_TRUE(WriteFileAtomically(path, "hello world").ok());
  EXPECT_EQ(*ReadFile(path, 11), "hello world");
  ASSERT_TRUE(WriteFileAtomically(path, "").ok());
  EXPECT_EQ(*ReadFile(path, 0), "");
  EXPECT_EQ(FilesInFolder(), 1);
}

TEST_F(FileTest, ReadFileKeepsItsLimit) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "12345").ok());
  const absl::Status status = ReadFile(Path("a"), 4).status();
  EXPECT_EQ(ReasonOf(status), "FILE_TOO_LARGE");
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(Path("a")), HasSubstr("5 bytes"), HasSubstr("limit is 4")));
}

TEST_F(FileTest, ReadAtAnyOffsetButNotPastTheEnd) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "0123456789").ok());
  const absl::StatusOr<File> file = File::OpenForRead(Path("a"));
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->size(), 10u);
  std::string part(4, '?');
  ASSERT_TRUE(file->ReadAt(6, Writable(part)).ok());
  EXPECT_EQ(part, "6789");
  const absl::Status status = file->ReadAt(7, Writable(part));
  EXPECT_EQ(ReasonOf(status), "FILE_TRUNCATED");
  EXPECT_THAT(MessageOf(status), HasSubstr(Path("a")));
}

TEST_F(FileTest, WhatCannotBeReadIsRefusedByName) {
  EXPECT_EQ(ReasonOf(File::OpenForRead(Path("none")).status()), "FILE_NOT_FOUND");
  EXPECT_EQ(ReasonOf(MappedFile::Open(Path("none")).status()), "FILE_NOT_FOUND");
  EXPECT_EQ(ReasonOf(File::OpenForRead(folder_).status()), "FILE_NOT_REGULAR");
  EXPECT_EQ(ReasonOf(MappedFile::Open(folder_).status()), "FILE_NOT_REGULAR");
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "x").ok());
  EXPECT_EQ(ReasonOf(File::OpenForRead(Path("a/b")).status()), "FILE_NOT_FOUND");
  EXPECT_THAT(MessageOf(File::OpenForRead(Path("none")).status()), HasSubstr(Path("none")));
}

TEST_F(FileTest, FifoIsRefusedWithoutWaitingForAWriter) {
  ASSERT_EQ(::mkfifo(Path("fifo").c_str(), 0600), 0);
  EXPECT_EQ(ReasonOf(File::OpenForRead(Path("fifo")).status()), "FILE_NOT_REGULAR");
  EXPECT_EQ(ReasonOf(MappedFile::Open(Path("fifo")).status()), "FILE_NOT_REGULAR");
}

TEST_F(FileTest, MovedFileStillReads) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "first").ok());
  ASSERT_TRUE(WriteFileAtomically(Path("b"), "second").ok());
  File file = *File::OpenForRead(Path("a"));
  file = *File::OpenForRead(Path("b"));
  std::string text(6, '?');
  ASSERT_TRUE(file.ReadAt(0, Writable(text)).ok());
  EXPECT_EQ(text, "second");
  EXPECT_EQ(file.path(), Path("b"));
}

TEST_F(FileTest, MapsWholeFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "mapped").ok());
  absl::StatusOr<MappedFile> map = MappedFile::Open(Path("a"));
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(AsText(map->bytes()), "mapped");
  const MappedFile moved = *std::move(map);
  EXPECT_EQ(AsText(moved.bytes()), "mapped");
  EXPECT_TRUE(map->bytes().empty());  // NOLINT(bugprone-use-after-move): what a move leaves behind is tested
}

TEST_F(FileTest, DroppedPagesOfAMappingComeBack) {
  const std::string text(1 << 20, 'x');
  ASSERT_TRUE(WriteFileAtomically(Path("large"), text).ok());
  const absl::StatusOr<MappedFile> map = MappedFile::Open(Path("large"));
  ASSERT_TRUE(map.ok());
  EXPECT_EQ(AsText(map->bytes()), text);
  EXPECT_EQ(ResidentBytesOf(Path("large")), 1 << 20);
  map->DropPages();
  EXPECT_EQ(ResidentBytesOf(Path("large")), 0);
  EXPECT_EQ(AsText(map->bytes()), text);
}

TEST_F(FileTest, MapsEmptyFile) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "").ok());
  const absl::StatusOr<MappedFile> map = MappedFile::Open(Path("a"));
  ASSERT_TRUE(map.ok());
  EXPECT_TRUE(map->bytes().empty());
  map->DropPages();
}

TEST_F(FileTest, AtomicFileShowsNothingBeforeCommit) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "old").ok());
  {
    absl::StatusOr<AtomicFile> file = AtomicFile::Create(Path("a"));
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->Append("new").ok());
    EXPECT_EQ(file->size(), 3u);
    EXPECT_EQ(*ReadFile(Path("a"), 10), "old");
    EXPECT_EQ(FilesInFolder(), 2);
  }
  EXPECT_EQ(*ReadFile(Path("a"), 10), "old");
  EXPECT_EQ(FilesInFolder(), 1);
}

TEST_F(FileTest, AtomicFileReplacesAtCommitAlsoAfterAMove) {
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "old").ok());
  AtomicFile first = *AtomicFile::Create(Path("a"));
  ASSERT_TRUE(first.Append("new ").ok());
  AtomicFile second = std::move(first);
  ASSERT_TRUE(second.Append("text").ok());
  ASSERT_TRUE(second.Commit().ok());
  EXPECT_EQ(*ReadFile(Path("a"), 10), "new text");
  EXPECT_EQ(FilesInFolder(), 1);
}

TEST_F(FileTest, CreateInMissingFolderNamesThePath) {
  const absl::Status status = AtomicFile::Create(Path("none/a")).status();
  EXPECT_EQ(ReasonOf(status), "FILE_NOT_FOUND");
  EXPECT_THAT(MessageOf(status), HasSubstr(Path("none/a")));
}

// A file size limit stands in for a full disk: writes fail after the first 4096 bytes.
class SizeLimit {
 public:
  SizeLimit() {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{4096, old_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() { ::setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_{};
};

TEST_F(FileTest, FailedWriteSticksAndLeavesNothing) {
  {
    AtomicFile file = *AtomicFile::Create(Path("a"));
    const std::string block(3000, 'x');
    {
      const SizeLimit limit;
      EXPECT_TRUE(file.Append(block).ok());
      EXPECT_EQ(ReasonOf(file.Append(block)), "FILE_IO");
    }
    EXPECT_EQ(ReasonOf(file.Append("y")), "FILE_IO");
    EXPECT_EQ(ReasonOf(file.Commit()), "FILE_IO");
  }
  EXPECT_EQ(FilesInFolder(), 0);
}

TEST_F(FileTest, ErrnoBecomesCodeAndReason) {
  const auto of = [](int error) {
    errno = error;
    return ErrnoToStatus("write", "/some/file");
  };
  EXPECT_EQ(ReasonOf(of(ENOSPC)), "DISK_FULL");
  EXPECT_EQ(of(EDQUOT).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(of(EACCES)), "FILE_PERMISSION");
  EXPECT_EQ(of(EIO).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(MessageOf(of(ENOSPC)), HasSubstr("write /some/file"));
}

TEST_F(FileTest, FoldersAreMadeAndRemoved) {
  EXPECT_TRUE(CreateDirectories(Path("x/y/z")).ok());
  EXPECT_TRUE(CreateDirectories(Path("x/y/z")).ok());
  EXPECT_TRUE(SyncDirectory(Path("x/y")).ok());
  EXPECT_TRUE(RemoveAll(Path("x")).ok());
  EXPECT_TRUE(RemoveAll(Path("x")).ok());
  EXPECT_FALSE(SyncDirectory(Path("x")).ok());
  ASSERT_TRUE(WriteFileAtomically(Path("a"), "x").ok());
  EXPECT_FALSE(CreateDirectories(Path("a/b")).ok());
}

TEST_F(FileTest, FreeDiskBytes) {
  const absl::StatusOr<uint64_t> bytes = FreeDiskBytes(folder_);
  ASSERT_TRUE(bytes.ok());
  EXPECT_GT(*bytes, 0u);
  EXPECT_EQ(ReasonOf(FreeDiskBytes(Path("none")).status()), "FILE_NOT_FOUND");
}

}  // namespace
}  // namespace qamserve
