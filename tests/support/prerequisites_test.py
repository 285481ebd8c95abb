#!/usr/bin/env python3
"""Tests that lack a server or a program skip, each of them, and fail where CI=true.

usage: prerequisites_test.py BUILD
"""
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

TESTS = pathlib.Path(__file__).resolve().parents[1]
BUILD = pathlib.Path(sys.argv.pop(1)).resolve()
SKIPPED = 77
# What each program looks for, where it is not.
NOTHING_HERE = {"QAMSERVE_POSTGRES_BIN": "/nowhere", "QAMSERVE_WEED": "/nowhere/weed", "QAMSERVE_KUBECTL": "/nowhere/kubectl",
                "PATH": "/nowhere"}
# Program -> which of its tests need what is not here.
GTEST_PROGRAMS = {"server/store/server_postgres_database_test": "*", "server/store/server_postgres_metadata_store_test": "*",
                  "server/store/server_postgres_faults_test": "*", "server/store/server_s3_blob_store_test": "*",
                  "server/grpc/server_admin_rpc_test": "*Postgresql*", "e2e/fleet_e2e_test": "*"}
PYTHON_PROGRAMS = ("chaos/chaos.py",)


def run(command, ci, **more):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GTEST_") and key != "CI"}
    return subprocess.run(command, env={**environment, **NOTHING_HERE, **more, **({"CI": "true"} if ci else {})},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


class Prerequisites(unittest.TestCase):
    def test_every_test_of_a_program_skips_or_the_program_fails(self):
        for program, tests in GTEST_PROGRAMS.items():
            with self.subTest(program), tempfile.TemporaryDirectory() as folder:
                command = [BUILD / "tests" / program, f"--gtest_filter={tests}"]
                done = run(command, ci=False, GTEST_OUTPUT=f"xml:{folder}/out.xml")
                self.assertEqual(done.returncode, 0, done.stdout)
                cases = list(ElementTree.parse(f"{folder}/out.xml").getroot().iter("testcase"))
                selected = [case for case in cases if case.get("status") == "run"]
                self.assertTrue(selected, "no test ran, so none counts as skipped")
                self.assertEqual({case.get("result") for case in selected}, {"skipped"})
                done = run(command, ci=True)
                self.assertEqual(done.returncode, 1, done.stdout)
                self.assertIn("CI=true", done.stdout)

    def test_programs_in_python_do_the_same(self):
        for program in PYTHON_PROGRAMS:
            for ci in (False, True):
                with self.subTest(program, ci=ci):
                    done = run([sys.executable, "-B", TESTS / program, BUILD], ci)
                    self.assertEqual(done.returncode, 1 if ci else SKIPPED, done.stdout)
                    self.assertIn("failed: " if ci else "skipped: ", done.stdout)

    def test_a_program_with_a_test_that_skipped_has_not_passed(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "some_test.py"
            path.write_text(f"""
import sys, unittest
sys.path.insert(0, {str(TESTS / "support")!r})
import prerequisites
class Some(unittest.TestCase):
    def test_works(self):
        pass
    def test_lacks(self):
        prerequisites.skip_without(sys.argv[-1] if sys.argv[-1] != "nothing" else "")
if __name__ == "__main__":
    prerequisites.main(argv=sys.argv[:1])
""")
            for lacking, ci, code in (("nothing", False, 0), ("nothing", True, 0), ("a server", False, SKIPPED),
                                      ("a server", True, 1)):
                with self.subTest(lacking=lacking, ci=ci):
                    self.assertEqual(run([sys.executable, "-B", path, lacking], ci).returncode, code)


if __name__ == "__main__":
    unittest.main()
