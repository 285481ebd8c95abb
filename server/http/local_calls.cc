#include "server/http/local_calls.h"

#include <absl/base/thread_annotations.h>
#include <absl/strings/numbers.h>
#include <absl/synchronization/mutex.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/proto_buffer_writer.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <utility>

namespace qamserve {
namespace {

using google::protobuf::Message;
using google::protobuf::MethodDescriptor;
using MessageDone = std::function<void(std::unique_ptr<Message>, grpc::Status)>;

// gRPC ends the process over a value that is not printable ASCII.
std::string Printable(std::string text) {
  for (char& c : text) {
    if (c < 0x20 || c > 0x7E) c = '?';
  }
  return text;
}

void Prepare(grpc::ClientContext& context, const CallMetadata& metadata) {
  if (!metadata.authorization.empty()) context.AddMetadata("authorization", Printable(metadata.authorization));
  if (!metadata.traceparent.empty()) context.AddMetadata("traceparent", Printable(metadata.traceparent));
  if (!metadata.request_id.empty()) context.AddMetadata("x-request-id", Printable(metadata.request_id));
  if (!metadata.peer.empty()) context.AddMetadata("x-qamserve-peer", Printable(metadata.peer));
  if (metadata.timeout_seconds <= 0) return;
  const auto timeout = std::chrono::duration<double>(std::min(metadata.timeout_seconds, kMaxTimeoutSeconds));
  context.set_deadline(std::chrono::system_clock::now() +
                       std::chrono::duration_cast<std::chrono::system_clock::duration>(timeout));
}

std::string PathOf(const MethodDescriptor& method) {
  return fmt::format("/{}/{}", method.service()->full_name(), method.name());
}

const Message& AnswerPrototype(const MethodDescriptor& method) {
  return *google::protobuf::MessageFactory::generated_factory()->GetPrototype(method.output_type());
}

// False, and an empty buffer, if the message is too large for any (2 GiB).
bool Pack(const Message& message, grpc::ByteBuffer* buffer) {
  buffer->Clear();
  const size_t bytes = message.ByteSizeLong();
  const bool fits = bytes <= std::numeric_limits<int>::max();
  if (bytes > 0 && fits) {
    grpc::ProtoBufferWriter writer(buffer, grpc::kProtoBufferWriterMaxBufferLength, static_cast<int>(bytes));
    if (message.SerializeToZeroCopyStream(&writer)) return true;
  }
  const grpc::Slice empty;
  *buffer = grpc::ByteBuffer(&empty, 1);
  return fits;
}

grpc::Status TooLarge() {
  return {grpc::StatusCode::RESOURCE_EXHAUSTED, "the request is larger than any message may be"};
}

// Null if the bytes are not such a message.
std::unique_ptr<Message> Unpack(const Message& prototype, grpc::ByteBuffer* buffer) {
  grpc::ProtoBufferReader reader(buffer);
  if (!reader.status().ok()) return nullptr;
  std::unique_ptr<Message> message(prototype.New());
  return message->ParseFromZeroCopyStream(&reader) ? std::move(message) : nullptr;
}

grpc::Status NotAMessage(const Message& prototype) {
  return {grpc::StatusCode::INTERNAL, fmt::format("the answer is not a {}", prototype.GetDescriptor()->full_name())};
}

struct UnaryState {
  grpc::ClientContext context;
  grpc::ByteBuffer request;
  grpc::ByteBuffer response;
};

class UnaryCall final : public LocalCall {
 public:
  explicit UnaryCall(std::shared_ptr<UnaryState> state) : state_(std::move(state)) {}
  ~UnaryCall() override { state_->context.TryCancel(); }
  void Cancel() override { state_->context.TryCancel(); }

 private:
  const std::shared_ptr<UnaryState> state_;
};

// What both kinds of streams share. gRPC keeps a reactor alive through `self_` until OnDone; a hold keeps the call open
// for Start... calls from outside of its reactions, until nobody can make one any more.
class Reactor : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Reactor(const MethodDescriptor& method, const CallMetadata& metadata)
      : path_(PathOf(method)), prototype_(AnswerPrototype(method)) {
    Prepare(context_, metadata);
  }
  void Cancel() { context_.TryCancel(); }

 protected:
  void Connect(grpc::GenericStub& stub, std::shared_ptr<Reactor> self) {
    self_ = std::move(self);
    stub.PrepareBidiStreamingCall(&context_, path_, grpc::StubOptions(), this);
    AddHold();
  }
  // After RemoveHold this may be gone.
  void Release() {
    {
      absl::MutexLock lock(&mutex_);
      if (!std::exchange(held_, false)) return;
    }
    RemoveHold();
  }

  const std::string path_;
  const Message& prototype_;
  grpc::ClientContext context_;
  std::shared_ptr<Reactor> self_;
  absl::Mutex mutex_;
  bool held_ ABSL_GUARDED_BY(mutex_) = true;
};

class StreamReactor final : public Reactor {
 public:
  using Reactor::Reactor;

  void Start(grpc::GenericStub& stub, std::shared_ptr<Reactor> self, const Message& request) {
    Connect(stub, std::move(self));
    if (!Pack(request, &request_)) {
      broken_ = TooLarge();
      context_.TryCancel();
    }
    StartWriteLast(&request_, grpc::WriteOptions());
    StartCall();
  }

  void Read(MessageDone next) {
    {
      absl::MutexLock lock(&mutex_);
      next_ = std::move(next);
      reading_ = held_;
      if (!held_) return;  // a Read too many: OnDone answers it, if it is still to come
    }
    StartRead(&response_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Release();  // OnDone tells why
    std::unique_ptr<Message> message = Unpack(prototype_, &response_);
    if (message == nullptr) {
      broken_ = NotAMessage(prototype_);
      context_.TryCancel();
      return Release();
    }
    MessageDone next;
    {
      absl::MutexLock lock(&mutex_);
      next = std::exchange(next_, nullptr);
      reading_ = false;
    }
    next(std::move(message), grpc::Status::OK);
    ReleaseIfUnused();
  }

  void OnDone(const grpc::Status& status) override {
    MessageDone next;
    {
      absl::MutexLock lock(&mutex_);
      next = std::exchange(next_, nullptr);
    }
    if (next) next(nullptr, broken_.ok() ? status : broken_);
    const std::shared_ptr<Reactor> self = std::move(self_);
  }

  // Nobody will call Read any more.
  void Drop() {
    context_.TryCancel();
    {
      absl::MutexLock lock(&mutex_);
      dropped_ = true;
    }
    ReleaseIfUnused();
  }

 private:
  void ReleaseIfUnused() {
    {
      absl::MutexLock lock(&mutex_);
      if (!dropped_ || reading_) return;
    }
    Release();
  }

  grpc::ByteBuffer request_;
  grpc::ByteBuffer response_;  // of the read that is under way
  grpc::Status broken_;        // written before the reactions that read it
  MessageDone next_ ABSL_GUARDED_BY(mutex_);
  bool reading_ ABSL_GUARDED_BY(mutex_) = false;
  bool dropped_ ABSL_GUARDED_BY(mutex_) = false;
};

class StreamCall final : public LocalStream {
 public:
  explicit StreamCall(std::shared_ptr<StreamReactor> reactor) : reactor_(std::move(reactor)) {}
  ~StreamCall() override { reactor_->Drop(); }
  void Cancel() override { reactor_->Cancel(); }
  void Read(MessageDone next) override { reactor_->Read(std::move(next)); }

 private:
  const std::shared_ptr<StreamReactor> reactor_;
};

class UploadReactor final : public Reactor {
 public:
  using Reactor::Reactor;

  void Start(grpc::GenericStub& stub, std::shared_ptr<Reactor> self) {
    Connect(stub, std::move(self));
    StartRead(&response_);
    StartCall();
  }

  void Write(const Message& message, std::function<void(bool)> written) {
    if (!Pack(message, &request_)) context_.TryCancel();  // the write fails then
    {
      absl::MutexLock lock(&mutex_);
      written_ = std::move(written);
    }
    StartWrite(&request_);
  }

  void OnWriteDone(bool ok) override {
    std::function<void(bool)> written;
    {
      absl::MutexLock lock(&mutex_);
      written = std::exchange(written_, nullptr);
      ended_ = ended_ || !ok;
    }
    written(ok);
  }

  void Finish(MessageDone done) {
    bool ended = false;
    {
      absl::MutexLock lock(&mutex_);
      done_ = std::move(done);
      ended = ended_;
    }
    if (!ended) StartWritesDone();
    Release();
  }

  void OnReadDone(bool ok) override { answered_ = ok; }

  void OnDone(const grpc::Status& status) override {
    MessageDone done;
    {
      absl::MutexLock lock(&mutex_);
      done = std::exchange(done_, nullptr);
    }
    if (done && !status.ok()) {
      done(nullptr, status);
    } else if (done) {
      std::unique_ptr<Message> message = answered_ ? Unpack(prototype_, &response_) : nullptr;
      const grpc::Status parsed = message != nullptr ? grpc::Status::OK : NotAMessage(prototype_);
      done(std::move(message), parsed);
    }
    const std::shared_ptr<Reactor> self = std::move(self_);
  }

  // Nobody will call anything any more.
  void Drop() {
    context_.TryCancel();
    Release();
  }

 private:
  grpc::ByteBuffer request_;  // of the write that is under way
  grpc::ByteBuffer response_;
  bool answered_ = false;  // written before OnDone, which reads it
  std::function<void(bool)> written_ ABSL_GUARDED_BY(mutex_);
  MessageDone done_ ABSL_GUARDED_BY(mutex_);
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

class UploadCall final : public LocalUpload {
 public:
  explicit UploadCall(std::shared_ptr<UploadReactor> reactor) : reactor_(std::move(reactor)) {}
  ~UploadCall() override { reactor_->Drop(); }
  void Cancel() override { reactor_->Cancel(); }
  void Write(const Message& message, std::function<void(bool)> written) override {
    reactor_->Write(message, std::move(written));
  }
  void Finish(MessageDone done) override { reactor_->Finish(std::move(done)); }

 private:
  const std::shared_ptr<UploadReactor> reactor_;
};

}  // namespace

absl::StatusOr<CallMetadata> CallMetadataOf(const HttpRequestHead& head) {
  for (const std::string_view name : {"authorization", "x-api-key", "traceparent", "x-request-id"}) {
    if (head.field(name).size() <= kMaxMetadataBytes) continue;
    return InvalidArgument("HTTP_HEADER_SIZE", "{} has {} bytes; the limit is {}", name, head.field(name).size(),
                           kMaxMetadataBytes);
  }
  CallMetadata metadata;
  metadata.authorization = head.field("authorization");
  if (const std::string_view key = head.field("x-api-key"); metadata.authorization.empty() && !key.empty()) {
    metadata.authorization = fmt::format("Bearer {}", key);
  }
  metadata.traceparent = head.field("traceparent");
  metadata.request_id = head.field("x-request-id");
  metadata.peer = head.peer;
  const std::string_view timeout = head.field("x-request-timeout");
  if (timeout.empty()) return metadata;
  double seconds = 0;
  if (!absl::SimpleAtod(absl::string_view(timeout.data(), timeout.size()), &seconds) || !(seconds > 0) ||
      seconds > kMaxTimeoutSeconds) {
    return InvalidArgument("HTTP_TIMEOUT", "x-request-timeout is '{}'; it must be seconds, above 0 and at most {}",
                           timeout.substr(0, 40), kMaxTimeoutSeconds);
  }
  metadata.timeout_seconds = seconds;
  return metadata;
}

struct LocalCalls::Impl {
  grpc::GenericStub& Next() { return stubs[next++ % stubs.size()]; }

  std::vector<grpc::GenericStub> stubs;  // const after construction
  std::atomic<size_t> next{0};
};

LocalCalls::LocalCalls(std::shared_ptr<grpc::Channel> channel)
    : LocalCalls(std::vector<std::shared_ptr<grpc::Channel>>{std::move(channel)}) {}

LocalCalls::LocalCalls(const std::vector<std::shared_ptr<grpc::Channel>>& channels) : impl_(std::make_unique<Impl>()) {
  impl_->stubs.reserve(channels.size());
  for (const std::shared_ptr<grpc::Channel>& channel : channels) impl_->stubs.emplace_back(channel);
}

LocalCalls::~LocalCalls() = default;

std::shared_ptr<LocalCall> LocalCalls::Unary(const MethodDescriptor& method, const Message& request,
                                             const CallMetadata& metadata, MessageDone done) {
  auto state = std::make_shared<UnaryState>();
  Prepare(state->context, metadata);
  const bool packed = Pack(request, &state->request);
  if (!packed) state->context.TryCancel();
  impl_->Next().UnaryCall(
      &state->context, PathOf(method), grpc::StubOptions(), &state->request, &state->response,
      [state, packed, prototype = &AnswerPrototype(method), done = std::move(done)](const grpc::Status& status) {
        if (!packed) return done(nullptr, TooLarge());
        if (!status.ok()) return done(nullptr, status);
        std::unique_ptr<Message> message = Unpack(*prototype, &state->response);
        const grpc::Status parsed = message != nullptr ? grpc::Status::OK : NotAMessage(*prototype);
        done(std::move(message), parsed);
      });
  return std::make_shared<UnaryCall>(std::move(state));
}

std::shared_ptr<LocalStream> LocalCalls::ServerStream(const MethodDescriptor& method, const Message& request,
                                                      const CallMetadata& metadata) {
  auto reactor = std::make_shared<StreamReactor>(method, metadata);
  reactor->Start(impl_->Next(), reactor, request);
  return std::make_shared<StreamCall>(std::move(reactor));
}

std::shared_ptr<LocalUpload> LocalCalls::ClientStream(const MethodDescriptor& method, const CallMetadata& metadata) {
  auto reactor = std::make_shared<UploadReactor>(method, metadata);
  reactor->Start(impl_->Next(), reactor);
  return std::make_shared<UploadCall>(std::move(reactor));
}

}  // namespace qamserve
