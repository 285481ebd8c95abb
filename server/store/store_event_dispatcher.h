// Tells a store's events to its listeners, on a thread of its own, in order and without locks. The databases own one
// each. Thread-safe. Internal to server/store.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "server/store/metadata_store.h"

namespace qamserve {

class StoreEventDispatcher {
 public:
  StoreEventDispatcher();
  // Waits for a running call; what has not been told by then is dropped. Handles may outlive it.
  ~StoreEventDispatcher();
  StoreEventDispatcher(const StoreEventDispatcher&) = delete;
  StoreEventDispatcher& operator=(const StoreEventDispatcher&) = delete;

  // See MetadataStore::Listen. A listener may drop its own handle, which then does not wait.
  std::shared_ptr<void> Listen(std::function<void(const StoreEvent&)> on_event);
  // Returns at once. An event that waits to be told already is told once; when very many wait, they become one kMissed.
  void Post(const std::vector<StoreEvent>& events);

 private:
  struct State;
  class Handle;
  const std::shared_ptr<State> state_;
};

}  // namespace qamserve
