#!/usr/bin/env python3
"""A large checkpoint uploaded over REST and over gRPC, through a proxy that cuts connections at random places, until it is
there; the server is killed once in between. The digest must be right and the server's memory must not grow with the file.

usage: large_upload.py [BUILD_FOLDER] [--mib N] [--seed N]      (see tests/python/environment.py; 2048 is the night's size)
"""
import argparse
import hashlib
import http.client
import json
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from clients_support import Server, wait_for  # noqa: E402

import qamserve  # noqa: E402

BLOCK = 1 << 20
# What receiving a file may take beside what the process had before: buffers of streams, not the file.
MAX_GROWTH = 48 << 20


def write_model(build, folder, mib, seed):
    """A checkpoint of about so many MiB with random weights; SHA-256 by name of file."""
    subprocess.run([build / "tests/support/make_random_model", "--out", folder, "--bytes", str(mib << 20), "--shard-bytes", "0",
                    "--hidden", "512", "--intermediate", "1408", "--heads", "8", "--kv-heads", "2", "--vocab", "300",
                    "--seed", str(seed)], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    digests = {}
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        digests[path.name] = digest.hexdigest()
    return digests


class CuttingProxy:
    """Passes bytes on and breaks each connection after some of them, as random numbers say."""

    def __init__(self, target, numbers, largest):
        self.target, self.numbers, self.largest = target, numbers, largest
        self.cuts = 0
        self.calm = False  # no more cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            host, port = self.target.rsplit(":", 1)
            try:
                server = socket.create_connection((host, int(port)), 10)
            except OSError:
                client.close()
                continue
            budget = self.numbers.randint(1, self.largest)
            threading.Thread(target=self._pump, args=(client, server, budget), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, None), daemon=True).start()

    def _pump(self, source, sink, budget):
        passed = 0
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
                passed += len(data)
                if budget is not None and passed > budget and not self.calm:
                    self.cuts += 1
                    break
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)  # wakes the thread of the other direction
            except OSError:
                pass
            end.close()  # a socket that is only shut down would go on taking bytes


class RestUploader:
    """Uploads over REST with http.client: PUT with Content-Range from where the server says that it stands."""

    def __init__(self, address, folder):
        self.address, self.folder = address, folder

    def call(self, method, path, body):
        connection = http.client.HTTPConnection(self.address, timeout=300)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
            return json.loads(text)
        finally:
            connection.close()

    def patiently(self, method, path, body=None):
        """For calls through a proxy that may cut them."""
        for _ in range(100):
            try:
                return self.call(method, path, body)
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
        raise RuntimeError(f"{method} {path} never came through")

    def put(self, path, file, offset, size):
        """True if it was all taken; False if the connection broke, or the server has not let go of the last attempt yet."""
        connection = http.client.HTTPConnection(self.address, timeout=300)
        try:
            with open(file, "rb") as data:
                data.seek(offset)
                connection.putrequest("PUT", path)
                connection.putheader("Content-Length", str(size - offset))
                connection.putheader("Content-Range", f"bytes {offset}-{size - 1}/{size}")
                connection.endheaders()
                while block := data.read(1 << 18):
                    connection.send(block)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        if answer.status == 200:
            return True
        if b"UPLOAD_BUSY" in text or b"UPLOAD_OFFSET" in text or answer.status == 503:
            return False
        raise RuntimeError(f"PUT {path}: {answer.status} {text[:500]!r}")

    def run(self, digests, on_progress):
        files = {name: self.folder / name for name in digests}
        infos = [{"name": n, "sha256": digests[n], "sizeBytes": p.stat().st_size} for n, p in files.items()]
        upload = self.patiently("POST", "/v1/uploads", {"kind": "UPLOAD_KIND_CHECKPOINT", "files": infos})
        while missing := [f for f in upload["files"] if not f["complete"]]:
            state = missing[0]
            on_progress(int(state["committedBytes"]))
            if not self.put(f"/v1/{upload['name']}/files/{state['file']['sha256']}", files[state["file"]["name"]],
                            int(state["committedBytes"]), int(state["file"]["sizeBytes"])):
                time.sleep(0.02)
            upload = self.patiently("GET", f"/v1/{upload['name']}")
        return self.patiently("POST", f"/v1/{upload['name']}:complete", {})["checkpoint"]["digest"]


class Run:
    """One upload by one protocol. The server dies when half of the bytes are there."""

    def __init__(self, build, mib, seed, protocol):
        self.build, self.mib, self.seed, self.protocol = build, mib, seed, protocol
        self.killed = False

    def watch_memory(self, done):
        while not done.is_set():
            try:
                self.highest = max(self.highest, self.server.resident_bytes()[0])
            except (OSError, AttributeError):
                pass  # between two lives of the server
            done.wait(0.05)

    def on_progress(self, committed):
        if committed > (self.mib << 19) and not self.killed:
            self.killed = True
            self.server.kill()
            self.server.start()
            self.before = self.highest = self.server.resident_bytes()[0]

    def __call__(self, scratch):
        folder = scratch / "model"
        digests = write_model(self.build, folder, self.mib, self.seed)
        numbers = random.Random(self.seed)
        self.server = Server(self.build, data_dir=scratch / "data")
        with self.server:
            target = self.server.http if self.protocol == "rest" else self.server.grpc
            proxy = CuttingProxy(target, numbers, (self.mib << 20) // 4)
            self.before = self.highest = self.server.resident_bytes()[0]
            done = threading.Event()
            watcher = threading.Thread(target=self.watch_memory, args=(done,))
            watcher.start()
            started = time.monotonic()
            try:
                there = self.upload(proxy, folder, digests)
            finally:
                done.set()
                watcher.join()
                proxy.close()
            seconds = time.monotonic() - started
            growth = self.highest - self.before
            print(f"{self.protocol}: {self.mib} MiB in {seconds:.1f} s, {proxy.cuts} cuts, killed {self.killed}, memory "
                  f"{self.before >> 20} to {self.highest >> 20} MiB", flush=True)
            assert there == digests, f"the checkpoint has {there}, sent was {digests}"
            assert proxy.cuts >= 2, "the proxy cut too little to show anything"
            assert growth < MAX_GROWTH, f"memory grew by {growth >> 20} MiB"

    def upload(self, proxy, folder, digests):
        with qamserve.Client(self.server.grpc) as direct:
            if self.protocol == "rest":
                name = RestUploader(proxy.address, folder).run(digests, self.on_progress)
            else:
                patient = qamserve.RetryPolicy(transfer_attempts=200, initial_backoff=0.05, max_backoff=0.5)
                with qamserve.Client(proxy.address, retry=patient) as client:
                    name = wait_for(lambda: self.try_upload(client, folder), 600).digest
            return {f.name: f.sha256 for f in direct.get_checkpoint(f"checkpoints/{name}").files}

    def try_upload(self, client, folder):
        """The first call of an upload is made once; the proxy may cut it."""
        try:
            return client.upload(folder, on_progress=lambda p: self.on_progress(p.done_bytes) if p.phase == "retry" else None)
        except qamserve.errors.UnavailableError:
            return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build", type=pathlib.Path)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--protocols", default="grpc,rest")
    arguments = parser.parse_args()
    for protocol in arguments.protocols.split(","):
        with tempfile.TemporaryDirectory() as folder:
            Run(arguments.build.resolve(), arguments.mib, arguments.seed, protocol)(pathlib.Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
