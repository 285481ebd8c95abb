#include "server/store/catalog.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/built_in_text.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/bytes_of.h"
#include "tests/server/store/forwarding_blob_store.h"
#include "tests/server/store/temp_dir.h"

namespace qamserve {
namespace {

FileRecord FileOf(const std::string& name, std::string_view content) {
  return {.name = name, .sha256 = Sha256Hex(content), .size_bytes = content.size()};
}

std::string Safetensors(std::string_view header) {
  std::string text(8, '\0');
  text[0] = static_cast<char>(header.size());
  return text.append(header);
}

struct CountingObserver : StoreObserver {
  void OnMissingBlob() override { ++missing; }
  std::atomic<int> missing{0};
};

class CatalogTest : public testing::Test {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(dir_ / "root");
    Reopen();
  }

  void Reopen(ImportMode mode = ImportMode::kCopy) {
    second_.reset();
    catalog_.reset();
    blobs_ = DirectoryBlobStore::Open({.root = dir_ / "blobs", .reserve_bytes = 0, .free_bytes = {}}).value();
    store_ = OpenSqliteMetadataStore(dir_ / "meta").value();
    CatalogOptions options;
    options.import_root = dir_ / "root";
    options.import_mode = mode;
    options.garbage_grace_ms = -10'000;  // even what was made just now
    options.now_ms = [this] { return now_ms_; };
    options.inspect = [this](const FileSet& files) -> absl::StatusOr<CheckpointFacts> {
      inspected_ = static_cast<int>(files.files().size());
      RETURN_IF_ERROR(inspection_);
      return CheckpointFacts{.architecture = "llama", .parameters = 42};
    };
    options.collect_on_delete = collect_on_delete_;
    options.observer = observer_;
    catalog_ = std::make_unique<Catalog>(options, *store_, *blobs_);
    // As another process with the same stores has it.
    second_ = std::make_unique<Catalog>(options, *store_, *blobs_);
  }

  std::string Upload(const std::vector<std::pair<std::string, std::string>>& files,
                     UploadKind kind = UploadKind::kCheckpoint) {
    std::vector<FileRecord> records;
    records.reserve(files.size());
    for (const auto& [name, content] : files) records.push_back(FileOf(name, content));
    const auto upload = catalog_->CreateUpload(kind, records, "model", "");
    EXPECT_TRUE(upload.ok()) << upload.status();
    for (const auto& [name, content] : files) {
      const auto state = catalog_->Append(upload->id, Sha256Hex(content), 0, BytesOf(content));
      EXPECT_TRUE(state.ok() && state->complete) << state.status();
    }
    return upload->id;
  }

  CheckpointRecord MakeCheckpoint() {
    return std::get<CheckpointRecord>(
        catalog_->CompleteUpload(Upload({{"config.json", "{}"}, {"model.safetensors", Safetensors("{}")}}), "")
            .value());
  }

  TempDir dir_;
  int64_t now_ms_ = SystemNowMs();
  int inspected_ = 0;
  absl::Status inspection_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<MetadataStore> store_;
  bool collect_on_delete_ = true;
  std::shared_ptr<CountingObserver> observer_ = std::make_shared<CountingObserver>();
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<Catalog> second_;
};

TEST_F(CatalogTest, UploadBecomesACheckpoint) {
  const std::string weights = Safetensors("{}");
  const auto upload = catalog_->CreateUpload(
      UploadKind::kCheckpoint, {FileOf("model.safetensors", weights), FileOf("config.json", "{}")}, "tiny", "");
  ASSERT_TRUE(upload.ok()) << upload.status();
  EXPECT_EQ(ReasonOf(catalog_->CompleteUpload(upload->id, "").status()), "UPLOAD_INCOMPLETE");
  ASSERT_TRUE(catalog_->Append(upload->id, Sha256Hex(weights), 0, BytesOf(weights.substr(0, 4))).ok());
  // The client is cut off, the server restarts, the client asks where it stands.
  Reopen();
  const auto again = catalog_->CreateUpload(
      UploadKind::kCheckpoint, {FileOf("model.safetensors", weights), FileOf("config.json", "{}")}, "tiny", "");
  EXPECT_EQ(again->id, upload->id);
  EXPECT_EQ(again->files[0].committed_bytes, 4u);
  ASSERT_TRUE(catalog_->Append(upload->id, Sha256Hex(weights), 4, BytesOf(weights.substr(4))).ok());
  ASSERT_TRUE(catalog_->Append(upload->id, Sha256Hex("{}"), 0, BytesOf("{}"))->complete);
  const auto made = catalog_->CompleteUpload(upload->id, "");
  ASSERT_TRUE(made.ok()) << made.status();
  const auto& checkpoint = std::get<CheckpointRecord>(*made);
  EXPECT_EQ(checkpoint.architecture, "llama");
  EXPECT_EQ(checkpoint.parameters, 42);
  EXPECT_EQ(checkpoint.files[0].name, "config.json");
  EXPECT_EQ(inspected_, 2);
  EXPECT_EQ(std::get<CheckpointRecord>(*catalog_->CompleteUpload(upload->id, "")).digest, checkpoint.digest);
  const auto files = catalog_->FilesOf("checkpoints/" + checkpoint.digest);
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(files->ReadText("config.json", 10).value(), "{}");
  // What is there is never sent again.
  const auto twin = catalog_->CreateUpload(UploadKind::kText, {FileOf("t.txt", "{}")}, "", "");
  EXPECT_TRUE(twin->files[0].complete);
}

TEST_F(CatalogTest, RefusesWrongOffsetsAndDigests) {
  const auto upload = catalog_->CreateUpload(UploadKind::kText, {FileOf("a.txt", "hello")}, "", "");
  const std::string sha = Sha256Hex("hello");
  const auto offset = catalog_->Append(upload->id, sha, 2, BytesOf("llo")).status();
  EXPECT_EQ(ReasonOf(offset), "UPLOAD_OFFSET");
  EXPECT_TRUE(absl::IsOutOfRange(offset));
  EXPECT_NE(MessageOf(offset).find("a.txt"), std::string::npos);
  EXPECT_NE(MessageOf(offset).find("expected offset 0"), std::string::npos);
  EXPECT_EQ(ReasonOf(catalog_->Append(upload->id, sha, 0, BytesOf("hallo")).status()), "UPLOAD_DIGEST");
  EXPECT_EQ(catalog_->QueryUpload(upload->id)->files[0].committed_bytes, 0u);
  EXPECT_EQ(ReasonOf(catalog_->Append(upload->id, sha, 0, BytesOf("too long")).status()), "UPLOAD_SIZE");
  EXPECT_EQ(ReasonOf(catalog_->Append(upload->id, Sha256Hex("x"), 0, BytesOf("x")).status()), "UPLOAD_FILE_NOT_FOUND");
  EXPECT_EQ(ReasonOf(catalog_->Append("nope", sha, 0, BytesOf("x")).status()), "UPLOAD_NOT_FOUND");
  EXPECT_TRUE(catalog_->Append(upload->id, sha, 0, BytesOf("hello"))->complete);
}

TEST_F(CatalogTest, RefusesBadHeadersEarly) {
  const std::string gguf = "GGML" + std::string(100, 'x');
  const std::string huge = std::string(8, '\x7f') + std::string(100, 'x');
  const std::string no_json = Safetensors("[]") + std::string(100, 'x');
  const auto upload = catalog_->CreateUpload(
      UploadKind::kCheckpoint,
      {FileOf("m.gguf", gguf), FileOf("huge.safetensors", huge), FileOf("list.safetensors", no_json)}, "", "");
  ASSERT_TRUE(upload.ok());
  EXPECT_EQ(ReasonOf(catalog_->Append(upload->id, Sha256Hex(gguf), 0, BytesOf(gguf.substr(0, 4))).status()),
            "GGUF_HEADER");
  EXPECT_EQ(ReasonOf(catalog_->Append(upload->id, Sha256Hex(huge), 0, BytesOf(huge.substr(0, 20))).status()),
            "SAFETENSORS_HEADER");
  // Byte by byte it is refused as soon as it shows.
  absl::Status status;
  size_t sent = 0;
  for (; sent < no_json.size() && status.ok(); ++sent) {
    status = catalog_->Append(upload->id, Sha256Hex(no_json), sent, BytesOf(no_json.substr(sent, 1))).status();
  }
  EXPECT_EQ(ReasonOf(status), "SAFETENSORS_HEADER");
  EXPECT_EQ(sent, 9u);
  EXPECT_EQ(catalog_->QueryUpload(upload->id)->files[2].committed_bytes, 0u);
}

TEST_F(CatalogTest, RefusesBadFileLists) {
  auto reason = [&](const std::vector<FileRecord>& files, UploadKind kind = UploadKind::kCheckpoint) {
    return ReasonOf(catalog_->CreateUpload(kind, files, "", "").status());
  };
  EXPECT_EQ(reason({}), "UPLOAD_FILES");
  EXPECT_EQ(reason(std::vector<FileRecord>(kMaxFiles + 1, FileOf("a", "a"))), "UPLOAD_FILES");
  for (const char* name : {"", "../a", "a/b", "a\\b", ".hidden", "a\nb"})
    EXPECT_EQ(reason({FileOf(name, "a")}), "UPLOAD_FILES") << name;
  EXPECT_EQ(reason({FileOf("a", "a"), FileOf("a", "b")}), "UPLOAD_FILES");
  EXPECT_EQ(reason({FileOf("pytorch_model.bin", "a")}), "FILE_TYPE_UNSUPPORTED");
  FileRecord bad = FileOf("a", "a");
  bad.sha256[0] = 'G';
  EXPECT_EQ(reason({bad}), "UPLOAD_FILES");
  FileRecord large = FileOf("a", "a");
  large.size_bytes = kMaxFileBytes + 1;
  EXPECT_EQ(reason({large}), "UPLOAD_FILES");
  EXPECT_EQ(reason({FileOf("a", "a"), FileOf("b", "b")}, UploadKind::kText), "UPLOAD_FILES");
  EXPECT_EQ(ReasonOf(catalog_->CreateUpload(UploadKind::kText, {FileOf("a", "a")}, std::string(201, 'x'), "").status()),
            "DISPLAY_NAME");
  std::vector<std::byte> message(kMaxAppendBytes + 1);
  EXPECT_EQ(ReasonOf(catalog_->Append("u", Sha256Hex("a"), 0, message).status()), "UPLOAD_CHUNK");
}

TEST_F(CatalogTest, RefusesWhatTheCheckpointInspectionRefuses) {
  inspection_ = InvalidArgument("TOKENIZER_MISMATCH", "the tokenizer has 9 tokens, vocab_size is 8");
  const std::string upload = Upload({{"config.json", "{}"}});
  EXPECT_EQ(ReasonOf(catalog_->CompleteUpload(upload, "req").status()), "TOKENIZER_MISMATCH");
  EXPECT_TRUE(catalog_->ListCheckpoints({})->items.empty());
  inspection_ = absl::OkStatus();
  EXPECT_TRUE(catalog_->CompleteUpload(upload, "req").ok());
}

TEST_F(CatalogTest, TextsMustBeUtf8) {
  for (const std::string bad : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\xe2\x82"}) {
    EXPECT_EQ(ReasonOf(catalog_->CompleteUpload(Upload({{"t.txt", bad}}, UploadKind::kText), "").status()),
              "TEXT_NOT_UTF8");
  }
  // The message says where, and of UTF-16 without a mark that it is none.
  const auto message = [this](const std::string& text) {
    return MessageOf(catalog_->CompleteUpload(Upload({{"t.txt", text}}, UploadKind::kText), "").status());
  };
  EXPECT_THAT(message("gr\xfc\xdf"), testing::AllOf(testing::HasSubstr("t.txt"), testing::HasSubstr("byte 2 (0xfc)")));
  EXPECT_THAT(message(std::string("h\0i\0", 4)),
              testing::AllOf(testing::HasSubstr("byte 1 is zero"), testing::HasSubstr("UTF-16")));
  const std::string good = "a\xe2\x82\xac\xf0\x9f\x98\x80";
  const auto text = catalog_->CompleteUpload(Upload({{"t.txt", good}}, UploadKind::kText), "");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(catalog_->ReadText(std::get<TextRecord>(*text).digest).value(), good);
}

// Job keys and reports name it by its digest, so it never changes.
TEST_F(CatalogTest, TheBuiltInTextIsThereWithoutAnUpload) {
  const TextRecord record = BuiltInTextRecord();
  EXPECT_EQ(record.digest, "fe8b0739724d0ccd296a778bf493b70a90fb5352b1731c86cf123469bb79d395");
  EXPECT_EQ(record.digest, Sha256Hex(BuiltInText()));
  EXPECT_EQ(catalog_->GetText(record.digest)->file.size_bytes, BuiltInText().size());
  EXPECT_EQ(catalog_->ReadText(record.digest).value(), BuiltInText());
  // As good a text as any other, which the same bytes may be uploaded as.
  const auto uploaded =
      catalog_->CompleteUpload(Upload({{"t.txt", std::string(BuiltInText())}}, UploadKind::kText), "");
  ASSERT_TRUE(uploaded.ok()) << uploaded.status();
  EXPECT_EQ(std::get<TextRecord>(*uploaded).digest, record.digest);
  EXPECT_EQ(ReasonOf(catalog_->GetText(std::string(64, 'a')).status()), "TEXT_NOT_FOUND");
}

TEST_F(CatalogTest, EmptyFilesNeedNoBytes) {
  const auto upload = catalog_->CreateUpload(UploadKind::kCheckpoint, {FileOf("merges.txt", "")}, "", "");
  EXPECT_TRUE(catalog_->QueryUpload(upload->id)->files[0].complete);
}

TEST_F(CatalogTest, SameRequestIdSameAnswer) {
  const std::vector<FileRecord> files = {FileOf("a.txt", "a")};
  const auto first = catalog_->CreateUpload(UploadKind::kText, files, "n", "id");
  EXPECT_EQ(catalog_->CreateUpload(UploadKind::kText, files, "n", "id")->id, first->id);
  EXPECT_EQ(ReasonOf(catalog_->CreateUpload(UploadKind::kText, files, "other", "id").status()), "REQUEST_ID_REUSED");
}

TEST_F(CatalogTest, CancelledUploadLeavesNothing) {
  const auto upload = catalog_->CreateUpload(UploadKind::kText, {FileOf("a.txt", "hello")}, "", "");
  ASSERT_TRUE(catalog_->Append(upload->id, Sha256Hex("hello"), 0, BytesOf("he")).ok());
  ASSERT_TRUE(catalog_->CancelUpload(upload->id).ok());
  EXPECT_TRUE(catalog_->CancelUpload(upload->id).ok());
  EXPECT_TRUE(blobs_->ListPartials()->empty());
  EXPECT_EQ(ReasonOf(catalog_->QueryUpload(upload->id).status()), "UPLOAD_NOT_FOUND");
}

// --- Imports ---

TEST_F(CatalogTest, ImportsAFolderByCopy) {
  std::filesystem::create_directories(dir_ / "root/model");
  ASSERT_TRUE(WriteFileAtomically(dir_ / "root/model/config.json", "{}").ok());
  ASSERT_TRUE(WriteFileAtomically(dir_ / "root/model/pytorch_model.bin", "pickle").ok());
  const auto made = catalog_->Import(UploadKind::kCheckpoint, "model", "", "");
  ASSERT_TRUE(made.ok()) << made.status();
  const auto& checkpoint = std::get<CheckpointRecord>(*made);
  EXPECT_EQ(checkpoint.display_name, "model");
  ASSERT_EQ(checkpoint.files.size(), 1u);
  std::filesystem::remove_all(dir_ / "root/model");
  EXPECT_EQ(catalog_->FilesOfCheckpoint(checkpoint.digest)->ReadText("config.json", 10).value(), "{}");
}

TEST_F(CatalogTest, ImportByReferenceNoticesChanges) {
  Reopen(ImportMode::kReference);
  ASSERT_TRUE(WriteFileAtomically(dir_ / "root/t.gguf", "GGUF").ok());
  const auto made = catalog_->Import(UploadKind::kCheckpoint, "t.gguf", "", "");
  ASSERT_TRUE(made.ok()) << made.status();
  const std::string digest = std::get<CheckpointRecord>(*made).digest;
  EXPECT_TRUE(blobs_->List()->empty());
  EXPECT_TRUE(catalog_->FilesOfCheckpoint(digest).ok());
  ASSERT_TRUE(WriteFileAtomically(dir_ / "root/t.gguf", "GGUX").ok());
  std::filesystem::last_write_time(dir_ / "root/t.gguf",
                                   std::filesystem::file_time_type::clock::now() + std::chrono::hours(1));
  EXPECT_EQ(ReasonOf(catalog_->FilesOfCheckpoint(digest).status()), "CHECKPOINT_FILE_CHANGED");
}

TEST_F(CatalogTest, ImportsDoNotLeaveTheRoot) {
  ASSERT_TRUE(WriteFileAtomically(dir_ / "secret.txt", "secret").ok());
  std::filesystem::create_directories(dir_ / "root/model");
  std::filesystem::create_directories(dir_ / "root2");
  std::filesystem::create_symlink(dir_ / "secret.txt", dir_ / "root/link.txt");
  std::filesystem::create_symlink(dir_ / "secret.txt", dir_ / "root/model/config.json");
  std::filesystem::create_directory_symlink(dir_.path(), dir_ / "root/up");
  for (const std::string path :
       {"../secret.txt", "model/../../secret.txt", "", "link.txt", "model", "up/secret.txt", "up", "../root2"}) {
    EXPECT_EQ(ReasonOf(catalog_->Import(UploadKind::kText, path, "", "").status()), "IMPORT_PATH") << path;
  }
  EXPECT_EQ(ReasonOf(catalog_->Import(UploadKind::kText, dir_ / "secret.txt", "", "").status()), "IMPORT_PATH");
  EXPECT_EQ(ReasonOf(catalog_->Import(UploadKind::kText, "none", "", "").status()), "IMPORT_NOT_FOUND");
  EXPECT_TRUE(blobs_->List()->empty());
}

// --- Deletion ---

TEST_F(CatalogTest, DeletesAndCollects) {
  const CheckpointRecord checkpoint = MakeCheckpoint();
  EXPECT_EQ(catalog_->CollectGarbage()->blobs, 0);
  ASSERT_TRUE(catalog_->DeleteCheckpoint(checkpoint.digest, "del").ok());
  EXPECT_TRUE(catalog_->DeleteCheckpoint(checkpoint.digest, "del").ok());
  EXPECT_EQ(ReasonOf(catalog_->DeleteCheckpoint(checkpoint.digest, "")), "CHECKPOINT_NOT_FOUND");
  EXPECT_TRUE(blobs_->List()->empty());
}

TEST_F(CatalogTest, ADryRunOnlyCounts) {
  MakeCheckpoint();
  const std::string digest = blobs_->CommitBytes("nobody's")->digest;
  const auto upload = catalog_->CreateUpload(UploadKind::kText, {FileOf("a.txt", "hello")}, "", "");
  ASSERT_TRUE(catalog_->Append(upload->id, Sha256Hex("hello"), 0, BytesOf("he")).ok());
  ASSERT_TRUE(store_->DeleteUpload(upload->id).ok());
  const GarbageResult counted = catalog_->CollectGarbage({.dry_run = true}).value();
  EXPECT_EQ(counted.blobs, 1);
  EXPECT_EQ(counted.bytes, 8u);
  EXPECT_EQ(counted.partials, 1);
  EXPECT_EQ(counted.partial_bytes, 2u);
  EXPECT_THAT(counted.digests, testing::ElementsAre(digest));
  EXPECT_EQ(counted.blobs_seen, 3);
  EXPECT_TRUE(*blobs_->Has(digest));
  // With an hour's grace it is too young.
  EXPECT_EQ(catalog_->CollectGarbage({.dry_run = true, .grace_ms = 3'600'000})->blobs, 0);
  const GarbageResult deleted = catalog_->CollectGarbage().value();
  EXPECT_EQ(deleted.blobs, 1);
  EXPECT_EQ(deleted.bytes, 8u);
  EXPECT_EQ(deleted.partials, 1);
  EXPECT_THAT(deleted.digests, testing::ElementsAre(digest));
  EXPECT_FALSE(*blobs_->Has(digest));
  EXPECT_TRUE(blobs_->ListPartials()->empty());
  EXPECT_EQ(catalog_->CollectGarbage({.dry_run = true})->blobs_seen, 2);
}

TEST_F(CatalogTest, DeletionsMayWaitForACollection) {
  collect_on_delete_ = false;
  Reopen();
  const CheckpointRecord checkpoint = MakeCheckpoint();
  ASSERT_TRUE(catalog_->DeleteCheckpoint(checkpoint.digest, "").ok());
  EXPECT_EQ(blobs_->List()->size(), 2u);
  EXPECT_EQ(catalog_->CollectGarbage()->blobs, 2);
}

TEST_F(CatalogTest, OneProcessCollectsForAll) {
  blobs_->CommitBytes("nobody's").value();
  EXPECT_EQ(catalog_->CollectGarbageIfDue(3'600'000).value()->blobs, 1);
  EXPECT_FALSE(second_->CollectGarbageIfDue(3'600'000)->has_value());
  now_ms_ += 3'600'000;
  EXPECT_EQ(second_->CollectGarbageIfDue(3'600'000).value()->blobs, 0);
  EXPECT_FALSE(catalog_->CollectGarbageIfDue(3'600'000)->has_value());
}

// While one process makes rows refer to blobs that are there, none collects: not the same one, nor another.
TEST_F(CatalogTest, CollectionAndReferencesExcludeEachOther) {
  const std::string digest = blobs_->CommitBytes("old but wanted")->digest;
  std::atomic<bool> referred{false};
  std::thread collecting;
  ASSERT_TRUE(catalog_
                  ->WithoutCollection([&] {
                    collecting = std::thread([&] {
                      EXPECT_TRUE(second_->CollectGarbage().ok());
                      EXPECT_TRUE(referred);
                    });
                    std::this_thread::sleep_for(std::chrono::milliseconds(50));
                    EXPECT_TRUE(*blobs_->Has(digest));
                    referred = true;
                    return store_->PutText({.digest = digest,
                                            .display_name = "t",
                                            .file = FileOf("t.txt", "old but wanted"),
                                            .created_ms = now_ms_});
                  })
                  .ok());
  collecting.join();
  EXPECT_TRUE(*blobs_->Has(digest));
}

// Calls `on_delete` before each deletion, which is not done if that fails.
class WatchedBlobStore final : public ForwardingBlobStore {
 public:
  WatchedBlobStore(BlobStore& store, std::function<absl::Status()> on_delete)
      : ForwardingBlobStore(store), on_delete_(std::move(on_delete)) {}
  absl::StatusOr<bool> DeleteIfOlder(const std::string& digest, int64_t before_ms) override {
    RETURN_IF_ERROR(on_delete_());
    return ForwardingBlobStore::DeleteIfOlder(digest, before_ms);
  }

 private:
  const std::function<absl::Status()> on_delete_;
};

TEST_F(CatalogTest, ACollectionEndsWithTheFirstBlobThatIsNotDeleted) {
  for (int i = 0; i < 5; ++i) blobs_->CommitBytes(fmt::format("nobody's {}", i)).value();
  int deletions = 0;
  bool away = true;
  WatchedBlobStore store(*blobs_, [&] {
    return ++deletions > 2 && away ? Unavailable("S3_UNAVAILABLE", "the store is away") : absl::OkStatus();
  });
  Catalog catalog({.garbage_grace_ms = -10'000, .now_ms = [this] { return now_ms_; }}, *store_, store);
  const absl::Status ended = catalog.CollectGarbage().status();
  EXPECT_EQ(deletions, 3) << "it was tried again while jobs wait";
  EXPECT_EQ(ReasonOf(ended), "S3_UNAVAILABLE");
  EXPECT_THAT(MessageOf(ended), testing::AllOf(testing::HasSubstr("2 blobs were deleted"), testing::HasSubstr("3 that"),
                                               testing::HasSubstr("the store is away")));
  EXPECT_EQ(blobs_->List()->size(), 3u);
  ASSERT_TRUE(catalog_->WithoutCollection([] { return absl::OkStatus(); }).ok());
  away = false;
  EXPECT_EQ(catalog.CollectGarbage()->blobs, 3);
  EXPECT_TRUE(blobs_->List()->empty());
}

TEST_F(CatalogTest, ASlowCollectionLetsOthersGoFirst) {
  constexpr int kBlobs = 40;
  for (int i = 0; i < kBlobs; ++i) blobs_->CommitBytes(fmt::format("nobody's {}", i)).value();
  const std::string wanted = Sha256Hex(fmt::format("nobody's {}", kBlobs / 2));
  std::atomic<int> deletions{0};
  WatchedBlobStore store(*blobs_, [&] {
    ++deletions;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return absl::OkStatus();
  });
  Catalog catalog({.garbage_grace_ms = -10'000, .collection_turn_ms = 30, .now_ms = [this] { return now_ms_; }},
                  *store_, store);
  std::thread collecting([&] { EXPECT_TRUE(catalog.CollectGarbage().ok()); });
  while (deletions == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  int before = 0;
  bool kept = false;
  ASSERT_TRUE(second_
                  ->WithoutCollection([&]() -> absl::Status {
                    before = deletions;
                    kept = *blobs_->Has(wanted);
                    if (!kept) return absl::OkStatus();
                    return store_->PutText({.digest = wanted,
                                            .display_name = "t",
                                            .file = {.name = "t.txt", .sha256 = wanted, .size_bytes = 11},
                                            .created_ms = now_ms_});
                  })
                  .ok());
  collecting.join();
  EXPECT_LT(before, kBlobs) << "nobody had a turn until all was deleted";
  EXPECT_EQ(*blobs_->Has(wanted), kept) << "each batch looks at the rows";
  EXPECT_EQ(blobs_->List()->size(), kept ? 1u : 0u);
}

TEST_F(CatalogTest, PartsOfWhatIsThereAsAWholeAreGarbage) {
  const CheckpointRecord checkpoint = MakeCheckpoint();
  // Its writer was killed between the whole and the removal of the part.
  ASSERT_TRUE(WriteFileAtomically(dir_ / ("blobs/partial/" + Sha256Hex("{}")), "{").ok());
  EXPECT_EQ(catalog_->CollectGarbage()->partials, 1);
  EXPECT_TRUE(blobs_->ListPartials()->empty());
  EXPECT_TRUE(catalog_->FilesOfCheckpoint(checkpoint.digest).ok());
}

// Two processes: a client goes on at another one; the writer that the first one keeps does not stand in the way.
TEST_F(CatalogTest, AnUploadGoesOnAtAnotherProcess) {
  const auto upload = catalog_->CreateUpload(UploadKind::kText, {FileOf("a.txt", "hello")}, "", "");
  EXPECT_EQ(second_->CreateUpload(UploadKind::kText, {FileOf("a.txt", "hello")}, "", "")->id, upload->id);
  ASSERT_TRUE(second_->Append(upload->id, Sha256Hex("hello"), 0, BytesOf("hello"))->complete);
  EXPECT_TRUE(catalog_->QueryUpload(upload->id)->files[0].complete);
  EXPECT_TRUE(catalog_->CompleteUpload(upload->id, "").ok());
}

TEST_F(CatalogTest, KeepsWhatIsInUse) {
  const CheckpointRecord checkpoint = MakeCheckpoint();
  ASSERT_TRUE(store_->PutServedModel({.name = "chat", .source = "checkpoints/" + checkpoint.digest}).ok());
  const absl::Status served = catalog_->DeleteCheckpoint(checkpoint.digest, "");
  EXPECT_EQ(ReasonOf(served), "CHECKPOINT_IN_USE");
  EXPECT_NE(MessageOf(served).find("chat"), std::string::npos);
  ASSERT_TRUE(store_->DeleteServedModel("chat").ok());
  JobRecord job;
  job.id = "j1";
  job.checkpoint = checkpoint.digest;
  ASSERT_TRUE(store_->InsertJob(job, {}).ok());
  EXPECT_EQ(ReasonOf(catalog_->DeleteCheckpoint(checkpoint.digest, "")), "CHECKPOINT_IN_USE");
  job = *store_->GetJob("j1");
  job.state = JobState::kCancelled;
  ASSERT_TRUE(store_->Apply({.jobs = {job}, .tasks = {}, .artifact = {}}).ok());
  EXPECT_TRUE(catalog_->DeleteCheckpoint(checkpoint.digest, "").ok());
}

TEST_F(CatalogTest, ArtifactsAreReadAndDeleted) {
  std::filesystem::create_directories(dir_ / "out");
  ASSERT_TRUE(WriteFileAtomically(dir_ / "out/report.json", "0123456789").ok());
  ArtifactRecord artifact;
  artifact.files = catalog_->CommitFolder(dir_ / "out").value();
  artifact.digest = Sha256Hex(ManifestJson(artifact.files));
  ASSERT_TRUE(store_->PutArtifact(artifact).ok());
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out/report.json"));
  auto read = [&](const char* name, uint64_t offset, uint64_t limit) {
    return catalog_->ReadArtifactFile(artifact.digest, name, offset, limit);
  };
  EXPECT_EQ(*read("report.json", 3, 4), "3456");
  EXPECT_EQ(*read("report.json", 8, 100), "89");
  EXPECT_EQ(*read("report.json", 10, 100), "");
  EXPECT_EQ(ReasonOf(read("report.json", 11, 1).status()), "ARTIFACT_FILE_RANGE");
  EXPECT_EQ(ReasonOf(read("../meta", 0, 1).status()), "ARTIFACT_FILE_NOT_FOUND");
  ASSERT_TRUE(store_->PutServedModel({.name = "m", .source = "artifacts/" + artifact.digest}).ok());
  EXPECT_EQ(ReasonOf(catalog_->DeleteArtifact(artifact.digest, "")), "ARTIFACT_IN_USE");
  ASSERT_TRUE(store_->DeleteServedModel("m").ok());
  EXPECT_TRUE(catalog_->DeleteArtifact(artifact.digest, "").ok());
  EXPECT_TRUE(blobs_->List()->empty());
}

TEST_F(CatalogTest, LostBlobIsDataLoss) {
  const CheckpointRecord checkpoint = MakeCheckpoint();
  EXPECT_TRUE(catalog_->FilesOfCheckpoint(checkpoint.digest).ok());
  EXPECT_EQ(observer_->missing, 0);
  ASSERT_TRUE(blobs_->Delete(Sha256Hex("{}")).ok());
  EXPECT_TRUE(absl::IsDataLoss(catalog_->FilesOfCheckpoint(checkpoint.digest).status()));
  EXPECT_EQ(observer_->missing, 1);
}

TEST_F(CatalogTest, BlobsOfAJobAreKeptAsLongAsItCanGoOn) {
  constexpr int64_t kRetentionMs = int64_t{7} * 24 * 3600 * 1000;
  JobRecord job;
  job.ended_ms = now_ms_ - kRetentionMs;
  for (const JobState state : {JobState::kQueued, JobState::kRunning, JobState::kGating, JobState::kFailed}) {
    job.state = state;
    EXPECT_TRUE(catalog_->KeepsBlobsOf(job)) << JobStateName(state);
  }
  for (const JobState state : {JobState::kSucceeded, JobState::kRejected}) {
    job.state = state;
    EXPECT_FALSE(catalog_->KeepsBlobsOf(job)) << JobStateName(state);
  }
  job.state = JobState::kCancelled;
  --job.ended_ms;
  EXPECT_FALSE(catalog_->KeepsBlobsOf(job)) << "it can no longer be retried from them";
}

TEST(ManifestTest, DoesNotDependOnOrder) {
  const FileRecord a{.name = "a", .sha256 = "1", .size_bytes = 1}, b{.name = "b", .sha256 = "2", .size_bytes = 2};
  EXPECT_EQ(ManifestJson({a, b}), ManifestJson({b, a}));
  EXPECT_EQ(ManifestJson({a}), R"({"files":[{"name":"a","sha256":"1","size":1}]})");
}

}  // namespace
}  // namespace qamserve
