#!/usr/bin/env python3
"""Rules of the tree that a compiler does not check: the include ladder, lengths of files, what README names.

The ladder: a file includes from its own folder and from folders above it in LADDER, and nothing else of the project.
The rules are checked on planted trees too, so that a rule that finds nothing is known to be able to.
"""
import pathlib
import re
import sys
import tempfile
import unittest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
MAX_LINES = 650
LADDER = ["core/base", "core/format", "core/codec", "core/kernels", "core/tokenizer", "core/constraint", "core/model", "core/export",
          "core/quantize", "core/evaluate", "core/engine", "server/fetch", "server/store", "server/access",
          "server/jobs", "server/serving", "server/fleet", "server/telemetry", "server/grpc", "server/http"]
# Where the API's generated types and gRPC may be named: the handlers, what starts them, and the client.
SPEAKS_PROTO = ("server/grpc/", "server/http/", "client/", "tests/")
SPEAKS_SQL = ("server/store/", "tests/")
PROTO_INCLUDE = re.compile(r"^(grpc|grpcpp|google|qamserve/v1|proto)/")
SQL_INCLUDE = re.compile(r"^(sqlite3|libpq)")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
CODE = {".cc", ".h", ".cu", ".cuh"}
COUNTED = CODE | {".py", ".sh", ".proto", ".cmake"}


def source_files(root):
    """Paths relative to `root`, without build folders, hidden folders and fetched third-party code."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        hidden = any(part.startswith(".") or part in ("__pycache__", "third_party") for part in relative.parts)
        built = len(relative.parts) > 1 and relative.parts[0].startswith("build")
        if path.suffix in COUNTED and not hidden and not built and path.is_file():
            yield relative


def rung_of(path):
    """The index in LADDER of the folder that holds `path`; -1 if none does."""
    return next((i for i, folder in enumerate(LADDER) if path.startswith(folder + "/")), -1)


def project_include_error(file, include):
    """Why `file` may not include the project's `include`; "" if it may."""
    of, to = rung_of(file), rung_of(include)
    if file.startswith("tests/core/"):
        return "tests of core know only core" if include.startswith(("server/", "client/")) else ""
    if file.startswith("tests/"):
        return ""
    if include.startswith("tests/"):
        return "only tests include from tests"
    if file.startswith("client/"):
        allowed = ("client/", "core/base/") + (("core/export/",) if file.startswith("client/qamctl/") else ())
        return "" if include.startswith(allowed) else "the client knows its own folder, core/base and the API"
    if include.startswith("client/"):
        return "only the client includes from client"
    if of >= 0 and to > of:
        return f"{LADDER[to]} is below {LADDER[of]} in the ladder"
    if of >= 0 and to < 0:
        return "the folder is not in the ladder"
    return ""


def library_include_error(file, include):
    in_server_root = file.startswith("server/") and file.count("/") == 1
    if PROTO_INCLUDE.match(include) and not in_server_root and not file.startswith(SPEAKS_PROTO):
        return "gRPC and protobuf belong to handlers and the client"
    if SQL_INCLUDE.match(include) and not file.startswith(SPEAKS_SQL):
        return "SQLite and libpq belong to server/store"
    return ""


def find_problems(root):
    problems = []
    for path in source_files(root):
        file = path.as_posix()
        text = (root / path).read_text(encoding="utf-8", errors="replace")
        lines = text.count("\n")
        # Goldens are data that another implementation wrote; nobody reads them from top to bottom.
        if lines > MAX_LINES and "golden" not in path.stem:
            problems.append(f"{file}: {lines} lines, the limit is {MAX_LINES}")
        if path.suffix not in CODE:
            continue
        if path.suffix == ".h" and "#pragma once" not in text:
            problems.append(f"{file}: no #pragma once")
        for match in INCLUDE.finditer(text):
            include = match.group(2)
            error = library_include_error(file, include)
            if not error and include.startswith(("core/", "server/", "client/", "tests/")):
                error = project_include_error(file, include)
            if not error and match.group(1) == '"' and "/" not in include and not include.endswith(".pb.h"):
                error = "includes are written from the root of the repository"
            if error:
                problems.append(f"{file} includes {include}: {error}")
    return problems


class Repository(unittest.TestCase):
    def test_tree_follows_the_rules(self):
        self.assertEqual(find_problems(REPOSITORY), [])

    def test_every_folder_of_core_and_server_is_in_the_ladder(self):
        folders = {"/".join(file.parts[:2]) for file in source_files(REPOSITORY)
                   if file.parts[0] in ("core", "server") and len(file.parts) > 2}
        self.assertLessEqual(folders, set(LADDER))

    def test_readme_names_the_two_commands(self):
        text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
        self.assertIn("./run demo", text)
        self.assertIn("./run test", text)


class PlantedTrees(unittest.TestCase):
    def problems(self, files):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text)
            return find_problems(root)

    def assert_one(self, name, text, words):
        problems = self.problems({name: text})
        self.assertEqual(len(problems), 1, problems)
        self.assertIn(words, problems[0])

    def test_what_is_allowed(self):
        self.assertEqual(self.problems({
            "core/base/a.h": "#pragma once\n#include <string>\n#include \"core/base/b.h\"\n",
            "core/model/a.cc": "#include \"core/format/b.h\"\n#include <nlohmann/json.hpp>\n",
            "server/main.cc": "#include <grpcpp/grpcpp.h>\n#include \"server/http/a.h\"\n",
            "server/grpc/a.cc": "#include \"qamserve/v1/job.pb.h\"\n#include \"server/jobs/a.h\"\n",
            "client/qamctl/a.cc": "#include \"client/b.h\"\n#include \"core/export/export.h\"\n",
            "server/store/a.cc": "#include <sqlite3.h>\n",
            "build/x/core/base/a.cc": "#include \"server/http/a.h\"\n",
            "tests/e2e/a.cc": "#include \"server/grpc/a.h\"\n#include \"client/b.h\"\n",
        }), [])

    def test_upward_includes_are_found(self):
        self.assert_one("core/base/a.cc", "#include \"core/format/b.h\"\n", "below core/base")
        self.assert_one("core/engine/a.cc", "#include \"server/store/b.h\"\n", "below core/engine")
        self.assert_one("server/jobs/a.cc", "#include \"server/grpc/b.h\"\n", "below server/jobs")
        self.assert_one("core/model/a.cc", "#include \"client/b.h\"\n", "only the client")
        self.assert_one("core/model/a.cc", "#include \"tests/support/b.h\"\n", "only tests")
        self.assert_one("client/a.cc", "#include \"core/export/b.h\"\n", "the client knows")
        self.assert_one("client/qamctl/a.cc", "#include \"core/model/b.h\"\n", "the client knows")
        self.assert_one("tests/core/model/a.cc", "#include \"server/jobs/b.h\"\n", "tests of core")

    def test_libraries_in_the_wrong_place_are_found(self):
        self.assert_one("core/engine/a.cc", "#include <grpcpp/grpcpp.h>\n", "gRPC and protobuf")
        self.assert_one("server/jobs/a.cc", "#include \"qamserve/v1/job.pb.h\"\n", "gRPC and protobuf")
        self.assert_one("core/base/a.cc", "#include <sqlite3.h>\n", "SQLite")

    def test_other_rules(self):
        self.assert_one("core/base/a.h", "int x;\n", "#pragma once")
        self.assert_one("core/base/a.cc", "#include \"b.h\"\n", "from the root")
        self.assert_one("core/base/a.cc", "\n" * (MAX_LINES + 1), "the limit is")


if __name__ == "__main__":
    sys.exit(unittest.main())
