"""A running server for clients in Python, and a model for it. Ends only what it started."""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

STOP_SECONDS = 60
# Of flags that a test does not give.
DEFAULTS = {"--metrics-listen": "off", "--log-level": "error", "--memory-limit-mib": "2048", "--kv-mib": "64", "--threads": "2",
            "--disk-reserve-mib": "0"}
# What a job takes on a model of two small layers: the least that still measures something.
SMALL_TEXT = {"windows": 2, "window_tokens": 32}


def build_folder():
    """The first argument of the program, else build/. Taken away, since unittest reads arguments, too."""
    return pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "build").resolve()


def make_tiny_model(build, folder):
    """A Llama of two small layers with random weights, a byte-level vocabulary of 320 tokens, a ChatML template and 2048
    tokens of context."""
    subprocess.run([build / "tests/support/make_random_model", "--out", folder, "--layers", "2", "--hidden", "64",
                    "--intermediate", "128", "--heads", "4", "--kv-heads", "2", "--vocab", "320", "--dtype", "F16"],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return folder


def make_tiny_gemma(build, folder):
    """A Gemma 3 of seven layers, likewise, with 256 tokens of context."""
    subprocess.run([build / "tests/support/make_tiny_model", "gemma3", folder], check=True, stdin=subprocess.DEVNULL)
    return folder


def fast_folder():
    """A new folder, in memory where there is such a file system: on disk a busy machine takes seconds for each of the many
    small files that a job makes safe."""
    return tempfile.mkdtemp(prefix="qamserve-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


class Server:
    """Used in a with statement. `grpc` and `http` are HOST:PORT, `url` is http://HOST:PORT."""

    def __init__(self, build, *flags, data_dir=None):
        self.binary = build / "server/qamserve"
        self.flags = flags
        self.temporary = None if data_dir else fast_folder()
        self.data_dir = pathlib.Path(data_dir or self.temporary)
        self.process = None
        # Free ports the first time; a server that is started again keeps its addresses.
        self.grpc = self.http = "127.0.0.1:0"

    def __enter__(self):
        self.start()
        return self

    def start(self):
        given = list(map(str, self.flags))
        command = [str(self.binary), "--data-dir", str(self.data_dir), "--listen", self.grpc, "--http-listen", self.http, *given]
        for flag, value in DEFAULTS.items():
            command += [] if flag in given else [flag, value]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        addresses = re.findall(r"127\.0\.0\.1:\d+", self._first_lines())
        if len(addresses) < 2:
            self.stop()
            raise RuntimeError(f"the server did not start: {' '.join(command)}")
        self.grpc, self.http = addresses[:2]
        self.url = f"http://{self.http}"

    def _first_lines(self):
        text = ""
        while len(re.findall(r"127\.0\.0\.1:\d+", text)) < 2:
            line = self.process.stdout.readline()
            if not line:
                return text
            text += line
        return text

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code

    def kill(self):
        """As a power cut would."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __exit__(self, *_):
        code = self.stop()
        if self.temporary:
            shutil.rmtree(self.temporary, ignore_errors=True)
        if code != 0:
            raise RuntimeError(f"the server ended with {code}")

    def resident_bytes(self):
        """Memory of the process, and the most it ever had."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return tuple(int(re.search(rf"{key}:\s+(\d+) kB", status).group(1)) * 1024 for key in ("VmRSS", "VmHWM"))

    def rest(self, method, path, body=None, **headers):
        """One call over REST; its JSON."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method,
                                         headers={"Content-Type": "application/json", **headers})
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)


def wait_for(condition, seconds=60, what="it"):
    """Asks until `condition()` is true; for what another process does and nobody tells."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {seconds} s")
        time.sleep(0.02)
    return result


def smollm2():
    """The GGUF file of SmolLM2-135M-Instruct, or None."""
    path = os.environ.get("QAMSERVE_SMOLLM2")
    return pathlib.Path(path) if path else None
