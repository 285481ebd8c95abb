#!/usr/bin/env python3
"""What a running server tells of itself, read by others: traces by OpenTelemetry's own messages, the log line by line. Neither
tells prompts, answers or secrets.

usage: telemetry_test.py BUILD_FOLDER     Needs opentelemetry-proto.
"""
import base64
import http.server
import json
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import time
import unittest
import urllib.error

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from clients_support import SMALL_TEXT, Server, build_folder, fast_folder, make_tiny_model, wait_for  # noqa: E402

BUILD = build_folder()
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
ADMIN_KEY = "qsk-canary-admin-key-0123456789abcdefghijkl"
CANARY = "CanaryPromptThatNobodyMayRepeat"
ANSWER = "CanaryAnswer"  # the only answer that the constraint allows
REQUEST = "request-of-the-test:1"


def base64_ids(value):
    """OTLP's JSON has ids in hex, where protobuf's own has base64."""
    if isinstance(value, list):
        return [base64_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: base64.b64encode(bytes.fromhex(item)).decode() if key in ("traceId", "spanId", "parentSpanId") else base64_ids(item)
            for key, item in value.items()}


class Collector:
    """Keeps what is posted to it."""

    def __enter__(self):
        self.requests, self.problems = [], []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/json":
                    collector.problems.append((self.path, dict(self.headers)))
                try:
                    message = json_format.ParseDict(base64_ids(json.loads(body)), ExportTraceServiceRequest())
                    collector.requests.append((body.decode(), message))
                except Exception as error:  # told by the test, not by the server's log
                    collector.problems.append(error)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def spans(self):
        return [span for _, request in list(self.requests) for resource in request.resource_spans
                for scope in resource.scope_spans for span in scope.spans]

    def span(self, name, parent=None):
        """The span of that name, below the span `parent`."""
        def found():
            return [span for span in self.spans() if span.name == name and parent in (None, span.parent_span_id)]

        spans = wait_for(found, 30, f"a span {name}")
        assert len(spans) == 1, f"{len(spans)} spans {name}"
        return spans[0]


def attributes(span):
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes}


class LoggedServer(Server):
    """One whose log is kept in a file."""

    def __init__(self, build, log, *flags, data_dir=None, environment=None):
        super().__init__(build, *flags, data_dir=data_dir)
        self.log, self.environment = log, environment

    def start(self):
        real = subprocess.Popen

        def logged(*arguments, **named):
            with open(self.log, "a") as out:
                return real(*arguments, **named, stderr=out, env=self.environment)

        subprocess.Popen = logged
        try:
            super().start()
        finally:
            subprocess.Popen = real


class Telemetry(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(fast_folder())
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        make_tiny_model(BUILD, cls.scratch / "tiny")
        cls.log = cls.scratch / "log"
        with Collector() as cls.collector:
            environment = {"QAMSERVE_ADMIN_KEY": ADMIN_KEY, "OTEL_EXPORTER_OTLP_ENDPOINT": cls.collector.url + "/"}
            with LoggedServer(BUILD, cls.log, "--log-level", "debug", "--import-root", cls.scratch, "--trace-ratio", "0",
                              environment=environment) as cls.server:
                cls.use()

    @classmethod
    def call(cls, method, path, body=None, key=ADMIN_KEY, traceparent=TRACEPARENT):
        return cls.server.rest(method, path, body, **{"Authorization": f"Bearer {key}", "traceparent": traceparent, "x-request-id": REQUEST})

    @classmethod
    def use(cls):
        checkpoint = cls.call("POST", "/v1/checkpoints:import", {"kind": "UPLOAD_KIND_CHECKPOINT", "path": "tiny"})["checkpoint"]["name"]
        cls.job = cls.call("POST", "/v1/jobs:quantize", {"checkpoint": checkpoint, "spec": {
            "bpw": 4.5, "calibration": {"windows": SMALL_TEXT["windows"], "windowTokens": SMALL_TEXT["window_tokens"]},
            "evaluation": {"windows": SMALL_TEXT["windows"], "windowTokens": SMALL_TEXT["window_tokens"]}}})["name"]
        wait_for(lambda: cls.call("GET", f"/v1/{cls.job}", traceparent="")["state"] == "JOB_STATE_SUCCEEDED", 60, "the end of the job")
        cls.call("POST", "/v1/servedModels", {"name": "tiny", "source": checkpoint})
        cls.secret = cls.call("POST", "/v1/keys", {"displayName": "canary", "scopes": ["SCOPE_INFER"]})["secret"]
        cls.answer = cls.call("POST", "/v1/chat/completions", {
            "model": "tiny", "messages": [{"role": "user", "content": CANARY}], "max_completion_tokens": 40,
            "guided_choice": [ANSWER]}, key=cls.secret)["choices"][0]["message"]["content"]
        for body, key in (({"model": CANARY, "prompt": CANARY}, cls.secret), ({"model": "tiny", "prompt": CANARY}, "qsk-" + CANARY)):
            try:
                cls.call("POST", "/v1/completions", body, key=key)
                raise AssertionError("that should have been refused")
            except urllib.error.HTTPError:
                pass
        # Before the server ends, so that it is not the end that sends them.
        wait_for(lambda: any(span.name == "generate" for span in cls.collector.spans()), 30, "spans")
        time.sleep(0.1)

    def lines(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def test_what_is_posted_follows_the_protocol(self):
        self.assertEqual(self.collector.problems, [])
        resources = [attributes(resource.resource) for _, request in self.collector.requests for resource in request.resource_spans]
        self.assertEqual({resource["service.name"] for resource in resources}, {"qamserve"})
        self.assertEqual(len({resource["service.instance.id"] for resource in resources}), 1)
        for span in self.collector.spans():
            self.assertEqual(span.trace_id.hex(), TRACE, f"{span.name}: what had no traceparent was not to be traced")
            self.assertLessEqual(span.start_time_unix_nano, span.end_time_unix_nano)
            self.assertLess(abs(span.end_time_unix_nano / 1e9 - time.time()), 600)

    def test_a_call_a_job_and_its_tasks_hang_together(self):
        call = self.collector.span("qamserve.v1.JobService/CreateQuantizeJob")
        self.assertEqual(call.parent_span_id.hex(), PARENT)
        self.assertEqual(attributes(call)["rpc.grpc.status_code"], 0)
        self.assertEqual(attributes(call)["qamserve.request"], REQUEST)
        job = self.collector.span("job quantize", call.span_id)
        self.assertEqual("jobs/" + attributes(job)["qamserve.job"], self.job)
        tasks = [span for span in self.collector.spans() if span.parent_span_id == job.span_id]
        self.assertEqual({span.name for span in tasks}, {"task prepare", "task calibrate", "task quantize", "task assemble", "task evaluate"})
        # Seven linear layers in each of two blocks.
        self.assertEqual(sum(span.name == "task quantize" for span in tasks), 14)
        for task in tasks:
            self.assertGreaterEqual(task.start_time_unix_nano, call.start_time_unix_nano - 50_000_000)

    def test_a_generation_tells_its_phases(self):
        generate = self.collector.span("generate")
        chat = self.collector.span("qamserve.v1.InferenceService/Chat")
        self.assertEqual(generate.parent_span_id, chat.span_id)
        self.assertEqual(chat.parent_span_id.hex(), PARENT)
        self.assertEqual([event.name for event in generate.events], ["admitted", "first_token"])
        self.assertEqual(attributes(generate)["gen_ai.request.model"], "tiny")
        self.assertGreater(attributes(generate)["gen_ai.usage.input_tokens"], 10)
        for phase in ("queue_seconds", "prefill_seconds", "decode_seconds"):
            self.assertGreaterEqual(attributes(generate)[f"qamserve.{phase}"], 0)

    def test_every_line_of_the_log_is_an_object_with_ids(self):
        lines = self.lines()
        self.assertGreater(len(lines), 20)
        self.assertEqual(len({line["instance"] for line in lines}), 1)
        for line in lines:
            self.assertRegex(line["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
            self.assertIn(line["level"], ("debug", "info", "warning", "error"))
            self.assertRegex(line["event"], r"^[a-z_]+$")
            if line["event"] == "rpc" and line["method"] == "CreateQuantizeJob":
                self.assertEqual((line["request"], line["trace"], line["key"]), (REQUEST, TRACE, "given"))
            if line["event"] in ("job_state", "task_done"):
                self.assertEqual(("jobs/" + line["job"], line["trace"]), (self.job, TRACE))
        events = {line["event"] for line in lines}
        self.assertLessEqual({"started", "rpc", "generation", "job_state", "task_done", "model_state", "model_or_text_added", "drained"}, events)

    def test_nothing_tells_prompts_answers_or_secrets(self):
        self.assertEqual(self.answer, ANSWER, "the answer that must not be repeated was never made")
        told = {"log": self.log.read_text(), "traces": "".join(body for body, _ in self.collector.requests)}
        for where, text in told.items():
            for secret in (CANARY, ANSWER, ADMIN_KEY, self.secret, self.secret.removeprefix("qsk-")[:20]):
                with self.subTest(where=where, secret=secret):
                    self.assertNotIn(secret, text)

    def test_all_is_quiet_without_an_endpoint(self):
        requests = len(self.collector.requests)
        with LoggedServer(BUILD, self.scratch / "quiet", "--log-level", "info", "--import-root", self.scratch) as server:
            server.rest("GET", "/v1/models", traceparent=TRACEPARENT)
            log = (self.scratch / "quiet").read_text()
        self.assertNotIn("trace", re.sub(r"traces_not_sent", "", log))
        self.assertEqual(len(self.collector.requests), requests)


if __name__ == "__main__":
    unittest.main()
