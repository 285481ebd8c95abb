"""A scripted server with the console's files and REST answers, for tests of the page alone.

The files and their policy are those of the tree. What jobs do is up to the test: it puts states into
`watched` queues.
"""

import base64
import hashlib
import http.server
import json
import pathlib
import queue
import re
import threading
import time
import urllib.parse

from console_data import BASE, HOSTILE, LARGE, SMALL, TIME, artifact, files, job, progress, quality, served, tensors

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FILES = REPOSITORY / "server" / "http" / "console"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# What an upload's file may have on its first try before the connection is cut, in bytes.
CUT_AFTER = 100_000


def policy():
    """The Content-Security-Policy that console.cc sends."""
    text = (REPOSITORY / "server" / "http" / "console.cc").read_text(encoding="utf-8")
    parts = re.search(r"kPolicy =\s*((?:\"[^\"]*\"\s*)+);", text).group(1)
    return "".join(re.findall(r'"([^"]*)"', parts))


class State:
    """What the server has; tests read and write it. Lists and dictionaries are swapped whole or under `lock`."""

    def __init__(self):
        self.lock = threading.Lock()
        self.requests = []  # (method, path with query, body as JSON or None, headers)
        self.watched = {}  # job -> queue of messages for its stream; None ends it
        self.streams = 0  # open event streams
        self.gone = []  # paths of streams whose client went away
        self.key = ""  # calls must carry it
        self.fail = {}  # "METHOD path" -> (status, error)
        self.keys = []
        self.uploads = {}
        self.cut = True
        self.answer = ["Hello", " there", ". ", HOSTILE, " done"]
        self.hold = threading.Event()  # a chat goes on after its first piece once this is set
        self.hold.set()
        self.checkpoints = [
            {
                "name": f"checkpoints/{BASE}",
                "digest": BASE,
                "displayName": "SmolLM2-135M",
                "architecture": "llama",
                "parameters": "134515008",
                "sizeBytes": "269060552",
                "files": files("config.json", "model.safetensors", "tokenizer.json"),
                "createTime": TIME,
            }
        ]
        self.artifacts = [
            artifact(SMALL, "SmolLM2 at 3.5", 3.52, 47_000_000),
            artifact(LARGE, "SmolLM2 at 5.5", 5.52, 74_000_000),
        ]
        self.served = [
            served("base", f"checkpoints/{BASE}"),
            served("small", f"artifacts/{SMALL}"),
            served("plain", f"artifacts/{LARGE}", chat=False),
        ]
        self.aliases = [
            {
                "name": "aliases/production",
                "targets": [{"model": "servedModels/base", "weight": 95}, {"model": "servedModels/small", "weight": 5}],
                "etag": "a1",
                "updateTime": TIME,
            }
        ]
        done = job(
            "done",
            "SUCCEEDED",
            progress=progress(20, "evaluate", 1.0, 0.0),
            artifact=f"artifacts/{LARGE}",
            quality=quality(0.012),
            tensors=tensors(),
            startTime=TIME,
            endTime="2026-11-26T10:01:40Z",
        )
        ladder = job(
            "ladder",
            "SUCCEEDED",
            progress=progress(20, "evaluate", 1.0, 0.0),
            tensors=tensors(),
            startTime=TIME,
            endTime=TIME,
        )
        ladder["spec"] = {**ladder["spec"], "bpw": 0.0, "ladder": [2.5, 3.5, 4.5, 5.5]}
        ladder["candidates"] = [
            {
                "checkpoint": f"checkpoints/{BASE}",
                "method": "joint + scale",
                "rate": rate,
                "mixed": False,
                "bpw": rate + 0.02,
                "artifactBytes": str(int(rate * 13_400_000)),
                "quality": quality(kl),
                "artifact": f"artifacts/{LARGE}" if rate == 5.5 else "",
                "note": "" if rate == 5.5 else HOSTILE,
            }
            for rate, kl in ((2.5, 0.9), (3.5, 0.21), (4.5, 0.052), (5.5, 0.013))
        ]
        rejected = job(
            "rejected",
            "REJECTED",
            displayName=HOSTILE,
            progress=progress(19, "evaluate", 0.0, 0.0),
            error={"reason": "GATE_QUALITY", "message": f"mean KL 0.31 is above max_kl 0.1 {HOSTILE}", "code": 9},
        )
        self.jobs = [
            job("running", "RUNNING", progress=progress(4, "quantize", 0.1, 95.0), startTime=TIME),
            job("queued", "QUEUED"),
            done,
            ladder,
            rejected,
            job(
                "failed",
                "FAILED",
                error={"reason": "DISK_FULL", "message": "12 MiB are free; 80 MiB are needed", "code": 8},
            ),
        ]
        self.jobs[1]["progress"]["queuePosition"] = 1

    def find_job(self, name):
        return next((j for j in self.jobs if j["name"] == f"jobs/{name}"), None)

    def put_job(self, name, **changes):
        """Changes a job and tells its streams."""
        with self.lock:
            found = self.find_job(name)
            found.update(changes)
            streams = list(self.watched.get(name, []))
            message = dict(found)
        for stream in streams:
            stream.put(message)

    def called(self, method, path):
        return [r for r in self.requests if r[0] == method and r[1].split("?")[0] == path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None

    def log_message(self, *arguments):
        pass

    # --- Answers ---
    def send_bytes(self, status, kind, data, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, value, status=200):
        self.send_bytes(status, "application/json", json.dumps(value).encode())

    def send_error_json(self, status, name, reason, message):
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "qamserve"}]
        self.send_json({"error": {"code": status, "status": name, "message": message, "details": details}}, status)

    def begin_events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wfile.write(b": ping\n\n")

    def event(self, value, name=""):
        head = f"event: {name}\n" if name else ""
        self.wfile.write(f"{head}data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    # --- Requests ---
    def do_GET(self):
        self.handle_any("GET")

    def do_POST(self):
        self.handle_any("POST")

    def do_PUT(self):
        self.handle_any("PUT")

    def do_DELETE(self):
        self.handle_any("DELETE")

    def handle_any(self, method):
        state = self.state
        path, _, query = self.path.partition("?")
        path = urllib.parse.unquote(path)
        query = dict(urllib.parse.parse_qsl(query))
        if method == "PUT" and "/files/" in path:
            state.requests.append((method, self.path, None, dict(self.headers)))
            return self.upload_part(path, query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parsed = json.loads(body) if body else None
        state.requests.append((method, self.path, parsed, dict(self.headers)))
        if path == "/" or path.startswith("/console/"):
            return self.console_file(path)
        if path in ("/livez", "/readyz", "/startupz"):
            return self.send_bytes(
                200 if path != "/readyz" else 503,
                "text/plain",
                b"ok\n" if path != "/readyz" else b"served models are being loaded\n",
            )
        if state.key and self.headers.get("Authorization") != f"Bearer {state.key}":
            return self.send_error_json(401, "UNAUTHENTICATED", "KEY_MISSING", "this server wants an API key")
        if f"{method} {path}" in state.fail:
            return self.send_error_json(*state.fail[f"{method} {path}"])
        try:
            self.api(method, path, query, parsed)
        except (BrokenPipeError, ConnectionResetError):
            state.gone.append(path)
            self.close_connection = True

    def console_file(self, path):
        file = FILES / ("index.html" if path == "/" else path.removeprefix("/console/"))
        if file.parent != FILES or not file.is_file() or file.suffix not in TYPES:
            return self.send_bytes(404, "text/plain", b"not here")
        return self.send_bytes(
            200,
            TYPES[file.suffix],
            file.read_bytes(),
            [("Content-Security-Policy", policy()), ("Cache-Control", "no-cache")],
        )

    def api(self, method, path, query, body):
        state = self.state
        lists = {
            "/v1/jobs": (
                "jobs",
                [{**j, "tensors": []} for j in state.jobs if query.get("state", j["state"]) == j["state"]],
            ),
            "/v1/checkpoints": ("checkpoints", state.checkpoints),
            "/v1/artifacts": ("artifacts", state.artifacts),
            "/v1/servedModels": ("models", state.served),
            "/v1/aliases": ("aliases", state.aliases),
            "/v1/keys": ("keys", state.keys),
        }
        if method == "GET" and path in lists:
            name, entries = lists[path]
            return self.send_json({name: entries, "nextPageToken": ""})
        routes = [
            ("GET", r"/v1/jobs/([^/:]+):watch", self.watch),
            ("POST", r"/v1/jobs/([^/:]+):(cancel|retry)", self.end_job),
            ("POST", r"/v1/jobs:quantize", self.quantize),
            ("GET", r"/v1/artifacts/([^/]+)(/report)?", self.artifact),
            ("GET", r"/v1/checkpoints/([^/]+)", lambda *_: self.send_json(state.checkpoints[0])),
            ("POST", r"/v1/inference:(chat|generate)", self.generate),
            ("POST", r"/v1/inference:compare", self.compare),
            ("POST", r"/v1/uploads", self.create_upload),
            ("GET", r"/v1/uploads/u1", lambda *_: self.send_json(self.upload_view())),
            ("POST", r"/v1/uploads/u1:complete", self.complete_upload),
            ("GET", r"/v1/system", self.system),
            ("GET", r"/v1/caller", self.caller),
            ("POST", r"/v1/keys", self.create_key),
            ("GET", r"/v1/auditEvents", self.audit),
            ("PUT", r"/v1/aliases/([^/]+)", lambda *_: self.send_json(state.aliases[0])),
            ("POST", r"/v1/servedModels", lambda *_: self.send_json(state.served[1])),
        ]
        for wanted, pattern, handler in routes:
            match = re.fullmatch(pattern, path)
            if match and wanted == method:
                return handler(match, body)
        return self.send_error_json(404, "NOT_FOUND", "HTTP_NOT_FOUND", f"nothing at {path}")

    # --- Jobs ---
    def watch(self, match, _):
        state, name = self.state, match.group(1)
        if state.find_job(name) is None:
            return self.send_error_json(404, "NOT_FOUND", "JOB_NOT_FOUND", f"job {name} is not there")
        messages = queue.Queue()
        with state.lock:
            state.watched.setdefault(name, []).append(messages)
            messages.put(dict(state.find_job(name)))
            state.streams += 1
        try:
            self.begin_events()
            while True:
                try:
                    message = messages.get(timeout=0.2)
                except queue.Empty:
                    self.wfile.write(b": ping\n\n")
                    continue
                if message is None:
                    return None  # the connection closes in the middle of the stream
                self.event(message)
                if message["state"].removeprefix("JOB_STATE_") in ("SUCCEEDED", "FAILED", "REJECTED", "CANCELLED"):
                    return self.event({}, "end")
        finally:
            with state.lock:
                state.watched[name].remove(messages)
                state.streams -= 1

    def end_job(self, match, _):
        name, verb = match.groups()
        self.state.put_job(name, state="JOB_STATE_CANCELLED" if verb == "cancel" else "JOB_STATE_QUEUED", error=None)
        self.send_json(self.state.find_job(name))

    def quantize(self, _, body):
        if body["validateOnly"]:
            return self.send_json(job("", "QUEUED"))
        if body["displayName"] == "refuse me":
            return self.send_error_json(
                400,
                "INVALID_ARGUMENT",
                "WINDOWS_RANGE",
                f"calibration.windows is 9999; it may be 0 (8) to 4096 {HOSTILE}",
            )
        made = job("made", "QUEUED", spec={**job("", "QUEUED")["spec"], **body["spec"]})
        with self.state.lock:
            self.state.jobs.insert(0, made)
        return self.send_json(made)

    def artifact(self, match, _):
        digest, report = match.groups()
        found = next(a for a in self.state.artifacts if a["digest"] == digest)
        if not report:
            return self.send_json(found)
        small = digest == SMALL
        return self.send_json(
            {
                "artifact": found["name"],
                "json": "{}",
                "quality": quality(0.21 if small else 0.012),
                "tensors": tensors(scale=9 if small else 1),
            }
        )

    # --- Text ---
    def generate(self, match, body):
        state = self.state
        self.begin_events()
        model = f"servedModels/{body['model']}"
        for i, piece in enumerate(state.answer):
            if i == 1:
                while not state.hold.wait(0.1):
                    self.wfile.write(b": ping\n\n")
            self.event(
                {
                    "text": piece,
                    "tokens": [i],
                    "finishReason": "FINISH_REASON_UNSPECIFIED",
                    "logprobs": [],
                    "model": model,
                }
            )
            time.sleep(0.01)
        usage = {
            "promptTokens": 12,
            "completionTokens": len(state.answer),
            "seed": "17",
            "timeToFirstTokenSeconds": 0.08,
            "totalSeconds": 0.5,
            "cachedPromptTokens": 4,
        }
        self.event(
            {
                "text": "",
                "tokens": [],
                "finishReason": "FINISH_REASON_STOP",
                "usage": usage,
                "logprobs": [],
                "model": model,
            }
        )
        self.event({}, "end")

    def compare(self, _, body):
        encode = lambda text: base64.b64encode(text).decode()
        words = [w.encode() for w in re.findall(r"\s?\S+|\s", body["text"])] + [b"\xe2\x82"]
        entries = [
            {
                "token": i,
                "text": encode(word),
                "kl": [0.0004, 0.006, 0.03, 0.15, 0.6, 2.5][i % 6],
                "baseLogprob": -0.3 - i / 9,
                "otherLogprob": -0.4 - i / 7,
                "sameTop": i % 6 < 4,
                "otherTop": 7,
                "otherTopText": encode(b" other"),
            }
            for i, word in enumerate(words)
        ]
        self.send_json(
            {
                "tokens": entries,
                "klMean": 0.0421,
                "top1Agreement": 0.9,
                "base": f"servedModels/{body['base']}",
                "other": f"servedModels/{body['other']}",
            }
        )

    # --- Uploads: one at a time, "u1" ---
    def upload_view(self):
        return {
            "name": "uploads/u1",
            "kind": "UPLOAD_KIND_CHECKPOINT",
            "files": [
                {"file": entry["file"], "committedBytes": str(len(entry["data"])), "complete": entry["complete"]}
                for entry in self.state.uploads.values()
            ],
        }

    def create_upload(self, _, body):
        self.state.uploads = {f["sha256"]: {"file": f, "data": b"", "complete": False} for f in body["files"]}
        self.send_json(self.upload_view())

    def upload_part(self, path, query):
        state = self.state
        entry = state.uploads[path.rsplit("/", 1)[1]]
        length = int(self.headers["Content-Length"])
        if int(query["offset"]) != len(entry["data"]):
            self.rfile.read(length)
            return self.send_error_json(400, "OUT_OF_RANGE", "UPLOAD_OFFSET", f"expected offset {len(entry['data'])}")
        if state.cut and length > CUT_AFTER:
            state.cut = False
            entry["data"] += self.rfile.read(CUT_AFTER)
            self.close_connection = True
            self.connection.close()
            return None
        entry["data"] += self.rfile.read(length)
        size = int(entry["file"]["sizeBytes"])
        if len(entry["data"]) == size:
            if hashlib.sha256(entry["data"]).hexdigest() != entry["file"]["sha256"]:
                return self.send_error_json(500, "DATA_LOSS", "UPLOAD_DIGEST", "the digest differs")
            entry["complete"] = True
        return self.send_json({"committedBytes": str(len(entry["data"])), "complete": entry["complete"]})

    def complete_upload(self, *_):
        made = {
            **self.state.checkpoints[0],
            "name": f"checkpoints/{'12' * 32}",
            "digest": "12" * 32,
            "displayName": "uploaded",
        }
        self.state.checkpoints = [*self.state.checkpoints, made]
        self.send_json({"checkpoint": made})

    # --- The rest ---
    def system(self, *_):
        self.send_json(
            {
                "version": "0.1.0",
                "codecVersion": "qamw-2",
                "startTime": TIME,
                "roles": ["api", "worker", "inference"],
                "kernels": "avx512",
                "device": "cpu",
                "quantizeDevice": "cpu",
                "threads": 2,
                "processMemoryBytes": "812000000",
                "memoryLimitBytes": "18000000000",
                "memoryUsedBytes": "930000000",
                "diskFreeBytes": "21000000000",
                "diskSizeBytes": "250000000000",
                "jobsQueued": 1,
                "jobsRunning": 1,
                "modelsReady": 3,
                "requestsRunning": 2,
                "requestsWaiting": 0,
                "draining": False,
                "keysRequired": bool(self.state.key),
            }
        )

    def caller(self, *_):
        key = next(iter(self.state.keys), None)
        self.send_json(
            {
                **({"key": key} if key else {}),
                "scopes": ["SCOPE_ADMIN"],
                "requestsLeft": "-1",
                "tokensLeft": "-1",
                "uploadBytesLeft": "-1",
            }
        )

    def create_key(self, _, body):
        made = {
            "name": "keys/k1",
            "displayName": body["displayName"],
            "scopes": body["scopes"],
            "limits": body["limits"],
            "state": "KEY_STATE_VALID",
            "hint": "qsk-abcd",
            "createTime": TIME,
        }
        self.state.keys = [*self.state.keys, made]
        self.send_json({"key": made, "secret": "qsk-abcd-secret"})

    def audit(self, *_):
        self.send_json(
            {
                "events": [
                    {
                        "sequence": "1",
                        "time": TIME,
                        "key": "",
                        "method": "JobService.CreateQuantizeJob",
                        "resource": HOSTILE,
                        "code": "OK",
                        "reason": "",
                        "peer": "127.0.0.1:4711",
                    }
                ],
                "nextPageToken": "",
            }
        )


class StubServer:
    def __init__(self):
        self.state = State()
        handler = type("BoundHandler", (Handler,), {"state": self.state})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
