#include "server/grpc/download_stream.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "server/grpc/converters.h"
#include "server/grpc/piece_stream.h"

namespace qamserve {
namespace {

class DownloadStream final : public PieceStream<v1::DownloadFileResponse> {
 public:
  DownloadStream(ServiceContext& context, const grpc::CallbackServerContext& call,
                 const v1::DownloadFileRequest& request)
      : PieceStream(context, call, {"ArtifactService", "DownloadFile"}), request_(request) {
    Start(context.quick);
  }

 private:
  absl::Status Begin() override {
    ASSIGN_OR_RETURN(digest_, ParseResourceName("artifacts", request_.artifact()));
    ASSIGN_OR_RETURN(offset_, NonNegative("offset", request_.offset()));
    ASSIGN_OR_RETURN(const uint64_t limit, NonNegative("limit", request_.limit()));
    left_ = limit == 0 ? std::numeric_limits<uint64_t>::max() : limit;
    ASSIGN_OR_RETURN(const ArtifactRecord artifact, context_.catalog.GetArtifact(digest_));
    for (const FileRecord& file : artifact.files) {
      if (file.name != request_.file()) continue;
      message_.set_size_bytes(static_cast<int64_t>(file.size_bytes));
      blob_ = file.sha256;
    }
    return absl::OkStatus();
  }

  void Send() override {
    // What must be fetched from the object store first takes as long as that does.
    if (!blob_.empty() && !context_.catalog.blobs().IsHere(blob_)) return Next(context_.slow, [this] { SendPiece(); });
    SendPiece();
  }

  void SendPiece() {
    absl::StatusOr<std::string> piece =
        left_ == 0 ? std::string()
                   : context_.catalog.ReadArtifactFile(digest_, request_.file(), offset_, std::min(left_, kPieceBytes));
    if (!piece.ok()) return End(piece.status());
    // The first message goes out even if it is empty: it tells the size.
    if (piece->empty() && sent_) return End(absl::OkStatus());
    sent_ = true;
    offset_ += piece->size();
    left_ -= piece->size();
    context_.metrics.Add(Metric::kDownloadBytesTotal, {}, static_cast<double>(piece->size()));
    *message_.mutable_data() = *std::move(piece);
    SendMessage();
  }

  const v1::DownloadFileRequest request_;
  std::string digest_;
  std::string blob_;  // of the file; empty if the artifact has none of the name
  uint64_t offset_ = 0;
  uint64_t left_ = 0;
  bool sent_ = false;
};

}  // namespace

grpc::ServerWriteReactor<v1::DownloadFileResponse>* StartDownloadStream(ServiceContext& context,
                                                                        const grpc::CallbackServerContext& call,
                                                                        const v1::DownloadFileRequest& request) {
  return new DownloadStream(context, call, request);
}

}  // namespace qamserve
