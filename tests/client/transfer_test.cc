// Client::Upload, DownloadArtifact, WatchJob and status conversion against a server that breaks off.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "client/client.h"
#include "client/rpc_status.h"
#include "core/base/digest.h"
#include "core/base/file.h"
#include "tests/client/fake_server.h"
#include "tests/support/temp_folder.h"

namespace qamserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Several messages of an upload, and not a multiple of one.
constexpr size_t kModelBytes = 3'000'001;

std::string Bytes(size_t count) {
  std::string bytes(count, '\0');
  for (size_t i = 0; i < count; ++i) bytes[i] = static_cast<char>((i * 2654435761u) >> 13);
  return bytes;
}

class TransferTest : public testing::Test {
 protected:
  ClientOptions Options() const { return {.address = server_.address(), .retry_limit = 3, .initial_backoff_ms = 5}; }

  std::string WriteModel(const std::string& content) {
    const std::string path = folder_ / "model.gguf";
    EXPECT_TRUE(WriteFileAtomically(path, content).ok());
    return path;
  }

  std::string AddArtifact(const std::map<std::string, std::string>& files) {
    v1::Artifact artifact;
    artifact.set_name("artifacts/" + Sha256Hex("artifact"));
    for (const auto& [name, content] : files) {
      v1::FileInfo* info = artifact.add_files();
      info->set_name(name);
      info->set_sha256(Sha256Hex(content));
      info->set_size_bytes(static_cast<int64_t>(content.size()));
    }
    server_.state().artifacts.push_back(artifact);
    server_.state().files = files;
    return artifact.name();
  }

  absl::StatusOr<v1::Artifact> Download(const std::string& name) {
    return client_.DownloadArtifact(name, folder_ / "out", [&](const TransferProgress& progress) { last_ = progress; });
  }

  absl::StatusOr<v1::CompleteUploadResponse> Upload(const std::string& path) {
    return client_.Upload({.path = path}, [&](const TransferProgress& progress) {
      last_ = progress;
      if (progress.phase == TransferProgress::Phase::kRetry) ++retries_;
    });
  }

  FakeServer server_;
  TempFolder folder_;
  Client client_{Options()};
  TransferProgress last_;
  int retries_ = 0;
};

TEST_F(TransferTest, UploadSendsEveryByteOnce) {
  const std::string content = Bytes(kModelBytes);
  const auto response = Upload(WriteModel(content));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(server_.state().received[Sha256Hex(content)], content);
  EXPECT_EQ(server_.state().upload_bytes, static_cast<int64_t>(kModelBytes));
  EXPECT_EQ(server_.state().upload.display_name(), "model.gguf");
  EXPECT_EQ(last_.done_bytes, kModelBytes);
  EXPECT_EQ(retries_, 0);
}

TEST_F(TransferTest, UploadGoesOnFromTheCommittedOffsetAfterABreak) {
  const std::string content = Bytes(kModelBytes);
  server_.state().drop_upload_after = kModelBytes / 2;
  const auto response = Upload(WriteModel(content));
  ASSERT_TRUE(response.ok()) << response.status();
  EXPECT_EQ(server_.state().received[Sha256Hex(content)], content);
  EXPECT_EQ(server_.state().upload_bytes, static_cast<int64_t>(kModelBytes)) << "bytes were sent twice";
  ASSERT_EQ(server_.state().offsets.size(), 2u);
  EXPECT_GE(server_.state().offsets[1], static_cast<int64_t>(kModelBytes / 2));
  EXPECT_EQ(retries_, 1);
}

TEST_F(TransferTest, ANewClientSendsOnlyWhatIsMissing) {
  const std::string content = Bytes(kModelBytes);
  server_.state().received[Sha256Hex(content)] = content.substr(0, 1'000'000);
  ASSERT_TRUE(Upload(WriteModel(content)).ok());
  EXPECT_THAT(server_.state().offsets, ElementsAre(1'000'000));
  EXPECT_EQ(last_.skipped_bytes, 1'000'000u);
  server_.state().offsets.clear();
  ASSERT_TRUE(Upload(folder_ / "model.gguf").ok());
  EXPECT_TRUE(server_.state().offsets.empty()) << "a complete file was sent again";
}

TEST_F(TransferTest, UploadWaitsForABusyServer) {
  server_.state().busy_uploads = 2;
  ASSERT_TRUE(Upload(WriteModel(Bytes(1000))).ok());
  EXPECT_EQ(retries_, 2);
  server_.state().received.clear();
  server_.state().busy_uploads = 100;
  const auto refused = Upload(folder_ / "model.gguf");
  EXPECT_EQ(ReasonOf(refused.status()), "UPLOAD_BUSY");
  EXPECT_EQ(retries_, 2 + 3) << "the limit of attempts";
}

TEST_F(TransferTest, UploadTellsADamagedTransferFromAChangedFile) {
  const std::string path = WriteModel(Bytes(1000));
  server_.state().corrupt_upload = true;
  const auto damaged = Upload(path);
  EXPECT_TRUE(absl::IsDataLoss(damaged.status()));
  EXPECT_EQ(ReasonOf(damaged.status()), "UPLOAD_DIGEST");
  EXPECT_THAT(MessageOf(damaged.status()), HasSubstr("model.gguf arrived damaged"));

  server_.state().corrupt_upload = false;
  bool rewritten = false;
  const auto changed = client_.Upload({.path = path}, [&](const TransferProgress&) {
    // The first report comes after the only block was read for its digest.
    if (!std::exchange(rewritten, true)) WriteModel(std::string(1000, 'x'));
  });
  EXPECT_EQ(ReasonOf(changed.status()), "UPLOAD_DIGEST");
  EXPECT_THAT(MessageOf(changed.status()), HasSubstr("was changed while it was sent"));
}

TEST_F(TransferTest, UploadOfAFolderSendsSameContentOnce) {
  ASSERT_TRUE(WriteFileAtomically(folder_ / "config.json", "{}").ok());
  ASSERT_TRUE(WriteFileAtomically(folder_ / "generation_config.json", "{}").ok());
  ASSERT_TRUE(WriteFileAtomically(folder_ / "model.safetensors", "weights").ok());
  ASSERT_TRUE(Upload(folder_.path() + "/").ok());
  EXPECT_EQ(server_.state().upload.files_size(), 3);
  EXPECT_EQ(server_.state().offsets.size(), 2u);
  EXPECT_EQ(server_.state().upload.display_name(), std::filesystem::path(folder_.path()).filename().string());
}

TEST_F(TransferTest, UploadStopsWhenCancelled) {
  Cancellation cancellation;
  const auto response = client_.Upload(
      {.path = WriteModel(Bytes(kModelBytes))},
      [&](const TransferProgress& progress) {
        if (progress.phase == TransferProgress::Phase::kTransfer) cancellation.Cancel();
      },
      &cancellation);
  EXPECT_TRUE(absl::IsCancelled(response.status())) << response.status();
}

TEST_F(TransferTest, DownloadGoesOnAfterABreakAndFromAnEarlierAttempt) {
  const std::map<std::string, std::string> files = {{"config.json", "{}"}, {"model.safetensors", Bytes(10'000)}};
  const std::string name = AddArtifact(files);
  ASSERT_TRUE(CreateDirectories(folder_ / "out").ok());
  ASSERT_TRUE(WriteFileAtomically(folder_ / "out/model.safetensors.partial", Bytes(10'000).substr(0, 3000)).ok());
  server_.state().drop_download_after = 2000;
  const auto artifact = Download(name);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_THAT(server_.state().download_offsets, ElementsAre(0, 3000, 5000));
  for (const auto& [file, content] : files) {
    EXPECT_EQ(ReadFile(folder_ / ("out/" + file), 1 << 20).value(), content);
    EXPECT_FALSE(std::filesystem::exists(folder_ / ("out/" + file + ".partial")));
  }
  EXPECT_EQ(last_.done_bytes, 10'002u);
  server_.state().download_offsets.clear();
  ASSERT_TRUE(Download(name).ok());
  EXPECT_TRUE(server_.state().download_offsets.empty()) << "files that are there were fetched again";
}

TEST_F(TransferTest, DownloadRefusesWrongBytesAndLeavesNoFinalName) {
  const std::string name = AddArtifact({{"a.json", "{}"}, {"model.safetensors", Bytes(5000)}});
  server_.state().files["model.safetensors"][77] ^= 1;
  const auto artifact = Download(name);
  EXPECT_EQ(ReasonOf(artifact.status()), "DOWNLOAD_DIGEST");
  EXPECT_THAT(MessageOf(artifact.status()), HasSubstr("model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/a.json")) << "a part of an artifact under its final name";
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/model.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "out/model.safetensors.partial"));
}

TEST_F(TransferTest, DownloadRefusesMoreBytesThanListedAndNamesThatLeaveTheFolder) {
  const std::string name = AddArtifact({{"model.safetensors", Bytes(5000)}});
  server_.state().files["model.safetensors"] += "more";
  EXPECT_EQ(ReasonOf(Download(name).status()), "DOWNLOAD_SIZE");
  for (const char* hostile : {"../evil", "/etc/evil", "..", ""}) {
    server_.state().artifacts[0].mutable_files(0)->set_name(hostile);
    EXPECT_EQ(ReasonOf(Download(name).status()), "DOWNLOAD_NAME") << hostile;
  }
}

v1::Job JobAt(v1::JobState state, std::vector<std::string> tensors) {
  v1::Job job;
  job.set_name("jobs/1");
  job.set_state(state);
  for (const std::string& tensor : tensors) job.add_tensors()->set_name(tensor);
  return job;
}

TEST_F(TransferTest, WatchGoesOnAfterABreakWithEachTensorOnce) {
  server_.state().watch = {JobAt(v1::JOB_STATE_RUNNING, {"a", "b"}), JobAt(v1::JOB_STATE_RUNNING, {"c"}),
                           JobAt(v1::JOB_STATE_SUCCEEDED, {"d"})};
  server_.state().drop_watch_after = 2;
  std::vector<std::string> tensors;
  int breaks = 0;
  const auto job = client_.WatchJob(
      "jobs/1",
      [&](const v1::Job& change) {
        for (const auto& tensor : change.tensors()) tensors.push_back(tensor.name());
      },
      [&](const absl::Status&) { ++breaks; });
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->state(), v1::JOB_STATE_SUCCEEDED);
  EXPECT_THAT(tensors, ElementsAre("a", "b", "c", "d"));
  EXPECT_EQ(breaks, 1);
}

TEST_F(TransferTest, StatusKeepsCodeMessageAndReason) {
  const absl::Status rich = FromGrpc(ErrorWithReason(grpc::StatusCode::NOT_FOUND, "JOB_NOT_FOUND", "no jobs/7"));
  EXPECT_TRUE(absl::IsNotFound(rich));
  EXPECT_EQ(ReasonOf(rich), "JOB_NOT_FOUND");
  EXPECT_EQ(MessageOf(rich), "no jobs/7");
  EXPECT_EQ(ReasonOf(FromGrpc(grpc::Status(grpc::StatusCode::UNAVAILABLE, "x"))), kServerUnreachable);
  EXPECT_EQ(ReasonOf(FromGrpc(grpc::Status(grpc::StatusCode::INTERNAL, "x", "not a proto"))), "INTERNAL");
}

TEST(Client, NoServerIsUnavailableAtOnce) {
  Client client({.address = "127.0.0.1:1"});
  const absl::Status status = client.ListCheckpoints().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ReasonOf(status), kServerUnreachable);
}

}  // namespace
}  // namespace qamserve
