#!/usr/bin/env python3
"""Measures the figures of docs/benchmarks.md. Called by ./run bench.

usage: bench.py [--build DIR] [--threads N] [--list] [--render] [KEY_PREFIX...]

Writes docs/benchmarks.json, where only the keys that were measured now are replaced, and renders docs/benchmarks.md.
What cannot be measured here is named with the reason and leaves its old figure alone. Exit status 1: something could
not be measured, or a bar was missed.
"""
import argparse
import os
import pathlib
import sys

import measure
import results
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


def measure_all(context, wanted, json_path, page_path):
    """Measures and writes; (keys not measured with the reason, keys whose bar was missed)."""
    todo = [(keys, function) for keys, function in measure.measurements() if set(keys) & set(wanted)]
    problems, missed = [], []
    for index, (keys, function) in enumerate(todo, 1):
        print(f"[{index}/{len(todo)}] {', '.join(keys)}", flush=True)
        figures, problem = measure_one(context, function)
        if problem:
            problems.append(f"{', '.join(keys)}: {problem}")
        missed += [key for key, figure in figures.items() if KEYS[key].passes(figure.value) is False]
        # After each measurement, so that a run that is broken off keeps what it has.
        rows = results.load(json_path)
        rows.update({key: results.row(key, figure, context) for key, figure in figures.items()})
        results.save(json_path, rows)
        results.write_atomically(page_path, results.render(rows))
    return problems, missed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prefixes", nargs="*", metavar="KEY_PREFIX")
    parser.add_argument("--build", default=str(REPOSITORY / "build"))
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "qamserve"
    parser.add_argument("--cache", type=pathlib.Path, default=cache)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--list", action="store_true", help="name the keys, measure nothing")
    parser.add_argument("--render", action="store_true", help="only write benchmarks.md from benchmarks.json")
    arguments = parser.parse_args()
    try:
        wanted = select(arguments.prefixes)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        for key in wanted:
            print(f"{key:<46} {KEYS[key].bar():<24} {KEYS[key].about}")
        return 0

    json_path = REPOSITORY / "docs/benchmarks.json"
    page_path = REPOSITORY / "docs/benchmarks.md"
    if arguments.render:
        results.write_atomically(page_path, results.render(results.load(json_path)))
        return 0

    context = Context(arguments.build, arguments.cache, arguments.threads)
    problems, missed = measure_all(context, wanted, json_path, page_path)
    for problem in problems:
        print(f"not measured: {problem}")
    for key in missed:
        print(f"bar missed: {key}")
    print("docs/benchmarks.json and docs/benchmarks.md are written")
    return 1 if problems or missed else 0


if __name__ == "__main__":
    sys.exit(main())
