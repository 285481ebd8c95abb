#include "core/format/file_set.h"

#include <filesystem>

#include "tests/core/format/format_testing.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;

TEST(FileSetTest, FolderHasItsRegularFilesByName) {
  const TestFolder folder;
  folder.Write("b.json", "{}");
  folder.Write("a.safetensors", "12345");
  folder.Write(".hidden", "x");
  fs::create_directory(folder.Path("sub"));
  fs::create_symlink(folder.Path("b.json"), folder.Path("link.json"));
  fs::create_symlink(folder.Path("none"), folder.Path("dangling"));
  const absl::StatusOr<FileSet> files = FileSet::FromPath(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->files().size(), 3u);
  EXPECT_EQ(files->files()[0].name, "a.safetensors");
  EXPECT_EQ(files->files()[0].size, 5u);
  EXPECT_EQ(files->files()[0].path, folder.Path("a.safetensors"));
  EXPECT_EQ(files->files()[1].name, "b.json");
  EXPECT_EQ(files->files()[2].name, "link.json");
  EXPECT_EQ(files->origin(), folder.path());
  EXPECT_NE(files->Find("b.json"), nullptr);
  EXPECT_EQ(files->Find("none"), nullptr);
  EXPECT_EQ(files->FindGguf(), nullptr);
}

TEST(FileSetTest, OneFile) {
  const TestFolder folder;
  const std::string path = folder.Write("model.gguf", "GGUF");
  const absl::StatusOr<FileSet> files = FileSet::FromPath(path);
  ASSERT_TRUE(files.ok());
  ASSERT_NE(files->FindGguf(), nullptr);
  EXPECT_EQ(files->FindGguf()->name, "model.gguf");
  EXPECT_EQ(files->FindGguf()->path, path);
  EXPECT_EQ(files->FindGguf()->size, 4u);
}

TEST(FileSetTest, TwoGgufFilesAreNotOne) {
  const FileSet files("set", {{"b.gguf", "/b", 1}, {"a.gguf", "/a", 1}});
  EXPECT_EQ(files.FindGguf(), nullptr);
  EXPECT_EQ(files.files()[0].name, "a.gguf");
}

TEST(FileSetTest, ReadText) {
  const TestFolder folder;
  folder.Write("config.json", "{\"a\": 1}");
  const absl::StatusOr<FileSet> files = FileSet::FromPath(folder.path());
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(*files->ReadText("config.json", 100), "{\"a\": 1}");
  ExpectError(files->ReadText("config.json", 7).status(), "FILE_TOO_LARGE", {"config.json", "8", "7"});
  ExpectError(files->ReadText("tokenizer.json", 7).status(), "CHECKPOINT_FILE_MISSING",
              {folder.path(), "tokenizer.json"});
}

TEST(FileSetTest, PathThatIsNothing) {
  const TestFolder folder;
  ExpectError(FileSet::FromPath(folder.Path("none")).status(), "FILE_NOT_FOUND", {folder.Path("none")});
  ExpectError(FileSet::FromPath("/dev/null").status(), "FILE_NOT_REGULAR", {"/dev/null"});
}

}  // namespace
}  // namespace qamserve
