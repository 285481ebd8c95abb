// qamctl artifacts export: download, export and what is left behind, with an artifact of a tiny model.
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/client/qamctl_fixture.h"
#include "tests/support/tiny_artifact.h"

namespace qamserve::qamctl {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class QamctlExportTest : public QamctlTest {
 protected:
  // The fixture's artifact gets the files of a real one.
  QamctlExportTest() {
    EXPECT_EQ(WriteTinyArtifact({}, {}, folder_ / "made"), absl::OkStatus());
    v1::Artifact& artifact = server_.state().artifacts[0];
    artifact.clear_files();
    for (const auto& entry : std::filesystem::directory_iterator(local())) {
      const std::string name = entry.path().filename().string();
      const std::string bytes = ReadFile(entry.path().string(), 1 << 26).value();
      v1::FileInfo* file = artifact.add_files();
      file->set_name(name);
      file->set_sha256(Sha256Hex(bytes));
      file->set_size_bytes(static_cast<int64_t>(bytes.size()));
      server_.state().files[name] = bytes;
    }
  }
  std::string local() const { return folder_ / "made/artifact"; }
  std::vector<std::string> Leftovers() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
      if (entry.path().filename() != "made") names.push_back(entry.path().filename().string());
    }
    return names;
  }
};

TEST_F(QamctlExportTest, DownloadsExportsAndCleansUp) {
  const Result result = Run({"artifacts", "export", "small-5.5", "--format", "gguf", "--out", folder_ / "x.gguf"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("x.gguf: gguf in bf16"), HasSubstr("artifacts/0123456789ab")));
  EXPECT_THAT(Leftovers(), ElementsAre("x.gguf"));
  EXPECT_EQ(ReadFile(folder_ / "x.gguf", 1 << 26)->substr(0, 4), "GGUF");
}

TEST_F(QamctlExportTest, JsonNamesTheFiles) {
  const Result result =
      Run({"artifacts", "export", "small-5.5", "--format", "hf", "--dtype", "f16", "--out", folder_ / "x", "--json"});
  EXPECT_EQ(result.code, kExitOk) << result.out;
  EXPECT_EQ(result.err, "");
  const auto json = nlohmann::json::parse(result.out, nullptr, false);
  EXPECT_EQ(json.value("format", ""), "hf");
  EXPECT_EQ(json.value("dtype", ""), "f16");
  EXPECT_EQ(json.value("path", ""), folder_ / "x");
  EXPECT_THAT(json["files"], testing::Contains("model.safetensors"));
}

TEST_F(QamctlExportTest, ADownloadedFolderNeedsNoServer) {
  const Result result =
      RunBare({"artifacts", "export", local(), "--format", "hf", "--out", folder_ / "x", "--address", "127.0.0.1:1"});
  EXPECT_EQ(result.code, kExitOk) << result.err;
  EXPECT_TRUE(std::filesystem::exists(folder_ / "x/config.json"));
}

TEST_F(QamctlExportTest, WhatIsThereIsRefusedBeforeTheDownload) {
  WriteFile("x.gguf", "mine");
  const Result result = Run({"artifacts", "export", "small-5.5", "--format", "gguf", "--out", folder_ / "x.gguf"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("EXPORT_EXISTS"));
  EXPECT_THAT(Leftovers(), ElementsAre("x.gguf"));
}

TEST_F(QamctlExportTest, ADamagedArtifactIsNamedAndItsDownloadStays) {
  v1::Artifact& artifact = server_.state().artifacts[0];
  for (v1::FileInfo& file : *artifact.mutable_files()) {
    if (file.name() != "config.json") continue;
    file.set_sha256(Sha256Hex("{}"));
    file.set_size_bytes(2);
    server_.state().files["config.json"] = "{}";
  }
  const Result result = Run({"artifacts", "export", "small-5.5", "--format", "hf", "--out", folder_ / "x"});
  EXPECT_EQ(result.code, kExitFailed);
  EXPECT_THAT(result.err, HasSubstr("config.json"));
  EXPECT_THAT(Leftovers(), ElementsAre("x.0123456789ab.download"));
}

TEST_F(QamctlExportTest, UnknownWordsAreAnErrorOfUsage) {
  EXPECT_EQ(Run({"artifacts", "export", "small-5.5", "--format", "onnx", "--out", "x"}).code, kExitUsage);
  EXPECT_EQ(Run({"artifacts", "export", "small-5.5", "--format", "hf"}).code, kExitUsage);
}

}  // namespace
}  // namespace qamserve::qamctl
