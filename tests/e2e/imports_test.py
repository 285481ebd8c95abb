#!/usr/bin/env python3
"""Imports from a hub and from an object store, by qamctl and a running server.

usage: imports_test.py BUILD_FOLDER

The hub is a server of this file that speaks the hub's protocol, wants a token, sends weights by way of another address and
hangs up in the middle. The object store is SeaweedFS (scripts/fetch_seaweedfs.sh); without it those tests are skipped.
"""
import hashlib
import http.server
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import prerequisites  # noqa: E402

BUILD = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build").resolve()
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
WEED = shutil.which(os.environ.get("QAMSERVE_WEED") or str(CACHE / "qamserve/seaweedfs-4.48/weed"))
TOKEN = "hf_test_token"
ACCESS_KEY, SECRET_KEY = "testkey", "testsecret"


class Server:
    """qamserve on loopback with stores of its own; used in a with statement."""

    def __init__(self, folder, flags=(), environment=None):
        self.data_dir = folder
        self.flags = flags
        self.environment = {**os.environ, **(environment or {})}

    def __enter__(self):
        command = [BUILD / "server/qamserve", "--data-dir", self.data_dir, "--listen", "127.0.0.1:0", "--metrics-listen", "off",
                   "--http-listen", "off", "--log-level", "error", *self.flags]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        text=True, env=self.environment)
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), line
        self.address = line.removeprefix("listening on ").strip()
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def qamctl(self, *arguments):
        """(whether it succeeded, what it printed as JSON or text)."""
        done = subprocess.run([str(BUILD / "client/qamctl"), *arguments, "--json", "--address", self.address],
                              capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        return done.returncode == 0, json.loads(done.stdout) if done.returncode == 0 else done.stdout + done.stderr


def free_port():
    """One that is free, and so is the one 10000 above, where SeaweedFS puts its gRPC."""
    while True:
        port = random.randrange(20000, 50000)
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10000))
                return port
            except OSError:
                continue


class Hub(http.server.ThreadingHTTPServer):
    """One model, "org/tiny", at the commit "c0ffee" of the revisions "main" and "refs/pr/1"."""

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.cut_after = None  # bytes of an answer, after which the connection is closed
        self.sent = 0          # bytes of weights
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class HubHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, headers=()):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def listing(self):
        siblings = []
        for name, content in sorted(self.server.files.items()):
            entry = {"rfilename": name, "size": len(content),
                     "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        siblings.append({"rfilename": "pytorch_model.bin", "size": 5, "blobId": "0"})
        return json.dumps({"id": "org/tiny", "sha": "c0ffee", "siblings": siblings}).encode()

    def do_GET(self):  # noqa: N802
        path = urllib.parse.urlsplit(self.path).path
        if path.startswith("/cdn/"):
            return self.content(path.removeprefix("/cdn/"))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, b"who are you?")
        if path in ("/api/models/org/tiny/revision/main", "/api/models/org/tiny/revision/refs%2Fpr%2F1"):
            return self.answer(200, self.listing())
        name = path.removeprefix("/org/tiny/resolve/c0ffee/")
        if name == path or name not in self.server.files:
            return self.answer(404, b"")
        if name.endswith(".safetensors"):
            # Another host, where the token has no business.
            return self.answer(302, b"", [("Location", f"http://localhost:{self.server.server_port}/cdn/{name}")])
        return self.content(name)

    def content(self, name):
        if self.path.startswith("/cdn/") and "Authorization" in self.headers:
            return self.answer(400, b"the token was sent to another host")
        content, status, start = self.server.files[name], 200, 0
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            content, status = content[start:], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        part = content[:self.server.cut_after]
        if name.endswith(".safetensors"):
            self.server.sent += len(part)
        self.wfile.write(part)
        if len(part) < len(content):
            self.close_connection = True


class ImportTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="qamserve-imports-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.model = self.folder / "tiny"
        subprocess.run([BUILD / "tests/support/make_tiny_model", "llama", self.model], check=True)
        self.weights = (self.model / "model.safetensors").read_bytes()

    def digests(self, checkpoint):
        return {file["name"]: file["sha256"] for file in checkpoint["checkpoint"]["files"]}

    def expected(self):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in self.model.iterdir()}


class HubTest(ImportTest):
    def setUp(self):
        super().setUp()
        self.hub = Hub(self.model)
        self.addCleanup(self.hub.server_close)
        self.addCleanup(self.hub.shutdown)

    def server(self, token=TOKEN):
        return Server(self.folder / "data", ["--hub-endpoint", self.hub.url], {"HF_TOKEN": token})

    def test_a_model_arrives_whole_although_connections_are_cut(self):
        self.hub.cut_after = max(1, len(self.weights) // 3)
        with self.server() as server:
            ok, made = server.qamctl("import", "hf://org/tiny@refs%2Fpr%2F1")
            self.assertTrue(ok, made)
            self.assertEqual(self.digests(made), self.expected())
            self.assertEqual(made["checkpoint"]["displayName"], "tiny")
            self.assertEqual(self.hub.sent, len(self.weights))

    def test_a_killed_server_goes_on_where_it_was(self):
        self.hub.cut_after = len(self.weights) // 2
        half = self.hub.cut_after
        with self.server() as server:
            client = subprocess.Popen([str(BUILD / "client/qamctl"), "import", "hf://org/tiny", "--address", server.address],
                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            # Small files come first; the server may die at any point from then on.
            deadline = time.monotonic() + 60
            while self.hub.sent == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(server.process.pid, signal.SIGKILL)
            client.wait()
        self.hub.cut_after = None
        with self.server() as server:
            ok, made = server.qamctl("import", "hf://org/tiny")
            self.assertTrue(ok, made)
            self.assertEqual(self.digests(made), self.expected())
        self.assertLessEqual(self.hub.sent, len(self.weights) + 2 * half)

    def test_errors_say_what_is_missing(self):
        with self.server(token="wrong") as server:
            ok, text = server.qamctl("import", "hf://org/tiny")
            self.assertFalse(ok)
            self.assertIn("IMPORT_DENIED", text)
        with self.server() as server:
            for source, reason in (("hf://org/other", "IMPORT_NOT_FOUND"), ("hf://org", "IMPORT_SOURCE_NAME"),
                                   ("s3://bucket/x", "IMPORT_DISABLED"), ("ftp://x", "IMPORT_SOURCE_NAME")):
                ok, text = server.qamctl("import", source)
                self.assertFalse(ok)
                self.assertIn(reason, text)
            # Nothing half-made is left to be seen.
            self.assertEqual(server.qamctl("checkpoints"), (True, {"checkpoints": [], "nextPageToken": ""}))

    def test_changed_content_is_refused(self):
        listing = HubHandler.listing
        config = self.hub.files["config.json"]
        with self.server() as server:
            try:
                HubHandler.listing = lambda handler: listing(handler).replace(
                    hashlib.sha256(self.weights).hexdigest().encode(), b"0" * 64)
                ok, text = server.qamctl("import", "hf://org/tiny")
            finally:
                HubHandler.listing = listing
            self.assertFalse(ok)
            self.assertIn("UPLOAD_DIGEST", text)
            self.assertEqual(self.hub.files["config.json"], config)
            self.assertTrue(server.qamctl("import", "hf://org/tiny")[0])


class ObjectStore:
    """SeaweedFS with one identity; used in a with statement."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()

    def __enter__(self):
        self.folder.mkdir()
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                                                      "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}]}))
        ports = [f"-master.port={free_port()}", f"-volume.port={free_port()}", f"-filer.port={free_port()}"]
        self.process = subprocess.Popen(
            [WEED, "server", f"-dir={self.folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=200",
             "-master.telemetry=false", "-s3", f"-s3.port={self.port}", "-s3.port.iceberg=0", "-s3.port.lance=0",
             f"-s3.config={config}", *ports], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        return self

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def client(self):
        import boto3
        import botocore.config
        return boto3.client("s3", endpoint_url=self.url, aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
                            region_name="us-east-1",
                            config=botocore.config.Config(retries={"max_attempts": 2}))

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class S3Test(ImportTest):
    def test_a_folder_of_objects_becomes_a_model(self):
        prerequisites.skip_without("" if WEED else "there is no SeaweedFS: scripts/fetch_seaweedfs.sh gets it")
        with ObjectStore(self.folder / "store") as store:
            client = store.client()
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.create_bucket(Bucket="models")
                    break
                except Exception:  # it is starting
                    if time.monotonic() > deadline or store.process.poll() is not None:
                        raise
                    time.sleep(0.5)
            for path in self.model.iterdir():
                # A key with characters that signatures trip over.
                client.upload_file(str(path), "models", f"a b/tiny=1/{path.name}")
            client.put_object(Bucket="models", Key="a b/tiny=1/deeper/model.safetensors", Body=b"not this one")
            client.upload_file(str(self.model / "config.json"), "models", "text.txt")
            keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
            with Server(self.folder / "data", ["--s3-endpoint", store.url], keys) as server:
                ok, made = server.qamctl("import", "s3://models/a b/tiny=1/")
                self.assertTrue(ok, made)
                self.assertEqual(self.digests(made), self.expected())
                ok, made = server.qamctl("import", "s3://models/text.txt", "--text")
                self.assertTrue(ok, made)
                ok, text = server.qamctl("import", "s3://models/nothing")
                self.assertFalse(ok)
                self.assertIn("IMPORT_NOT_FOUND", text)
                ok, text = server.qamctl("import", "s3://other/x")
                self.assertFalse(ok)
            keys["AWS_SECRET_ACCESS_KEY"] = "wrong"
            with Server(self.folder / "data", ["--s3-endpoint", store.url], keys) as server:
                ok, text = server.qamctl("import", "s3://models/a b/tiny=1")
                self.assertFalse(ok)
                self.assertIn("IMPORT_DENIED", text)


if __name__ == "__main__":
    prerequisites.main(argv=sys.argv[:1])
