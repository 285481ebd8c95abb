#!/usr/bin/env python3
"""Requests made up from /openapi.json, right ones and wrong ones, against a running server: none may end in a status or an
answer that the document does not tell of, nor in a 500.

usage: openapi_test.py BUILD_FOLDER [--max-examples N]

Needs schemathesis. The server has no model, so that nothing made up can take long; what it imports and makes is its own.
"""
import pathlib
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from clients_support import Server  # noqa: E402

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
# Long enough for a watched job that there is not, and for a stream that ends at once.
REQUEST_SECONDS = 10


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    examples = sys.argv[sys.argv.index("--max-examples") + 1] if "--max-examples" in sys.argv else "10"
    with Server(build) as server:
        url = server.url
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url, "--max-examples", examples,
             "--workers", "1", "--checks", CHECKS, "--request-timeout", str(REQUEST_SECONDS), "--seed", "1"],
            stdin=subprocess.DEVNULL, check=False, cwd=server.data_dir)
        if server.process.poll() is not None:
            sys.exit("the server has ended")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
