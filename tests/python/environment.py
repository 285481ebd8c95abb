#!/usr/bin/env python3
"""Runs a Python program in a virtual environment of pinned packages, with the project's Python package if it is asked for.

usage: environment.py --work DIR [--requirements FILE] [--with-client] PROGRAM [ARGUMENT...]

Environments lie under the cache folder, one for each list of packages and each Python, and are made once. The client is
built from a copy of the tree in DIR, as `pip install client/python` would build it. Exit status 77, which ctest counts as
skipped, if packages are missing and no package index can be reached; else that of the program.
"""
import argparse
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import venv

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SKIPPED = 77
# What the package is built from, beside its own folder.
SOURCES = ["client/python", "proto", "core/codec/tables", "core/codec/trellis.cc", "core/codec/trellis.h"]


def pip(python, *arguments):
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--retries", "1", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          check=False)


def index_answers(python, folder):
    """Whether any package at all can be had: tells a wrong list from a missing network."""
    return pip(python, "download", "--quiet", "--no-deps", "--dest", folder / "probe", "packaging").returncode == 0


def environment(requirements):
    """The Python of an environment with these packages."""
    digest = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "qamserve" / "venvs"
    folder = cache / digest
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / f"{digest}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = folder / "bin" / "python"
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
            print(f"installing what {requirements.name} names", flush=True)
            done = pip(python, "install", "--quiet", "--requirement", requirements)
            if done.returncode != 0:
                print(done.stdout[-4000:])
                if not index_answers(python, folder):
                    print("skipped: no package index can be reached")
                    sys.exit(SKIPPED)
                sys.exit(f"error: the packages of {requirements} cannot be installed (see above)")
            (folder / "complete").touch()
    return python


def install_client(python, work):
    """Builds and installs client/python; the folder to put on PYTHONPATH."""
    tree, site = work / "tree", work / "site"
    for folder in (tree, site):
        shutil.rmtree(folder, ignore_errors=True)
    for source in SOURCES:
        original, copy = REPOSITORY / source, tree / source
        copy.parent.mkdir(parents=True, exist_ok=True)
        if original.is_dir():
            shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
        else:
            shutil.copy2(original, copy)
    done = pip(python, "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", site, tree / "client/python")
    if done.returncode != 0:
        sys.exit(f"error: client/python cannot be installed:\n{done.stdout[-4000:]}")
    return site


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--requirements", type=pathlib.Path, default=pathlib.Path(__file__).with_name("requirements.txt"))
    parser.add_argument("--with-client", action="store_true")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    python = environment(arguments.requirements.resolve())
    variables = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "GRPC_VERBOSITY": "NONE"}
    if arguments.with_client:
        arguments.work.mkdir(parents=True, exist_ok=True)
        variables["PYTHONPATH"] = str(install_client(python, arguments.work.resolve()))
    os.execve(python, [str(python), arguments.program, *arguments.arguments], variables)


if __name__ == "__main__":
    main()
