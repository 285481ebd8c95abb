#include "server/http/local_calls.h"

#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "core/base/digest.h"
#include "google/rpc/error_details.pb.h"
#include "server/grpc/in_process_channel.h"
#include "tests/server/http/fake_services.h"

namespace qamserve {
namespace {

using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using MessagePtr = std::unique_ptr<Message>;

const MethodDescriptor& Method(const std::string& name) {
  return *google::protobuf::DescriptorPool::generated_pool()->FindMethodByName("qamserve.v1." + name);
}

// What a callback gave, once it has come.
struct Reply {
  absl::Notification came;
  MessagePtr message;
  grpc::Status status;

  std::function<void(MessagePtr, grpc::Status)> Callback() {
    return [this](MessagePtr message_in, const grpc::Status& status_in) {
      message = std::move(message_in);
      status = status_in;
      came.Notify();  // dies if it is called twice
    };
  }
  void Wait() { ASSERT_TRUE(came.WaitForNotificationWithTimeout(absl::Seconds(30))); }
};

class LocalCallsTest : public testing::Test {
 protected:
  grpc::Status GetJob(const std::string& name, const CallMetadata& metadata, v1::Job* job) {
    v1::GetJobRequest request;
    request.set_name(name);
    Reply reply;
    const auto call = calls_.Unary(Method("JobService.GetJob"), request, metadata, reply.Callback());
    reply.Wait();
    if (reply.message != nullptr) job->CopyFrom(*reply.message);
    return reply.status;
  }

  std::shared_ptr<LocalStream> Watch() {
    v1::WatchJobRequest request;
    request.set_name("jobs/a");
    return calls_.ServerStream(Method("JobService.WatchJob"), request, {});
  }

  static bool Write(LocalUpload& upload, const std::string& data) {
    v1::UploadFileRequest message;
    message.set_data(data);
    absl::Notification came;
    bool ok = false;
    upload.Write(message, [&](bool written) {
      ok = written;
      came.Notify();
    });
    message.Clear();  // it was copied
    EXPECT_TRUE(came.WaitForNotificationWithTimeout(absl::Seconds(30)));
    return ok;
  }

  FakeServer server_;
  LocalCalls calls_{server_.channel()};
};

TEST_F(LocalCallsTest, AnUnaryCallHasItsAnswer) {
  v1::Job job;
  EXPECT_TRUE(GetJob("jobs/a", {}, &job).ok());
  EXPECT_EQ(job.name(), "jobs/a");
}

TEST_F(LocalCallsTest, AnErrorKeepsItsDetails) {
  v1::Job job;
  const grpc::Status status = GetJob("jobs/none", {}, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  google::rpc::Status wire;
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(wire.ParseFromString(status.error_details()));
  ASSERT_TRUE(wire.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "JOB_NOT_FOUND");
}

TEST_F(LocalCallsTest, SendsItsMetadataWhateverBytesItHas) {
  CallMetadata metadata;
  metadata.authorization = "Bearer k\xC3\xA9y\x01";
  metadata.traceparent = "00-1-2-01";
  metadata.peer = "127.0.0.1:4711";
  v1::Job job;
  ASSERT_TRUE(GetJob("jobs/a", metadata, &job).ok());
  EXPECT_EQ(server_.backend().last_metadata("authorization"), "Bearer k??y?");
  EXPECT_EQ(server_.backend().last_metadata("traceparent"), "00-1-2-01");
  EXPECT_EQ(server_.backend().last_metadata("x-qamserve-peer"), "127.0.0.1:4711");
  const std::string peer = server_.backend().last_metadata("peer");
  EXPECT_TRUE(IsInProcessPeer(peer)) << peer;
  EXPECT_FALSE(IsInProcessPeer("ipv4:127.0.0.1:4711"));
}

TEST_F(LocalCallsTest, DroppingAnUnaryCallCancelsIt) {
  v1::GetJobRequest request;
  request.set_name("jobs/stuck");
  Reply reply;
  auto call = calls_.Unary(Method("JobService.GetJob"), request, {}, reply.Callback());
  call = nullptr;
  reply.Wait();
  EXPECT_EQ(reply.status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(LocalCallsTest, ADeadlineEndsACall) {
  v1::Job job;
  EXPECT_EQ(GetJob("jobs/stuck", {.timeout_seconds = 0.05}, &job).error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(server_.backend().WaitForCancelled());
}

TEST_F(LocalCallsTest, AStreamGivesItsMessagesAndItsStatus) {
  const auto stream = Watch();
  for (const char* name : {"one", "two"}) {
    server_.backend().Push(name);
    Reply reply;
    stream->Read(reply.Callback());
    reply.Wait();
    ASSERT_NE(reply.message, nullptr);
    EXPECT_EQ(static_cast<const v1::Job&>(*reply.message).display_name(), name);
  }
  server_.backend().EndWatch({grpc::StatusCode::ABORTED, "enough"});
  Reply end;
  stream->Read(end.Callback());
  end.Wait();
  EXPECT_EQ(end.message, nullptr);
  EXPECT_EQ(end.status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(end.status.error_message(), "enough");
}

TEST_F(LocalCallsTest, WhatIsNotReadIsNotSent) {
  const auto stream = Watch();
  for (int i = 0; i < 40; ++i) server_.backend().Push(std::string(1 << 20, 'x'));
  Reply reply;
  stream->Read(reply.Callback());
  reply.Wait();
  // One that was read, and what is in the windows of HTTP/2.
  EXPECT_LE(server_.backend().sent(), 20);
}

TEST_F(LocalCallsTest, DroppingAStreamCancelsItAndAnswersItsRead) {
  auto stream = Watch();
  server_.backend().Push("one");
  Reply first;
  stream->Read(first.Callback());
  first.Wait();
  Reply reply;
  stream->Read(reply.Callback());
  stream = nullptr;
  EXPECT_TRUE(server_.backend().WaitForCancelled());
  reply.Wait();
  EXPECT_EQ(reply.message, nullptr);
  EXPECT_EQ(reply.status.error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(LocalCallsTest, DroppingAStreamThatNobodyReadsCancelsIt) {
  auto stream = Watch();
  while (server_.backend().last_request().empty()) std::this_thread::yield();
  stream = nullptr;
  EXPECT_TRUE(server_.backend().WaitForCancelled());
}

TEST_F(LocalCallsTest, CallsMayTakeTurnsOverConnections) {
  LocalCalls several({server_.channel(), server_.channel(), server_.channel()});
  std::set<std::string> peers;
  for (int i = 0; i < 6; ++i) {
    v1::GetJobRequest request;
    request.set_name("jobs/a");
    Reply reply;
    const auto call = several.Unary(Method("JobService.GetJob"), request, {}, reply.Callback());
    reply.Wait();
    EXPECT_TRUE(reply.status.ok());
    peers.insert(server_.backend().last_metadata("peer"));
  }
  EXPECT_EQ(peers.size(), 3u);
}

TEST_F(LocalCallsTest, AStreamMayBeDroppedByItsOwnCallback) {
  server_.backend().Push("one");
  absl::Notification came;
  auto stream = std::make_shared<std::shared_ptr<LocalStream>>(Watch());
  (*stream)->Read([&came, stream](const MessagePtr& message, const grpc::Status&) {
    EXPECT_NE(message, nullptr);
    *stream = nullptr;
    came.Notify();
  });
  ASSERT_TRUE(came.WaitForNotificationWithTimeout(absl::Seconds(30)));
  EXPECT_TRUE(server_.backend().WaitForCancelled());
}

TEST_F(LocalCallsTest, AnUploadArrivesInOrder) {
  const auto upload = calls_.ClientStream(Method("CheckpointService.UploadFile"), {});
  for (const char* data : {"one ", "two ", "three"}) EXPECT_TRUE(Write(*upload, data));
  Reply reply;
  upload->Finish(reply.Callback());
  reply.Wait();
  ASSERT_TRUE(reply.status.ok());
  EXPECT_EQ(static_cast<const v1::UploadFileResponse&>(*reply.message).committed_bytes(), 13);
  EXPECT_EQ(server_.backend().uploaded(), "one two three");
}

TEST_F(LocalCallsTest, AnUploadThatTheServerEndsTellsWhy) {
  server_.backend().FailUploadAfter(1, {grpc::StatusCode::DATA_LOSS, "the digest is another"});
  const auto upload = calls_.ClientStream(Method("CheckpointService.UploadFile"), {});
  // The end comes when it comes; from some write on they fail.
  int writes = 0;
  while (Write(*upload, "x")) ASSERT_LT(++writes, 100'000);
  Reply reply;
  upload->Finish(reply.Callback());
  reply.Wait();
  EXPECT_EQ(reply.message, nullptr);
  EXPECT_EQ(reply.status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(reply.status.error_message(), "the digest is another");
}

TEST_F(LocalCallsTest, DroppingAnUploadCancelsIt) {
  auto upload = calls_.ClientStream(Method("CheckpointService.UploadFile"), {});
  ASSERT_TRUE(Write(*upload, "x"));
  upload = nullptr;
  EXPECT_TRUE(server_.backend().WaitForCancelled());
}

TEST_F(LocalCallsTest, AfterTheServerCallsAreUnavailable) {
  server_.Shutdown();
  v1::Job job;
  EXPECT_EQ(GetJob("jobs/a", {}, &job).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST(CallMetadataTest, ComesFromTheHeaders) {
  HttpRequestHead head;
  head.peer = "127.0.0.1:1";
  head.fields = {{"X-API-Key", "qsk-1"}, {"X-Request-Timeout", "2.5"}, {"Traceparent", "t"}};
  absl::StatusOr<CallMetadata> metadata = CallMetadataOf(head);
  ASSERT_TRUE(metadata.ok());
  EXPECT_EQ(metadata->authorization, "Bearer qsk-1");
  EXPECT_EQ(metadata->timeout_seconds, 2.5);
  EXPECT_EQ(metadata->traceparent, "t");
  EXPECT_EQ(metadata->peer, "127.0.0.1:1");
  head.fields.emplace_back("Authorization", "Bearer qsk-2");
  metadata = CallMetadataOf(head);
  ASSERT_TRUE(metadata.ok());
  EXPECT_EQ(metadata->authorization, "Bearer qsk-2");
}

TEST(CallMetadataTest, RefusesWhatGrpcWouldNotTake) {
  HttpRequestHead head;
  head.fields = {{"Authorization", std::string(kMaxMetadataBytes, 'k')}};
  EXPECT_TRUE(CallMetadataOf(head).ok());
  head.fields[0].second += 'k';
  EXPECT_EQ(ReasonOf(CallMetadataOf(head).status()), "HTTP_HEADER_SIZE");
}

TEST(CallMetadataTest, RefusesBadTimeouts) {
  for (const char* text : {"0", "-1", "nan", "inf", "1e9", "soon", "1s"}) {
    HttpRequestHead head;
    head.fields = {{"x-request-timeout", text}};
    EXPECT_EQ(ReasonOf(CallMetadataOf(head).status()), "HTTP_TIMEOUT") << text;
  }
}

}  // namespace
}  // namespace qamserve
