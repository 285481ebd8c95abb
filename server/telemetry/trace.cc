#include "server/telemetry/trace.h"

#include <algorithm>
#include <cmath>

#include "core/base/digest.h"

namespace qamserve {
namespace {

// version-trace-span-flags: 2, 32, 16 and 2 digits.
constexpr size_t kTraceParentBytes = 55;
constexpr size_t kTraceAt = 3;
constexpr size_t kSpanAt = 36;
constexpr size_t kFlagsAt = 53;
constexpr uint8_t kSampledFlag = 1;

// -1: not a lower-case hex digit.
int DigitOf(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool ParseHex(std::string_view text, std::span<uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    const int high = DigitOf(text[2 * i]), low = DigitOf(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<uint8_t>(high * 16 + low);
  }
  return true;
}

bool IsZero(std::span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

}  // namespace

std::string HexOf(std::span<const uint8_t> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(2 * bytes.size());
  for (const uint8_t byte : bytes) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::optional<TraceParent> ParseTraceParent(std::string_view text) {
  if (text.size() < kTraceParentBytes) return std::nullopt;
  std::array<uint8_t, 1> version{}, flags{};
  TraceParent parent;
  const bool dashes = text[kTraceAt - 1] == '-' && text[kSpanAt - 1] == '-' && text[kFlagsAt - 1] == '-';
  if (!dashes || !ParseHex(text, version) || !ParseHex(text.substr(kTraceAt), parent.trace_id) ||
      !ParseHex(text.substr(kSpanAt), parent.span_id) || !ParseHex(text.substr(kFlagsAt), flags)) {
    return std::nullopt;
  }
  if (version[0] == 0xff || IsZero(parent.trace_id) || IsZero(parent.span_id)) return std::nullopt;
  const bool longer = text.size() > kTraceParentBytes;
  if (longer && (version[0] == 0 || text[kTraceParentBytes] != '-')) return std::nullopt;
  parent.sampled = (flags[0] & kSampledFlag) != 0;
  return parent;
}

std::string FormatTraceParent(const TraceParent& parent) {
  return fmt::format("00-{}-{}-{}", HexOf(parent.trace_id), HexOf(parent.span_id), parent.sampled ? "01" : "00");
}

Tracer::Tracer(double ratio, std::shared_ptr<SpanSink> sink) : ratio_(ratio), sink_(std::move(sink)) {
  std::random_device device;
  std::seed_seq seed{device(), device(), device(), device()};
  absl::MutexLock lock(&mutex_);
  random_.seed(seed);
}

uint64_t Tracer::Random() {
  absl::MutexLock lock(&mutex_);
  return random_();
}

// Never all zeros, which would be no id.
void Tracer::Fill(std::span<uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); i += sizeof(uint64_t)) {
    const uint64_t value = std::max<uint64_t>(Random(), 1);
    for (size_t j = i; j < std::min(i + sizeof(value), bytes.size()); ++j) {
      bytes[j] = static_cast<uint8_t>(value >> (8 * (j - i)));
    }
  }
}

SpanIds Tracer::Begin(std::string_view trace_parent) { return BeginWith(trace_parent, std::nullopt); }

SpanIds Tracer::BeginNamed(std::string_view trace_parent, std::string_view name) {
  return BeginWith(trace_parent, name);
}

SpanIds Tracer::BeginWith(std::string_view trace_parent, std::optional<std::string_view> name) {
  SpanIds ids;
  if (!enabled()) return ids;
  std::array<uint8_t, 32> digest{};
  if (name) {
    ParseHex(Sha256Hex(*name), digest);
    std::copy_n(digest.begin(), ids.span_id.size(), ids.span_id.begin());
  } else {
    Fill(ids.span_id);
  }
  if (const std::optional<TraceParent> parent = ParseTraceParent(trace_parent)) {
    ids.trace_id = parent->trace_id;
    ids.parent_id = parent->span_id;
    ids.sampled = parent->sampled;
    return ids;
  }
  if (name) {
    std::copy_n(digest.begin() + ids.span_id.size(), ids.trace_id.size(), ids.trace_id.begin());
  } else {
    Fill(ids.trace_id);
  }
  // By the id, so that all who begin the same trace decide alike.
  uint64_t draw = 0;
  for (size_t i = 8; i < ids.trace_id.size(); ++i) draw = draw << 8 | ids.trace_id[i];
  constexpr int kExactBits = 53;  // of a double
  ids.sampled = std::ldexp(static_cast<double>(draw >> (64 - kExactBits)), -kExactBits) < ratio_;
  return ids;
}

void Tracer::End(SpanRecord span) {
  if (enabled() && span.ids.sampled) sink_->Take(std::move(span));
}

std::string Tracer::ParentFor(const SpanIds& ids, std::string_view trace_parent) const {
  if (enabled() && ids.sampled) {
    return FormatTraceParent({.trace_id = ids.trace_id, .span_id = ids.span_id, .sampled = true});
  }
  if (const std::optional<TraceParent> parent = ParseTraceParent(trace_parent)) return FormatTraceParent(*parent);
  if (!enabled()) return "";
  // The decision holds for all that is done on behalf of this.
  return FormatTraceParent({.trace_id = ids.trace_id, .span_id = ids.span_id, .sampled = false});
}

}  // namespace qamserve
