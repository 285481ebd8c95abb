#include "server/grpc/status_conversion.h"

#include <gtest/gtest.h>

#include "google/rpc/error_details.pb.h"

namespace qamserve {
namespace {

TEST(StatusConversionTest, EveryCodeKeepsItsNumberAndReason) {
  for (int code = 1; code <= 16; ++code) {
    const grpc::Status status = ToGrpcStatus(MakeError(static_cast<absl::StatusCode>(code), "SOME_REASON", "why"));
    EXPECT_EQ(static_cast<int>(status.error_code()), code);
    EXPECT_EQ(status.error_message(), "why");
    google::rpc::Status wire;
    ASSERT_TRUE(wire.ParseFromString(status.error_details()));
    EXPECT_EQ(wire.code(), code);
    EXPECT_EQ(wire.message(), "why");
    google::rpc::ErrorInfo info;
    ASSERT_GE(wire.details_size(), 1);
    ASSERT_TRUE(wire.details(0).UnpackTo(&info));
    EXPECT_EQ(info.reason(), "SOME_REASON");
    EXPECT_EQ(info.domain(), "qamserve");
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
}

TEST(StatusConversionTest, SaysWhatMayPass) {
  google::rpc::Status wire;
  ASSERT_TRUE(wire.ParseFromString(ToGrpcStatus(ResourceExhausted("QUEUE_FULL", "full")).error_details()));
  ASSERT_EQ(wire.details_size(), 2);
  EXPECT_TRUE(wire.details(1).Is<google::rpc::RetryInfo>());
  ASSERT_TRUE(wire.ParseFromString(ToGrpcStatus(ResourceExhausted("MEMORY_LIMIT", "full")).error_details()));
  EXPECT_EQ(wire.details_size(), 1);
}

TEST(StatusConversionTest, CutsLongMessagesAndMendsBrokenOnes) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "\xC3\xBC";  // u umlaut
  const grpc::Status status = ToGrpcStatus(InvalidArgument("X", "{}", text));
  EXPECT_LE(status.error_message().size(), kMaxStatusMessageBytes + 4);
  EXPECT_EQ(ValidUtf8(status.error_message()), status.error_message());
  EXPECT_EQ(ToGrpcStatus(InvalidArgument("X", "a\xFF" "b")).error_message(), "a\xEF\xBF\xBD" "b");
}

}  // namespace
}  // namespace qamserve
