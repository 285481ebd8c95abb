#!/usr/bin/env python3
"""clang-tidy on files, several in one translation unit, for a bounded time.

usage: run_tidy.py --build DIR [--jobs N] [--seconds S] FILE...

Nearly all of clang-tidy's time goes into the headers a file includes, so files of one folder with the same flags are
checked as one. Where that does not compile (two files use one name in their unnamed namespaces), the files that the
errors name are checked apart from the others. Exit status 1: clang-tidy found something. Files that the time did not suffice for are
named; they do not fail.
"""
import argparse
import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys
import time

BATCH_FILES = 12
BATCH_LINES = 2400
SOURCES = r"(core|server|client|tests)/.*\.(h|cc)$"
COMPILE_ERROR = re.compile(r"^(\S+?):\d+:\d+: error: .*\[clang-diagnostic-error\]$", re.MULTILINE)


def flags_of(command):
    """The compiler's arguments that matter to a parser: no input, output or optimization."""
    words = shlex.split(command)[1:]
    kept = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word in ("-o", "-c"):
            skip = True
        elif not re.fullmatch(r"-O\d|-g\d?|-Werror|-Winvalid-pch|-include|\S*cmake_pch\.hxx", word):
            kept.append(word)
    return kept


def batches(files, commands):
    """Lists of files of one folder with one set of flags."""
    groups = {}
    for file in files:
        groups.setdefault((os.path.dirname(file), tuple(flags_of(commands[os.path.abspath(file)]))), []).append(file)
    for (_, flags), members in groups.items():
        batch, lines = [], 0
        for file in members:
            with open(file, encoding="utf-8") as source:
                length = sum(1 for _ in source)
            if batch and (len(batch) == BATCH_FILES or lines + length > BATCH_LINES):
                yield batch, flags
                batch, lines = [], 0
            batch.append(file)
            lines += length
        yield batch, flags


class Tidy:
    def __init__(self, folder, deadline):
        self.folder = folder
        self.deadline = deadline
        os.makedirs(folder, exist_ok=True)

    def run(self, files, flags):
        """(exit status or None if there was no time, output) of one translation unit."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            return None, ""
        unit = os.path.join(self.folder, re.sub(r"\W", "_", files[0]) + f"_{len(files)}.cc")
        with open(unit, "w", encoding="utf-8") as out:
            out.writelines(f'#include "{os.path.abspath(file)}"\n' for file in files)
        try:
            done = subprocess.run(["clang-tidy", "--quiet", "--checks=-bugprone-suspicious-include",
                                   f"--header-filter={SOURCES}", unit, "--", *flags],
                                  capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=left, check=False)
        except subprocess.TimeoutExpired:
            return None, ""
        return done.returncode, done.stdout + (done.stderr if done.returncode else "")

    def check(self, files, flags):
        """[(files, status, output)]: together if that compiles, else in two parts that may."""
        status, output = self.run(files, flags)
        named = {os.path.abspath(match[1]) for match in COMPILE_ERROR.finditer(output)}
        apart = [file for file in files if os.path.abspath(file) in named]
        if not status or len(files) == 1 or not apart:
            return [(files, status, output)]
        if len(apart) == len(files):
            apart = files[1:]
        rest = [file for file in files if file not in apart]
        return self.check(rest, flags) + self.check(apart, flags)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()

    with open(os.path.join(arguments.build, "compile_commands.json"), encoding="utf-8") as database:
        commands = {entry["file"]: entry["command"] for entry in json.load(database)}
    tidy = Tidy(os.path.join(arguments.build, "tidy"), time.monotonic() + arguments.seconds)
    failed, unreached, done = [], [], 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for results in pool.map(lambda batch: tidy.check(*batch), list(batches(arguments.files, commands))):
            for files, status, output in results:
                if status is None:
                    unreached += files
                    continue
                done += len(files)
                print(f"      [{done}/{len(arguments.files)}] {' '.join(files)}: {'ok' if status == 0 else 'FAILED'}",
                      flush=True)
                if status != 0:
                    failed.append(" + ".join(files))
                    print(output, flush=True)
    if unreached:
        print(f"not reached in {arguments.seconds:.0f} s: {' '.join(unreached)}")
    if failed:
        print(f"clang-tidy found something in: {'; '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
