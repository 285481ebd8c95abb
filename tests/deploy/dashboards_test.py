#!/usr/bin/env python3
"""Every panel of deploy/grafana shows something: its expressions are asked of a real Prometheus that scrapes a real server
while that quantizes, serves and refuses. What needs a GPU, several processes or an object store is named in NOT_HERE, and
asked of a Prometheus that scrapes made-up numbers of every metric in docs/metrics.md.

usage: dashboards_test.py [BUILD_FOLDER]     Needs prometheus (Debian's package).
"""
import http.server
import itertools
import json
import math
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "tests/e2e"), str(REPOSITORY / "tests/support")]
import prerequisites  # noqa: E402
from clients_support import SMALL_TEXT, Server, build_folder, fast_folder, make_tiny_model, wait_for  # noqa: E402

import qamserve  # noqa: E402

BUILD = build_folder()
GRAFANA = REPOSITORY / "deploy/grafana"
RULES = REPOSITORY / "deploy/prometheus/rules"
SECONDS = 40  # until every panel shows something
# "dashboard/row/panel" of what a process without a GPU and with stores of its own has no numbers of.
NOT_HERE = {
    "qamserve-serving/Memory/Memory of GPUs",
    "qamserve-fleet/Object store and caches/Requests",
    "qamserve-fleet/Object store and caches/Time of a request, 99th percentile",
    "qamserve-fleet/Object store and caches/Errors",
    "qamserve-fleet/Object store and caches/Found in the cache",
    "qamserve-fleet/Object store and caches/Size of caches",
}


def panels():
    """"dashboard/row/panel" -> its expressions, with what Grafana puts in place of its variables."""
    found = {}
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        dashboard, row = json.loads(path.read_text()), ""
        for panel in dashboard["panels"]:
            if panel["type"] == "row":
                row = panel["title"]
                continue
            name = f"{dashboard['uid']}/{row}/{panel['title']}"
            assert name not in found, name
            found[name] = [re.sub(r"\$(model|pool|instance)\b", ".*", target["expr"].replace("$__rate_interval", "1m"))
                           for target in panel["targets"]]
    return found


def documented_metrics():
    """(name, type, {label: values}) of docs/metrics.md."""
    text = (REPOSITORY / "docs/metrics.md").read_text()
    values = {(name, label): words.split(", ") for name, label, words in re.findall(r"^\| `(\w+)` \| `(\w+)` \| ([^`|]+) \|$", text, re.MULTILINE)}
    others = {"model": ["m"], "pool": ["cpu"], "version": ["1"], "service": ["JobService"], "method": ["GetJob"],
              "code": ["OK", "UNAVAILABLE"]}
    for name, kind, labels in re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| ([^|]*) \|", text, re.MULTILINE):
        yield name, kind, {label: values.get((name, label)) or others[label] for label in re.findall(r"`(\w+)`", labels)}


def made_up_page(count):
    """The `count`th scrape of a process that has something to say of everything; counters go up."""
    lines = []
    for name, kind, labels in documented_metrics():
        lines.append(f"# TYPE {name} {kind}")
        for values in itertools.product(*labels.values()):
            text = ",".join(f'{label}="{value}"' for label, value in zip(labels, values))
            if kind == "histogram":
                separator = "," if text else ""
                lines += [f'{name}_bucket{{{text}{separator}le="{le}"}} {n * count}' for le, n in (("1", 3), ("10", 5), ("+Inf", 6))]
                lines += [f"{name}_sum{{{text}}} {9 * count}", f"{name}_count{{{text}}} {6 * count}"]
            else:
                lines.append(f"{name}{{{text}}} {count if kind == 'counter' else 1}")
    return "\n".join(lines) + "\n"


class MadeUpProcess:
    """Serves made_up_page, each time the next one."""

    def __enter__(self):
        counts = itertools.count(1)

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = made_up_page(next(counts)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                try:
                    self.wfile.write(body)
                except BrokenPipeError:  # Prometheus waits a second and no longer
                    pass

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.target = f"127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Prometheus:
    """One that scrapes `target` every second, with the rules of deploy/prometheus."""

    def __init__(self, target):
        self.target = target

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="qamserve-prometheus-")
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}, "rule_files": [f"{RULES}/*.yml"],
                  "scrape_configs": [{"job_name": "qamserve", "static_configs": [{"targets": [self.target]}]}]}
        path = pathlib.Path(self.folder) / "prometheus.json"
        path.write_text(json.dumps(config))  # JSON is YAML, too
        self.url = f"http://127.0.0.1:{free_port()}"
        with open(pathlib.Path(self.folder) / "log", "w") as log:
            self.process = subprocess.Popen(
                ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder}/data",
                 f"--web.listen-address={self.url.removeprefix('http://')}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for(self.is_ready, 120, "the start of Prometheus")
        except AssertionError:
            self.__exit__()
            raise
        return self

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError((pathlib.Path(self.folder) / "log").read_text()[-4000:])
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def values(self, expression):
        """Numbers of all series of an instant query; NaN counts as none."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=30) as answer:
                data = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        numbers = [float(series["value"][1]) for series in data["result"]]
        return [number for number in numbers if not math.isnan(number)]

    def scrapes(self):
        return sum(self.values("sum(count_over_time(up[1h]))"))

    def wait_for_scrapes(self, count):
        """Until it has seen what is now `count` times."""
        end = self.scrapes() + count
        wait_for(lambda: self.scrapes() >= end, 120, f"{count} scrapes")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)


def use(server, prometheus, folder):
    """A bit of everything, in two rounds with scrapes between: of what happened before the first scrape no rate is known."""
    with qamserve.Client(server.grpc) as client:
        checkpoint = client.upload(folder)
        client.load(checkpoint, "tiny")
        for bpw in (5.5, 4.5):
            client.quantize(checkpoint, bpw, "joint", calibration=SMALL_TEXT, evaluation=SMALL_TEXT).wait()
            for _ in range(3):
                client.chat("tiny", [{"role": "user", "content": "Say something long, please."}], max_tokens=16)
            client.upload_text(content=f"A text of {bpw} bits.")
            try:
                client.chat("nobody", [{"role": "user", "content": "Are you there?"}])
            except qamserve.errors.QamserveError:
                pass
            try:
                server.rest("GET", "/nowhere")
            except urllib.error.HTTPError:
                pass
            prometheus.wait_for_scrapes(3)


class Dashboards(unittest.TestCase):
    def empty(self, prometheus, names):
        """Of the panels `names`, those with an expression that gives nothing."""
        return {name: [expression for expression in panels()[name] if not prometheus.values(expression)]
                for name in names if not all(map(prometheus.values, panels()[name]))}

    def assert_all_show_something(self, prometheus, names):
        end = time.monotonic() + SECONDS
        while (empty := self.empty(prometheus, names)) and time.monotonic() < end:
            time.sleep(1)
        self.assertEqual(empty, {})

    def test_files_are_what_the_script_writes(self):
        done = subprocess.run([sys.executable, "-B", GRAFANA / "make_dashboards.py", "--check"], check=False,
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_every_panel_has_a_unit_a_description_and_expressions(self):
        for path in (GRAFANA / "dashboards").glob("*.json"):
            for panel in json.loads(path.read_text())["panels"]:
                if panel["type"] == "row":
                    continue
                with self.subTest(dashboard=path.name, panel=panel["title"]):
                    self.assertTrue(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] and panel["targets"])

    def test_panels_show_a_real_run(self):
        scratch = pathlib.Path(fast_folder())
        self.addCleanup(shutil.rmtree, scratch, ignore_errors=True)
        folder = make_tiny_model(BUILD, scratch / "tiny")
        self.assertLessEqual(NOT_HERE, set(panels()))
        with Server(BUILD, "--draft-tokens", "2") as server, Prometheus(server.http) as prometheus:
            prometheus.wait_for_scrapes(2)
            use(server, prometheus, folder)
            self.assert_all_show_something(prometheus, set(panels()) - NOT_HERE)
            self.assertEqual(NOT_HERE - set(self.empty(prometheus, NOT_HERE)), set(), "these have numbers here after all")
            with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
                page = answer.read()
            with qamserve.Client(server.grpc) as client:
                client.unload("tiny")
            prometheus.wait_for_scrapes(3)
            self.assertEqual(prometheus.values('qamserve_requests_running{model="tiny"}'), [], "the model is gone")
        checked = subprocess.run(["promtool", "check", "metrics"], input=page, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 check=False)
        self.assertEqual((checked.returncode, checked.stdout.decode()), (0, ""))

    def test_panels_of_a_fleet_show_made_up_numbers(self):
        with MadeUpProcess() as process, Prometheus(process.target) as prometheus:
            prometheus.wait_for_scrapes(4)
            self.assert_all_show_something(prometheus, set(panels()))

    def test_an_expression_that_gives_nothing_is_noticed(self):
        with MadeUpProcess() as process, Prometheus(process.target) as prometheus:
            prometheus.wait_for_scrapes(1)
            self.assertEqual(prometheus.values("qamserve_no_such_metric"), [])
            with self.assertRaises(AssertionError):
                prometheus.values("sum(")


if __name__ == "__main__":
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        sys.exit(prerequisites.exit_code_without("Prometheus is not installed (Debian: prometheus)"))
    unittest.main()
