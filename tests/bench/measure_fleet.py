"""Jobs of several workers over PostgreSQL and SeaweedFS on this machine, and what many more would come to."""
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import fleet_simulation
from context import REPOSITORY, Unmeasurable
from control_group import cpu_limit, memory_limit
from figure import Figure
from job_server import JobServer, peak_rss_bytes
from measure_jobs import texts
from random_model import random_llama

sys.path.append(str(REPOSITORY / "tests/support"))
from fleet import Api, Fleet, missing  # noqa: E402

SPEEDUP_WORKERS = 3
# Of a core, where there are too few: three workers, and the rest for their stores.
SMALL_CORES = 0.4
# Of a model with many small tensors, whose tasks are all but nothing: what is left is what a task costs besides.
SMALL_MODEL = ["--layers", "24", "--hidden", "64", "--intermediate", "128", "--heads", "4", "--kv-heads", "2", "--vocab", "320",
               "--dtype", "F16"]
SMALL_TEXT = ["--calibration", "built-in", "--evaluation", "built-in", "--calibration-windows", "2", "--evaluation-windows", "2",
              "--window-tokens", "32"]
JOB_SECONDS = 1800
WATCH_SECONDS = 2


class RunningFleet:
    """One api process and some workers, in a with statement. Workers have `worker_flags` besides; `started(pid)` is called
    of each as soon as it runs."""

    def __init__(self, context, workers, threads, worker_flags=(), started=lambda pid: None):
        if missing():
            raise Unmeasurable(missing())
        self.context, self.count, self.threads = context, workers, threads
        self.worker_flags, self.started = worker_flags, started
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qamserve-bench-"))
        self.fleet = Fleet(context.build, self.folder, ["--log-level", "warning", "--worker-nice", "0", "--threads", threads])

    def __enter__(self):
        try:
            self.fleet.__enter__()
            self.api = self.fleet.add("api", "api")
            self.workers = [self.fleet.add(f"worker-{n + 1}", "worker", *self.worker_flags) for n in range(self.count)]
            self.api.start()
            self.api.wait_ready()
            for worker in self.workers:
                worker.start()
                self.started(worker.process.pid)
            for worker in self.workers:
                worker.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.fleet.__exit__()
        shutil.rmtree(self.folder, ignore_errors=True)

    def quantize(self, model, *options):
        """Seconds from the job's start to its end, and its tasks' own seconds."""
        command = [self.context.program("client/qamctl"), "quantize", model, *options, "--watch", "--json", "--address", self.api.grpc]
        printed = self.watch(list(map(str, command)))
        job = json.loads(printed.splitlines()[-1])["name"].removeprefix("jobs/")
        (began, ended), = self.fleet.rows(f"SELECT started_ms, ended_ms FROM jobs WHERE id = '{job}'")
        tasks = [float(row[0]) for row in self.fleet.rows(f"SELECT seconds FROM tasks WHERE job = '{job}'")]
        return (int(ended) - int(began)) / 1e3, tasks

    def watch(self, command):
        """What a command that follows a job printed. A worker that is gone would leave it waiting."""
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            end = time.monotonic() + JOB_SECONDS
            while True:
                try:
                    printed, errors = client.communicate(timeout=WATCH_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    gone = [f"{worker.name} ended with {worker.process.returncode}" for worker in self.workers if not worker.running()]
                    if gone or time.monotonic() > end:
                        client.kill()
                        raise Unmeasurable(f"the job was not done: {', '.join(gone) or f'{JOB_SECONDS} s have passed'}") from None
        if client.returncode != 0:
            raise Unmeasurable(f"the job failed: {errors.strip()} {printed[-1000:].strip()}")
        return printed

    def show(self, model, *options):
        return self.context.show([self.context.program("client/qamctl"), "quantize", model, *options, "--watch"])


def processor_seconds(child):
    """That PostgreSQL has used so far, with processes of it that have ended."""
    total = 0
    for at, pid in enumerate(child.processes()):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15 if at == 0 else 13]))
    return total / os.sysconf("SC_CLK_TCK")


def job_of(context):
    return context.model("smollm2"), ["--bpw", "5.5", *texts(context)]


def speedup(context):
    """One worker and three, each on one thread."""
    model, options = job_of(context)
    seconds = {}
    cores = 1 if context.threads > SPEEDUP_WORKERS else SMALL_CORES
    for workers in (1, SPEEDUP_WORKERS):
        with contextlib.ExitStack() as limits, RunningFleet(context, workers, 1) as fleet:
            for worker in fleet.workers if cores < 1 else []:
                limits.enter_context(cpu_limit(cores)).add(worker.process.pid)
            seconds[workers], _ = fleet.quantize(model, *options)
            command = fleet.show(model, *options)
    return {"fleet.workers3.speedup": Figure(
        seconds[1] / seconds[SPEEDUP_WORKERS], command,
        note=", ".join(f"{workers} worker{'s' if workers > 1 else ''} {value:.1f} s" for workers, value in seconds.items()) +
        (f"; each worker held to {cores} of a core, so that {SPEEDUP_WORKERS} have room on {context.threads}" if cores < 1 else ""))}


def same_cores(context):
    """The same job on two cores: by one server with two threads, and by a fleet of two workers with one thread each."""
    model, options = job_of(context)
    context_threads, context.threads = context.threads, 2
    try:
        with JobServer(context, "one-process", ["--worker-nice", "0"]) as server:
            _, seen = server.quantize(model, *options)
            command = server.show(model, *options)
    finally:
        context.threads = context_threads
    with RunningFleet(context, 2, 1) as fleet:
        seconds, tasks = fleet.quantize(model, *options)
    extra = 1e3 * (2 * seconds - sum(tasks)) / len(tasks)
    return {"fleet.workers2.seconds_over_one_process": Figure(
        seconds / seen["end"], command, peer=f"one server, 2 threads: {seen['end']:.1f} s", ratio=seconds / seen["end"],
        note=f"2 workers {seconds:.1f} s, {len(tasks)} tasks of {sum(tasks):.1f} s together: {extra:.0f} ms a task in which a "
             "worker had none")}


def overhead(context):
    """What a task costs besides its work: one worker, tasks that are all but nothing."""
    model = context.work / "small-llama"
    if not model.exists():
        context.run([context.program("tests/support/make_random_model"), "--out", model, *SMALL_MODEL], quiet=True)
    with RunningFleet(context, 1, 1) as fleet:
        fleet.quantize(model, "--bpw", "5", *SMALL_TEXT)  # copies the checkpoint
        before = processor_seconds(fleet.fleet.postgres)
        began = time.monotonic()
        seconds, tasks = fleet.quantize(model, "--bpw", "5.5", *SMALL_TEXT)
        store = processor_seconds(fleet.fleet.postgres) - before
        command = fleet.show(model, "--bpw", "5.5", *SMALL_TEXT)
        wall = time.monotonic() - began
    return {"fleet.overhead_ms_per_task": Figure(
        1e3 * (seconds - sum(tasks)) / len(tasks), command,
        note=f"{len(tasks)} tasks of {1e3 * sum(tasks) / len(tasks):.1f} ms, blobs included, in {seconds:.1f} s; PostgreSQL's CPU "
             f"{1e3 * store / len(tasks):.2f} ms a task (job and watching {wall:.1f} s)")}


@dataclasses.dataclass
class WorkerMemory:
    """Of a worker that did a whole job; bytes."""
    limit: int
    idle: int   # the most before the job
    peak: int
    seconds: float
    how: str    # whether the kernel held it to the limit
    command: str


def worker_memory(context, model, size, options, grouped=True):
    """A job by one worker of a fleet, which has a node cache of its own, is told a quarter of the model's `size` as its limit,
    and is held to it by a control group where one can be made, if `grouped`."""
    limit = size // 4
    flags = ["--memory-limit-mib", limit >> 20]
    with contextlib.ExitStack() as stack:
        started, how = lambda pid: None, "no control group"
        if grouped:
            try:
                group = stack.enter_context(memory_limit(limit))
                started, how = group.add, f"in a {group.describe()} of that much"
            except Unmeasurable as error:
                how = str(error)
        fleet = stack.enter_context(RunningFleet(context, 1, context.threads, flags, started))
        worker = fleet.workers[0].process.pid
        idle = peak_rss_bytes(worker)
        seconds, _ = fleet.quantize(model, *options)
        return WorkerMemory(limit, idle, peak_rss_bytes(worker), seconds, how,
                            f"{context.show(worker_command(context, flags))} ; {fleet.show(model, *options)}")


def worker_command(context, flags):
    return [context.program("server/qamserve"), "--roles", "worker", "--metadata-store", "postgresql://...", "--blob-store",
            "s3://...", "--threads", context.threads, *flags]


def bounded_worker(context):
    """A whole job on a model four times larger than the memory that a worker may take."""
    model, size = random_llama(context)
    options = ["--bpw", "5.5", *texts(context), "--calibration-windows", "4", "--evaluation-windows", "4", "--window-tokens", "256"]
    seen = worker_memory(context, model, size, options)
    return {"fleet.worker.rss_over_limit": Figure(
        seen.peak / seen.limit, seen.command,
        note=f"peak {seen.peak / 2**20:.0f} MiB, limit {seen.limit / 2**20:.0f} MiB, {seen.how}; {seen.idle / 2**20:.0f} MiB before "
             f"the job; model {size / 2**30:.2f} GiB, {context.threads} threads, {seen.seconds:.0f} s")}


def simulated(_):
    """Not a measurement of this machine, but of what it recorded (record_costs.py)."""
    try:
        recorded, stores = fleet_simulation.read()
    except OSError as error:
        raise Unmeasurable(f"nothing is recorded: {error}") from None
    best = {cached: fleet_simulation.workers_at_half_efficiency(recorded, stores, cached=cached) for cached in (False, True)}
    return {"fleet.simulated.workers_at_half_efficiency": Figure(
        best[True], "python3 tests/bench/fleet_simulation.py",
        note=f"{best[False]} where each worker fetches each job's checkpoint; recorded {recorded['date']}")}


def measurements():
    """(keys it gives, function of a Context)."""
    return [(["fleet.workers3.speedup"], speedup), (["fleet.workers2.seconds_over_one_process"], same_cores),
            (["fleet.overhead_ms_per_task"], overhead), (["fleet.simulated.workers_at_half_efficiency"], simulated),
            (["fleet.worker.rss_over_limit"], bounded_worker)]
