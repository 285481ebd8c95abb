// S3BlobStore on a real S3 server (SeaweedFS), started by this program: the suite of every blob store, and what only
// such a store can meet. Skipped where there is no SeaweedFS.
#include "server/store/s3_blob_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <thread>

#include "core/base/digest.h"
#include "core/base/file.h"
#include "server/store/catalog.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/server/store/blob_store_contract.h"
#include "tests/support/s3_server.h"

namespace qamserve {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr uint64_t kPart = uint64_t{5} << 20;  // the least that the server takes

class S3Environment : public testing::Environment {
 public:
  void SetUp() override {
    missing_ = S3Server::Missing();
    if (!missing_.empty()) return;  // each test says so
    auto server = S3Server::Start();
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override { server_.reset(); }
  static S3Server& server() { return *server_; }
  static const std::string& missing() { return missing_; }

 private:
  static inline std::string missing_;
  static inline std::unique_ptr<S3Server> server_;
};
const auto* const kEnvironment = testing::AddGlobalTestEnvironment(new S3Environment);

class BlobObserver : public StoreObserver {
 public:
  void OnBlobRequest(const BlobRequest& request) override {
    if (request.operation == BlobRequest::Operation::kUploadPart && request.code == absl::StatusCode::kOk) ++parts;
    if (request.operation == BlobRequest::Operation::kCopy && request.code == absl::StatusCode::kOk) ++copies;
    if (request.operation == BlobRequest::Operation::kGet) ++gets;
    retries += request.retries;
  }
  void OnCorruptBlob() override { ++corrupt; }
  std::atomic<int> parts{0};
  std::atomic<int> copies{0};
  std::atomic<int> gets{0};
  std::atomic<int> retries{0};
  std::atomic<int> corrupt{0};
};

// One prefix of the bucket for each name, one folder for each process.
S3BlobStoreOptions OptionsFor(const std::string& prefix, const std::string& folder) {
  S3BlobStoreOptions options;
  options.uri = fmt::format("s3://{}/tests/{}", S3Server::kBucket, prefix);
  options.client.endpoint = S3Environment::server().endpoint();
  options.client.key = S3Server::key();
  options.objects.part_bytes = kPart;
  options.objects.single_put_bytes = 2 * kPart;
  options.objects.renew_after_ms = 0;
  options.cache.folder = folder;
  options.cache.reserve_bytes = 0;
  return options;
}

std::unique_ptr<S3BlobStore> OpenStore(const S3BlobStoreOptions& options) {
  auto store = S3BlobStore::Open(options);
  EXPECT_TRUE(store.ok()) << store.status();
  return store.ok() ? *std::move(store) : nullptr;
}

std::string BlobKey(const std::string& prefix, const std::string& digest) {
  return fmt::format("tests/{}/blobs/{}", prefix, digest);
}

struct S3Factory {
  static std::string Missing() { return S3Environment::missing(); }
  static std::unique_ptr<BlobStore> Open(const std::string& root) {
    return OpenStore(OptionsFor(Sha256Hex(root).substr(0, 16), root));
  }
  static int64_t MakeOlder(BlobStore&, const std::string&) {
    // Ages have whole seconds.
    std::this_thread::sleep_for(std::chrono::milliseconds(1100));
    return 1000;
  }
};
INSTANTIATE_TYPED_TEST_SUITE_P(S3, BlobStoreContract, S3Factory);

class S3BlobStoreTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITHOUT(S3Environment::missing());
    prefix_ = Sha256Hex(dir_.path()).substr(0, 16);
  }
  // A process of its own: `folder` is its disk.
  S3BlobStoreOptions Options(const std::string& folder) {
    S3BlobStoreOptions options = OptionsFor(prefix_, dir_ / folder);
    options.client.observer = observer_;
    options.cache.observer = observer_;
    return options;
  }
  std::unique_ptr<S3BlobStore> Open(const std::string& folder) { return OpenStore(Options(folder)); }
  // The bucket as someone sees it who does not know of blobs.
  S3Client Client() {
    S3ClientOptions options = Options("client").client;
    options.bucket = S3Server::kBucket;
    return S3Client(options);
  }
  static absl::StatusOr<std::string> ReadPart(BlobStore& store, const std::string& digest, uint64_t offset,
                                              size_t bytes) {
    std::string part(bytes, ' ');
    RETURN_IF_ERROR(store.Read(digest, offset, std::as_writable_bytes(std::span(part.data(), part.size()))));
    return part;
  }
  size_t Objects(const std::string& folder) {
    size_t count = 0;
    S3Client client = Client();
    EXPECT_TRUE(client.List(fmt::format("tests/{}/{}/", prefix_, folder), [&](const S3Object&) { ++count; }).ok());
    return count;
  }

  TempDir dir_;
  std::string prefix_;
  std::shared_ptr<BlobObserver> observer_ = std::make_shared<BlobObserver>();
};

// --- Opening ---

TEST_F(S3BlobStoreTest, SaysAtOnceWhatIsWrong) {
  const auto open = [&](const std::function<void(S3BlobStoreOptions&)>& change) {
    S3BlobStoreOptions options = Options("a");
    change(options);
    const absl::Status status = S3BlobStore::Open(options).status();
    EXPECT_THAT(MessageOf(status), AllOf(Not(HasSubstr("writersecret")), Not(HasSubstr("wrong-secret"))));
    return status;
  };
  const absl::Status secret = open([](auto& options) { options.client.key.secret_key = "wrong-secret"; });
  EXPECT_EQ(ReasonOf(secret), "S3_CREDENTIALS");
  EXPECT_THAT(MessageOf(secret), HasSubstr(S3Environment::server().endpoint()));
  EXPECT_EQ(ReasonOf(open([](auto& options) { options.client.key.access_key = "nobody"; })), "S3_CREDENTIALS");
  EXPECT_EQ(ReasonOf(open([](auto& options) { options.client.key.access_key = ""; })), "S3_CREDENTIALS");
  const absl::Status bucket = open([](auto& options) { options.uri = "s3://no-such-bucket/x"; });
  EXPECT_EQ(ReasonOf(bucket), "S3_BUCKET");
  EXPECT_THAT(MessageOf(bucket), HasSubstr("no-such-bucket"));
  EXPECT_EQ(ReasonOf(open([](auto& options) { options.uri = "file://x"; })), "BLOB_STORE_URI");
  EXPECT_EQ(ReasonOf(open([](auto& options) { options.client.endpoint = "http://user:writersecret@host"; })),
            "S3_ENDPOINT");
  EXPECT_EQ(ReasonOf(open([](auto& options) {
              options.client.endpoint = "http://127.0.0.1:1";
              options.client.http.attempts = 2;
              options.client.http.first_pause_ms = 1;
            })),
            "S3_UNAVAILABLE");
}

TEST_F(S3BlobStoreTest, AKeyThatMayOnlyReadReads) {
  const std::string digest = Open("a")->CommitBytes("to be read")->digest;
  S3BlobStoreOptions options = Options("b");
  options.client.key = S3Server::reader();
  const auto store = OpenStore(options);
  EXPECT_EQ(ReadFile(*store->LocalPath(digest), 100).value(), "to be read");
  const absl::Status denied = store->CommitBytes("to be written").status();
  EXPECT_EQ(ReasonOf(denied), "S3_DENIED");
  EXPECT_THAT(MessageOf(denied), HasSubstr(Sha256Hex("to be written")));
}

// --- What is not what it should be ---

TEST_F(S3BlobStoreTest, AlteredAndMissingObjectsAreNamed) {
  const auto writer = Open("a");
  const std::string small = writer->CommitBytes("small blob")->digest;
  const std::string text = PatternOf(11'000'000, 'l');
  const std::string large = writer->CommitBytes(text)->digest;
  S3Client client = Client();
  ASSERT_TRUE(client.Put(BlobKey(prefix_, small), S3BodyOf("smell blob"), false).ok());
  ASSERT_TRUE(client.Put(BlobKey(prefix_, large), S3BodyOf(PatternOf(11'000'000, 'L')), false).ok());
  const auto reader = Open("b");
  std::string out(10, ' ');
  for (const absl::Status& status :
       {reader->LocalPath(small).status(), reader->LocalPath(large).status(),
        reader->Read(small, 0, std::as_writable_bytes(std::span(out.data(), out.size())))}) {
    EXPECT_EQ(ReasonOf(status), "BLOB_CORRUPT");
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  }
  EXPECT_EQ(observer_->corrupt, 3);
  EXPECT_TRUE(fs::is_empty(dir_ / "b/files"));

  ASSERT_TRUE(client.Delete(BlobKey(prefix_, small)).ok());
  const absl::Status gone = reader->LocalPath(small).status();
  EXPECT_EQ(ReasonOf(gone), "BLOB_NOT_FOUND");
  EXPECT_THAT(MessageOf(gone), HasSubstr(small));
  // Once it is gone it can be committed again.
  ASSERT_TRUE(reader->CommitBytes("small blob").ok());
  EXPECT_EQ(ReadFile(*Open("c")->LocalPath(small), 100).value(), "small blob");
  // The one who wrote it had a copy all the time.
  EXPECT_EQ(ReadFile(*writer->LocalPath(large), 1 << 24).value().size(), text.size());
}

TEST_F(S3BlobStoreTest, PartsComeFromACheckedCopy) {
  const std::string text = PatternOf(11'000'000, 'p');
  const std::string digest = Open("a")->CommitBytes(text)->digest;
  const auto reader = Open("b");
  EXPECT_FALSE(reader->IsHere(digest));
  EXPECT_EQ(ReadPart(*reader, digest, 7'000'000, 10).value(), text.substr(7'000'000, 10));
  EXPECT_TRUE(reader->IsHere(digest));
  const int gets = observer_->gets;
  ASSERT_TRUE(Client().Put(BlobKey(prefix_, digest), S3BodyOf(PatternOf(11'000'000, 'P')), false).ok());
  EXPECT_EQ(ReadPart(*reader, digest, 0, 10).value(), text.substr(0, 10));
  EXPECT_EQ(observer_->gets, gets);
  // Who has no copy yet gets no byte of the altered one.
  const auto late = Open("c");
  for (const uint64_t offset : {0, 7'000'000, 10'999'990}) {
    EXPECT_EQ(ReasonOf(ReadPart(*late, digest, offset, 10).status()), "BLOB_CORRUPT") << offset;
  }
  EXPECT_EQ(observer_->corrupt, 3);
  EXPECT_TRUE(fs::is_empty(dir_ / "c/files"));
}

// The digest runs along where no copy fits.
TEST_F(S3BlobStoreTest, PartsOfWhatTheCacheCannotHoldAreCheckedAtTheEnd) {
  constexpr uint64_t kPiece = 1'000'000;
  const std::string text = PatternOf(4 * kPiece, 'q');
  const std::string digest = Open("a")->CommitBytes(text)->digest;
  S3BlobStoreOptions options = Options("b");
  options.cache.max_bytes = kPiece;
  const auto store = OpenStore(options);
  const auto read_from = [&](uint64_t offset) {
    std::string all;
    for (; offset < text.size(); offset += kPiece) {
      const auto part = ReadPart(*store, digest, offset, kPiece);
      if (!part.ok()) return ReasonOf(part.status()) + fmt::format(" at {}", offset);
      all += *part;
    }
    return all;
  };
  const int gets = observer_->gets;
  EXPECT_TRUE(read_from(0) == text);
  EXPECT_EQ(observer_->gets, gets + 4) << "each piece is read once";
  EXPECT_TRUE(read_from(2 * kPiece) == text.substr(2 * kPiece));
  EXPECT_EQ(observer_->gets, gets + 7) << "what comes before is read for the digest";
  EXPECT_EQ(observer_->corrupt, 0);

  S3Client client = Client();
  std::string altered = text;
  altered[kPiece + 5] ^= 1;
  ASSERT_TRUE(client.Put(BlobKey(prefix_, digest), S3BodyOf(altered), false).ok());
  EXPECT_EQ(read_from(0), "BLOB_CORRUPT at 3000000");
  EXPECT_EQ(read_from(2 * kPiece), "BLOB_CORRUPT at 3000000");
  EXPECT_EQ(observer_->corrupt, 2);
  // Cut while it is read.
  ASSERT_TRUE(ReadPart(*store, digest, 0, kPiece).ok());
  ASSERT_TRUE(client.Put(BlobKey(prefix_, digest), S3BodyOf(text.substr(0, kPiece + 10)), false).ok());
  EXPECT_EQ(read_from(kPiece), "BLOB_CORRUPT at 1000000");
  EXPECT_EQ(observer_->corrupt, 3);
  // A good one in its place is read again.
  ASSERT_TRUE(client.Put(BlobKey(prefix_, digest), S3BodyOf(text), false).ok());
  EXPECT_TRUE(read_from(0) == text);
  ASSERT_TRUE(client.Delete(BlobKey(prefix_, digest)).ok());
  EXPECT_EQ(read_from(0), "BLOB_NOT_FOUND at 0");
}

TEST_F(S3BlobStoreTest, ATruncatedObjectIsReplacedByTheNextCommit) {
  const auto store = Open("a");
  const std::string digest = store->CommitBytes("whole blob")->digest;
  ASSERT_TRUE(Client().Put(BlobKey(prefix_, digest), S3BodyOf("whole"), false).ok());
  ASSERT_TRUE(store->CommitBytes("whole blob").ok());
  EXPECT_EQ(ReadFile(*Open("b")->LocalPath(digest), 100).value(), "whole blob");
}

TEST_F(S3BlobStoreTest, ABucketThatWentIsNoMissingBlob) {
  S3BlobStoreOptions options = Options("a");
  options.uri = "s3://short-lived/x";
  options.create_bucket = true;
  const auto store = OpenStore(options);
  const std::string digest = store->CommitBytes("x")->digest;
  EXPECT_EQ(ReasonOf(store->LocalPath(Sha256Hex("y")).status()), "BLOB_NOT_FOUND");
  // Nothing but the objects goes through this client; deleting the empty key deletes the bucket.
  S3ClientOptions client_options = options.client;
  client_options.bucket = "short-lived";
  S3Client client(client_options);
  ASSERT_TRUE(store->Delete(digest).ok());
  ASSERT_TRUE(client.Delete("").ok());
  EXPECT_EQ(ReasonOf(store->LocalPath(Sha256Hex("y")).status()), "S3_BUCKET");
  EXPECT_EQ(ReasonOf(store->CommitBytes("z").status()), "S3_BUCKET");
}

// --- Lists and ages ---

TEST_F(S3BlobStoreTest, ListsMoreThanAPage) {
  S3BlobStoreOptions options = Options("a");
  options.client.page_size = 3;
  const auto store = OpenStore(options);
  std::set<std::string> digests;
  for (int i = 0; i < 8; ++i) digests.insert(store->CommitBytes(fmt::format("blob {}", i))->digest);
  ASSERT_TRUE(Client().Put(fmt::format("tests/{}/blobs/README", prefix_), S3BodyOf("not ours"), false).ok());
  const auto list = store->List();
  ASSERT_TRUE(list.ok()) << list.status();
  std::set<std::string> found;
  for (const BlobInfo& blob : *list) {
    found.insert(blob.digest);
    EXPECT_EQ(blob.size, 6u);
    EXPECT_NEAR(static_cast<double>(blob.modified_ms), static_cast<double>(SystemNowMs()), 60'000);
  }
  EXPECT_EQ(found, digests);
}

// What may refer to a blob and what deletes it exclude each other, whichever comes first.
TEST_F(S3BlobStoreTest, ARenewedBlobIsNotCollected) {
  const auto one = Open("a");
  const auto two = Open("b");
  const std::string digest = one->CommitBytes("wanted again")->digest;
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  const int64_t later = one->List()->front().modified_ms + 1000;
  ASSERT_TRUE(two->CommitBytes("wanted again").ok());
  EXPECT_EQ(Objects("renewed"), 1u);
  EXPECT_FALSE(*one->DeleteIfOlder(digest, later));
  EXPECT_TRUE(*one->DeleteIfOlder(digest, later + 3'600'000));
  EXPECT_EQ(Objects("renewed"), 0u);
  EXPECT_FALSE(*two->Has(digest));
}

TEST_F(S3BlobStoreTest, SweepsWhatNobodyCompletes) {
  const auto store = Open("a");
  S3Client client = Client();
  ASSERT_TRUE(client.BeginUpload(BlobKey(prefix_, Sha256Hex("dead"))).ok());
  ASSERT_TRUE(client.Put(fmt::format("tests/{}/renewed/{}", prefix_, Sha256Hex("dead")), S3BodyOf(""), false).ok());
  const auto uploads = [&] { return client.ListUploads(fmt::format("tests/{}/", prefix_))->size(); };
  EXPECT_EQ(uploads(), 1u);
  ASSERT_TRUE(store->SweepLeftovers(SystemNowMs() - 3'600'000).ok());
  EXPECT_EQ(uploads(), 1u);
  EXPECT_EQ(Objects("renewed"), 1u);
  ASSERT_TRUE(store->SweepLeftovers(SystemNowMs() + 3'600'000).ok());
  EXPECT_EQ(uploads(), 0u);
  EXPECT_EQ(Objects("renewed"), 0u);
}

// --- Uploads by several processes ---

TEST_F(S3BlobStoreTest, AnotherProcessGoesOnWithAnUpload) {
  const std::string text = PatternOf(3 * kPart + 4'000'000, 'u');
  const std::string digest = Sha256Hex(text);
  const auto one = Open("a");
  const size_t half = 2 * kPart + 1'000'000;
  auto writer = one->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t at = 0; at < half; at += 500'000) {
    const size_t n = std::min<size_t>(500'000, half - at);
    ASSERT_TRUE((*writer)->Append(at, BytesOf(std::string_view(text).substr(at, n))).ok());
  }
  EXPECT_EQ(*one->CommittedBytes(digest), half);
  EXPECT_EQ(Objects("partial"), 2u);

  // Its machine is gone for the other; what lies in the store is not.
  const auto two = Open("b");
  EXPECT_EQ(*two->CommittedBytes(digest), 2 * kPart);
  auto other = two->BeginWrite(digest, text.size());
  ASSERT_TRUE(other.ok()) << other.status();
  ASSERT_EQ((*other)->committed(), 2 * kPart);
  EXPECT_EQ((*other)->head().size(), 16u);
  ASSERT_TRUE((*other)->Append(2 * kPart, BytesOf(std::string_view(text).substr(2 * kPart, kPart))).ok());
  EXPECT_EQ(Objects("partial"), 3u);

  // The first one is behind by now, and told so, whatever offset its client believes in.
  EXPECT_EQ(ReasonOf((*writer)->Append(3 * kPart, BytesOf("x"))), "UPLOAD_BUSY");
  writer->reset();
  EXPECT_EQ(*one->CommittedBytes(digest), 3 * kPart);

  ASSERT_TRUE((*other)->Append(3 * kPart, BytesOf(std::string_view(text).substr(3 * kPart))).ok());
  const absl::Status committed = (*other)->Commit();
  ASSERT_TRUE(committed.ok()) << committed;
  EXPECT_EQ(observer_->copies, 3) << "pieces are copied within the store";
  EXPECT_EQ(Objects("partial"), 0u);
  EXPECT_EQ(ReasonOf(one->BeginWrite(digest, text.size()).status()), "BLOB_EXISTS");
  // The other has it without fetching, the first one fetches it.
  const int gets = observer_->gets;
  EXPECT_TRUE(ReadFile(*two->LocalPath(digest), 1 << 26).value() == text);
  EXPECT_EQ(observer_->gets, gets);
  EXPECT_TRUE(ReadFile(*one->LocalPath(digest), 1 << 26).value() == text);
  EXPECT_GT(observer_->gets, gets);
}

TEST_F(S3BlobStoreTest, TwoWritersDoNotMixTheirBytes) {
  const std::string text = PatternOf(2 * kPart + 100, 'r');
  const std::string wrong = PatternOf(2 * kPart + 100, 'w');
  const std::string digest = Sha256Hex(text);
  const auto one = Open("a");
  const auto two = Open("b");
  auto right = one->BeginWrite(digest, text.size());
  auto liar = two->BeginWrite(digest, text.size());
  ASSERT_TRUE(right.ok() && liar.ok());
  // The liar is first with the first piece: the right one cannot put its own.
  ASSERT_TRUE((*liar)->Append(0, BytesOf(std::string_view(wrong).substr(0, kPart))).ok());
  EXPECT_EQ(ReasonOf((*right)->Append(0, BytesOf(std::string_view(text).substr(0, kPart)))), "UPLOAD_BUSY");
  right->reset();
  // Whoever comes to the end finds out, and the bytes are thrown away.
  ASSERT_TRUE((*liar)->Append(kPart, BytesOf(std::string_view(wrong).substr(kPart))).ok());
  EXPECT_EQ(ReasonOf((*liar)->Commit()), "UPLOAD_DIGEST");
  liar->reset();
  EXPECT_EQ(*two->CommittedBytes(digest), 0u);
  EXPECT_EQ(Objects("partial"), 0u);

  // Two with the same bytes get on, at the same time and to the end.
  std::atomic<int> done{0};
  const auto upload = [&](S3BlobStore& store) {
    for (int tries = 0; tries < 50; ++tries) {
      auto writer = store.BeginWrite(digest, text.size());
      if (absl::IsAlreadyExists(writer.status())) break;
      ASSERT_TRUE(writer.ok()) << writer.status();
      absl::Status status;
      while (status.ok() && (*writer)->committed() < text.size()) {
        const uint64_t at = (*writer)->committed();
        status = (*writer)->Append(at, BytesOf(std::string_view(text).substr(at, 300'000)));
      }
      if (status.ok()) status = (*writer)->Commit();
      if (status.ok()) break;
      ASSERT_EQ(ReasonOf(status), "UPLOAD_BUSY") << status;
    }
    ++done;
  };
  std::thread other([&] { upload(*two); });
  upload(*one);
  other.join();
  EXPECT_EQ(done, 2);
  EXPECT_TRUE(ReadFile(*Open("c")->LocalPath(digest), 1 << 26).value() == text);
}

// Pieces are only a way to have less to send: what another process did to them does not get into the blob.
TEST_F(S3BlobStoreTest, PiecesThatChangeUnderAWriterAreNotCopied) {
  const std::string text = PatternOf(3 * kPart, 'c');
  const std::string digest = Sha256Hex(text);
  const auto store = Open("a");
  auto writer = store->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok());
  for (size_t at = 0; at < text.size(); at += 1'000'000) {
    ASSERT_TRUE((*writer)->Append(at, BytesOf(std::string_view(text).substr(at, 1'000'000))).ok());
  }
  ASSERT_EQ(Objects("partial"), 3u);
  S3Client client = Client();
  const auto key = [&](uint64_t offset) { return fmt::format("tests/{}/partial/{}/{:013}", prefix_, digest, offset); };
  ASSERT_TRUE(client.Put(key(kPart), S3BodyOf(PatternOf(kPart, 'X')), false).ok());
  ASSERT_TRUE(client.Delete(key(2 * kPart)).ok());
  const absl::Status committed = (*writer)->Commit();
  ASSERT_TRUE(committed.ok()) << committed;
  EXPECT_TRUE(ReadFile(*Open("b")->LocalPath(digest), 1 << 26).value() == text);
  EXPECT_EQ(Objects("partial"), 0u);
}

TEST_F(S3BlobStoreTest, PiecesOfAnotherSizeAreThrownAway) {
  const std::string text = PatternOf(2 * kPart, 's');
  const std::string digest = Sha256Hex(text);
  const auto put =
      Client().Put(fmt::format("tests/{}/partial/{}/0000000000000", prefix_, digest), S3BodyOf("odd"), true);
  ASSERT_TRUE(put.ok()) << put.status();
  const auto store = Open("a");
  EXPECT_EQ(*store->CommittedBytes(digest), 3u);
  auto writer = store->BeginWrite(digest, text.size());
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_EQ((*writer)->committed(), 0u);
  ASSERT_TRUE((*writer)->Append(0, BytesOf(text)).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_EQ(*store->Size(digest), text.size());
  EXPECT_EQ(Objects("partial"), 0u);
}

// As two api processes do it: the catalog of each keeps its writer between calls, and a client goes back and forth.
TEST_F(S3BlobStoreTest, AClientGoesBackAndForthBetweenProcesses) {
  const auto rows = OpenSqliteMetadataStore(dir_ / "rows").value();
  CatalogOptions options;
  options.inspect = [](const FileSet&) { return CheckpointFacts{.architecture = "llama", .parameters = 1}; };
  const auto first_store = Open("a");
  const auto second_store = Open("b");
  Catalog first(options, *rows, *first_store);
  Catalog second(options, *rows, *second_store);
  const std::string text = "GGUF" + PatternOf(4 * kPart, 'b');
  const FileRecord file{.name = "m.gguf", .sha256 = Sha256Hex(text), .size_bytes = text.size()};
  const std::string upload = first.CreateUpload(UploadKind::kCheckpoint, {file}, "m", "")->id;
  int turns = 0;
  int busy = 0;
  for (bool complete = false; !complete; ++turns) {
    ASSERT_LT(turns, 50);
    Catalog& catalog = turns % 2 == 0 ? first : second;
    const auto state = catalog.QueryUpload(upload);
    ASSERT_TRUE(state.ok()) << state.status();
    uint64_t at = state->files[0].committed_bytes;
    absl::Status status;
    // A part and a bit at a time, so that each leaves something that the other does not have.
    for (int chunk = 0; chunk < 7 && status.ok() && !complete; ++chunk) {
      const auto got =
          catalog.Append(upload, file.sha256, at, BytesOf(std::string_view(text).substr(at, kMaxAppendBytes)));
      status = got.status();
      if (!got.ok()) continue;
      at = got->committed_bytes;
      complete = got->complete;
    }
    // What a client tries again after.
    if (!status.ok()) {
      ASSERT_THAT(ReasonOf(status), testing::AnyOf("UPLOAD_BUSY", "UPLOAD_OFFSET")) << status;
      ++busy;
    }
  }
  EXPECT_GT(turns, 2);
  EXPECT_GT(busy, 0) << "nobody was ever in the way";
  const auto made = first.CompleteUpload(upload, "");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(ReadFile(*Open("c")->LocalPath(file.sha256), 1 << 26).value() == text);
  EXPECT_EQ(Objects("partial"), 0u);
}

// --- Faults ---

// Killed while a file is on its way in parts, and started again: the caller waits, and nothing is lost.
TEST_F(S3BlobStoreTest, AServerThatIsKilledAndComesBackIsWaitedFor) {
  const std::string text = PatternOf(size_t{64} << 20, 'k');
  ASSERT_TRUE(WriteFileAtomically(dir_ / "file", text).ok());
  S3BlobStoreOptions options = Options("a");
  options.client.http.attempts = 200;  // the server takes its time
  options.client.http.max_pause_ms = 1000;
  const auto store = OpenStore(options);
  absl::StatusOr<BlobInfo> committed;
  std::thread committing([&] { committed = store->CommitFile(dir_ / "file"); });
  while (observer_->parts < 3) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  S3Environment::server().Kill();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const absl::Status restarted = S3Environment::server().Restart();
  committing.join();
  ASSERT_TRUE(restarted.ok()) << restarted;
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->digest, Sha256Hex(text));
  EXPECT_GT(observer_->retries, 0);
  EXPECT_TRUE(ReadFile(*Open("b")->LocalPath(committed->digest), 1 << 27).value() == text);
}

TEST_F(S3BlobStoreTest, WithoutTheServerCopiesAreReadAndUploadsGoOnLater) {
  S3BlobStoreOptions options = Options("a");
  options.client.http.attempts = 2;
  options.client.http.first_pause_ms = 1;
  const auto store = OpenStore(options);
  const std::string digest = store->CommitBytes("cached")->digest;
  const std::string text = PatternOf(kPart + 1000, 'p');
  auto writer = store->BeginWrite(Sha256Hex(text), text.size());
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE((*writer)->Append(0, BytesOf(std::string_view(text).substr(0, 1000))).ok());

  S3Environment::server().Kill();
  EXPECT_EQ(ReadFile(*store->LocalPath(digest), 100).value(), "cached");
  EXPECT_EQ(ReasonOf(store->LocalPath(Sha256Hex("other")).status()), "S3_UNAVAILABLE");
  EXPECT_EQ(ReasonOf(store->CommitBytes("new").status()), "S3_UNAVAILABLE");
  // A full piece cannot be put; its bytes are in all the same.
  EXPECT_EQ(ReasonOf((*writer)->Append(1000, BytesOf(std::string_view(text).substr(1000)))), "S3_UNAVAILABLE");
  EXPECT_EQ((*writer)->committed(), text.size());

  const absl::Status restarted = S3Environment::server().Restart();
  ASSERT_TRUE(restarted.ok()) << restarted;
  ASSERT_TRUE((*writer)->Append(text.size(), {}).ok());
  ASSERT_TRUE((*writer)->Commit().ok());
  EXPECT_TRUE(ReadFile(*Open("b")->LocalPath(Sha256Hex(text)), 1 << 24).value() == text);
}

// A collection has others wait: where the store is away it does not go on trying, as everything else does.
TEST_F(S3BlobStoreTest, WithoutTheServerACollectionEndsAtOnce) {
  const auto rows = OpenSqliteMetadataStore(dir_ / "rows").value();
  const auto store = Open("a");
  const std::string digest = store->CommitBytes("nobody's")->digest;
  const int retries = observer_->retries;
  S3Environment::server().Kill();
  const absl::Status status = store->DeleteIfOlder(digest, SystemNowMs() + 3'600'000).status();
  const absl::Status restarted = S3Environment::server().Restart();
  EXPECT_EQ(ReasonOf(status), "S3_UNAVAILABLE");
  EXPECT_EQ(observer_->retries, retries);
  ASSERT_TRUE(restarted.ok()) << restarted;
  Catalog catalog({.garbage_grace_ms = -3'600'000}, *rows, *store);
  const auto collected = catalog.CollectGarbage();
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_EQ(collected->blobs, 1);
}

// --- The cache ---

TEST_F(S3BlobStoreTest, TheCacheIsBoundedAndNoLimitOfTheStore) {
  S3BlobStoreOptions options = Options("a");
  options.cache.max_bytes = 3'000'000;
  options.cache.hold_ms = 0;
  const auto store = OpenStore(options);
  std::vector<std::string> digests;
  for (char c = 'a'; c < 'f'; ++c) digests.push_back(store->CommitBytes(PatternOf(1'000'000, c))->digest);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_ / "a/files"), fs::directory_iterator()), 3);
  for (size_t i = 0; i < digests.size(); ++i) {
    const std::string wanted = PatternOf(1'000'000, static_cast<char>('a' + i));
    EXPECT_TRUE(ReadFile(*store->LocalPath(digests[i]), 1 << 24).value() == wanted);
  }
  EXPECT_LE(std::distance(fs::directory_iterator(dir_ / "a/files"), fs::directory_iterator()), 3);

  // A blob that the cache cannot hold is stored and read, but has no path here.
  const std::string large = PatternOf(4'000'000, 'L');
  ASSERT_TRUE(WriteFileAtomically(dir_ / "large", large).ok());
  const std::string digest = store->CommitFile(dir_ / "large")->digest;
  EXPECT_FALSE(fs::exists(dir_ / "large"));
  const absl::Status full = store->LocalPath(digest).status();
  EXPECT_EQ(ReasonOf(full), "DISK_FULL");
  EXPECT_THAT(MessageOf(full), AllOf(HasSubstr("4000000 bytes"), HasSubstr("3000000 bytes")));
  std::string out(large.size(), ' ');
  ASSERT_TRUE(store->Read(digest, 0, std::as_writable_bytes(std::span(out.data(), out.size()))).ok());
  EXPECT_TRUE(out == large);
  std::byte part[10];
  ASSERT_TRUE(store->Read(digest, 2'000'000, part).ok());
  EXPECT_EQ(std::string(reinterpret_cast<char*>(part), 10), large.substr(2'000'000, 10));
  EXPECT_EQ(ReasonOf(store->Read(digest, 3'999'995, part)), "BLOB_RANGE");
  EXPECT_EQ(ReasonOf(store->BeginWrite(Sha256Hex("x"), 3'000'001).status()), "DISK_FULL");
  EXPECT_TRUE(store->CheckSpace(uint64_t{1} << 50).ok()) << "how much the store has nobody knows";
}

}  // namespace
}  // namespace qamserve
