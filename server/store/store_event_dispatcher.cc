#include "server/store/store_event_dispatcher.h"

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <utility>

namespace qamserve {
namespace {

// A listener that is this far behind has to look at everything anyway.
constexpr size_t kMaxWaiting = 1'000;

}  // namespace

struct StoreEventDispatcher::State {
  using EventKey = std::pair<StoreEvent::Kind, std::string>;
  using OnEvent = std::function<void(const StoreEvent&)>;

  absl::Mutex mutex;
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  std::deque<StoreEvent> waiting ABSL_GUARDED_BY(mutex);
  std::set<EventKey> waiting_keys ABSL_GUARDED_BY(mutex);
  uint64_t next_id ABSL_GUARDED_BY(mutex) = 1;
  std::map<uint64_t, std::shared_ptr<OnEvent>> listeners ABSL_GUARDED_BY(mutex);
  uint64_t called ABSL_GUARDED_BY(mutex) = 0;  // the listener that is being called, or 0
  std::thread thread ABSL_GUARDED_BY(mutex);   // started with the first listener
  std::thread::id thread_id ABSL_GUARDED_BY(mutex);

  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return stopping || !waiting.empty(); }
  void Loop();
  void Tell(const StoreEvent& event);
  void Remove(uint64_t id);
};

void StoreEventDispatcher::State::Loop() {
  while (true) {
    StoreEvent event;
    {
      absl::MutexLock lock(&mutex);
      mutex.Await(absl::Condition(this, &State::HasWork));
      if (stopping) return;
      event = std::move(waiting.front());
      waiting.pop_front();
      waiting_keys.erase({event.kind, event.id});
    }
    Tell(event);
  }
}

void StoreEventDispatcher::State::Tell(const StoreEvent& event) {
  uint64_t last = 0;
  while (true) {
    std::shared_ptr<OnEvent> listener;
    {
      absl::MutexLock lock(&mutex);
      const auto it = listeners.upper_bound(last);
      if (stopping || it == listeners.end()) return;
      last = called = it->first;
      listener = it->second;
    }
    (*listener)(event);
    absl::MutexLock lock(&mutex);
    called = 0;
  }
}

void StoreEventDispatcher::State::Remove(uint64_t id) {
  absl::MutexLock lock(&mutex);
  listeners.erase(id);
  if (std::this_thread::get_id() == thread_id) return;
  const auto is_idle = [this, id]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) { return called != id; };
  mutex.Await(absl::Condition(&is_idle));
}

// What Listen returns.
class StoreEventDispatcher::Handle {
 public:
  Handle(std::shared_ptr<State> state, uint64_t id) : state_(std::move(state)), id_(id) {}
  ~Handle() { state_->Remove(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

 private:
  const std::shared_ptr<State> state_;
  const uint64_t id_;
};

StoreEventDispatcher::StoreEventDispatcher() : state_(std::make_shared<State>()) {}

StoreEventDispatcher::~StoreEventDispatcher() {
  std::thread thread;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stopping = true;
    thread = std::move(state_->thread);
  }
  if (thread.joinable()) thread.join();
}

std::shared_ptr<void> StoreEventDispatcher::Listen(std::function<void(const StoreEvent&)> on_event) {
  absl::MutexLock lock(&state_->mutex);
  const uint64_t id = state_->next_id++;
  state_->listeners[id] = std::make_shared<State::OnEvent>(std::move(on_event));
  if (!state_->thread.joinable()) {
    // The thread ends before the state does: the dispatcher joins it.
    state_->thread = std::thread([state = state_.get()] { state->Loop(); });
    state_->thread_id = state_->thread.get_id();
  }
  return std::make_shared<Handle>(state_, id);
}

void StoreEventDispatcher::Post(const std::vector<StoreEvent>& events) {
  absl::MutexLock lock(&state_->mutex);
  if (state_->listeners.empty()) return;
  for (const StoreEvent& event : events) {
    if (state_->waiting_keys.emplace(event.kind, event.id).second) state_->waiting.push_back(event);
  }
  if (state_->waiting.size() <= kMaxWaiting) return;
  state_->waiting.assign(1, StoreEvent{});
  state_->waiting_keys = {{StoreEvent::Kind::kMissed, ""}};
}

}  // namespace qamserve
