#include "server/grpc/relay.h"

#include <algorithm>
#include <array>
#include <utility>

#include "server/grpc/converters.h"

namespace qamserve {
namespace {

constexpr absl::Duration kNewsLimit = absl::Milliseconds(500);

// Reasons of ours besides UNAVAILABLE that another replica may not have.
constexpr std::array<std::string_view, 3> kElsewhere = {"QUEUE_FULL", "SERVER_BUSY", "MODEL_NOT_FOUND"};

}  // namespace

RouteName RouteNameOf(std::string_view field) {
  const std::string_view model = WithoutCollection(kServedModels, field);
  if (model.size() != field.size()) return {NameKind::kModel, std::string(model)};
  const std::string_view alias = WithoutCollection(kAliases, field);
  if (alias.size() != field.size()) return {NameKind::kAlias, std::string(alias)};
  return {NameKind::kAny, std::string(field)};
}

bool IsLost(const grpc::Status& status) {
  if (!status.error_details().empty()) return false;
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
      return true;
    default:
      return false;
  }
}

bool MayTryAnother(const grpc::Status& status) {
  if (IsLost(status) || status.error_code() == grpc::StatusCode::UNAVAILABLE) return true;
  return std::find(kElsewhere.begin(), kElsewhere.end(), GrpcReasonOf(status)) != kElsewhere.end();
}

grpc::Status ToCaller(const grpc::Status& status, std::string_view model) {
  if (status.ok() || !status.error_details().empty()) return status;
  if (IsLost(status)) {
    return ToGrpcStatus(Unavailable(
        "REPLICA_LOST", "the replica of \"{}\" that answered went away or could not be reached; try again", model));
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return ToGrpcStatus(
        MakeError(absl::StatusCode::kDeadlineExceeded, "DEADLINE", "the deadline of the call has passed"));
  }
  return ToGrpcStatus(FromGrpcStatus(status));
}

absl::StatusOr<Route> RelayAttempts::Next(const RouteName& name) {
  absl::StatusOr<Route> route = context_.fleet->router.Choose(name, tried_);
  if (route.ok()) ++count_;
  return route;
}

absl::StatusOr<PairRoute> RelayAttempts::NextPair(const RouteName& base, const RouteName& other) {
  absl::StatusOr<PairRoute> route = context_.fleet->router.ChoosePair(base, other, tried_);
  if (route.ok()) ++count_;
  return route;
}

void RelayAttempts::WaitForNews() { context_.fleet->router.AwaitRefresh(kNewsLimit); }

std::shared_ptr<grpc::Channel> RelayAttempts::ChannelTo(const Route& route) const {
  if (route.instance() == context_.fleet->instance) return own_channel_();
  return context_.fleet->channels.Get(route.address());
}

bool RelayAttempts::Again(const Route& route, const grpc::Status& status) {
  if (IsLost(status)) context_.fleet->router.NoteFailure(route.instance());
  tried_.insert(route.instance());
  const std::string reason = GrpcReasonOf(status);
  moved_ = moved_ || reason == "MODEL_NOT_READY" || reason == "MODEL_NOT_FOUND";
  return count_ < kMaxRelayAttempts && MayTryAnother(status);
}

}  // namespace qamserve
