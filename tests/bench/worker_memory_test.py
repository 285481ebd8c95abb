#!/usr/bin/env python3
"""A worker's peak RSS on a model 4x its memory limit stays under the limit.

usage: worker_memory_test.py BUILD_DIR
The figure fleet.worker.rss_over_limit on a smaller model: a worker of a fleet does a whole job in a control group, whose kernel
ends it if it needs more. And, held to no memory, so that what it would take is seen, it adds less than half of a model to what
it has at rest. Both need PostgreSQL and SeaweedFS, the first a machine on which control groups can be made.
"""
import pathlib
import sys
import tempfile

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[1] / "support")]
import measure_fleet
from context import Context, Unmeasurable
from control_group import memory_limit
from prerequisites import exit_code_without

# A quarter has room for a worker at rest, some 40 MiB, and for the tensors and windows that it has in hand.
LARGE = ["--bytes", 512 << 20, "--hidden", 1024, "--intermediate", 2816, "--heads", 16, "--kv-heads", 8, "--vocab", 2048]
# A quarter of this one is less than the program itself takes.
SMALL = ["--bytes", 64 << 20, "--hidden", 512, "--intermediate", 1408, "--heads", 8, "--kv-heads", 4, "--vocab", 2048]
# Of the model, what a job may add: its weights as they are would be 1, the codes that are measured at the end are a third.
MOST_ADDED = 0.5
JOB = ["--bpw", "5.5", *measure_fleet.SMALL_TEXT]


def why_no_control_group():
    """"" where one can be made."""
    try:
        with memory_limit(64 << 20):
            return ""
    except Unmeasurable as error:
        return str(error)


def seen_of(shape, grouped):
    """Bytes of a model of that shape, and the memory of the worker that did a job on it."""
    with tempfile.TemporaryDirectory() as folder:
        context = Context(sys.argv[1], folder, 2)
        model = context.work / "model"
        context.run([context.program("tests/support/make_random_model"), "--out", model, *shape], quiet=True)
        size = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        seen = measure_fleet.worker_memory(context, model, size, JOB, grouped=grouped)
    print(f"model {size >> 20} MiB, limit {f'{seen.limit >> 20} MiB, {seen.how}' if grouped else 'none'}; "
          f"{seen.idle >> 20} MiB before the job, {seen.peak >> 20} MiB at its peak, {seen.seconds:.1f} s", flush=True)
    return size, seen


def main():
    if measure_fleet.missing():
        return exit_code_without(measure_fleet.missing())
    size, seen = seen_of(SMALL, grouped=False)
    if seen.peak - seen.idle > size * MOST_ADDED:
        print(f"failed: the job took {(seen.peak - seen.idle) >> 20} MiB more than there was before it")
        return 1
    if why_no_control_group():
        return exit_code_without(why_no_control_group())
    try:
        _, seen = seen_of(LARGE, grouped=True)
    except Unmeasurable as error:
        print(f"failed: {error}")  # a worker that was ended by the kernel, among others
        return 1
    if seen.peak > seen.limit:
        print("failed: the peak is over the limit")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
