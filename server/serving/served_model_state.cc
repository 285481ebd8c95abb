#include "server/serving/served_model_state.h"

#include <optional>

namespace qamserve {
namespace {

using State = ServedModelState;
using Event = ServedModelEvent;

std::optional<State> Next(State state, Event event) {
  switch (event) {
    case Event::kReady:
      if (state == State::kLoading) return State::kReady;
      break;
    case Event::kDrain:
      if (state == State::kReady) return State::kDraining;
      break;
    case Event::kUnload:
      if (state == State::kDraining || state == State::kFailed) return State::kUnloaded;
      break;
    case Event::kFail:
      if (state == State::kLoading || state == State::kReady || state == State::kDraining) return State::kFailed;
      break;
  }
  return std::nullopt;
}

}  // namespace

const char* ServedModelStateName(ServedModelState state) {
  switch (state) {
    case State::kLoading: return "LOADING";
    case State::kReady: return "READY";
    case State::kDraining: return "DRAINING";
    case State::kUnloaded: return "UNLOADED";
    case State::kFailed: return "FAILED";
  }
  return "";
}

const char* ServedModelEventName(ServedModelEvent event) {
  switch (event) {
    case Event::kReady: return "ready";
    case Event::kDrain: return "drain";
    case Event::kUnload: return "unload";
    case Event::kFail: return "fail";
  }
  return "";
}

absl::Status ServedModelMachine::Apply(ServedModelEvent event, int64_t now_ms, const absl::Status& error) {
  const std::optional<State> next = Next(state_, event);
  if (!next) {
    return FailedPrecondition("MODEL_STATE", "a served model that is {} cannot {}", ServedModelStateName(state_),
                              ServedModelEventName(event));
  }
  state_ = *next;
  error_ = *next == State::kFailed ? error : absl::OkStatus();
  if (*next == State::kReady) ready_ms_ = now_ms;
  return absl::OkStatus();
}

}  // namespace qamserve
