#include "server/http/rest/download_answer.h"

#include <absl/base/thread_annotations.h>
#include <absl/strings/match.h>
#include <absl/synchronization/mutex.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "qamserve/v1/artifact.pb.h"
#include "server/http/rest/conditions.h"
#include "server/http/rest/errors.h"

namespace qamserve::rest {
namespace {

using google::protobuf::MethodDescriptor;

const MethodDescriptor& ArtifactMethod(const char* name) {
  return *v1::DownloadFileRequest::descriptor()->file()->FindServiceByName("ArtifactService")->FindMethodByName(name);
}

bool EndsWith(const std::string& name, const char* ending) { return absl::EndsWith(name, ending); }

std::string_view ContentTypeOf(const std::string& name) {
  if (EndsWith(name, ".json")) return "application/json";
  if (EndsWith(name, ".html")) return "text/html; charset=utf-8";
  if (EndsWith(name, ".md") || EndsWith(name, ".txt") || EndsWith(name, ".jinja")) return "text/plain; charset=utf-8";
  return "application/octet-stream";
}

// Plain enough to stand between quotes in a header.
bool IsPlainName(const std::string& name) {
  return std::all_of(name.begin(), name.end(), [](char c) { return c >= 0x20 && c < 0x7F && c != '"' && c != '\\'; });
}

// Alive through the call, the read or the write that is under way; only one of them ever is, but the client may vanish
// at any time.
class DownloadAnswer : public std::enable_shared_from_this<DownloadAnswer> {
 public:
  DownloadAnswer(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalCalls> calls,
                 v1::DownloadFileRequest request, CallMetadata metadata)
      : exchange_(std::move(exchange)),
        calls_(std::move(calls)),
        metadata_(std::move(metadata)),
        request_(std::move(request)) {}

  // The file's size and digest come first: they are what conditions and ranges are about.
  void Start() {
    exchange_->OnGone([weak = weak_from_this()] {
      if (const auto self = weak.lock()) self->Gone();
    });
    v1::GetArtifactRequest request;
    request.set_name(request_.artifact());
    Keep(calls_->Unary(ArtifactMethod("GetArtifact"), request, metadata_,
                       [self = shared_from_this()](MessagePtr artifact, const grpc::Status& status) {
                         if (!status.ok()) return self->Respond(ErrorAnswer(status));
                         self->Begin(static_cast<const v1::Artifact&>(*artifact));
                       }));
  }

 private:
  void Begin(const v1::Artifact& artifact) {
    const auto file = std::find_if(artifact.files().begin(), artifact.files().end(),
                                   [&](const v1::FileInfo& info) { return info.name() == request_.file(); });
    if (file == artifact.files().end()) {
      return Respond(ErrorAnswer(WithField(NotFound("ARTIFACT_FILE_NOT_FOUND", "artifact {} has no file '{}'",
                                                    artifact.name(), request_.file().substr(0, 200)),
                                           "file")));
    }
    const HttpRequestHead& head = exchange_->head();
    const auto size = static_cast<uint64_t>(file->size_bytes());
    const std::string etag = ETagOfValue(file->sha256());
    DescribeFile(*file, etag);
    if (NamesETag(head.field("If-None-Match"), etag)) {
      answer_.status = 304;
      return exchange_->Respond(std::move(answer_), "");
    }
    end_ = size;
    RangeKind kind = RangeKind::kWhole;
    if (ByteRange range; head.method == "GET" && RangeStands(head.field("If-Range"), etag)) {
      kind = ParseRange(head.field("Range"), size, &range);
      if (kind == RangeKind::kUnsatisfiable) return RefuseRange(size);
      if (kind == RangeKind::kPart) {
        answer_.status = 206;
        answer_.fields.emplace_back("Content-Range", fmt::format("bytes {}-{}/{}", range.begin, range.end - 1, size));
        at_ = range.begin;
        end_ = range.end;
      }
    }
    if (head.method == "HEAD" || at_ == end_) {
      exchange_->Begin(std::move(answer_), static_cast<int64_t>(end_ - at_));
      return exchange_->End();
    }
    request_.set_offset(static_cast<int64_t>(at_));
    request_.set_limit(static_cast<int64_t>(end_ - at_));
    stream_ = calls_->ServerStream(ArtifactMethod("DownloadFile"), request_, metadata_);
    Keep(stream_);
    ReadNext();
  }

  void DescribeFile(const v1::FileInfo& file, const std::string& etag) {
    answer_.fields = {
        {"Content-Type", std::string(ContentTypeOf(file.name()))},
        {"ETag", etag},
        {"Accept-Ranges", "bytes"},
        // Of this name and digest there is no other content, but there are keys.
        {"Cache-Control", "private, max-age=31536000, immutable"},
        {"X-Content-Type-Options", "nosniff"},
        // Pages out of an artifact run no scripts and load nothing.
        {"Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"}};
    if (!IsPlainName(file.name())) return;
    const bool page = EndsWith(file.name(), ".html");
    answer_.fields.emplace_back("Content-Disposition",
                                fmt::format("{}; filename=\"{}\"", page ? "inline" : "attachment", file.name()));
  }

  void RefuseRange(uint64_t size) {
    const std::string_view range = exchange_->head().field("Range");
    Answer answer = ErrorAnswer(WithHttpStatus(
        WithField(OutOfRange("RANGE", "Range is '{}'; the file has {} bytes", range.substr(0, 80), size), "Range"),
        416));
    answer.head.fields.emplace_back("Content-Range", fmt::format("bytes */{}", size));
    Respond(std::move(answer));
  }

  void ReadNext() {
    stream_->Read([self = shared_from_this()](MessagePtr message, const grpc::Status& status) {
      if (message == nullptr) return self->End(status);
      self->Send(std::move(*static_cast<v1::DownloadFileResponse&>(*message).mutable_data()));
    });
  }

  void Send(std::string data) {
    if (data.empty()) return ReadNext();
    if (data.size() > end_ - at_) return Cut();
    if (!std::exchange(begun_, true)) exchange_->Begin(std::move(answer_), static_cast<int64_t>(end_ - at_));
    at_ += data.size();
    exchange_->Write(std::move(data), [self = shared_from_this()](bool ok) {
      if (!ok) return self->Gone();
      self->ReadNext();
    });
  }

  void End(const grpc::Status& status) {
    if (!begun_ && !status.ok()) return Respond(ErrorAnswer(status));
    if (!status.ok() || at_ != end_) return Cut();
    exchange_->End();
  }

  // The client has been told a length that it will not get.
  void Cut() {
    stream_->Cancel();
    if (!begun_) {
      return Respond(ErrorAnswer(DataLoss("DOWNLOAD_SIZE", "file {} of {} is not as long as it should be",
                                          request_.file(), request_.artifact())));
    }
    exchange_->Abort();
  }

  void Respond(Answer answer) { exchange_->Respond(std::move(answer.head), std::move(answer.body)); }

  // To be cancelled with the client. The second one may be here before the first.
  void Keep(std::shared_ptr<LocalCall> call) {
    bool gone = false;
    {
      absl::MutexLock lock(&mutex_);
      gone = gone_;
      running_.push_back(call);
    }
    if (gone) call->Cancel();
  }

  void Gone() {
    std::vector<std::shared_ptr<LocalCall>> running;
    {
      absl::MutexLock lock(&mutex_);
      gone_ = true;
      running = running_;
    }
    for (const std::shared_ptr<LocalCall>& call : running) call->Cancel();
  }

  const std::shared_ptr<HttpExchange> exchange_;
  const std::shared_ptr<LocalCalls> calls_;
  const CallMetadata metadata_;
  v1::DownloadFileRequest request_;
  HttpAnswerHead answer_;
  std::shared_ptr<LocalStream> stream_;
  bool begun_ = false;
  uint64_t at_ = 0;  // of the next byte to send
  uint64_t end_ = 0;
  absl::Mutex mutex_;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::shared_ptr<LocalCall>> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

bool IsDownload(const HttpRoute& route) { return route.method == &ArtifactMethod("DownloadFile"); }

absl::Status AnswerDownload(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<LocalCalls> calls,
                            const google::protobuf::Message& request, const CallMetadata& metadata) {
  const auto& download = static_cast<const v1::DownloadFileRequest&>(request);
  if (download.offset() != 0 || download.limit() != 0) {
    return WithField(
        InvalidArgument("QUERY_PARAMETER", "offset and limit: over HTTP the header Range says which bytes"), "offset");
  }
  std::make_shared<DownloadAnswer>(std::move(exchange), std::move(calls), download, metadata)->Start();
  return absl::OkStatus();
}

}  // namespace qamserve::rest
