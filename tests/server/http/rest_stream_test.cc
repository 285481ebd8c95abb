// Answers that stream, uploads and downloads.
#include <gmock/gmock.h>

#include "core/base/digest.h"
#include "server/grpc/status_conversion.h"
#include "tests/server/http/rest_fixture.h"

namespace qamserve {
namespace {

using testing::HasSubstr;
using testing::StartsWith;
using RestStreamTest = RestFixture;

const HttpFields kEvents = {{"Accept", "text/event-stream"}};

TEST_F(RestStreamTest, EventsAndTheirEnd) {
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch", kEvents));
  client.SendTo(part_.handle);
  backend().Push("one");
  ASSERT_TRUE(client.WaitForBody("one"));
  EXPECT_EQ(client.answer().field("Content-Type"), "text/event-stream");
  EXPECT_EQ(client.answer().length, -1);
  EXPECT_THAT(client.answer().body, StartsWith("data: {\"name\":"));
  backend().Push("two");
  backend().EndWatch(grpc::Status::OK);
  const FakeAnswer answer = client.Wait();
  ASSERT_EQ(answer.pieces.size(), 3u);
  EXPECT_THAT(answer.pieces[1], HasSubstr("\"displayName\":\"two\""));
  EXPECT_EQ(answer.pieces[1].substr(answer.pieces[1].size() - 2), "\n\n");
  EXPECT_EQ(answer.pieces[2], "event: end\ndata: {}\n\n");
}

TEST_F(RestStreamTest, LinesWithoutTheHeader) {
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch"));
  client.SendTo(part_.handle);
  backend().Push("one");
  backend().Push("two");
  backend().EndWatch(grpc::Status::OK);
  const FakeAnswer answer = client.Wait();
  EXPECT_EQ(answer.field("Content-Type"), "application/x-ndjson");
  ASSERT_EQ(answer.pieces.size(), 2u);
  for (const std::string& piece : answer.pieces) {
    EXPECT_EQ(piece.find('\n'), piece.size() - 1);
    EXPECT_TRUE(Json::accept(piece));
  }
}

TEST_F(RestStreamTest, AnEmptyStreamIsAnAnswer) {
  backend().EndWatch(grpc::Status::OK);
  const FakeAnswer answer = Ask("GET", "/v1/jobs/a:watch");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.body, "");
}

TEST_F(RestStreamTest, AnErrorBeforeTheFirstMessageHasItsStatus) {
  backend().EndWatch(ToGrpcStatus(NotFound("JOB_NOT_FOUND", "none")));
  const FakeAnswer answer = Ask("GET", "/v1/jobs/a:watch", kEvents);
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(ReasonIn(answer), "JOB_NOT_FOUND");
}

TEST_F(RestStreamTest, AnErrorLaterIsTheLastEvent) {
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch", kEvents));
  client.SendTo(part_.handle);
  backend().Push("one");
  ASSERT_TRUE(client.WaitForBody("one"));
  backend().EndWatch(ToGrpcStatus(Unavailable("SHUTTING_DOWN", "the server is shutting down")));
  const FakeAnswer answer = client.Wait();
  EXPECT_THAT(answer.pieces.back(), StartsWith("event: error\ndata: {\"error\":{\"code\":503"));
  EXPECT_TRUE(answer.ended);
}

TEST_F(RestStreamTest, AnErrorLaterIsTheLastLine) {
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch"));
  client.SendTo(part_.handle);
  backend().Push("one");
  ASSERT_TRUE(client.WaitForBody("one"));
  backend().EndWatch(ToGrpcStatus(Unavailable("SHUTTING_DOWN", "the server is shutting down")));
  EXPECT_EQ(Json::parse(client.Wait().pieces.back())["error"]["status"], "UNAVAILABLE");
}

TEST_F(RestStreamTest, PingsWhileNothingComes) {
  MakePart(std::chrono::milliseconds(10));
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch", kEvents));
  client.SendTo(part_.handle);
  // Also before the first message: so the client knows that it has been heard.
  ASSERT_TRUE(client.WaitForBody(": ping\n\n: ping\n\n"));
  backend().Push("one");
  ASSERT_TRUE(client.WaitForBody("one"));
  // An error after a ping is an event: the answer has begun.
  backend().EndWatch(ToGrpcStatus(NotFound("JOB_NOT_FOUND", "none")));
  EXPECT_THAT(client.Wait().pieces.back(), StartsWith("event: error\n"));
}

TEST_F(RestStreamTest, AClientThatVanishesCancelsTheCall) {
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch", kEvents));
  client.SendTo(part_.handle);
  backend().Push("one");
  ASSERT_TRUE(client.WaitForBody("one"));
  client.Vanish();
  EXPECT_TRUE(backend().WaitForCancelled());
  EXPECT_TRUE(client.WaitForRelease());
}

TEST_F(RestStreamTest, ASlowClientHoldsUpItsCallAlone) {
  FakeClient client(HeadOf("GET", "/v1/jobs/a:watch"));
  client.StopReading();
  client.SendTo(part_.handle);
  for (int i = 0; i < 40; ++i) backend().Push(std::string(1 << 20, 'x'));
  ASSERT_TRUE(client.WaitForBody("x"));
  // One is being written, and some wait in the windows of HTTP/2.
  EXPECT_EQ(client.answer().pieces.size(), 1u);
  EXPECT_LE(backend().sent(), 20);
  backend().EndWatch(grpc::Status::OK);
  client.ResumeReading();
  EXPECT_EQ(client.Wait().pieces.size(), 40u);
}

// --- Uploads ---

TEST_F(RestStreamTest, AnUploadIsSentInPieces) {
  const std::string body(3'000'000, 'b');
  const FakeAnswer answer = Ask("PUT", "/v1/uploads/u/files/abc?offset=5", {}, body);
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(Json::parse(answer.body)["committedBytes"], "3000000");
  EXPECT_EQ(backend().last_request(), R"(upload: "uploads/u" sha256: "abc" offset: 5)");
  EXPECT_EQ(backend().uploaded(), body);
  EXPECT_LE(backend().largest_piece(), size_t{1} << 20);
}

TEST_F(RestStreamTest, AnUploadWaitsForTheStore) {
  backend().HoldUploads(true);
  FakeClient client(HeadOf("PUT", "/v1/uploads/u/files/abc"), std::string(40 << 20, 'b'));
  client.SendTo(part_.handle);
  while (backend().last_request().empty()) std::this_thread::yield();
  // What the store has not taken stays with the client, but for what is in the windows of HTTP/2.
  EXPECT_LE(client.body_bytes_taken(), size_t{20} << 20);
  backend().HoldUploads(false);
  EXPECT_EQ(client.Wait().status, 200);
  EXPECT_EQ(backend().uploaded().size(), size_t{40} << 20);
}

TEST_F(RestStreamTest, AnEmptyFileIsAMessageToo) {
  const FakeAnswer answer = Ask("PUT", "/v1/uploads/u/files/abc");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(backend().pieces(), 1u);
  EXPECT_EQ(backend().last_request(), R"(upload: "uploads/u" sha256: "abc")");
}

TEST_F(RestStreamTest, ContentRangeSaysWhere) {
  FakeAnswer answer = Ask("PUT", "/v1/uploads/u/files/abc", {{"Content-Range", "bytes 5-7/100"}}, "xyz");
  EXPECT_EQ(answer.status, 200) << answer.body;
  EXPECT_EQ(backend().last_request(), R"(upload: "uploads/u" sha256: "abc" offset: 5)");
  for (const HttpFields& fields :
       {HttpFields{{"Content-Range", "bytes 5-6/100"}}, HttpFields{{"Content-Range", "bytes 5-9/100"}},
        HttpFields{{"Content-Range", "bytes 5-9/100"}, {"Content-Length", "3"}},
        HttpFields{{"Content-Range", "five"}}}) {
    answer = Ask("PUT", "/v1/uploads/u/files/abc", fields, "xyz");
    EXPECT_EQ(answer.status, 400);
    EXPECT_EQ(ReasonIn(answer), "CONTENT_RANGE");
  }
  answer = Ask("PUT", "/v1/uploads/u/files/abc?offset=4", {{"Content-Range", "bytes 5-7/100"}}, "xyz");
  EXPECT_EQ(ReasonIn(answer), "FIELD_CONFLICT");
}

TEST_F(RestStreamTest, AnUploadThatTheServiceEndsTellsWhy) {
  backend().FailUploadAfter(1, ToGrpcStatus(DataLoss("UPLOAD_DIGEST", "another digest")));
  const FakeAnswer answer = Ask("PUT", "/v1/uploads/u/files/abc", {}, std::string(8 << 20, 'b'));
  EXPECT_EQ(answer.status, 500);
  EXPECT_EQ(ReasonIn(answer), "UPLOAD_DIGEST");
  EXPECT_LT(backend().uploaded().size(), size_t{8} << 20);
}

TEST_F(RestStreamTest, AClientThatVanishesEndsItsUpload) {
  FakeClient client(HeadOf("PUT", "/v1/uploads/u/files/abc"), "some", false);
  client.SendTo(part_.handle);
  ASSERT_TRUE(backend().WaitForUploaded(4));
  client.Vanish();
  EXPECT_TRUE(backend().WaitForCancelled());
  EXPECT_TRUE(client.WaitForRelease());
  EXPECT_EQ(backend().uploaded(), "some");
}

TEST_F(RestStreamTest, ABrokenBodyEndsItsUpload) {
  FakeClient client(HeadOf("PUT", "/v1/uploads/u/files/abc"), "some", false);
  client.SendTo(part_.handle);
  ASSERT_TRUE(backend().WaitForUploaded(4));
  client.FailBody(InvalidArgument("HTTP_BODY", "a chunk is malformed"));
  const FakeAnswer answer = client.Wait();
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(ReasonIn(answer), "HTTP_BODY");
  EXPECT_TRUE(backend().WaitForCancelled());
}

TEST_F(RestStreamTest, FormsAreNotFiles) {
  EXPECT_EQ(Ask("PUT", "/v1/uploads/u/files/abc", {{"Content-Type", "multipart/form-data; boundary=x"}}, "x").status,
            415);
}

// --- Downloads ---

class RestDownloadTest : public RestFixture {
 protected:
  RestDownloadTest() {
    for (int i = 0; i < 5000; ++i) backend().file += static_cast<char>(i * 31 % 251);
    etag_ = "\"" + Sha256Hex(backend().file) + "\"";
  }
  FakeAnswer Get(HttpFields fields = {}) { return Ask("GET", kPath, std::move(fields)); }

  static constexpr char kPath[] = "/v1/artifacts/a/files/model.bin";
  std::string etag_;
};

TEST_F(RestDownloadTest, AWholeFile) {
  const FakeAnswer answer = Get();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.length, 5000);
  EXPECT_EQ(answer.body, backend().file);
  EXPECT_EQ(answer.field("ETag"), etag_);
  EXPECT_EQ(answer.field("Accept-Ranges"), "bytes");
  EXPECT_EQ(answer.field("Content-Type"), "application/octet-stream");
  EXPECT_EQ(answer.field("Content-Disposition"), "attachment; filename=\"model.bin\"");
}

TEST_F(RestDownloadTest, RangesOfIt) {
  struct Case {
    const char* range;
    size_t begin;
    size_t end;
  };
  for (const Case& c : {Case{"bytes=0-0", 0, 1}, Case{"bytes=1500-3999", 1500, 4000}, Case{"bytes=4990-", 4990, 5000},
                        Case{"bytes=-7", 4993, 5000}, Case{"bytes=4000-9999", 4000, 5000}}) {
    const FakeAnswer answer = Get({{"Range", c.range}});
    EXPECT_EQ(answer.status, 206) << c.range;
    EXPECT_EQ(answer.field("Content-Range"), fmt::format("bytes {}-{}/5000", c.begin, c.end - 1));
    EXPECT_EQ(answer.length, static_cast<int64_t>(c.end - c.begin));
    EXPECT_EQ(answer.body, backend().file.substr(c.begin, c.end - c.begin));
  }
  // Several ranges may be answered with the whole.
  EXPECT_EQ(Get({{"Range", "bytes=0-1,5-6"}}).status, 200);
}

TEST_F(RestDownloadTest, RangesThatAreNotThere) {
  const FakeAnswer answer = Get({{"Range", "bytes=5000-"}});
  EXPECT_EQ(answer.status, 416);
  EXPECT_EQ(answer.field("Content-Range"), "bytes */5000");
  EXPECT_EQ(ReasonIn(answer), "RANGE");
}

TEST_F(RestDownloadTest, Conditions) {
  EXPECT_EQ(Get({{"If-None-Match", etag_}}).status, 304);
  EXPECT_EQ(Get({{"If-None-Match", "\"other\""}}).status, 200);
  EXPECT_EQ(Get({{"Range", "bytes=0-9"}, {"If-Range", etag_}}).status, 206);
  EXPECT_EQ(Get({{"Range", "bytes=0-9"}, {"If-Range", "\"other\""}}).status, 200);
}

TEST_F(RestDownloadTest, HeadTellsAllButTheBytes) {
  const FakeAnswer answer = Ask("HEAD", kPath, {{"Range", "bytes=0-9"}});
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.length, 5000);
  EXPECT_EQ(answer.body, "");
  EXPECT_EQ(answer.field("ETag"), etag_);
  EXPECT_EQ(backend().last_request(), "");  // nothing was read
}

TEST_F(RestDownloadTest, EmptyFiles) {
  backend().file = "";
  const FakeAnswer answer = Get();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.length, 0);
  EXPECT_EQ(Get({{"Range", "bytes=0-"}}).status, 416);
}

TEST_F(RestDownloadTest, Errors) {
  EXPECT_EQ(ReasonIn(Ask("GET", "/v1/artifacts/b/files/model.bin")), "ARTIFACT_NOT_FOUND");
  const FakeAnswer answer = Ask("GET", "/v1/artifacts/a/files/other.bin");
  EXPECT_EQ(answer.status, 404);
  EXPECT_EQ(ReasonIn(answer), "ARTIFACT_FILE_NOT_FOUND");
  EXPECT_EQ(ReasonIn(Ask("GET", std::string(kPath) + "?offset=5")), "QUERY_PARAMETER");
}

TEST_F(RestDownloadTest, AFileThatIsTooShortIsCutOff) {
  backend().lie_about_size = true;
  EXPECT_TRUE(Get().aborted);
}

TEST_F(RestDownloadTest, PagesOfAnArtifactRunNothing) {
  const FakeAnswer answer = Ask("GET", "/v1/artifacts/a/files/report.html");
  EXPECT_EQ(answer.field("Content-Type"), "text/html; charset=utf-8");
  EXPECT_THAT(std::string(answer.field("Content-Security-Policy")), HasSubstr("sandbox"));
}

TEST_F(RestDownloadTest, AClientThatVanishesEndsIt) {
  for (int i = 0; i < 10; ++i) backend().file += backend().file.substr(0, 100'000);
  FakeClient client(HeadOf("GET", kPath));
  client.StopReading();
  client.SendTo(part_.handle);
  ASSERT_TRUE(client.WaitForBody(backend().file.substr(0, 100)));
  client.Vanish();
  EXPECT_TRUE(client.WaitForRelease());
}

}  // namespace
}  // namespace qamserve
