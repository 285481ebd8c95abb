#!/usr/bin/env python3
"""clang-tidy on files, some at once, for a bounded time.

usage: run_tidy.py --build DIR [--jobs N] [--seconds S] FILE...

Exit status 1: clang-tidy found something. Files that the time did not suffice for are named; they do not fail.
"""
import argparse
import concurrent.futures
import subprocess
import sys
import time


def check(build, file, deadline):
    """(file, exit status or None if there was no time, output)."""
    left = deadline - time.monotonic()
    if left <= 0:
        return file, None, ""
    try:
        done = subprocess.run(["clang-tidy", "--quiet", "-p", build, file], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        return file, None, ""
    return file, done.returncode, done.stdout + (done.stderr if done.returncode else "")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()

    deadline = time.monotonic() + arguments.seconds
    failed, unreached = [], []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(lambda file: check(arguments.build, file, deadline), arguments.files)
        for index, (file, status, output) in enumerate(results, 1):
            if status is None:
                unreached.append(file)
                continue
            print(f"      [{index}/{len(arguments.files)}] {file}: {'ok' if status == 0 else 'FAILED'}", flush=True)
            if status != 0:
                failed.append(file)
                print(output, flush=True)
    if unreached:
        print(f"not reached in {arguments.seconds:.0f} s: {' '.join(unreached)}")
    if failed:
        print(f"clang-tidy: {len(failed)} files with findings: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
