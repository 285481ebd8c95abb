// Rows about the processes that share a metadata store and about the models that they serve. As in records.h: ids are
// bare, times are milliseconds since 1970, 0 = not yet.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "server/store/records.h"

namespace qamserve {

// A running qamserve process. It writes its row again every few seconds; one that has not been seen for a while is
// gone.
struct InstanceRecord {
  std::string id;                  // random, made at the start of the process
  std::string host;                // name of its machine
  std::string address;             // HOST:PORT at which the others reach its gRPC services; empty if it has none
  std::vector<std::string> roles;  // api, worker, inference
  std::vector<std::string> pools;  // whose tasks it takes, if it is a worker
  std::string version;             // of the program
  std::string codec_version;       // it takes tasks of this version only
  std::string kernels;             // instruction set of the CPU kernels
  std::string device;              // of served models, or of tasks: "cpu", "cuda:0 (NVIDIA H200, 139.8 GiB)"
  int32_t threads = 0;
  int64_t memory_bytes = 0;  // of its machine that it may use for models or tasks
  bool draining = false;     // it is about to end and takes nothing new, as it tells itself
  // Somebody wants it to take nothing new (MetadataStore::RequestDrain); it is to run on. Goes with the row.
  bool drain_requested = false;
  int64_t started_ms = 0;
  int64_t seen_ms = 0;  // of its last sign of life

  bool TakesNothingNew() const { return draining || drain_requested; }
};

// States of ReplicaRecord; the same as those of a served model within a process.
enum class ReplicaState { kLoading = 1, kReady = 2, kDraining = 3, kFailed = 4 };

// A served model on one instance, as that instance tells it.
struct ReplicaRecord {
  std::string model;     // name of the served model
  std::string instance;  // id; the row goes when the instance's row goes
  ReplicaState state = ReplicaState::kLoading;
  ErrorRecord error;  // of kFailed
  int64_t context_tokens = 0;
  int64_t memory_bytes = 0;
  bool chat = false;  // has a chat template
  int32_t running = 0;
  int32_t waiting = 0;
  double kv_used_ratio = 0;
  int64_t ready_ms = 0;
  int64_t updated_ms = 0;
};

}  // namespace qamserve
