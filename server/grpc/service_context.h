// What the handlers work with. Everything in it outlives the gRPC server.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "server/access/access_control.h"
#include "server/fleet/router.h"
#include "server/grpc/executor.h"
#include "server/grpc/instance_channels.h"
#include "server/jobs/job_manager.h"
#include "server/serving/model_registry.h"
#include "server/serving/serving_control.h"
#include "server/store/catalog.h"
#include "server/telemetry/log.h"
#include "server/telemetry/metrics.h"
#include "server/telemetry/trace.h"

namespace qamserve {

// Tells streams that would go on for ever (WatchJob) that the server drains. Thread-safe.
class DrainSignal {
 public:
  // `on_drain` is called once, at Raise, or at once if it was raised; never after Unsubscribe has returned.
  uint64_t Subscribe(std::function<void()> on_drain);
  void Unsubscribe(uint64_t id);
  void Raise();
  bool raised() const { return raised_; }

 private:
  std::atomic<bool> raised_{false};
  absl::Mutex mutex_;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, std::function<void()>> listeners_ ABSL_GUARDED_BY(mutex_);
};

struct RpcLimits {
  // Text that a stream's reader has not taken yet; more ends that stream with RESOURCE_EXHAUSTED (SLOW_READER). A
  // context of 8192 tokens stays far below, log-probabilities aside.
  size_t max_unsent_bytes = size_t{1} << 20;
  size_t max_chat_messages = 1024;
  double default_drain_seconds = 30;  // of UnloadModel, if the request gives none
};

// What GetSystem tells of the process; see the messages of system.proto.
struct SystemFacts {
  std::string version;
  std::string codec_version;
  int64_t start_ms = 0;
  std::vector<std::string> roles;
  std::string kernels;
  std::string device;
  std::string quantize_device;
  int32_t threads = 0;
  std::string data_dir;  // whose disk is told about; its path is not
};

// Of a process that is one of several.
struct FleetContext {
  Router& router;
  InstanceChannels& channels;
  std::string instance;  // id of this process
};

struct ServiceContext {
  Catalog& catalog;
  JobManager& jobs;
  ModelRegistry& models;    // those that this process has loaded
  ServingControl& serving;  // what is served and under which names: by this process, or by the fleet that it belongs to
  Metrics& metrics;
  Log& log;
  Executor& quick;      // milliseconds: store, disk, tokenizers
  Executor& slow;       // seconds and more: check an upload, load a model, score a text
  Executor& transfers;  // minutes: imports from elsewhere
  DrainSignal& drain;
  AccessControl& access;
  RpcLimits limits;
  // Some time soon; for jobs that end at once because their artifact is there already.
  std::function<void()> see_to_load_wishes;
  SystemFacts system;
  std::shared_ptr<Tracer> tracer = std::make_shared<Tracer>();  // never null
  const FleetContext* fleet = nullptr;  // of an api process in a fleet; null = requests are answered by this process
};

}  // namespace qamserve
