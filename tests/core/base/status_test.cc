#include "core/base/status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qamserve {
namespace {

TEST(StatusTest, ErrorCarriesCodeReasonAndMessage) {
  const absl::Status status = InvalidArgument("BPW_RANGE", "{}: bpw {} is above {}", "config.json", 7, 6);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(status), "BPW_RANGE");
  EXPECT_EQ(MessageOf(status), "config.json: bpw 7 is above 6");
}

TEST(StatusTest, ReasonFallsBackToTheCode) {
  EXPECT_EQ(ReasonOf(absl::NotFoundError("x")), "NOT_FOUND");
  EXPECT_EQ(ReasonOf(absl::OkStatus()), "");
}

TEST(StatusTest, AnnotateKeepsCodeAndReason) {
  const absl::Status status = Annotate(DataLoss("FILE_TRUNCATED", "ends at 3"), "model.gguf");
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ReasonOf(status), "FILE_TRUNCATED");
  EXPECT_EQ(MessageOf(status), "model.gguf: ends at 3");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "model.gguf").ok());
}

absl::Status PassOn(absl::Status status) {
  RETURN_IF_ERROR(status);
  return Internal("REACHED", "past the macro");
}

TEST(StatusTest, ReturnIfErrorReturnsErrorsOnly) {
  EXPECT_EQ(ReasonOf(PassOn(DataLoss("LOST", "x"))), "LOST");
  EXPECT_EQ(ReasonOf(PassOn(absl::OkStatus())), "REACHED");
}

// Names that a class gives its members must mean those members inside the macro.
class Sticky {
 public:
  explicit Sticky(absl::Status status) : status_(std::move(status)) {}
  absl::Status Check() {
    RETURN_IF_ERROR(status_);
    return absl::OkStatus();
  }

 private:
  absl::Status status_;
};

TEST(StatusTest, ReturnIfErrorSeesTheMembersOfItsCaller) {
  EXPECT_EQ(ReasonOf(Sticky(DataLoss("LOST", "x")).Check()), "LOST");
  EXPECT_TRUE(Sticky(absl::OkStatus()).Check().ok());
}

absl::StatusOr<int> Doubled(absl::StatusOr<int> value) {
  ASSIGN_OR_RETURN(const int number, value);
  return 2 * number;
}

absl::StatusOr<std::unique_ptr<int>> Moved(absl::StatusOr<std::unique_ptr<int>> value) {
  ASSIGN_OR_RETURN(auto pointer, std::move(value));
  return pointer;
}

TEST(StatusTest, AssignOrReturn) {
  EXPECT_EQ(*Doubled(21), 42);
  EXPECT_EQ(ReasonOf(Doubled(NotFound("GONE", "x")).status()), "GONE");
  EXPECT_EQ(**Moved(std::make_unique<int>(5)), 5);
}

}  // namespace
}  // namespace qamserve
