#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <mutex>

#include "core/base/digest.h"
#include "server/store/catalog.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/temp_dir.h"
#include "tests/support/scripted_http_server.h"

namespace qamserve {
namespace {

using testing::HasSubstr;

// A file and what git calls it (git hash-object).
constexpr char kConfig[] = "{}\n";
constexpr char kConfigSha1[] = "0967ef424bce6791893e9a57bb952f80fd536e93";

// A model hub with one model, which hangs up after `cut` bytes of each answer.
class Hub {
 public:
  Hub() : server_([this](const std::string& head) { return Answer(head); }) {
    weights_ = std::string(8, '\0') + "{}";
    weights_[0] = 2;
    weights_.resize(3'000'000, 'w');
  }
  const std::string& weights() const { return weights_; }
  std::string url() const { return server_.url(); }
  size_t requests() { return server_.requests().size(); }
  void set_cut(size_t bytes) { cut_ = bytes; }
  void set_config(std::string text) { config_ = std::move(text); }
  size_t sent_weights() const { return sent_weights_; }

 private:
  std::string Answer(const std::string& head) {
    const std::string target = TargetOf(head);
    if (target.starts_with("/api/models/org/model/")) {
      return HttpAnswer(200, fmt::format(R"({{"sha": "c1", "siblings": [
          {{"rfilename": "model.safetensors", "size": 1, "lfs": {{"sha256": "{}", "size": {}}}}},
          {{"rfilename": "config.json", "size": {}, "blobId": "{}"}}]}})",
                                         Sha256Hex(weights_), weights_.size(), config_.size(), kConfigSha1));
    }
    if (target == "/org/model/resolve/c1/config.json") return HttpAnswer(200, config_);
    if (target != "/org/model/resolve/c1/model.safetensors") return HttpAnswer(404, "");
    const std::string range = HeaderOf(head, "Range");
    const size_t from = range.empty() ? 0 : std::stoul(range.substr(range.find('=') + 1));
    const std::string part = weights_.substr(from, cut_);
    sent_weights_ += part.size();
    return fmt::format("HTTP/1.1 {} x\r\nContent-Length: {}\r\n\r\n{}", from == 0 ? 200 : 206, weights_.size() - from,
                       part);
  }

  std::string weights_;
  std::string config_ = kConfig;
  size_t cut_ = std::string::npos;
  std::atomic<size_t> sent_weights_{0};
  ScriptedHttpServer server_;
};

class CatalogRemoteTest : public testing::Test {
 protected:
  void SetUp() override {
    blobs_ = DirectoryBlobStore::Open({.root = dir_ / "blobs", .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(dir_ / "meta").value();
    CatalogOptions options;
    options.import_spool = dir_ / "spool";
    options.remote.hub_endpoint = hub_.url();
    options.remote.http.attempts = 2;
    options.remote.http.first_pause_ms = 1;
    options.inspect = [](const FileSet&) { return CheckpointFacts{.architecture = "llama", .parameters = 42}; };
    catalog_ = std::make_unique<Catalog>(options, *store_, *blobs_);
  }

  absl::StatusOr<CheckpointOrText> Import(const std::string& source = "hf://org/model") {
    return catalog_->ImportRemote(UploadKind::kCheckpoint, source, "", "", [this] { return cancelled_.load(); });
  }
  bool SpoolIsEmpty() const { return std::filesystem::is_empty(dir_ / "spool"); }

  TempDir dir_;
  Hub hub_;
  std::atomic<bool> cancelled_{false};
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<Catalog> catalog_;
};

TEST_F(CatalogRemoteTest, ImportsAModelUnderItsName) {
  const auto made = Import();
  ASSERT_TRUE(made.ok()) << made.status();
  const auto& checkpoint = std::get<CheckpointRecord>(*made);
  EXPECT_EQ(checkpoint.display_name, "model");
  ASSERT_EQ(checkpoint.files.size(), 2U);
  EXPECT_EQ(checkpoint.files[0].sha256, Sha256Hex(kConfig));
  EXPECT_EQ(checkpoint.files[1].sha256, Sha256Hex(hub_.weights()));
  EXPECT_TRUE(SpoolIsEmpty());
  // What is here is not fetched again.
  const size_t sent = hub_.sent_weights();
  EXPECT_EQ(std::get<CheckpointRecord>(Import().value()).digest, checkpoint.digest);
  EXPECT_EQ(hub_.sent_weights(), sent);
}

TEST_F(CatalogRemoteTest, GoesOnAfterCutsWithoutFetchingAByteTwice) {
  hub_.set_cut(700'000);
  const auto made = Import();
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(hub_.sent_weights(), hub_.weights().size());
}

TEST_F(CatalogRemoteTest, ALaterTryGoesOnWhereAnEarlierOneEnded) {
  hub_.set_cut(0);
  EXPECT_EQ(ReasonOf(Import().status()), "IMPORT_SOURCE");
  hub_.set_cut(std::string::npos);
  EXPECT_TRUE(Import().ok());
  EXPECT_EQ(hub_.sent_weights(), hub_.weights().size());
}

TEST_F(CatalogRemoteTest, RefusesContentThatIsNotWhatTheHubSays) {
  hub_.set_config("{ }");
  const absl::Status status = Import().status();
  EXPECT_EQ(ReasonOf(status), "UPLOAD_DIGEST");
  EXPECT_THAT(MessageOf(status), HasSubstr("config.json"));
  EXPECT_TRUE(SpoolIsEmpty());
  hub_.set_config(kConfig);
  EXPECT_TRUE(Import().ok());
}

TEST_F(CatalogRemoteTest, EndsWhenTheCallerIsGone) {
  cancelled_ = true;
  EXPECT_FALSE(Import().ok());
  EXPECT_EQ(hub_.sent_weights(), 0U);
}

TEST_F(CatalogRemoteTest, ATextIsOneFile) {
  const auto made = catalog_->ImportRemote(UploadKind::kText, "hf://org/model", "", "", {});
  EXPECT_EQ(ReasonOf(made.status()), "IMPORT_PATH");
}

}  // namespace
}  // namespace qamserve
