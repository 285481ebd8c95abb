// Sends ended spans to an OpenTelemetry collector: OTLP/HTTP with JSON, from a bounded queue and a thread of its own,
// so that a collector that is slow or away costs nobody anything but spans. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "server/telemetry/trace.h"

namespace qamserve {

struct OtlpOptions {
  std::string endpoint;  // "http://HOST:PORT" or https, with a path or without; "/v1/traces" is put behind it
  // Of this process: service.instance.id and the like. service.name and service.version are there anyway.
  std::vector<std::pair<std::string, AttributeValue>> resource;
  size_t max_queued = 4096;                       // spans; more are dropped
  size_t max_batch = 512;                         // spans in a request
  absl::Duration interval = absl::Seconds(2);     // a span waits no longer than this for others to go with it
  absl::Duration timeout = absl::Seconds(10);     // of a request
  int attempts = 4;                               // of a request that failed in a way that may pass; then it is dropped
  absl::Duration first_pause = absl::Seconds(1);  // before the second attempt; doubles
  absl::Duration stop_limit = absl::Seconds(2);   // what the destructor grants what is still queued
  // Called by any thread, without locks: how many spans have arrived or will never.
  std::function<void(size_t exported, size_t dropped)> on_count;
  // Called by the exporter's thread when requests begin to fail, once until one succeeds again.
  std::function<void(const absl::Status&)> on_error;
};

// INVALID_ARGUMENT (OTLP_ENDPOINT) if it is no URL for OTLP. The message does not repeat it: it may hold a password.
absl::Status CheckOtlpEndpoint(const std::string& url);

class OtlpExporter final : public SpanSink {
 public:
  // The errors of CheckOtlpEndpoint. Whether anybody answers there is seen later.
  static absl::StatusOr<std::shared_ptr<OtlpExporter>> Start(OtlpOptions options);
  ~OtlpExporter() override;

  void Take(SpanRecord span) override;

 private:
  class Connection;
  explicit OtlpExporter(OtlpOptions options);
  void Run();
  // No spans: it is time to end.
  std::vector<SpanRecord> NextBatch();
  void Send(Connection& connection, const std::vector<SpanRecord>& batch);
  // Until `duration` has passed or the exporter stops; false in that case.
  bool Pause(absl::Duration duration);
  void Count(size_t exported, size_t dropped);
  absl::Time StopTime();

  const OtlpOptions options_;
  absl::Mutex mutex_;
  absl::CondVar changed_;
  std::deque<SpanRecord> queue_ ABSL_GUARDED_BY(mutex_);
  absl::Time stop_at_ ABSL_GUARDED_BY(mutex_) = absl::InfiniteFuture();  // when all must have ended
  bool failing_ = false;                                                 // of the exporter's thread
  std::thread thread_;                                                   // last: starts when all else is there
};

// The body of a request: an ExportTraceServiceRequest as OTLP's JSON, in which ids are hex.
std::string OtlpTraceJson(const std::vector<std::pair<std::string, AttributeValue>>& resource,
                          const std::vector<SpanRecord>& spans);

}  // namespace qamserve
