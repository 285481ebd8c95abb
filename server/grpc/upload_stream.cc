#include "server/grpc/upload_stream.h"

#include <string>

#include "server/grpc/call.h"
#include "server/grpc/converters.h"

namespace qamserve {
namespace {

// At any time either gRPC reads or a task on the executor works, never both, so no lock is needed. gRPC deletes it by
// OnDone, which comes after Finish, which only the one at work calls.
class UploadStream final : public grpc::ServerReadReactor<v1::UploadFileRequest> {
 public:
  UploadStream(ServiceContext& context, grpc::CallbackServerContext* call, v1::UploadFileResponse* response)
      : context_(context), call_(call), response_(response), guard_(context, *call, {"CheckpointService", "UploadFile"}) {
    if (guard_.admitted().ok()) {
      StartRead(&message_);
    } else {
      End(guard_.admitted());
    }
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The client has sent all it wanted to, or is gone.
      if (call_->IsCancelled()) return End(Cancelled("CANCELLED", "the upload was cut off; QueryUpload says where"));
      if (first_) return End(InvalidArgument("UPLOAD_EMPTY", "the stream ended before its first message"));
      return End(absl::OkStatus());
    }
    const absl::Status queued = context_.quick.RunNext([this] { Store(); });
    if (!queued.ok()) End(queued);
  }

  void OnDone() override { delete this; }

 private:
  void Store() {
    absl::Status status = first_ ? ReadHeader() : CheckNoHeader();
    first_ = false;
    if (status.ok()) status = Append();
    if (!status.ok()) return End(status);
    StartRead(&message_);
  }

  absl::Status ReadHeader() {
    ASSIGN_OR_RETURN(upload_, ParseResourceName("uploads", message_.upload()));
    guard_.About(message_.upload());
    sha256_ = message_.sha256();
    ASSIGN_OR_RETURN(offset_, NonNegative("offset", message_.offset()));
    return absl::OkStatus();
  }

  absl::Status CheckNoHeader() const {
    if (message_.upload().empty() && message_.sha256().empty() && message_.offset() == 0) return absl::OkStatus();
    return InvalidArgument("UPLOAD_HEADER", "upload, sha256 and offset belong to the first message only");
  }

  absl::Status Append() {
    const std::string& data = message_.data();
    if (data.size() > kMaxAppendBytes) {
      return InvalidArgument("UPLOAD_CHUNK", "data has {} bytes; the limit of a message is {}", data.size(),
                             kMaxAppendBytes);
    }
    RETURN_IF_ERROR(guard_.CountUpload(static_cast<int64_t>(data.size())));
    ASSIGN_OR_RETURN(const UploadFileState state,
                     context_.catalog.Append(upload_, sha256_, offset_,
                                             std::as_bytes(std::span(data.data(), data.size()))));
    context_.metrics.Add(Metric::kUploadBytesTotal, {}, static_cast<double>(data.size()));
    offset_ += data.size();
    response_->set_committed_bytes(static_cast<int64_t>(state.committed_bytes));
    response_->set_complete(state.complete);
    return absl::OkStatus();
  }

  void End(const absl::Status& status) {
    guard_.Finished(status);
    Finish(ToGrpcStatus(status));
  }

  ServiceContext& context_;
  grpc::CallbackServerContext* const call_;
  v1::UploadFileResponse* const response_;
  CallGuard guard_;
  v1::UploadFileRequest message_;
  bool first_ = true;
  std::string upload_;
  std::string sha256_;
  uint64_t offset_ = 0;
};

}  // namespace

grpc::ServerReadReactor<v1::UploadFileRequest>* StartUploadStream(ServiceContext& context,
                                                                  grpc::CallbackServerContext* call,
                                                                  v1::UploadFileResponse* response) {
  return new UploadStream(context, call, response);
}

}  // namespace qamserve
