// What jobs and their tasks tell the outside: metrics, log lines and spans, made of the notices of a JobManager.
// A job's span lasts from its creation to its end and is part of the trace of the call that made it. Whichever process
// ends the job tells it; those that do its tasks know its id without asking (Tracer::BeginNamed). A job that is retried
// has one span for each of its ends. Thread-safe.
#pragma once

#include <memory>

#include "server/jobs/job_manager.h"
#include "server/telemetry/log.h"
#include "server/telemetry/metrics.h"
#include "server/telemetry/trace.h"

namespace qamserve {

class JobSignals {
 public:
  // All must outlive it.
  JobSignals(Metrics& metrics, Log& log, Tracer& tracer) : metrics_(metrics), log_(log), tracer_(tracer) {}

  void Tell(const JobNotice& notice);

 private:
  void TellTask(const JobNotice& notice, Log::Fields fields);
  void TellJobState(const JobRecord& job, Log::Fields fields);
  void CountArtifact(const JobRecord& job, const ArtifactRecord& artifact);
  void TraceJob(const JobRecord& job);
  void TraceTask(const JobNotice& notice);

  Metrics& metrics_;
  Log& log_;
  Tracer& tracer_;
};

}  // namespace qamserve
