// The state machine of a served model. Start here for server/serving, then served_model.h and model_registry.h.
#pragma once

#include <cstdint>

#include "core/base/status.h"

namespace qamserve {

enum class ServedModelState { kLoading, kReady, kDraining, kUnloaded, kFailed };
const char* ServedModelStateName(ServedModelState state);  // "LOADING", ...

// What happens to a served model:
//
//   LOADING --ready--> READY --drain--> DRAINING --unload--> UNLOADED
//      |                 |                 |                    ^
//      '------fail-------+------fail-------+--> FAILED --unload-'
//
// Only READY takes requests. UNLOADED is for good: loading the name again makes a new served model.
enum class ServedModelEvent { kReady, kDrain, kUnload, kFail };
const char* ServedModelEventName(ServedModelEvent event);

// Not thread-safe.
class ServedModelMachine {
 public:
  ServedModelState state() const { return state_; }
  // Why it FAILED; OK in every other state.
  const absl::Status& error() const { return error_; }
  int64_t ready_ms() const { return ready_ms_; }  // 0 = not yet

  // The only place where the state changes. FAILED_PRECONDITION (MODEL_STATE) names state and event if the drawing has
  // no such arrow; nothing has changed then. `error` goes with kFail and must not be OK there.
  absl::Status Apply(ServedModelEvent event, int64_t now_ms, const absl::Status& error = absl::OkStatus());

 private:
  ServedModelState state_ = ServedModelState::kLoading;
  absl::Status error_;
  int64_t ready_ms_ = 0;
};

}  // namespace qamserve
