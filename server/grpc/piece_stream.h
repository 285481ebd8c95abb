// A file or the like that is sent a piece a message: the next is read when gRPC has taken the last, so one piece of it
// is in memory at a time.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <utility>

#include "server/grpc/call.h"
#include "server/grpc/service_context.h"

namespace qamserve {

// Large enough that the cost of a message does not count, small enough that many streams fit into memory.
inline constexpr uint64_t kPieceBytes = uint64_t{256} << 10;

// At any time either gRPC writes or a task on an executor works, never both, so no lock is needed. Deletes itself.
template <typename Message>
class PieceStream : public grpc::ServerWriteReactor<Message> {
 public:
  void OnWriteDone(bool ok) final {
    if (!ok) return End(Cancelled("CANCELLED", "the reader is gone"));
    Next(context_.quick, [this] { Send(); });
  }
  void OnDone() final { delete this; }

 protected:
  PieceStream(ServiceContext& context, const grpc::CallbackServerContext& call, CallName name)
      : context_(context), guard_(context, call, name) {}

  // Begins and sends the first piece, on `executor`, unless the call is refused. The last thing that a constructor
  // does.
  void Start(Executor& executor) {
    if (!guard_.admitted().ok()) return End(guard_.admitted());
    Next(executor, [this] {
      const absl::Status status = Begin();
      if (!status.ok()) return End(status);
      Send();
    });
  }

  virtual absl::Status Begin() = 0;
  // One of SendMessage, End and, for what takes longer, Next.
  virtual void Send() = 0;

  void SendMessage() { this->StartWrite(&message_); }
  void End(const absl::Status& status) {
    guard_.Finished(status);
    this->Finish(ToGrpcStatus(status));
  }
  template <typename Task>
  void Next(Executor& executor, Task task) {
    const absl::Status queued = executor.RunNext(std::move(task));
    if (!queued.ok()) End(queued);
  }

  ServiceContext& context_;
  Message message_;

 private:
  CallGuard guard_;
};

}  // namespace qamserve
