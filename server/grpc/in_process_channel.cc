#include "server/grpc/in_process_channel.h"

#include <absl/time/clock.h>
#include <absl/time/time.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/server_posix.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace qamserve {

absl::StatusOr<std::shared_ptr<grpc::Channel>> ConnectInProcess(grpc::Server& server) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) != 0) {
    return Unavailable("IN_PROCESS_CHANNEL", "no pair of sockets: {}", std::strerror(errno));
  }
  grpc::AddInsecureChannelFromFd(&server, ends[0]);
  grpc::ChannelArguments arguments;
  // What a service answers with may be as large as it is: nothing is received from elsewhere here.
  arguments.SetMaxReceiveMessageSize(-1);
  return grpc::CreateCustomInsecureChannelFromFd("in-process", ends[1], arguments);
}

void ReleaseInProcess(std::vector<std::shared_ptr<grpc::Channel>> channels) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  const auto held = [](const std::shared_ptr<grpc::Channel>& channel) {
    return channel != nullptr && channel.use_count() > 1;
  };
  while (std::any_of(channels.begin(), channels.end(), held) && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(1));
  }
}

// Sockets that gRPC was given are called by their number. The others have a scheme: "ipv4:", "ipv6:", "unix:".
bool IsInProcessPeer(std::string_view peer) { return peer.substr(0, 3) == "fd:"; }

}  // namespace qamserve
