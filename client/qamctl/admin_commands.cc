// admin.
#include <memory>
#include <string>
#include <utility>

#include "client/qamctl/checks.h"
#include "client/qamctl/commands.h"
#include "client/qamctl/resolve.h"
#include "client/qamctl/text.h"

namespace qamserve::qamctl {
namespace {

struct AdminFlags {
  std::string job;
  int32_t task = 0;
  bool dry_run = false;
  std::string path;
  std::string instance;
  bool undo = false;
};

template <typename Names>
std::string Joined(const Names& names) {
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ",") + name;
  return joined;
}

std::string WholePercent(double fraction) { return fmt::format("{:.0f} %", 100 * fraction); }

absl::Status ShowInstances(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListInstancesResponse list, session.client().ListInstances());
  if (session.json()) return session.PrintJson(list);
  if (list.instances().empty()) {
    session.Print("one server alone: with SQLite no other process shares the store (see system)");
    return absl::OkStatus();
  }
  Table table({{"INSTANCE"},
               {"HOST"},
               {"ROLES"},
               {"POOLS"},
               {"DEVICE"},
               {"KERNELS"},
               {"THREADS", Align::kRight},
               {"MEMORY", Align::kRight},
               {"CODEC"},
               {"TASKS", Align::kRight},
               {"MODELS"},
               {"SEEN"},
               {"STATE"}});
  for (const v1::Instance& instance : list.instances()) {
    std::string models;
    for (const v1::Replica& replica : instance.replicas()) {
      models += fmt::format("{}{}={}", models.empty() ? "" : " ", LastPart(replica.model()), replica.state());
    }
    table.Add({LastPart(instance.name()), instance.host(), Joined(instance.roles()), Joined(instance.pools()),
               instance.device(), instance.kernels(), std::to_string(instance.threads()),
               HumanBytes(static_cast<double>(instance.memory_bytes())), instance.codec_version(),
               std::to_string(instance.tasks()), models, HumanTime(instance.seen_time()),
               instance.draining() ? "draining" : "running"});
  }
  session.Print(table.ToString());
  return absl::OkStatus();
}

absl::Status ShowLeases(Session& session) {
  ASSIGN_OR_RETURN(const v1::ListLeasesResponse list, session.client().ListLeases());
  if (session.json()) return session.PrintJson(list);
  Table table({{"JOB"},
               {"TASK", Align::kRight},
               {"NAME"},
               {"STAGE"},
               {"WORKER"},
               {"ATTEMPT", Align::kRight},
               {"DONE", Align::kRight},
               {"EXPIRES"}});
  for (const v1::Lease& lease : list.leases()) {
    table.Add({lease.job(), std::to_string(lease.task()), lease.task_name(), lease.stage(), LastPart(lease.worker()),
               std::to_string(lease.attempt()), WholePercent(lease.progress()), HumanTime(lease.expire_time())});
  }
  session.Print(table.ToString());
  return absl::OkStatus();
}

absl::Status ShowQueue(Session& session) {
  ASSIGN_OR_RETURN(const v1::Queue queue, session.client().GetQueue());
  if (session.json()) return session.PrintJson(queue);
  Table pools({{"POOL"},
               {"WORKERS", Align::kRight},
               {"QUEUED", Align::kRight},
               {"RUNNING", Align::kRight},
               {"OLDEST", Align::kRight},
               {"READY TASKS", Align::kRight},
               {"LEASED", Align::kRight}});
  for (const v1::PoolQueue& pool : queue.pools()) {
    const std::string oldest = pool.jobs_queued() == 0 ? "" : HumanSeconds(pool.oldest_queued_seconds());
    pools.Add({pool.pool(), std::to_string(pool.workers()), std::to_string(pool.jobs_queued()),
               std::to_string(pool.jobs_running()), oldest, std::to_string(pool.tasks_ready()),
               std::to_string(pool.tasks_leased())});
  }
  session.Print(pools.ToString());
  Table jobs({{"NEXT"}, {"JOB"}, {"STATE"}, {"POOL"}, {"PROJECT"}, {"PRIORITY", Align::kRight}, {"CREATED"}});
  int place = 0;
  for (const v1::QueuedJob& job : queue.jobs()) {
    const std::string gained =
        job.effective_priority() == job.priority() ? "" : fmt::format(" (now {})", job.effective_priority());
    jobs.Add({std::to_string(++place), fmt::format("{} {}", job.name(), job.display_name()),
              WithoutPrefix(v1::JobState_Name(job.state()), "JOB_STATE_"), job.pool(), job.project(),
              fmt::format("{}{}", job.priority(), gained), HumanTime(job.create_time())});
  }
  session.Print(jobs.ToString());
  const int64_t more = queue.jobs_unfinished() - queue.jobs_size();
  if (more > 0) session.Print(fmt::format("and {} more", more));
  return absl::OkStatus();
}

absl::Status Collect(Session& session, bool dry_run) {
  ASSIGN_OR_RETURN(const v1::Garbage garbage, session.client().CollectGarbage(dry_run));
  if (session.json()) return session.PrintJson(garbage);
  for (const std::string& digest : garbage.first_blobs()) session.Print(digest);
  const int64_t more = garbage.blobs() - garbage.first_blobs_size();
  if (more > 0) session.Print(fmt::format("and {} more", more));
  session.Print(fmt::format("{} {} blobs and {} partial uploads, {}", dry_run ? "would delete" : "deleted",
                            garbage.blobs(), garbage.partial_uploads(),
                            HumanBytes(static_cast<double>(garbage.bytes()))));
  return absl::OkStatus();
}

absl::Status ShowSchema(Session& session) {
  ASSIGN_OR_RETURN(const v1::Schema schema, session.client().GetSchema());
  if (session.json()) return session.PrintJson(schema);
  session.Print(fmt::format("{}: schema {}; this program makes {}, programs from {} on can use it", schema.engine(),
                            schema.version(), schema.program_version(), schema.oldest_program()));
  return absl::OkStatus();
}

absl::Status Release(Session& session, const AdminFlags& flags) {
  ASSIGN_OR_RETURN(const std::string job, ResolveJob(session, flags.job));
  RETURN_IF_ERROR(session.client().ReleaseLease(job, flags.task));
  if (session.json()) return session.PrintJson(v1::ReleaseLeaseResponse());
  session.Print(fmt::format("task {} of {} is ready again", flags.task, job));
  return absl::OkStatus();
}

absl::Status Drain(Session& session, const AdminFlags& flags) {
  ASSIGN_OR_RETURN(const std::string name, ResolveInstance(session, flags.instance));
  ASSIGN_OR_RETURN(const v1::Instance instance, session.client().DrainInstance(name, flags.undo));
  if (session.json()) return session.PrintJson(instance);
  if (flags.undo) {
    session.Print(fmt::format("{} on {} takes up its work again", name, instance.host()));
    return absl::OkStatus();
  }
  session.Print(fmt::format("{} on {} takes nothing new; it still has {} tasks and {} replicas", name, instance.host(),
                            instance.tasks(), instance.replicas_size()));
  session.Note("`qamctl admin workers` shows when they are gone; --undo takes it back");
  return absl::OkStatus();
}

absl::Status Backup(Session& session, const std::string& path) {
  ASSIGN_OR_RETURN(const int64_t rows, session.client().BackupMetadata(path));
  session.Print(fmt::format("{} rows in {}; blobs are not part of it", rows, path));
  return absl::OkStatus();
}

}  // namespace

Action BuildAdmin(CLI::App& app) {
  app.require_subcommand(1);
  auto flags = std::make_shared<AdminFlags>();
  CLI::App* workers = app.add_subcommand("workers", "List the running processes: roles, pools, tasks, models");
  CLI::App* leases = app.add_subcommand("leases", "List the tasks under way");
  CLI::App* queue = app.add_subcommand("queue", "Show what waits, pool by pool, and who comes next");
  CLI::App* collect = app.add_subcommand("gc", "Delete what nothing needs any more; happens every hour by itself");
  collect->add_flag("--dry-run", flags->dry_run, "Only tell what would be deleted");
  CLI::App* schema = app.add_subcommand("schema", "Show the version of the metadata store");
  CLI::App* release = app.add_subcommand("release", "Take a task from its worker; another one gets it at once");
  release->add_option("job", flags->job, "jobs/ID, the beginning of its id, or its display name")
      ->required()
      ->check(Utf8())
      ->type_name("JOB");
  release->add_option("task", flags->task, "Its index, as `admin leases` shows it")
      ->required()
      ->check(CLI::NonNegativeNumber)
      ->type_name("TASK");
  CLI::App* drain = app.add_subcommand("drain", "Let an instance take nothing new; what it has goes on to its end");
  drain->add_option("instance", flags->instance, "instances/ID, the beginning of its id, or its machine's name")
      ->required()
      ->check(Utf8())
      ->type_name("INSTANCE");
  drain->add_flag("--undo", flags->undo, "Let it take up its work again");
  CLI::App* backup = app.add_subcommand("backup", "Write all rows of the metadata store to a file");
  backup->add_option("file", flags->path, "Where; appears when it is complete")->required()->type_name("FILE");
  return RunVerb({{workers, ShowInstances},
                  {leases, ShowLeases},
                  {queue, ShowQueue},
                  {collect, [flags](Session& session) { return Collect(session, flags->dry_run); }},
                  {schema, ShowSchema},
                  {release, [flags](Session& session) { return Release(session, *flags); }},
                  {drain, [flags](Session& session) { return Drain(session, *flags); }},
                  {backup, [flags](Session& session) { return Backup(session, flags->path); }}},
                 ShowInstances);
}

}  // namespace qamserve::qamctl
