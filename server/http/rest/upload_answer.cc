#include "server/http/rest/upload_answer.h"

#include <absl/strings/numbers.h>

#include <utility>

#include "server/http/rest/errors.h"
#include "server/http/rest/json.h"

namespace qamserve::rest {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

absl::Status RangeError(std::string_view why) {
  return WithField(InvalidArgument("CONTENT_RANGE", "Content-Range: {}", why), "Content-Range");
}

// Alive through the read, the write or the end that is under way; only one of them ever is.
class UploadAnswer : public std::enable_shared_from_this<UploadAnswer> {
 public:
  UploadAnswer(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalUpload> call, const FieldDescriptor* data,
               MessagePtr first, std::optional<ContentRange> range)
      : exchange_(std::move(exchange)),
        call_(std::move(call)),
        data_(data),
        range_(range),
        message_(std::move(first)) {}

  void Start() {
    // The pieces that are in stay; the client asks how many when it comes back.
    exchange_->OnGone([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->call_->Cancel();
    });
    ReadNext();
  }

 private:
  void ReadNext() {
    exchange_->ReadSome(
        [self = shared_from_this()](absl::StatusOr<std::string> piece) { self->Take(std::move(piece)); });
  }

  void Take(absl::StatusOr<std::string> piece) {
    if (!piece.ok()) return Fail(piece.status());
    bytes_ += piece->size();
    ended_ = piece->empty();
    if (const absl::Status status = CheckRange(); !status.ok()) return Fail(status);
    // A body of no bytes still has the message that names the file.
    if (ended_ && !first_) return Finish();
    first_ = false;
    message_->GetReflection()->SetString(message_.get(), data_, *std::move(piece));
    call_->Write(*message_, [self = shared_from_this()](bool ok) {
      if (!ok || self->ended_) return self->Finish();
      self->message_->Clear();
      self->ReadNext();
    });
  }

  absl::Status CheckRange() const {
    if (!range_) return absl::OkStatus();
    const uint64_t size = range_->end - range_->begin;
    if (bytes_ > size) return RangeError(fmt::format("the body has more than its {} bytes", size));
    if (ended_ && bytes_ < size) return RangeError(fmt::format("the body has {} bytes instead of {}", bytes_, size));
    return absl::OkStatus();
  }

  void Finish() {
    call_->Finish([self = shared_from_this()](MessagePtr message, const grpc::Status& status) {
      if (!status.ok()) return self->Respond(ErrorAnswer(status));
      absl::StatusOr<std::string> json = ToJson(*message);
      if (!json.ok()) return self->Respond(ErrorAnswer(json.status()));
      Answer answer;
      answer.head.fields = {{"Content-Type", "application/json"}, {"Cache-Control", "no-store"}};
      answer.body = *std::move(json);
      self->Respond(std::move(answer));
    });
  }

  void Fail(const absl::Status& status) {
    call_->Cancel();
    if (!absl::IsCancelled(status)) Respond(ErrorAnswer(status));
  }

  void Respond(Answer answer) { exchange_->Respond(std::move(answer.head), std::move(answer.body)); }

  const std::shared_ptr<HttpExchange> exchange_;
  const std::shared_ptr<LocalUpload> call_;
  const FieldDescriptor* const data_;
  const std::optional<ContentRange> range_;
  MessagePtr message_;  // the next to send
  bool first_ = true;
  bool ended_ = false;  // the body
  uint64_t bytes_ = 0;
};

}  // namespace

absl::StatusOr<std::optional<ContentRange>> BindContentRange(const HttpRequestHead& head, Message* request) {
  const std::string_view header = head.field("Content-Range");
  if (header.empty()) return std::nullopt;
  const FieldDescriptor* offset = request->GetDescriptor()->FindFieldByName("offset");
  if (offset == nullptr || offset->type() != FieldDescriptor::TYPE_INT64) return RangeError("this call has no offset");
  ASSIGN_OR_RETURN(const ContentRange range, ParseContentRange(header));
  const std::string_view length = head.field("Content-Length");
  uint64_t bytes = 0;
  if (absl::SimpleAtoi(absl::string_view(length.data(), length.size()), &bytes) && bytes != range.end - range.begin) {
    return RangeError(fmt::format("it has {} bytes, and Content-Length says {}", range.end - range.begin, bytes));
  }
  const auto begin = static_cast<int64_t>(range.begin);
  const int64_t given = request->GetReflection()->GetInt64(*request, offset);
  if (given != 0 && given != begin) {
    return WithField(
        InvalidArgument("FIELD_CONFLICT", "field 'offset': the query says {}, Content-Range {}", given, begin),
        "offset");
  }
  request->GetReflection()->SetInt64(request, offset, begin);
  return range;
}

void AnswerUpload(std::shared_ptr<HttpExchange> exchange, LocalCalls& calls, const HttpRoute& route, MessagePtr first,
                  const CallMetadata& metadata, std::optional<ContentRange> range) {
  std::shared_ptr<LocalUpload> call = calls.ClientStream(*route.method, metadata);
  std::make_shared<UploadAnswer>(std::move(exchange), std::move(call), route.body_field, std::move(first), range)
      ->Start();
}

}  // namespace qamserve::rest
