// How long a worker waits for a task from a long queue, and what the metadata store does meanwhile: one JSON object.
// Threads lease tasks and complete them, as workers do; nothing is computed. Without --uri, PostgreSQL is a server of
// the bench's own, which writes to disk as one in service does.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "core/base/file.h"
#include "server/store/postgres_database.h"
#include "server/store/postgres_metadata_store.h"
#include "server/store/sqlite_metadata_store.h"
#include "tests/support/postgres_server.h"

namespace qamserve {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

struct Options {
  std::string engine = "sqlite";
  std::string uri;
  std::string notify;
  int jobs = 1000;
  int tasks = 53;  // of SmolLM2's calibration and the like, about what a small model has in the queue for a job
  int threads = 4;
  double seconds = 10;
  int renewals = 0;
};

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double OwnCpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

json Percentiles(std::vector<double> seconds) {
  if (seconds.empty()) return nullptr;
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    return 1e3 * seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
  };
  return {{"p50", at(0.5)}, {"p90", at(0.9)}, {"p99", at(0.99)}, {"max", at(1)}};
}

// An open store and what it lies in.
struct Place {
  std::string folder;
  std::unique_ptr<PostgresServer> server;
  std::string uri;
  std::unique_ptr<MetadataStore> store;

  ~Place() {
    store.reset();
    server.reset();
    if (!folder.empty()) RemoveAll(folder).IgnoreError();
  }
  double CpuSeconds() const { return server != nullptr ? server->CpuSeconds() : OwnCpuSeconds(); }
};

PostgresOptions StoreOptions(const Options& options) {
  PostgresOptions out;
  out.max_connections = options.threads;
  out.on_warning = [](const std::string& text) { fmt::print(stderr, "warning: {}\n", text); };
  return out;
}

absl::Status FindServer(const Options& options, Place& place) {
  place.uri = options.uri;
  if (!place.uri.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(place.server, PostgresServer::Start({"fsync = on", "shared_buffers = 256MB", "max_wal_size = 2GB"}));
  ASSIGN_OR_RETURN(place.uri, place.server->NewDatabase());
  return absl::OkStatus();
}

absl::Status OpenPlace(const Options& options, Place& place) {
  if (options.engine == "sqlite") {
    std::string folder = (std::filesystem::temp_directory_path() / "qamserve-bench-XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr) return Internal("NO_FOLDER", "cannot make {}", folder);
    place.folder = folder;
    ASSIGN_OR_RETURN(place.store, OpenSqliteMetadataStore(folder + "/meta.sqlite"));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(FindServer(options, place));
  ASSIGN_OR_RETURN(place.store, OpenPostgresMetadataStore(place.uri, StoreOptions(options)));
  return absl::OkStatus();
}

absl::Status FillQueue(const Options& options, MetadataStore& store) {
  // As long as those of a real quantize job.
  const std::string spec(300, 'x');
  for (int j = 0; j < options.jobs; ++j) {
    JobRecord job;
    job.id = RandomId();
    job.key = job.id;
    job.spec_json = spec;
    job.estimate_json = spec;
    job.pool = "cpu";
    job.priority = j % 3;
    job.project = fmt::format("project-{}", j % 10);
    job.created_ms = store.NowMs();
    std::vector<TaskRecord> tasks;
    tasks.reserve(static_cast<size_t>(options.tasks));
    for (int t = 0; t < options.tasks; ++t) {
      TaskRecord& task = tasks.emplace_back();
      task.job = job.id;
      task.index = t;
      task.stage = t < 2 ? TaskStage::kCalibrate : t < options.tasks - 2 ? TaskStage::kQuantize : TaskStage::kEvaluate;
      task.name = fmt::format("model.layers.{}.mlp.up_proj", t);
      task.spec_json = spec;
      task.cost = 1;
    }
    RETURN_IF_ERROR(store.InsertJob(job, tasks));
  }
  return absl::OkStatus();
}

struct Latencies {
  std::vector<double> claim;
  std::vector<double> renew;
  std::vector<double> complete;
  absl::Status status;
};

// Leases tasks, renews the leases and completes them, until `end`.
absl::Status Work(const Options& options, MetadataStore& store, const std::string& name, Clock::time_point end,
                  Latencies& out) {
  while (Clock::now() < end) {
    auto start = Clock::now();
    ASSIGN_OR_RETURN(std::optional<TaskRecord> task, store.LeaseTask(name, {.pools = {"cpu"}}, store.NowMs(), 60'000));
    if (!task) return FailedPrecondition("QUEUE_EMPTY", "the queue was worked off before the time was over");
    out.claim.push_back(SecondsSince(start));
    const TaskLease lease{.job = task->job, .index = task->index, .worker = name, .lease_id = task->lease_id};
    for (int i = 0; i < options.renewals; ++i) {
      start = Clock::now();
      RETURN_IF_ERROR(store.RenewLease(lease, store.NowMs() + 60'000, 0.1 * (i + 1)));
      out.renew.push_back(SecondsSince(start));
    }
    task->state = TaskState::kDone;
    task->lease_id = 0;
    task->outcome_json = std::string(200, 'x');
    task->blobs = {std::string(64, 'a')};
    start = Clock::now();
    RETURN_IF_ERROR(store.Apply({.jobs = {}, .tasks = {*task}, .artifact = {}}));
    out.complete.push_back(SecondsSince(start));
  }
  return absl::OkStatus();
}

absl::StatusOr<json> MeasureQueue(const Options& options) {
  Place place;
  RETURN_IF_ERROR(OpenPlace(options, place));
  const auto filling = Clock::now();
  RETURN_IF_ERROR(FillQueue(options, *place.store));
  const double fill_seconds = SecondsSince(filling);
  std::vector<Latencies> latencies(static_cast<size_t>(options.threads));
  std::vector<std::thread> threads;
  threads.reserve(latencies.size());
  const double cpu_before = place.CpuSeconds();
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options.seconds));
  for (Latencies& mine : latencies) {
    threads.emplace_back([&options, &place, &mine, end, name = fmt::format("worker-{}", threads.size())] {
      mine.status = Work(options, *place.store, name, end, mine);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = SecondsSince(start);
  const double cpu = place.CpuSeconds() - cpu_before;
  std::vector<double> claim, renew, complete;
  for (const Latencies& one : latencies) {
    RETURN_IF_ERROR(one.status);
    claim.insert(claim.end(), one.claim.begin(), one.claim.end());
    renew.insert(renew.end(), one.renew.begin(), one.renew.end());
    complete.insert(complete.end(), one.complete.begin(), one.complete.end());
  }
  ASSIGN_OR_RETURN(const SchemaInfo schema, place.store->Schema());
  const auto count = static_cast<double>(claim.size());
  return json{{"engine", schema.engine},
              {"jobs", options.jobs},
              {"tasks_per_job", options.tasks},
              {"threads", options.threads},
              {"fill_seconds", fill_seconds},
              {"seconds", seconds},
              {"tasks_done", claim.size()},
              {"transactions_per_second", (2 + options.renewals) * count / seconds},
              {"store_cpu_ms_per_task", 1e3 * cpu / count},
              {"claim_ms", Percentiles(std::move(claim))},
              {"renew_ms", Percentiles(std::move(renew))},
              {"complete_ms", Percentiles(std::move(complete))}};
}

// Small transactions with an event each: told by NOTIFY within the transaction, or as the store does it.
absl::StatusOr<json> MeasureNotify(const Options& options) {
  Place place;
  RETURN_IF_ERROR(FindServer(options, place));
  ASSIGN_OR_RETURN(place.store, OpenPostgresMetadataStore(place.uri));  // makes the tables
  ASSIGN_OR_RETURN(const auto database, PostgresDatabase::Open(place.uri, StoreOptions(options)));
  const auto run = [&](const char* sql, std::initializer_list<SqlValue> values) {
    return database->Transact([&](SqlTransaction& transaction) { return transaction.Run(sql, values).status(); });
  };
  RETURN_IF_ERROR(run("CREATE TABLE IF NOT EXISTS bench_notify (id BIGINT PRIMARY KEY, value BIGINT NOT NULL)", {}));
  for (int i = 0; i < options.threads; ++i) {
    RETURN_IF_ERROR(run("INSERT INTO bench_notify (id, value) VALUES ($1, 0) ON CONFLICT (id) DO NOTHING", {i}));
  }
  std::atomic<int64_t> done{0};
  std::atomic<bool> failed{false};
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(options.threads));
  const auto start = Clock::now();
  for (int i = 0; i < options.threads; ++i) {
    threads.emplace_back([&, i] {
      while (SecondsSince(start) < options.seconds && !failed) {
        const std::string id = RandomId();
        const absl::Status status = database->Transact([&](SqlTransaction& transaction) -> absl::Status {
          RETURN_IF_ERROR(transaction.Run("UPDATE bench_notify SET value = value + 1 WHERE id = $1", {i}).status());
          if (options.notify == "after") transaction.Tell({.kind = StoreEvent::Kind::kJob, .id = id});
          if (options.notify != "inside") return absl::OkStatus();
          return transaction.Query("SELECT pg_notify('qamserve', $1)", {id}, [](SqlRow&) {});
        });
        if (!status.ok()) failed = true;
        ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = SecondsSince(start);
  RETURN_IF_ERROR(run("DROP TABLE bench_notify", {}));
  if (failed) return Internal("FAILED", "a transaction failed");
  return json{{"engine", database->Describe()},
              {"notify", options.notify},
              {"threads", options.threads},
              {"transactions_per_second", static_cast<double>(done) / seconds}};
}

int Run(int argc, char** argv) {
  Options options;
  CLI::App app("Measures the metadata store under workers that lease and complete tasks.");
  app.add_option("--engine", options.engine)->capture_default_str()->check(CLI::IsMember({"sqlite", "postgresql"}));
  app.add_option("--uri", options.uri, "postgresql://... of an empty database; else a private server is started");
  app.add_option("--jobs", options.jobs, "Queued")->capture_default_str()->check(CLI::Range(1, 1'000'000));
  app.add_option("--tasks", options.tasks, "Of each job")->capture_default_str()->check(CLI::Range(5, 100'000));
  app.add_option("--threads", options.threads)->capture_default_str()->check(CLI::Range(1, 256));
  app.add_option("--seconds", options.seconds)->capture_default_str()->check(CLI::Range(0.1, 3600.0));
  app.add_option("--renewals", options.renewals, "Of each lease")->capture_default_str()->check(CLI::Range(0, 1000));
  app.add_option("--notify", options.notify, "Measure instead what it costs to tell of a transaction by NOTIFY")
      ->check(CLI::IsMember({"none", "inside", "after"}));
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<json> result = options.notify.empty() ? MeasureQueue(options) : MeasureNotify(options);
  if (!result.ok()) {
    fmt::print(stderr, "error: {}: {}\n", ReasonOf(result.status()), MessageOf(result.status()));
    return 1;
  }
  fmt::print("{}\n", result->dump(2));
  return 0;
}

}  // namespace
}  // namespace qamserve

int main(int argc, char** argv) { return qamserve::Run(argc, argv); }
