// Connections to the other processes of a fleet, made when they are needed and kept until their instance is gone.
// Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "server/access/tls_files.h"

namespace qamserve {

struct InstanceChannelOptions {
  // Null: nothing is encrypted. Else the others have certificates, which name the host of their address, and are shown
  // the one in here if it has a client CA: then they ask for it. Outlives the channels.
  const TlsFiles* tls = nullptr;
  std::string ca_pem;  // of the others' certificates; empty = the roots of the system
};

class InstanceChannels {
 public:
  explicit InstanceChannels(InstanceChannelOptions options) : options_(std::move(options)) {}

  // To HOST:PORT. Calls take turns over a few connections, since each has a limit of streams.
  std::shared_ptr<grpc::Channel> Get(const std::string& address);
  // Lets go of all others. Calls that are under way go on.
  void Keep(const std::set<std::string>& addresses);
  // Lets go of all: what comes next is made with the certificates that there are now.
  void Reset();

 private:
  struct Channels {
    std::vector<std::shared_ptr<grpc::Channel>> channels;
    size_t next = 0;
  };

  std::shared_ptr<grpc::Channel> Make(const std::string& address) const;

  const InstanceChannelOptions options_;
  absl::Mutex mutex_;
  std::map<std::string, Channels> channels_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve
