#!/usr/bin/env python3
"""Checks that the closing line of ./run test counts what it should, above all what failed."""
import pathlib
import subprocess
import sys
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "scripts/summarize_tests.py"


def junit(*cases):
    return "<testsuite>" + "".join(f'<testcase name="{name}" status="{status}">{inner}</testcase>'
                                   for name, status, inner in cases) + "</testsuite>"


def gtest(*cases):
    return '<testsuites><testsuite name="S">' + "".join(
        f'<testcase name="{name}" classname="S" status="{status}" result="{result}">{inner}</testcase>'
        for name, status, result, inner in cases) + "</testsuite></testsuites>"


class SummarizeTests(unittest.TestCase):
    def summarize(self, files):
        """(exit status, last line)."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            done = subprocess.run([sys.executable, "-B", str(SCRIPT), folder], capture_output=True, text=True,
                                  check=False)
            return done.returncode, done.stdout.splitlines()[-1]

    def test_cases_of_googletest_are_counted(self):
        self.assertEqual(self.summarize({
            "unit/ctest.xml": junit(("a", "run", ""), ("b", "run", "")),
            "unit/gtest/a.xml": gtest(("x", "run", "completed", ""), ("y", "run", "completed", ""),
                                      ("z", "run", "skipped", "<skipped/>")),
        }), (0, "3 passed, 0 failed, 1 skipped"))

    def test_a_failed_case_fails(self):
        self.assertEqual(self.summarize({
            "unit/ctest.xml": junit(("a", "fail", "<failure/>")),
            "unit/gtest/a.xml": gtest(("x", "run", "completed", "<failure/>"), ("y", "run", "completed", "")),
        }), (1, "1 passed, 1 failed"))

    def test_a_crash_fails_with_and_without_a_list_of_cases(self):
        self.assertEqual(self.summarize({"unit/ctest.xml": junit(("a", "fail", "<failure/>"), ("b", "run", ""))}),
                         (1, "1 passed, 1 failed"))
        self.assertEqual(self.summarize({
            "unit/ctest.xml": junit(("a", "fail", "<failure/>")),
            "unit/gtest/a.xml": gtest(("x", "run", "completed", "")),
        }), (1, "1 passed, 1 failed"))

    def test_a_missing_program_fails_and_a_skipped_one_does_not(self):
        missing = '<skipped message="Unable to find executable: /b/a"/>'
        self.assertEqual(self.summarize({"unit/ctest.xml": junit(("a", "notrun", missing), ("b", "run", ""))}),
                         (1, "1 passed, 1 failed"))
        skipped = '<skipped message="SKIP_RETURN_CODE=77"/>'
        self.assertEqual(self.summarize({"unit/ctest.xml": junit(("a", "notrun", skipped), ("b", "run", ""))}),
                         (0, "1 passed, 0 failed, 1 skipped"))

    def test_tests_that_were_not_started_are_skipped(self):
        self.assertEqual(self.summarize({"unit/ctest.xml": junit(("a", "run", "")), "gpu/skipped": "3\n"}),
                         (0, "1 passed, 0 failed, 3 skipped"))

    def test_nothing_ran_is_a_failure(self):
        self.assertEqual(self.summarize({}), (1, "0 passed, 0 failed"))


if __name__ == "__main__":
    sys.exit(unittest.main())
