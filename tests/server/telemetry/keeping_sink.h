// Spans as tests look at them.
#pragma once

#include <utility>
#include <vector>

#include "server/telemetry/trace.h"

namespace qamserve {

// A traceparent as a caller sends it.
inline constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

class KeepingSink final : public SpanSink {
 public:
  void Take(SpanRecord span) override { spans.push_back(std::move(span)); }
  std::vector<SpanRecord> spans;
};

}  // namespace qamserve
