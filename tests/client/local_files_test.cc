// Which files of a folder are uploaded.
#include "client/local_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class LocalFilesTest : public testing::Test {
 protected:
  void Write(const std::string& name, const std::string& text = "x") {
    ASSERT_TRUE(WriteFileAtomically(folder_ / name, text).ok());
  }
  std::vector<std::string> Names() {
    std::vector<std::string> names;
    const auto files = FindModelFiles(folder_.path());
    EXPECT_TRUE(files.ok()) << files.status();
    if (files.ok()) {
      for (const LocalFile& file : *files) names.push_back(file.name);
    }
    return names;
  }
  std::string ReasonOfFind() { return ReasonOf(FindModelFiles(folder_.path()).status()); }

  TempFolder folder_;
};

TEST_F(LocalFilesTest, AFolderGivesWhatAModelNeedsAndNothingElse) {
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "README.md",
                           ".gitattributes", "pytorch_model.bin", "consolidated.safetensors", "chat_template.jinja"}) {
    Write(name);
  }
  EXPECT_THAT(Names(), ElementsAre("chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json",
                                   "tokenizer_config.json"));
}

TEST_F(LocalFilesTest, AnIndexNamesTheShards) {
  Write("config.json");
  Write("a.safetensors");
  Write("b.safetensors");
  Write("consolidated.safetensors");
  Write("model.safetensors.index.json", R"({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})");
  EXPECT_THAT(Names(), ElementsAre("a.safetensors", "b.safetensors", "config.json", "model.safetensors.index.json"));
  Write("model.safetensors.index.json", R"({"weight_map": {"x": "c.safetensors"}})");
  EXPECT_EQ(ReasonOfFind(), "UPLOAD_FILE_MISSING");
  Write("model.safetensors.index.json", R"({"weight_map": {"x": 3}})");
  EXPECT_EQ(ReasonOfFind(), "UPLOAD_INDEX_INVALID");
  Write("model.safetensors.index.json", "{");
  EXPECT_EQ(ReasonOfFind(), "UPLOAD_INDEX_INVALID");
}

TEST_F(LocalFilesTest, AFolderWithoutConfigMayHoldOneGguf) {
  EXPECT_EQ(ReasonOfFind(), "UPLOAD_NOT_A_MODEL");
  Write("a.gguf");
  EXPECT_THAT(Names(), ElementsAre("a.gguf"));
  Write("b.gguf");
  EXPECT_EQ(ReasonOfFind(), "UPLOAD_AMBIGUOUS");
}

TEST_F(LocalFilesTest, PickledWeightsEmptyFilesAndOtherFilesAreRefused) {
  Write("config.json");
  Write("pytorch_model.bin");
  EXPECT_THAT(MessageOf(FindModelFiles(folder_.path()).status()), HasSubstr("convert them to safetensors"));
  EXPECT_EQ(ReasonOf(FindModelFiles(folder_ / "pytorch_model.bin").status()), "UPLOAD_NOT_A_MODEL");
  EXPECT_EQ(ReasonOf(FindModelFiles(folder_ / "absent").status()), "FILE_NOT_FOUND");
  Write("empty.gguf", "");
  EXPECT_EQ(ReasonOf(FindModelFiles(folder_ / "empty.gguf").status()), "UPLOAD_FILE_EMPTY");
}

TEST_F(LocalFilesTest, HashFileDigestsAndNoticesChange) {
  Write("a.gguf", "weights");
  auto files = FindModelFiles(folder_ / "a.gguf");
  ASSERT_TRUE(files.ok());
  LocalFile& file = files->front();
  ASSERT_TRUE(HashFile(file, [](uint64_t) { return true; }).ok());
  EXPECT_EQ(file.sha256, Sha256Hex("weights"));
  EXPECT_FALSE(ChangedSinceHashed(file));
  Write("a.gguf", "weights and more");
  EXPECT_TRUE(ChangedSinceHashed(file));
  EXPECT_TRUE(absl::IsCancelled(HashFile(file, [](uint64_t) { return false; })));
}

}  // namespace
}  // namespace qamserve
