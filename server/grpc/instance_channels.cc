#include "server/grpc/instance_channels.h"

#include <utility>

namespace qamserve {
namespace {

// RpcServer takes 1024 streams a connection.
constexpr size_t kChannelsPerInstance = 2;
// A machine that has vanished without a word is noticed within this and the next, while calls run. RpcServer allows it.
constexpr int kKeepaliveMs = 10'000;
constexpr int kKeepaliveTimeoutMs = 5'000;
constexpr int kMinReconnectMs = 100;
constexpr int kMaxReconnectMs = 3'000;

std::shared_ptr<grpc::ChannelCredentials> CredentialsOf(const InstanceChannelOptions& options) {
  if (options.tls == nullptr) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = options.ca_pem;
  const std::shared_ptr<const TlsPem> pem = options.tls->current();
  if (!pem->client_ca_pem.empty()) {
    ssl.pem_private_key = pem->key_pem;
    ssl.pem_cert_chain = pem->certificate_pem;
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace

std::shared_ptr<grpc::Channel> InstanceChannels::Make(const std::string& address) const {
  grpc::ChannelArguments arguments;
  // What a service answers with may be as large as it is: its limits are the replica's.
  arguments.SetMaxReceiveMessageSize(-1);
  // Its own connection, not one that it shares with the other channels to this address.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kMinReconnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kMinReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kMaxReconnectMs);
  return grpc::CreateCustomChannel(address, CredentialsOf(options_), arguments);
}

std::shared_ptr<grpc::Channel> InstanceChannels::Get(const std::string& address) {
  absl::MutexLock lock(&mutex_);
  Channels& known = channels_[address];
  if (known.channels.size() < kChannelsPerInstance) return known.channels.emplace_back(Make(address));
  return known.channels[known.next++ % known.channels.size()];
}

void InstanceChannels::Keep(const std::set<std::string>& addresses) {
  std::vector<Channels> gone;  // freed after the lock
  absl::MutexLock lock(&mutex_);
  for (auto it = channels_.begin(); it != channels_.end();) {
    if (addresses.contains(it->first)) {
      ++it;
      continue;
    }
    gone.push_back(std::move(it->second));
    it = channels_.erase(it);
  }
}

void InstanceChannels::Reset() { Keep({}); }

}  // namespace qamserve
