// The S3 client against a server that answers what a test wants: errors, retries, lists.
#include "server/store/s3_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>

#include "core/base/digest.h"
#include "tests/support/scripted_http_server.h"

namespace qamserve {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::SizeIs;

constexpr char kSecret[] = "the-secret-key";

S3ClientOptions OptionsFor(const std::string& endpoint) {
  S3ClientOptions options;
  options.endpoint = endpoint;
  options.bucket = "bucket";
  options.key = {.region = "eu-west-1", .access_key = "AK", .secret_key = kSecret, .session_token = "the-token"};
  options.http.attempts = 4;
  options.http.first_pause_ms = 1;
  options.http.max_pause_ms = 5;
  return options;
}

std::string ErrorXml(const std::string& code) {
  return "<?xml version=\"1.0\"?><Error><Code>" + code + "</Code><Message>the server says " + code +
         "</Message></Error>";
}

class RequestObserver : public StoreObserver {
 public:
  void OnBlobRequest(const BlobRequest& request) override {
    ++requests;
    retries += request.retries;
    sent += request.bytes_sent;
    received += request.bytes_received;
  }
  std::atomic<int> requests{0};
  std::atomic<int> retries{0};
  std::atomic<uint64_t> sent{0};
  std::atomic<uint64_t> received{0};
};

TEST(S3ClientTest, TriesAgainWhatMayPass) {
  std::atomic<int> calls{0};
  ScriptedHttpServer server([&](const std::string&) -> std::string {
    switch (++calls) {
      case 1:
        return HttpAnswer(503, ErrorXml("SlowDown"));
      case 2:
        return HttpAnswer(429, "", "Retry-After: 0\r\n");
      case 3:
        return "";  // hangs up
      default:
        return HttpAnswer(200, "", "ETag: \"e\"\r\n");
    }
  });
  S3ClientOptions options = OptionsFor(server.url());
  const auto observer = std::make_shared<RequestObserver>();
  options.observer = observer;
  S3Client client(options);
  const auto etag = client.Put("a/b c", S3BodyOf("body"), false);
  ASSERT_TRUE(etag.ok()) << etag.status();
  EXPECT_EQ(*etag, "\"e\"");
  EXPECT_THAT(server.bodies(), ElementsAre("body", "body", "body", "body"));
  const std::string head = server.requests().back();
  EXPECT_EQ(TargetOf(head), "/bucket/a/b%20c");
  EXPECT_EQ(HeaderOf(head, "x-amz-content-sha256"), Sha256Hex("body"));
  EXPECT_EQ(HeaderOf(head, "x-amz-security-token"), "the-token");
  EXPECT_EQ(observer->requests, 1);
  EXPECT_EQ(observer->retries, 3);
}

TEST(S3ClientTest, GivesUpAndNamesWhatItWanted) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(500, ErrorXml("InternalError")); });
  S3Client client(OptionsFor(server.url()));
  const absl::Status status = client.Put("some/key", S3BodyOf(""), false).status();
  EXPECT_EQ(ReasonOf(status), "S3_UNAVAILABLE");
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(server.url()), HasSubstr("bucket/some/key"), HasSubstr("4 attempts"),
                                       HasSubstr("the server says InternalError")));
  EXPECT_THAT(server.requests(), SizeIs(4));
}

TEST(S3ClientTest, SaysWhatIsWrongAndNoSecret) {
  int code = 0;
  std::string body;
  ScriptedHttpServer server([&](const std::string&) { return HttpAnswer(code, body); });
  S3Client client(OptionsFor(server.url()));
  const auto status_of = [&](int status, const std::string& error) {
    code = status;
    body = error.empty() ? "" : ErrorXml(error);
    const absl::Status found = client.Put("key", S3BodyOf("x"), false).status();
    EXPECT_THAT(MessageOf(found), AllOf(HasSubstr("bucket/key"), Not(HasSubstr(kSecret)), Not(HasSubstr("the-token"))));
    return found;
  };
  const auto reason_of = [&](int status, const std::string& error) { return ReasonOf(status_of(status, error)); };
  for (const char* error : {"SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "RequestTimeTooSkewed"}) {
    EXPECT_EQ(reason_of(403, error), "S3_CREDENTIALS") << error;
  }
  EXPECT_EQ(reason_of(401, ""), "S3_CREDENTIALS");
  EXPECT_EQ(reason_of(400, "AuthorizationHeaderMalformed"), "S3_CREDENTIALS");
  EXPECT_EQ(reason_of(404, "NoSuchBucket"), "S3_BUCKET");
  EXPECT_EQ(reason_of(301, "PermanentRedirect"), "S3_BUCKET");
  EXPECT_EQ(reason_of(403, "AccessDenied"), "S3_DENIED");
  EXPECT_EQ(reason_of(507, ""), "DISK_FULL");
  EXPECT_EQ(reason_of(403, "QuotaExceeded"), "DISK_FULL");
  EXPECT_EQ(reason_of(400, "InsufficientStorage"), "DISK_FULL");
  EXPECT_EQ(reason_of(404, "NoSuchKey"), "S3_KEY");
  EXPECT_EQ(reason_of(501, "NotImplemented"), "S3_UNSUPPORTED");
  EXPECT_EQ(reason_of(400, "InvalidArgument"), "S3_PROTOCOL");
  EXPECT_TRUE(absl::IsFailedPrecondition(status_of(403, "SignatureDoesNotMatch")));
  EXPECT_TRUE(absl::IsResourceExhausted(status_of(507, "")));
}

TEST(S3ClientTest, AClockThatIsOffIsNamedWithTheOther) {
  ScriptedHttpServer server([](const std::string& head) {
    return HttpAnswer(403, head.starts_with("HEAD") ? "" : ErrorXml("RequestTimeTooSkewed"),
                      "Date: Fri, 02 Jan 1998 03:04:05 GMT\r\n");
  });
  S3Client client(OptionsFor(server.url()));
  for (const absl::Status& status : {client.Put("key", S3BodyOf("x"), false).status(), client.Head("key").status()}) {
    EXPECT_EQ(ReasonOf(status), "S3_CREDENTIALS");
    EXPECT_THAT(MessageOf(status),
                AllOf(HasSubstr("RequestTimeTooSkewed"), HasSubstr("the store's Fri, 02 Jan 1998 03:04:05 GMT"),
                      HasSubstr("this machine's clock says "), HasSubstr(" seconds apart"), HasSubstr("15 minutes")));
  }
}

TEST(S3ClientTest, WhereOthersWaitNothingIsTriedAgain) {
  ScriptedHttpServer server([](const std::string&) { return HttpAnswer(503, ErrorXml("SlowDown")); });
  S3Client client(OptionsFor(server.url()));
  EXPECT_EQ(ReasonOf(client.Head("key", S3Patience::kOnce).status()), "S3_UNAVAILABLE");
  EXPECT_EQ(ReasonOf(client.Delete("key", S3Patience::kOnce)), "S3_UNAVAILABLE");
  EXPECT_THAT(server.requests(), SizeIs(2));
}

TEST(S3ClientTest, AskedByHeadItFindsOutWhy) {
  ScriptedHttpServer server([](const std::string& head) {
    return head.starts_with("HEAD") ? HttpAnswer(403, "") : HttpAnswer(403, ErrorXml("SignatureDoesNotMatch"));
  });
  S3Client client(OptionsFor(server.url()));
  EXPECT_EQ(ReasonOf(client.Head("key").status()), "S3_CREDENTIALS");
}

TEST(S3ClientTest, NoServerOrNoS3) {
  std::string url;
  {
    ScriptedHttpServer server([](const std::string&) { return HttpAnswer(200, "<html>It works!</html>"); });
    S3Client client(OptionsFor(server.url()));
    EXPECT_EQ(ReasonOf(client.CheckBucket()), "S3_ENDPOINT");
    url = server.url();
  }
  S3Client client(OptionsFor(url));
  EXPECT_EQ(ReasonOf(client.CheckBucket()), "S3_UNAVAILABLE");
}

TEST(S3ClientTest, ReadsARangeAndGoesOnWhereItWasCut) {
  const std::string content = "0123456789abcdefghij";
  ScriptedHttpServer server([&](const std::string& head) -> std::string {
    const std::string range = HeaderOf(head, "Range");  // bytes=3-12
    const size_t from = std::stoul(range.substr(6));
    const size_t to = std::stoul(range.substr(range.find('-') + 1));
    const std::string part = content.substr(from, to + 1 - from);
    return "HTTP/1.1 206 x\r\nContent-Range: bytes " + std::to_string(from) + "-" + std::to_string(to) +
           "/20\r\nContent-Length: " + std::to_string(part.size()) + "\r\n\r\n" + part.substr(0, 4);
  });
  S3Client client(OptionsFor(server.url()));
  std::string got;
  const auto take = [&](std::span<const std::byte> bytes) {
    got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  };
  ASSERT_TRUE(client.Get("k", 3, 10, take).ok());
  EXPECT_EQ(got, "3456789abc");
  EXPECT_EQ(HeaderOf(server.requests()[1], "Range"), "bytes=7-12");
  const absl::Status refused = client.Get("k", 0, 4, [](auto) { return Unavailable("FILE_IO", "the disk"); });
  EXPECT_EQ(ReasonOf(refused), "FILE_IO") << "an error of the receiver is nobody else's";
}

TEST(S3ClientTest, TellsAShortObjectFromACut) {
  ScriptedHttpServer server(
      [](const std::string&) { return HttpAnswer(206, "0123", "Content-Range: bytes 0-3/4\r\n"); });
  S3Client client(OptionsFor(server.url()));
  EXPECT_EQ(ReasonOf(client.Get("k", 0, 10, [](auto) { return absl::OkStatus(); })), "S3_RANGE");
  // A server that ignores ranges would give bytes of another place.
  ScriptedHttpServer whole([](const std::string&) { return HttpAnswer(200, "0123456789"); });
  S3Client other(OptionsFor(whole.url()));
  EXPECT_EQ(ReasonOf(other.Get("k", 2, 3, [](auto) { return absl::OkStatus(); })), "S3_PROTOCOL");
}

TEST(S3ClientTest, ListsPageByPage) {
  ScriptedHttpServer server([](const std::string& head) -> std::string {
    const std::string target = TargetOf(head);
    if (target == "/bucket?list-type=2&max-keys=2&prefix=p%2F") {
      return HttpAnswer(200, R"(<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
        <IsTruncated>true</IsTruncated><NextContinuationToken>n/=</NextContinuationToken>
        <Contents><Key>p/a&amp;b</Key><Size>5000000000</Size><ETag>"x"</ETag>
        <LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents></ListBucketResult>)");
    }
    EXPECT_EQ(target, "/bucket?continuation-token=n%2F%3D&list-type=2&max-keys=2&prefix=p%2F");
    return HttpAnswer(200, R"(<ListBucketResult><IsTruncated>false</IsTruncated>
      <Contents><Key>p/c</Key><Size>1</Size></Contents></ListBucketResult>)");
  });
  S3ClientOptions options = OptionsFor(server.url());
  options.page_size = 2;
  S3Client client(options);
  std::vector<S3Object> found;
  ASSERT_TRUE(client.List("p/", [&](S3Object object) { found.push_back(std::move(object)); }).ok());
  ASSERT_THAT(found, SizeIs(2));
  EXPECT_EQ(found[0].key, "p/a&b");
  EXPECT_EQ(found[0].size, 5'000'000'000u);
  EXPECT_EQ(found[0].etag, "\"x\"");
  EXPECT_EQ(found[0].modified_ms, 1'767'323'045'000);
  EXPECT_EQ(found[1].key, "p/c");
}

TEST(S3ClientTest, ListThatDoesNotEndIsAnError) {
  ScriptedHttpServer server([](const std::string&) {
    return HttpAnswer(200,
                      "<ListBucketResult><IsTruncated>true</IsTruncated>"
                      "<NextContinuationToken>same</NextContinuationToken></ListBucketResult>");
  });
  S3Client client(OptionsFor(server.url()));
  EXPECT_EQ(ReasonOf(client.List("", [](const S3Object&) {})), "S3_PROTOCOL");
}

// Times are told by our clock, however the store's is set.
TEST(S3ClientTest, MakesUpForClocks) {
  ScriptedHttpServer server([](const std::string&) {
    return HttpAnswer(200, "",
                      "Date: Fri, 02 Jan 2026 03:04:05 GMT\r\nLast-Modified: Fri, 02 Jan 2026 02:04:05 GMT\r\n");
  });
  S3ClientOptions options = OptionsFor(server.url());
  constexpr int64_t kTheirNow = 1'767'323'045'000;
  int64_t now = kTheirNow + 2'000;
  options.now_ms = [&] { return now; };
  S3Client client(options);
  EXPECT_EQ(client.Head("k")->modified_ms, kTheirNow - 3'600'000) << "so little is no difference";
  now = kTheirNow + 86'400'000;
  EXPECT_EQ(client.Head("k")->modified_ms, now - 3'600'000);
}

// --- Conditional puts ---

// A server that keeps one object; `knows` conditions or ignores them, or says 501.
class OneObject {
 public:
  enum class Kind { kKnows, kIgnores, kRefuses };
  explicit OneObject(Kind kind) : kind_(kind), server_([this](const std::string& head) { return Answer(head); }) {}
  std::string url() const { return server_.url(); }
  size_t Puts() {
    size_t puts = 0;
    for (const std::string& head : server_.requests()) puts += head.starts_with("PUT") ? 1 : 0;
    return puts;
  }

 private:
  std::string Answer(const std::string& head) {
    if (head.starts_with("HEAD")) {
      if (sha256_.empty()) return HttpAnswer(404, "");
      return "HTTP/1.1 200 x\r\nContent-Length: " + size_ + "\r\nETag: \"1\"\r\nx-amz-meta-sha256: " + sha256_ +
             "\r\nConnection: close\r\n\r\n";
    }
    if (!HeaderOf(head, "If-None-Match").empty()) {
      if (kind_ == Kind::kRefuses) return HttpAnswer(501, ErrorXml("NotImplemented"));
      if (kind_ == Kind::kKnows && !sha256_.empty()) return HttpAnswer(412, ErrorXml("PreconditionFailed"));
    }
    sha256_ = HeaderOf(head, "x-amz-meta-sha256");
    size_ = HeaderOf(head, "Content-Length");
    return HttpAnswer(200, "", "ETag: \"1\"\r\n");
  }

  const Kind kind_;
  std::string sha256_;
  std::string size_;
  ScriptedHttpServer server_;
};

TEST(S3ConditionalPutTest, TakesNoOtherBytesWhateverTheServerKnows) {
  for (const OneObject::Kind kind : {OneObject::Kind::kKnows, OneObject::Kind::kIgnores, OneObject::Kind::kRefuses}) {
    OneObject object(kind);
    S3Client client(OptionsFor(object.url()));
    for (int round = 0; round < 2; ++round) {  // the first call finds out what the server knows
      const auto put = client.Put("k", S3BodyOf("mine"), true);
      ASSERT_TRUE(put.ok()) << put.status();
      EXPECT_EQ(*put, "\"1\"");
    }
    EXPECT_EQ(ReasonOf(client.Put("k", S3BodyOf("others"), true).status()), "S3_EXISTS");
    EXPECT_EQ(client.Head("k")->sha256, Sha256Hex("mine"));
  }
}

// The server did what it was asked for, and its answer was lost: the second attempt meets the first one's object.
TEST(S3ConditionalPutTest, ALostAnswerIsNoConflict) {
  std::atomic<int> puts{0};
  ScriptedHttpServer server([&](const std::string& head) -> std::string {
    if (head.starts_with("HEAD")) {
      if (puts == 0) return HttpAnswer(404, "");
      return "HTTP/1.1 200 x\r\nContent-Length: 4\r\nETag: \"1\"\r\nx-amz-meta-sha256: " + Sha256Hex("mine") +
             "\r\nConnection: close\r\n\r\n";
    }
    return ++puts == 1 ? "" : HttpAnswer(412, ErrorXml("PreconditionFailed"));
  });
  S3Client client(OptionsFor(server.url()));
  const auto put = client.Put("k", S3BodyOf("mine"), true);
  ASSERT_TRUE(put.ok()) << put.status();
  EXPECT_EQ(*put, "\"1\"");
}

// --- Multipart uploads ---

TEST(S3MultipartTest, AnErrorMayComeAsASuccess) {
  std::atomic<int> completes{0};
  ScriptedHttpServer server([&](const std::string& head) -> std::string {
    if (head.starts_with("HEAD")) return "HTTP/1.1 200 x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n";
    return ++completes == 1 ? HttpAnswer(200, ErrorXml("InternalError"))
                            : HttpAnswer(200, "<CompleteMultipartUploadResult/>");
  });
  S3Client client(OptionsFor(server.url()));
  const std::vector<S3Part> parts = {{.number = 1, .etag = "\"a\""}, {.number = 2, .etag = "\"b\""}};
  EXPECT_TRUE(client.CompleteUpload("k", "id", parts, 9).ok());
  EXPECT_EQ(completes, 2);
  EXPECT_THAT(server.bodies().front(), HasSubstr("<Part><PartNumber>2</PartNumber><ETag>&quot;b&quot;</ETag></Part>"));
  EXPECT_EQ(ReasonOf(client.CompleteUpload("k", "id", parts, 10)), "S3_SIZE");
}

TEST(S3MultipartTest, AnUploadThatIsGoneMayBeComplete) {
  bool there = true;
  ScriptedHttpServer server([&](const std::string& head) -> std::string {
    if (!head.starts_with("HEAD")) return HttpAnswer(404, ErrorXml("NoSuchUpload"));
    return there ? "HTTP/1.1 200 x\r\nContent-Length: 9\r\nConnection: close\r\n\r\n" : HttpAnswer(404, "");
  });
  S3Client client(OptionsFor(server.url()));
  EXPECT_TRUE(client.CompleteUpload("k", "id", {{.number = 1, .etag = "a"}}, 9).ok());
  there = false;
  EXPECT_EQ(ReasonOf(client.CompleteUpload("k", "id", {{.number = 1, .etag = "a"}}, 9)), "S3_UPLOAD");
  EXPECT_TRUE(client.AbortUpload("k", "id").ok());
}

TEST(S3MultipartTest, CopiesAPartOfAnotherObject) {
  std::string answer = "<CopyPartResult><ETag>\"c\"</ETag></CopyPartResult>";
  ScriptedHttpServer server([&](const std::string&) { return HttpAnswer(200, answer); });
  S3Client client(OptionsFor(server.url()));
  const auto part = client.CopyPart("k", "i/d", 3, "partial/a b");
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(part->number, 3);
  EXPECT_EQ(part->etag, "\"c\"");
  const std::string head = server.requests().front();
  EXPECT_EQ(TargetOf(head), "/bucket/k?partNumber=3&uploadId=i%2Fd");
  EXPECT_EQ(HeaderOf(head, "x-amz-copy-source"), "/bucket/partial/a%20b");
  // One that takes it for an empty part does not know how to copy.
  answer.clear();
  EXPECT_EQ(ReasonOf(client.CopyPart("k", "id", 3, "s").status()), "S3_UNSUPPORTED");
}

}  // namespace
}  // namespace qamserve
