// W3C traces: what was done for a call, a job, a task or a generation, when, and as part of what. A process makes the
// ids of a span when it begins (Tracer::Begin), passes them on as a traceparent, and tells the whole span when it ends
// (Tracer::End). Attributes carry names, numbers and reasons; prompts, generated text and secrets never stand in them.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/base/status.h"

namespace qamserve {

using TraceId = std::array<uint8_t, 16>;
using SpanId = std::array<uint8_t, 8>;

struct TraceParent {
  TraceId trace_id{};
  SpanId span_id{};
  bool sampled = false;
};
// The header of https://www.w3.org/TR/trace-context: no value for one that is malformed or all zeros, which then counts
// as none. Later versions are read as far as version 00 goes.
std::optional<TraceParent> ParseTraceParent(std::string_view text);
std::string FormatTraceParent(const TraceParent& parent);
// Lower-case hex.
std::string HexOf(std::span<const uint8_t> bytes);

// Which span it is, from its beginning on.
struct SpanIds {
  TraceId trace_id{};
  SpanId span_id{};
  SpanId parent_id{};    // zeros: the first of its trace
  bool sampled = false;  // else it is not told
};

// As OTLP numbers them.
enum class SpanKind { kInternal = 1, kServer = 2, kClient = 3 };

struct SpanEvent {
  absl::Time time;
  std::string name;
};

using AttributeValue = std::variant<std::string, int64_t, double, bool>;

// A span that has ended.
struct SpanRecord {
  SpanIds ids;
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  absl::Time start;
  absl::Time end;
  std::vector<std::pair<std::string, AttributeValue>> attributes;
  std::vector<SpanEvent> events;
  std::string error;  // reason, if it ended badly
};

// Where ended spans go. Thread-safe; takes them without waiting.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  virtual void Take(SpanRecord span) = 0;
};

// Thread-safe.
class Tracer {
 public:
  // Off: nothing is sampled.
  Tracer() = default;
  // `ratio` (0..1) of the traces that begin here are sampled; of those that come with a traceparent it says itself. No
  // `sink`: off.
  Tracer(double ratio, std::shared_ptr<SpanSink> sink);

  bool enabled() const { return sink_ != nullptr; }
  // A span below `trace_parent`, or the first one of a new trace if that is none.
  SpanIds Begin(std::string_view trace_parent);
  // The same with an id that every process makes of `name` alike: for spans that several tell of, such as a job's.
  SpanIds BeginNamed(std::string_view trace_parent, std::string_view name);
  // Tells a span, if it is sampled.
  void End(SpanRecord span);
  // What to pass on from inside a span that began with `trace_parent`; that one itself if the tracer is off or the span
  // is not sampled, so that those before and behind this process still see one trace.
  std::string ParentFor(const SpanIds& ids, std::string_view trace_parent) const;

 private:
  uint64_t Random();
  void Fill(std::span<uint8_t> bytes);
  SpanIds BeginWith(std::string_view trace_parent, std::optional<std::string_view> name);

  const double ratio_ = 0;
  const std::shared_ptr<SpanSink> sink_;
  absl::Mutex mutex_;
  std::mt19937_64 random_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qamserve
