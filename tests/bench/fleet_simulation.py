#!/usr/bin/env python3
"""What 1 to 1,000 workers make of a queue of jobs: an event-driven simulation on recorded task times.

usage: fleet_simulation.py [--tasks FILE] [--costs FILE] [--json FILE] [--write]

--write puts tables and plots into docs/scaling.md and beside it.

A job is the list of tasks that the server makes of it, in stages that follow one another; the time of a task was recorded on
one thread and grows with the parameters of a larger model, whose tensors are more, too. A worker is one thread on one core. It
claims a task, fetches the job's checkpoint if it has not got it, works, reports. The stores are servers with queues:
 * the metadata store does a number of transactions at a time, each of which takes what was measured. Completions of one job
   exclude each other, since each writes the job's row. When a stage ends every idle worker asks for work, in vain or not.
   Renewals of leases take their part of it all the time;
 * the object store has so much bandwidth, of which each worker can take so much; who comes later waits.
Nothing is random: the same files give the same tables.
"""
import argparse
import dataclasses
import heapq
import json
import math
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs/scaling.md"
# What is between these in the page is written by this program.
MARKS = ("<!-- written by tests/bench/fleet_simulation.py --write -->\n", "<!-- end of it -->\n")
PLOTS = {False: "scaling_fetched.svg", True: "scaling_cached.svg"}
TASK_SECONDS = (0.1, 1, 10, 100)
WORKERS = (1, 10, 100, 1000)
JOBS = (1, 100)
# Parameters of linear layers, layers, and bytes of the checkpoint; the first is the one that was recorded.
MODELS = {
    "135M": {"parameters": 106e6, "layers": 30, "bytes": 0.27e9},
    "7B": {"parameters": 6.5e9, "layers": 32, "bytes": 13.5e9},
    "70B": {"parameters": 68.5e9, "layers": 80, "bytes": 138e9},
}
RECORDED = "135M"
TENSORS_PER_LAYER = 7
RENEW_SECONDS = 5  # of a worker in a fleet (server/jobs/worker.cc)
# A store that is busier than this makes those wait who come.
SATURATED = 0.7


@dataclasses.dataclass(frozen=True)
class Stores:
    claim_seconds: float            # of the metadata store for a claim
    complete_seconds: float         # for a report
    renew_seconds: float            # for a renewal
    concurrency: int                # transactions that it does at a time
    object_bytes_per_second: float  # of the object store, all readers together
    worker_bytes_per_second: float  # of a worker's network


@dataclasses.dataclass(frozen=True)
class Task:
    stage: str
    seconds: float
    fetches: bool  # the checkpoint, if the worker has not got it yet


def job_tasks(recorded, model):
    """Stages in order, each a list of tasks."""
    ours, base = MODELS[model], MODELS[RECORDED]
    grow = ours["parameters"] / base["parameters"]
    stages = []
    for stage in recorded["stages"]:
        name, seconds = stage["stage"], stage["seconds"]
        if name == "quantize":
            tensors = ours["layers"] * TENSORS_PER_LAYER
            shares = [seconds[i % len(seconds)] for i in range(tensors)]  # those of a layer differ as recorded
            total = sum(seconds) * grow
            stages.append([Task(name, total * share / sum(shares), True) for share in shares])
        elif name == "assemble":
            stages.append([Task(name, one * grow, True) for one in seconds])
        else:
            # Passes of the model over windows. To prepare is to read the text, and one pass where it is made up.
            stages.append([Task(name, one * (1 if name == "prepare" else grow), True) for one in seconds])
    return stages


class Server:
    """Requests one after another on each of `places`; tells when a request that comes now is done."""

    def __init__(self, places):
        self.free = [0.0] * places
        self.busy = 0.0

    def serve(self, now, seconds):
        begin = max(now, heapq.heappop(self.free))
        heapq.heappush(self.free, begin + seconds)
        self.busy += seconds
        return begin + seconds


class Job:
    def __init__(self, stages):
        self.stages = [list(stage) for stage in stages]
        self.open = 0
        self.row = Server(1)

    def done(self):
        return not self.stages

    def take(self):
        """The next task, or None while the stage is being finished by others."""
        if self.done() or not self.stages[0]:
            return None
        self.open += 1
        return self.stages[0].pop()

    def finish(self):
        """True if a stage is over: other tasks may start, or the job has ended."""
        self.open -= 1
        if self.open or self.stages[0]:
            return False
        self.stages.pop(0)
        return True


class Simulation:
    def __init__(self, stages, jobs, workers, stores, model_bytes, cached):
        self.stores, self.model_bytes = stores, model_bytes
        # Renewals are many and small: a steady part of the store that others do not get.
        tasks = [task for stage in stages for task in stage]
        work = sum(task.seconds for task in tasks)
        long_part = sum(task.seconds for task in tasks if task.seconds > RENEW_SECONDS) / work
        busy = min(workers, jobs * max(len(stage) for stage in stages))
        self.renewals = min(0.95, busy * long_part / RENEW_SECONDS * stores.renew_seconds / stores.concurrency)
        self.metadata = Server(stores.concurrency)
        self.objects = Server(max(1, round(stores.object_bytes_per_second / stores.worker_bytes_per_second)))
        self.active = [Job(stages) for _ in range(jobs)]
        self.idle = list(range(workers))
        self.has = [set() for _ in range(workers)]
        self.cached, self.workers = cached, workers
        self.events, self.sequence, self.now = [], 0, 0.0
        self.worked = self.waited_for_objects = 0.0

    def store(self, now, seconds):
        return self.metadata.serve(now, seconds / (1 - self.renewals))

    def after(self, when, what):
        heapq.heappush(self.events, (when, self.sequence, what))
        self.sequence += 1

    def start(self, worker):
        for job in self.active:
            task = job.take()
            if task is None:
                continue
            begin = self.store(self.now, self.stores.claim_seconds)
            if task.fetches and not self.cached and id(job) not in self.has[worker]:
                self.has[worker].add(id(job))
                end = self.objects.serve(begin, self.model_bytes / self.stores.worker_bytes_per_second)
                self.waited_for_objects += end - begin
                begin = end
            self.worked += task.seconds
            self.after(begin + task.seconds, (worker, job, True))
            return True
        return False

    def start_idle(self):
        while self.idle and self.start(self.idle[-1]):
            self.idle.pop()
        for _ in self.idle:  # they have asked, too
            self.store(self.now, self.stores.claim_seconds)

    def run(self):
        self.start_idle()
        while self.events:
            self.now, _, (worker, job, working) = heapq.heappop(self.events)
            if working:
                # Its turn at the job's row, then the store's.
                turn = job.row.serve(self.now, self.stores.complete_seconds)
                end = self.store(turn - self.stores.complete_seconds, self.stores.complete_seconds)
                self.after(max(turn, end), (worker, job, False))
                continue
            more = job.finish()
            if job.done():
                self.active.remove(job)
            if not self.start(worker):
                self.idle.append(worker)
            if more:
                self.start_idle()
        return {"seconds": self.now, "metadata_busy": self.renewals + self.metadata.busy / (self.stores.concurrency * self.now),
                "objects_busy": self.objects.busy / (len(self.objects.free) * self.now),
                "objects_share": self.waited_for_objects / (self.workers * self.now),
                "workers_busy": self.worked / (self.workers * self.now)}


def simulate(stages, jobs, workers, stores, model_bytes, cached=False):
    return Simulation(stages, jobs, workers, stores, model_bytes, cached).run()


def limit(result, stages, jobs, workers):
    """What keeps more workers from helping, in words."""
    if result["metadata_busy"] > SATURATED:
        return "metadata store"
    if result["objects_share"] > 0.3:
        return "object store" if result["objects_busy"] > SATURATED else "worker's network"
    if workers > jobs * max(len(stage) for stage in stages):
        return "fewer tasks than workers"
    if result["workers_busy"] < 0.7:
        return "stages that wait for their last task"
    return "workers"


def table(recorded, stores):
    """A row for each model, number of jobs and workers, with and without the checkpoint on every worker's disk already."""
    rows = []
    for model, facts in MODELS.items():
        stages = job_tasks(recorded, model)
        work = sum(task.seconds for stage in stages for task in stage)
        for jobs in JOBS:
            for workers in WORKERS:
                for cached in (False, True):
                    result = simulate(stages, jobs, workers, stores, facts["bytes"], cached)
                    speedup = jobs * work / result["seconds"]
                    rows.append({"model": model, "jobs": jobs, "workers": workers, "cached": cached, **result, "speedup": speedup,
                                 "efficiency": speedup / workers, "limit": limit(result, stages, jobs, workers)})
    return rows


def markdown(rows):
    """Efficiency is work over workers times wall time."""
    lines = ["| model | jobs | workers | every job's checkpoint is fetched | | | it is there already | | | metadata store busy |",
             "|---|---:|---:|---:|---:|---|---:|---:|---|---:|",
             "| | | | wall time | efficiency | limit | wall time | efficiency | limit | |"]
    for cold, warm in zip(rows[::2], rows[1::2]):
        cells = [cold["model"], cold["jobs"], f"{cold['workers']:,}"]
        for row in (cold, warm):
            cells += [shown_seconds(row["seconds"]), f"{100 * row['efficiency']:.0f} %", row["limit"]]
        cells.append(f"{100 * warm['metadata_busy']:.1f} %")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def shown_seconds(seconds):
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def workers_at_half_efficiency(recorded, stores, model="7B", jobs=100, cached=False):
    """The most workers, of powers of two, that still get half as much done as one by itself would."""
    stages, facts = job_tasks(recorded, model), MODELS[model]
    work = jobs * sum(task.seconds for stage in stages for task in stage)
    best = 1
    for exponent in range(1, 15):
        workers = 2 ** exponent
        if work / simulate(stages, jobs, workers, stores, facts["bytes"], cached)["seconds"] / workers < 0.5:
            break
        best = workers
    return best


def metadata_limit(stores, task_seconds):
    """How many workers with tasks of this length fill the metadata store."""
    renewals = 1 / RENEW_SECONDS * stores.renew_seconds if task_seconds > RENEW_SECONDS else 0
    a_worker = (stores.claim_seconds + stores.complete_seconds) / task_seconds + renewals
    return stores.concurrency / a_worker


def plot(rows, cached, width=640, height=400, left=60, bottom=50):
    """Speedup over workers, both in powers of ten, as SVG."""
    colours = {"135M": "#4c78a8", "7B": "#f58518", "70B": "#54a24b"}

    def x(workers):
        return left + (width - left - 120) * math.log10(workers) / 3

    def y(speedup):
        return height - bottom - (height - bottom - 20) * math.log10(max(speedup, 1)) / 3

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
             'font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>']
    for power in range(4):
        value = 10 ** power
        parts.append(f'<line x1="{left}" x2="{width - 120}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:,}</text>')
        parts.append(f'<text x="{x(value):.1f}" y="{height - bottom + 18}" text-anchor="middle">{value:,}</text>')
    parts.append(f'<text x="{(left + width - 120) / 2}" y="{height - 10}" text-anchor="middle">workers</text>')
    parts.append(f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})" '
                 'text-anchor="middle">speedup</text>')
    parts.append(f'<line x1="{x(1)}" y1="{y(1):.1f}" x2="{x(1000)}" y2="{y(1000):.1f}" stroke="#bbb" '
                 'stroke-dasharray="4 4"/>')
    at = 30
    for model, colour in colours.items():
        for jobs, dash in ((1, "5 3"), (100, "")):
            points = [row for row in rows if (row["model"], row["jobs"], row["cached"]) == (model, jobs, cached)]
            path = " ".join(f"{x(row['workers']):.1f},{y(row['speedup']):.1f}" for row in points)
            style = f'stroke="{colour}" stroke-width="2"' + (f' stroke-dasharray="{dash}"' if dash else "")
            parts.append(f'<polyline points="{path}" fill="none" {style}/>')
            parts.append(f'<line x1="{width - 110}" x2="{width - 85}" y1="{at}" y2="{at}" {style}/>')
            parts.append(f'<text x="{width - 80}" y="{at + 4}">{model}, {jobs} job{"s" if jobs > 1 else ""}</text>')
            at += 20
    return "\n".join([*parts, "</svg>", ""])


def section(recorded, stores, rows):
    """The part of the page that follows from what was recorded."""
    lines = [markdown(rows), "", "| 100 jobs of 7B | workers that still get half as much done as one by itself |", "|---|---:|"]
    for cached, words in ((False, "every job's checkpoint is fetched"), (True, "it is there already")):
        lines.append(f"| {words} | {workers_at_half_efficiency(recorded, stores, cached=cached):,} |")
    lines += ["", "| a worker's tasks take | workers that fill the metadata store |", "|---|---:|"]
    lines += [f"| {seconds:g} s | {metadata_limit(stores, seconds):,.0f} |" for seconds in TASK_SECONDS]
    return "\n".join([*lines, ""])


def with_section(page, text):
    begin, end = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
    return page[:begin] + text + page[end:]


def read(tasks=HERE / "data/task_times.json", costs=HERE / "data/store_costs.json"):
    """What was recorded of a job, and Stores."""
    recorded = json.loads(pathlib.Path(tasks).read_text())
    return recorded, Stores(**json.loads(pathlib.Path(costs).read_text())["stores"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=HERE / "data/task_times.json")
    parser.add_argument("--costs", default=HERE / "data/store_costs.json")
    parser.add_argument("--json")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    recorded, stores = read(args.tasks, args.costs)
    rows = table(recorded, stores)
    text = section(recorded, stores, rows)
    print(text, end="")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1) + "\n")
    if args.write:
        PAGE.write_text(with_section(PAGE.read_text(), text))
        for cached, name in PLOTS.items():
            PAGE.with_name(name).write_text(plot(rows, cached))


if __name__ == "__main__":
    main()
