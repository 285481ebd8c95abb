// What one generation that has ended tells the log and its trace: numbers and names, no text.
#pragma once

#include <string>
#include <string_view>

#include "core/engine/engine.h"
#include "server/grpc/call.h"

namespace qamserve {

// A span below the call's, with events where the sequence got its place and its first token, and a line of the log at
// level debug. `outcome` as in qamserve_requests_total. Called right when it has ended.
void TellGeneration(ServiceContext& context, const CallGuard& guard, const std::string& model, std::string_view outcome,
                    const GenerationSummary& summary);

}  // namespace qamserve
