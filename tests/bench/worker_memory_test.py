#!/usr/bin/env python3
"""A worker of a fleet does a job on a model in far less memory than the model takes.

usage: worker_memory_test.py BUILD_DIR
A small form of the figure fleet.worker.rss_over_limit: the program itself takes more than a quarter of this model, so that
only what the job adds is held to a bound. Ends with 77 where PostgreSQL or SeaweedFS is not installed.
"""
import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import measure_fleet
from context import Context

SKIPPED = 77
MODEL = ["--bytes", 64 << 20, "--hidden", 512, "--intermediate", 1408, "--heads", 8, "--kv-heads", 4, "--vocab", 2048]
# Of the model, what a job may add: its weights as they are would be 1, the codes that are measured at the end are a third.
MOST_ADDED = 0.5
JOB = ["--bpw", "5.5", *measure_fleet.SMALL_TEXT]


def main():
    if measure_fleet.missing():
        print(f"skipped: {measure_fleet.missing()}")
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        context = Context(sys.argv[1], folder, 2)
        model = context.work / "model"
        context.run([context.program("tests/support/make_random_model"), "--out", model, *MODEL], quiet=True)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        # Held to no memory: what it would have taken is to be seen.
        seen = measure_fleet.worker_memory(context, model, size, JOB, grouped=False)
    added = seen.peak - seen.idle
    print(f"model {size >> 20} MiB, {seen.idle >> 20} MiB before the job, {added >> 20} MiB more at its peak, {seen.seconds:.1f} s")
    return 0 if added <= size * MOST_ADDED else 1


if __name__ == "__main__":
    sys.exit(main())
