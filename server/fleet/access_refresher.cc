#include "server/fleet/access_refresher.h"

#include <utility>

namespace qamserve {

AccessRefresher::AccessRefresher(AccessControl& access, MetadataStore& store, absl::Duration interval,
                                 std::function<void(const absl::Status&)> on_error)
    : access_(access), on_error_(std::move(on_error)), ticker_(interval, [this] { Refresh(); }) {
  ticker_.Start();
  listening_ = store.Listen([this](const StoreEvent& event) {
    if (event.kind == StoreEvent::Kind::kAccess || event.kind == StoreEvent::Kind::kMissed) ticker_.Wake();
  });
}

AccessRefresher::~AccessRefresher() {
  listening_ = nullptr;
  ticker_.Stop();
}

void AccessRefresher::Refresh() {
  const absl::Status status = access_.Refresh();
  if (!status.ok() && status != last_ && on_error_) on_error_(status);
  last_ = status;
}

}  // namespace qamserve
