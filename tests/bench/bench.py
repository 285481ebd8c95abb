#!/usr/bin/env python3
"""Measures the figures of docs/benchmarks.md. Called by ./run bench.

usage: bench.py [--build DIR] [--threads N] [KEY_PREFIX...]      measures, and prints a table of it
       bench.py --import RESULTS [KEY_PREFIX...]                 takes what a bundle of scripts/bundle_gpu.sh measured
       bench.py --table [KEY_PREFIX...]                          prints all rows: ours, peer, ratio, bar, GB/s, % of peak
       bench.py --list [KEY_PREFIX...]                           names the keys with their bars
       bench.py --render

Writes docs/benchmarks.json, where only the keys that were measured now are replaced, and renders docs/benchmarks.md.
What cannot be measured here is named with the reason and leaves its old figure alone. Exit status 1: something could
not be measured, or a bar was missed.
"""
import argparse
import os
import pathlib
import sys

import gpu_bundle
import measure
import results
import table
from context import REPOSITORY, Context, Unmeasurable
from keys import KEYS, select


def measure_one(context, function):
    """Figures by key of one measurement, and why there are none, if so."""
    try:
        figures = function(context)
    except Unmeasurable as error:
        print(f"      not measured: {error}", flush=True)
        return {}, str(error)
    for key, figure in figures.items():
        print(f"      {key} = {results.number(figure.value)} {KEYS[key].unit} (bar: {KEYS[key].bar()}) "
              f"{results.verdict(key, figure.value)} {figure.note}", flush=True)
    return figures, ""


def measure_all(context, measurements, wanted, json_path, page_path):
    """Measures and writes; (keys that were measured, keys that were not with the reason)."""
    todo = [(keys, function) for keys, function in measurements if set(keys) & set(wanted)]
    problems, measured = [], []
    for index, (keys, function) in enumerate(todo, 1):
        print(f"[{index}/{len(todo)}] {', '.join(keys)}", flush=True)
        figures, problem = measure_one(context, function)
        if problem:
            problems.append(f"{', '.join(keys)}: {problem}")
        measured += figures
        # After each measurement, so that a run that is broken off keeps what it has.
        rows = results.load(json_path)
        rows.update({key: results.row(key, figure, context) for key, figure in figures.items()})
        results.save(json_path, rows)
        results.write_atomically(page_path, results.render(rows))
    return measured, problems


def conclude(measured, problems, json_path):
    """Prints what came of a run; the exit status."""
    rows = results.load(json_path)
    if measured:
        print("\n" + table.render(rows, [key for key in KEYS if key in measured]))
    for problem in problems:
        print(f"not measured: {problem}")
    missed = [key for key in measured if KEYS[key].passes(rows[key]["value"]) is False]
    for key in missed:
        print(f"bar missed: {key}")
    print("docs/benchmarks.json and docs/benchmarks.md are written; ./run bench --table shows all rows")
    return 1 if problems or missed else 0


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="*", metavar="KEY_PREFIX")
    parser.add_argument("--build", default=str(REPOSITORY / "build"))
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "qamserve"
    parser.add_argument("--cache", type=pathlib.Path, default=cache)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--list", action="store_true", help="name the keys, measure nothing")
    other.add_argument("--table", action="store_true", help="print the rows of benchmarks.json, measure nothing")
    other.add_argument("--render", action="store_true", help="only write benchmarks.md from benchmarks.json")
    other.add_argument("--import", dest="results", type=pathlib.Path, metavar="RESULTS",
                       help="make rows of what a bundle's run.sh left in this folder, measure nothing")
    arguments = parser.parse_args()
    try:
        arguments.wanted = select(arguments.prefixes)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def main():
    arguments = parse()
    wanted = arguments.wanted
    json_path = REPOSITORY / "docs/benchmarks.json"
    page_path = REPOSITORY / "docs/benchmarks.md"
    if arguments.list:
        for key in wanted:
            print(f"{key:<46} {KEYS[key].bar():<24} {KEYS[key].about}")
        return 0
    if arguments.table:
        print(table.render(results.load(json_path), wanted), end="")
        return 0
    if arguments.render:
        results.write_atomically(page_path, results.render(results.load(json_path)))
        return 0
    if arguments.results:
        try:
            source = gpu_bundle.Bundle(arguments.results)
        except Unmeasurable as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        measurements = gpu_bundle.measurements()
    else:
        source = Context(arguments.build, arguments.cache, arguments.threads)
        measurements = measure.measurements()
    measured, problems = measure_all(source, measurements, wanted, json_path, page_path)
    return conclude(measured, problems, json_path)


if __name__ == "__main__":
    sys.exit(main())
