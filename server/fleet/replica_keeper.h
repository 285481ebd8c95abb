// An inference process among those that share a metadata store: takes replicas of the served models that are wanted,
// loads them into its ModelRegistry, tells how they are, and lets them go again. It looks at the rows after each change
// that the store tells and once a second, and does what is missing:
//
//   wanted, and too few have it   claim a row (MetadataStore::ClaimReplica), load        LOADING -> READY, or FAILED
//   loading failed                say why; after a pause that doubles, if there are still too few, claim again
//   it FAILED later (GPU lost)    the same
//   unwanted, or more than wanted say DRAINING, let running requests end, free it, delete the row
//   row gone (taken for dead)     claim it again; if others have taken the place, drain
//
// Why loading failed is said as long as the model lacks a replica. Where as many others are READY as are wanted the row
// goes, since nobody needs to do anything about it; the instance knows its pause all the same, and says why again if
// one of the others is lost before the pause is over.
//
// An instance that was asked to drain claims nothing new. It says DRAINING of all that it has, so that others claim
// that at once, but keeps a model, for requests that nobody else can answer, until another one has it READY; a row of
// it that is gone it takes back until then, whoever has the place. That such a replica answers is told by its
// `ready_ms`, which is 0 once it has let go.
//
// An instance that has models already waits a little longer before it claims another, so that models spread. One thread
// looks; loads and drains, which take long, have threads of their own, one for each model. Thread-safe.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/fleet/ticker.h"
#include "server/serving/model_registry.h"
#include "server/store/metadata_store.h"

namespace qamserve {

struct ReplicaKeeperOptions {
  std::string instance;  // id
  absl::Duration interval = absl::Seconds(1);
  // How often a replica's row is written while nothing about it changes.
  int64_t tell_ms = 10'000;
  // Before an instance claims: this for each model that it has.
  int64_t claim_delay_ms = 250;
  // After a load that failed; doubles up to the second one.
  int64_t retry_ms = 5'000;
  int64_t max_retry_ms = 300'000;
  // What requests get that run when a replica is one too many. Unload says its own.
  double drain_seconds = 30;
  // Loads that failed, and rows that could not be read or written: the model's name, or "", and why. From any thread.
  std::function<void(const std::string& model, const absl::Status& error)> on_error;
};

class ReplicaKeeper {
 public:
  // `store` and `models`, which must not own rows (RegistryOptions::owns_rows), must outlive the keeper.
  ReplicaKeeper(ReplicaKeeperOptions options, MetadataStore& store, ModelRegistry& models);
  // As Stop.
  ~ReplicaKeeper();

  // Whether it has looked once, and nothing is being loaded that it took up then.
  bool settled() const;
  // Takes nothing new, and tells that all of its replicas drain. The registry's DrainAll is the caller's.
  void BeginDrain();
  // Whether the instance is asked to drain, as above. May be taken back, unlike BeginDrain.
  void SetDrainRequested(bool requested);
  // Returns when no load and no drain is under way any more. Rows stay: Instance::Leave removes them. Idempotent.
  void Stop();

 private:
  enum class Phase { kLoading, kServing, kDraining };
  // A model that this instance has, or is about to have or to be rid of.
  struct Held {
    ServedModelRecord wanted;  // as it was when it was taken
    Phase phase = Phase::kLoading;
    ReplicaRecord told;   // what its row says
    int64_t told_ms = 0;  // when it was last written, of SteadyMs; 0 = never
    std::thread work;     // of kLoading and kDraining
  };
  // A model that did not load.
  struct Failure {
    ServedModelRecord wanted;
    int32_t replicas = 0;  // that were wanted at the last look; 0 = there was none since it failed
    absl::Status error;
    int64_t pause_ms = 0;
    int64_t retry_at_ms = 0;  // of SteadyMs
    bool told = false;        // its row says so; if others remove it, somebody wants it tried again at once
  };
  struct Finished {
    std::string model;
    absl::Status status;
  };
  // The rows of one reading, by model.
  struct Rows {
    std::map<std::string, ServedModelRecord> wanted;
    std::map<std::string, std::vector<ReplicaRecord>> replicas;
  };

  void Wake() { ticker_.Wake(); }
  void Look();
  absl::StatusOr<Rows> Read();
  const ReplicaRecord* MyRow(const Rows& rows, const std::string& model) const;
  // Takes the results of threads that have ended.
  void Reap();
  void Loaded(const std::string& model, Held held, const absl::Status& status);
  void TakeBackFailed();
  // What has become unwanted goes, what has lost its row claims it again.
  void LetGo(const Rows& rows);
  void KeepOrLetGo(const Rows& rows, const std::string& model, Held& held);
  void ReviewFailures(const Rows& rows);
  bool IsOver(const Rows& rows, const std::string& model, const Failure& failure) const;
  void TellFailure(const Rows& rows, const std::string& model, Failure& failure);
  void DeleteLeftovers(const Rows& rows);
  // True: others are to keep it, and its row says DRAINING.
  absl::StatusOr<bool> IsSurplus(const std::string& model, const Held& held);
  // True: another instance can answer for it, and its row says that this one does not any more.
  absl::StatusOr<bool> IsHandedOver(const std::string& model, const Held& held);
  void TakeUp(const Rows& rows);
  void Consider(const Rows& rows, const ServedModelRecord& model);
  bool Claim(const std::string& model);
  void StartLoad(const ServedModelRecord& wanted);
  void StartDrain(const std::string& model, Held& held, double drain_seconds);
  absl::Status Load(const ServedModelRecord& wanted);
  void Tell();
  void TellOne(const std::string& model, Held& held);
  ReplicaRecord Describe(const std::string& model, const Held& held) const;
  void Finish(std::string model, absl::Status status);
  bool IsDraining() const;
  bool IsDrainRequested() const;

  const ReplicaKeeperOptions options_;
  MetadataStore& store_;
  ModelRegistry& models_;
  // Of the ticker's thread, and after Stop of the caller's.
  std::map<std::string, Held> held_;
  std::map<std::string, Failure> failures_;
  std::map<std::string, int64_t> claim_at_ms_;  // models that could be claimed, and from when on

  mutable absl::Mutex mutex_;
  std::vector<Finished> finished_ ABSL_GUARDED_BY(mutex_);
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drain_requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool settled_ ABSL_GUARDED_BY(mutex_) = false;
  Ticker ticker_;
  std::shared_ptr<void> listening_;
};

}  // namespace qamserve
