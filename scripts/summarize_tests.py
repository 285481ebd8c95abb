#!/usr/bin/env python3
"""Adds up what `ctest --output-junit` and GoogleTest wrote under a folder, and ends with a line "N passed, N failed".

usage: summarize_tests.py DIR

DIR/<label>/ctest.xml has one entry a test program; DIR/<label>/gtest/<program>.xml, where the program is a GoogleTest
one and lived to write it, has its cases, which are then counted instead. A program that ctest calls failed although no
case failed (it crashed, timed out, or a sanitizer spoke) counts as one failure more. DIR/<label>/skipped holds a count
of tests that were not started. The line is also written to DIR/summary.txt. Exit status 1: something failed, or
nothing ran.
"""
import pathlib
import sys
import xml.etree.ElementTree as ElementTree


def count_cases(path):
    """(passed, skipped, names of failed cases) of a GoogleTest file; None if it cannot be read."""
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    passed, skipped, failed = 0, 0, []
    for case in root.iter("testcase"):
        if case.find("failure") is not None:
            failed.append(f"{case.get('classname')}.{case.get('name')}")
        elif case.find("skipped") is not None or case.get("result") == "skipped":
            skipped += 1
        elif case.get("status") == "run":
            passed += 1
    return passed, skipped, failed


def skip_message(program):
    """Why ctest did not run a program: it skipped, or its executable is missing."""
    skip = program.find("skipped")
    return "" if skip is None else skip.get("message", "")


def summarize(folder):
    passed, skipped, failed = 0, 0, []
    for path in sorted(folder.glob("*/skipped")):
        skipped += int(path.read_text())
    for junit in sorted(folder.glob("*/ctest.xml")):
        for program in ElementTree.parse(junit).getroot().iter("testcase"):
            name = program.get("name")
            status = program.get("status")
            cases = count_cases(junit.parent / "gtest" / f"{name}.xml")
            if cases is not None:
                passed += cases[0]
                skipped += cases[1]
                failed += [f"{name}: {case}" for case in cases[2]]
                if status == "fail" and not cases[2]:
                    failed.append(name)
            elif status == "run":
                passed += 1
            elif status in ("notrun", "disabled") and "Unable to find" not in skip_message(program):
                skipped += 1
            else:
                failed.append(name)
    return passed, skipped, failed


def main():
    folder = pathlib.Path(sys.argv[1])
    passed, skipped, failed = summarize(folder)
    for name in failed:
        print(f"failed: {name}")
    if passed + len(failed) == 0:
        print("error: no test ran", file=sys.stderr)
    line = f"{passed} passed, {len(failed)} failed" + (f", {skipped} skipped" if skipped else "")
    (folder / "summary.txt").write_text(line + "\n")
    print(line)
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
