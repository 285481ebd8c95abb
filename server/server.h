// The whole server in one object: stores, jobs, worker, served models, gRPC and HTTP. Its members stand in
// the order in which they are made; destruction, in reverse, is the shutdown order. What the parts are depends on the
// roles, and on whether the process is on its own or one of several that share their stores (a fleet):
//   api        all services and HTTP; in a fleet inference is forwarded to replicas
//   worker     takes tasks from the store; in a fleet health and metrics beside that
//   inference  serves models: those that were loaded here, in a fleet the replicas that it has claimed
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/synchronization/mutex.h>
#include <absl/time/time.h>

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/access/access_control.h"
#include "server/access/tls_files.h"
#include "server/data_dir.h"
#include "server/fleet/access_refresher.h"
#include "server/fleet/fleet_models.h"
#include "server/fleet/instance.h"
#include "server/fleet/replica_keeper.h"
#include "server/fleet/router.h"
#include "server/fleet/ticker.h"
#include "server/grpc/instance_channels.h"
#include "server/grpc/rpc_server.h"
#include "server/grpc/service_context.h"
#include "server/http/http_server.h"
#include "server/http/status_endpoints.h"
#include "server/jobs/worker.h"
#include "server/options.h"
#include "server/telemetry/job_signals.h"
#include "server/telemetry/patient_query.h"
#include "server/telemetry/store_gauges.h"
#include "server/telemetry/store_metrics.h"

namespace qamserve {

// What tests put in place of the real parts. The pointers must outlive the server.
struct ServerParts {
  ModelLoader* loader = nullptr;
  TaskRunner* runner = nullptr;
  RpcLimits limits;
  // How often TLS files are read again. Certificates are renewed days before they end; who was taken out of the client
  // CA should not wait long.
  absl::Duration tls_reload_interval = absl::Seconds(5);
  std::function<absl::StatusOr<CheckpointFacts>(const FileSet&)> inspect;
  // Stores that several servers of one process share, which are a fleet then, whatever the options say.
  std::shared_ptr<MetadataStore> store;
  std::shared_ptr<BlobStore> blobs;
};

// Thread-safe.
class Server {
 public:
  // Opens the stores, takes up what an earlier process left, listens. Served models come back in the background:
  // /startupz and /readyz say when they are there. The errors of ValidateOptions, DataDir and both stores; UNAVAILABLE
  // (LISTEN) if the address is in use.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, std::shared_ptr<Log> log,
                                                       const ServerParts& parts = {});
  // Drains with no time left.
  ~Server();

  int port() const { return rpc_ == nullptr ? 0 : rpc_->port(); }
  int metrics_port() const { return status_ == nullptr ? 0 : status_->port(); }
  int http_port() const { return http_ == nullptr ? 0 : http_->port(); }
  // "http://HOST:PORT" of --http-listen; empty = there is none.
  std::string http_url() const;
  // HOST:PORT that clients use.
  std::string address() const;
  // To the services without a socket, for this process alone.
  std::shared_ptr<grpc::Channel> InProcessChannel() { return rpc_->InProcessChannel(); }

  // Health says NOT_SERVING; new requests are refused; the running task is given back; running generations get until
  // `drain_seconds`, other calls a moment. Returns when all is quiet. Idempotent.
  void Drain();
  // For a process that ends without waiting for Drain, which may be running: puts the running tasks back, so that the
  // next start goes on with them, and nothing else. The caller ends the process (_exit) once it returns or soon
  // afterwards; what it leaves half-done (files being written, an open transaction) the next start throws away.
  void PutBackTasks();

 private:
  Server(const ServerOptions& options, std::shared_ptr<Log> log, DataDir data_dir);
  // server_stores.cc
  absl::Status OpenStores(const ServerParts& parts);
  absl::Status OpenMetadataStore(const ServerParts& parts);
  absl::Status OpenBlobStore(const ServerParts& parts);
  absl::Status StartWork(const ServerParts& parts);
  void StartModels(const ServerParts& parts);
  absl::Status StartJobs(TaskRunner& runner);
  absl::Status Listen(const ServerParts& parts);
  // server_fleet.cc. What loads, lists and routes: of this process or of its fleet.
  absl::Status OpenServing();
  absl::Status OpenRouter(FleetModelsOptions& serving);
  // From here on the others know of this process.
  absl::Status JoinFleet();
  InstanceRecord DescribeInstance() const;
  void SweepFleet();
  void OnDrainRequest(bool requested);
  void OnFleetState(const FleetState& state);
  // Empty = yes; else why not.
  std::string NotStarted() const;
  std::string NotReady() const;
  bool ServesApi() const { return options_.HasRole("api"); }
  // Whether requests for inference of clients are answered here.
  bool ServesInference() const { return options_.HasRole(in_fleet_ ? "api" : "inference"); }
  absl::Status ListenHttp();
  absl::StatusOr<std::vector<HttpPart>> HttpParts();
  StatusSources ServerStatus();
  static absl::StatusOr<std::unique_ptr<HttpServer>> StartHttp(const std::string& listen, HttpServerOptions options);
  HttpPart HostGate();
  // Refuses /metrics to those without a key that may read, once keys are required.
  HttpPart MetricsGate();
  void ReloadHttpTls(const TlsPem& pem);
  // Generations get until `deadline`, then all calls that are left get `grace`.
  void DrainUntil(absl::Time deadline, absl::Duration grace);
  // With TLS: reads the files and watches them.
  absl::Status OpenTls();
  void StartTlsWatch(absl::Duration interval);
  // Keys, and the admin key from outside. FAILED_PRECONDITION (REMOTE_WITHOUT_KEYS).
  absl::Status OpenAccess();
  SystemFacts DescribeSystem() const;
  void OnJobNotice(const JobNotice& notice);
  void OnModelChange(const ServedModelView& model);
  // Artifacts of finished jobs that are to be served (load_wishes.h).
  void OpenLoadWishes();
  void WakeLoadWishes();
  void LookForWishes();
  // server_events.cc. Before the stores are opened, which tell store_metrics_ what they do.
  absl::Status OpenTraces();
  // Once the stores and models_ are there.
  void AddGauges();
  void AddToFacts(StoreFacts& facts) const;
  void WriteModelGauges(Metrics::GaugeWriter& writer);
  void WriteGpuGauges(Metrics::GaugeWriter& writer);

  const ServerOptions options_;
  const std::string instance_id_ = RandomId();  // of this process among others: in the store, the log and traces
  const std::shared_ptr<Log> log_;
  const DataDir data_dir_;
  bool in_fleet_ = false;              // const once the stores are open
  std::atomic<bool> restored_{false};  // models that were served before are there again; in a fleet: it has joined
  std::atomic<bool> draining_{false};
  bool drain_requested_ = false;  // of OnDrainRequest, whose calls follow one another
  DrainSignal drain_;
  Metrics metrics_;
  const std::shared_ptr<StoreMetrics> store_metrics_ = std::make_shared<StoreMetrics>(metrics_);
  std::shared_ptr<Tracer> tracer_;
  std::shared_ptr<MetadataStore> store_;
  std::shared_ptr<BlobStore> blobs_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<AccessControl> access_;
  std::unique_ptr<AccessRefresher> access_refresher_;  // in a fleet
  std::unique_ptr<TlsFiles> tls_;
  std::unique_ptr<ModelLoader> own_loader_;
  std::unique_ptr<TaskRunner> own_runner_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<Executor> quick_;
  std::unique_ptr<Executor> slow_;
  std::unique_ptr<Executor> transfers_;
  std::unique_ptr<JobSignals> job_signals_;
  std::unique_ptr<PatientQuery<StoreFacts>> store_facts_;
  std::unique_ptr<JobManager> jobs_;
  std::unique_ptr<Ticker> load_wishes_;  // of a process that sees to jobs
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<InstanceChannels> channels_;  // of an api process in a fleet, as the router
  std::unique_ptr<Router> router_;
  std::unique_ptr<FleetContext> fleet_context_;
  FleetModels* fleet_models_ = nullptr;  // serving_, in a fleet
  std::unique_ptr<ServingControl> serving_;
  std::unique_ptr<ServiceContext> context_;
  std::unique_ptr<RpcServer> rpc_;
  std::unique_ptr<ReplicaKeeper> keeper_;  // of an inference process in a fleet
  std::unique_ptr<Instance> instance_;     // in a fleet
  absl::Mutex health_mutex_;
  bool tells_health_ ABSL_GUARDED_BY(health_mutex_) = false;      // rpc_ is there
  std::set<std::string> healthy_ ABSL_GUARDED_BY(health_mutex_);  // models that rpc_ was told are served
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<HttpServer> status_;
  std::unique_ptr<TlsWatcher> tls_watcher_;
};

}  // namespace qamserve
