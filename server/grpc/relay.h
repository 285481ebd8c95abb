// What the forwarded calls of a fleet share: where a request may go next, and what becomes of a replica's error.
// Internal to server/grpc.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "server/fleet/router.h"
#include "server/grpc/call.h"

namespace qamserve {

// The first replica and two others.
inline constexpr int kMaxRelayAttempts = 3;

// "m", "servedModels/m" or "aliases/a" as a request names it.
RouteName RouteNameOf(std::string_view field);

// Whether another replica may take a request that one has not begun to answer: it could not be reached, or has no place
// for it, or does not have the model any more.
bool MayTryAnother(const grpc::Status& status);
// Whether it was the connection, or the process at its other end, and not an answer of ours.
bool IsLost(const grpc::Status& status);
// What the caller is told: an answer of ours as it is; what gRPC itself says with a reason, without addresses. `model`
// names what was asked.
grpc::Status ToCaller(const grpc::Status& status, std::string_view model);

// The tries of one call. Not thread-safe.
class RelayAttempts {
 public:
  RelayAttempts(ServiceContext& context, std::function<std::shared_ptr<grpc::Channel>()> own_channel)
      : context_(context), own_channel_(std::move(own_channel)) {}

  // A replica for `name`, counted as asked, from what the router knows: quick. The errors of Router.
  absl::StatusOr<Route> Next(const RouteName& name);
  absl::StatusOr<PairRoute> NextPair(const RouteName& base, const RouteName& other);
  std::shared_ptr<grpc::Channel> ChannelTo(const Route& route) const;
  // After a try that ended with `status` before any answer: whether another one makes sense.
  bool Again(const Route& route, const grpc::Status& status);
  // Whether it is worth waiting for news, once: no replica has been asked yet, and a model may have been loaded through
  // another process a moment ago; or one that was asked has let the model go, and others may have taken it up since.
  bool MayWaitForNews() { return (count_ == 0 || moved_) && !std::exchange(waited_, true); }
  // Returns once the router has heard them. Blocks for half a second at most.
  void WaitForNews();

 private:
  ServiceContext& context_;
  const std::function<std::shared_ptr<grpc::Channel>()> own_channel_;
  std::set<std::string> tried_;  // instances
  int count_ = 0;
  bool moved_ = false;  // a replica did not have the model
  bool waited_ = false;
};

}  // namespace qamserve
