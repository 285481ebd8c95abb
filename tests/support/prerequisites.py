"""What a test needs of the machine (a program, a server) and does not find. On a developer's machine it skips; where CI=true
everything was to be there, and it fails: a check that is silently left out for months is no check.
"""
import os
import sys
import unittest

SKIPPED = 77  # the exit code that ctest counts as skipped (SKIP_RETURN_CODE)


def must_be_there():
    return os.environ.get("CI") == "true"


def exit_code_without(why):
    """Says what is missing; what a test program that cannot run ends with."""
    if must_be_there():
        print(f"failed: {why} (where CI=true nothing may be missing)")
        return 1
    print(f"skipped: {why}")
    return SKIPPED


def skip_without(why):
    """Ends a test of unittest, or in setUpClass those of a class, unless `why` is empty."""
    if why and must_be_there():
        raise AssertionError(f"{why} (where CI=true nothing may be missing)")
    if why:
        raise unittest.SkipTest(why)


def main(**options):
    """unittest.main, but a program some of whose tests skipped has not passed: it ends as skipped."""
    result = unittest.main(exit=False, **options).result
    if not result.wasSuccessful():
        sys.exit(1)
    sys.exit(SKIPPED if result.skipped else 0)
