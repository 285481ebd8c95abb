"""Records what fleet_simulation.py runs on: the times of a real job's tasks, and what a transaction costs the store.

usage: record_costs.py [--build DIR]     (an idle machine; writes tests/bench/data)

Bandwidths are not measured, since they are those of whoever runs a fleet: see OBJECTS.
"""
import argparse
import json
import os
import pathlib
import sqlite3

from context import REPOSITORY, Context
from job_server import JobServer
from measure_jobs import texts

DATA = REPOSITORY / "tests/bench/data"
STAGES = ("prepare", "calibrate", "quantize", "assemble", "evaluate", "probe", "allocate")  # TaskStage
STORE_SECONDS = 10
STORE_THREADS = (1, 2, 4, 8, 16)
# Ten machines' worth of a store with 10 Gbit/s each; a worker has 1 Gbit/s, as a core of a machine with 16 of them may.
OBJECTS = {"object_bytes_per_second": 12.5e9, "worker_bytes_per_second": 125e6}


def record_tasks(context):
    """Of one job on one thread, stage by stage, in the order of its tasks."""
    options = ["--bpw", "5.5", *texts(context)]
    context.threads = 1
    with JobServer(context, "task-times", keep=True) as server:
        view, _ = server.quantize(context.model("smollm2"), *options)
        command = server.show(context.model("smollm2"), *options)
        with sqlite3.connect(f"file:{server.data_dir}/metadata.sqlite?mode=ro", uri=True) as rows:
            tasks = rows.execute("SELECT round, stage, seconds FROM tasks ORDER BY round, stage, position").fetchall()
        server.keep = False
    stages = []
    for key in sorted({task[:2] for task in tasks}):
        stages.append({"stage": STAGES[key[1]], "seconds": [round(task[2], 4) for task in tasks if task[:2] == key]})
    return {"what": f"SmolLM2-135M, {view['progress']['weightsTotal']} weights, one thread", "command": command,
            "machine": context.machine, "commit": context.commit, "date": context.date, "stages": stages}


def record_store(context):
    """Times of a transaction by itself, and how many of them at once bring more than one after the other."""
    seen = {}
    for threads in STORE_THREADS:
        command = [context.program("tests/bench/store_bench"), "--engine", "postgresql", "--threads", threads, "--seconds",
                   STORE_SECONDS, "--renewals", 2, "--jobs", 300]
        seen[threads] = context.run_json(command)
    alone = seen[1]
    best = max(run["transactions_per_second"] for run in seen.values())
    return {"what": alone["engine"], "command": context.show(command), "machine": context.machine, "commit": context.commit,
            "date": context.date,
            "transactions_per_second": {threads: round(run["transactions_per_second"]) for threads, run in seen.items()},
            "assumed": OBJECTS,
            "stores": {**{f"{what}_seconds": round(alone[f"{what}_ms"]["p50"] / 1e3, 6) for what in ("claim", "complete", "renew")},
                       "concurrency": max(1, round(best / alone["transactions_per_second"])), **OBJECTS}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(REPOSITORY / "build"))
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "qamserve"
    context = Context(parser.parse_args().build, cache, os.cpu_count())
    DATA.mkdir(exist_ok=True)
    for name, record in (("store_costs", record_store), ("task_times", record_tasks)):
        (DATA / f"{name}.json").write_text(json.dumps(record(context), indent=1) + "\n")


if __name__ == "__main__":
    main()
