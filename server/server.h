// The whole server in one object: stores, jobs, worker, served models, gRPC and HTTP. Its members stand in
// the order in which they are made; destruction, in reverse, is the shutdown order.
#pragma once

#include <absl/time/time.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "server/access/access_control.h"
#include "server/access/tls_files.h"
#include "server/data_dir.h"
#include "server/grpc/rpc_server.h"
#include "server/grpc/service_context.h"
#include "server/http/http_server.h"
#include "server/http/status_endpoints.h"
#include "server/jobs/worker.h"
#include "server/options.h"

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
  absl::Status OpenStores(const ServerParts& parts);
  absl::Status StartWork(const ServerParts& parts);
  absl::Status Listen(const ServerParts& parts);
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
  void LoadLater(const std::string& name, const std::string& source);
  void WriteJobGauges(Metrics::GaugeWriter& writer);
  void WriteModelGauges(Metrics::GaugeWriter& writer);

  const ServerOptions options_;
  const std::shared_ptr<Log> log_;
  const DataDir data_dir_;
  std::atomic<bool> restored_{false};
  std::atomic<bool> draining_{false};
  DrainSignal drain_;
  Metrics metrics_;
  std::unique_ptr<MetadataStore> store_;
  std::unique_ptr<BlobStore> blobs_;
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<AccessControl> access_;
  std::unique_ptr<TlsFiles> tls_;
  std::unique_ptr<ModelLoader> own_loader_;
  std::unique_ptr<TaskRunner> own_runner_;
  std::unique_ptr<ModelRegistry> models_;
  std::unique_ptr<Executor> quick_;
  std::unique_ptr<Executor> slow_;
  std::unique_ptr<Executor> transfers_;
  std::unique_ptr<JobManager> jobs_;
  std::unique_ptr<Worker> worker_;
  std::unique_ptr<ServiceContext> context_;
  std::unique_ptr<RpcServer> rpc_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<HttpServer> status_;
  std::unique_ptr<TlsWatcher> tls_watcher_;
};

}  // namespace qamserve
