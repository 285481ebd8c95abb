"""A server of its own on loopback, with stores of its own, whose jobs are watched and timed through qamctl."""
import json
import pathlib
import shutil
import socket
import subprocess
import threading
import time

from context import Unmeasurable

START_SECONDS = 120
STOP_SECONDS = 60


def peak_rss_bytes(pid):
    """The most memory that a process ever held, mapped files included."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise Unmeasurable("the kernel does not tell a process's peak memory")


class RunningJob:
    """A job that a JobServer does in the background, in a with statement that begins when the job does its first task and
    cancels what is left of it at the end."""

    def __init__(self, server, model, *options):
        self.server, self.view, self.stages = server, {}, []
        self.shown = server.show(model, *options)
        self.client = subprocess.Popen(server.qamctl("quantize", model, *options, "--watch"), stdin=subprocess.DEVNULL,
                                       stdout=subprocess.PIPE, text=True)
        self.begun = threading.Event()
        self.reader = threading.Thread(target=self.follow, daemon=True)

    def __enter__(self):
        self.reader.start()
        if not self.begun.wait(START_SECONDS) or not self.stages:
            self.__exit__()
            raise Unmeasurable(f"the job did not start: {self.view.get('error') or self.view.get('state') or 'nothing was heard of it'}")
        return self

    def follow(self):
        for line in self.client.stdout:
            self.view = {**self.view, **json.loads(line)}  # an error at the end has no more than itself
            stage = self.view.get("progress", {}).get("stage")
            if stage and self.view.get("state") == "JOB_STATE_RUNNING":
                self.stages += [stage] if stage not in self.stages else []
                self.begun.set()
        self.begun.set()  # it ended, or never was

    def running(self):
        return self.reader.is_alive() and self.view.get("state") == "JOB_STATE_RUNNING"

    def __exit__(self, *_):
        if self.reader.is_alive() and "name" in self.view:
            subprocess.run(self.server.qamctl("cancel", self.view["name"]), stdin=subprocess.DEVNULL, capture_output=True, check=False)
        try:
            self.client.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.client.kill()
            self.client.wait()
        self.reader.join()
        self.client.stdout.close()


def free_address():
    """A port of loopback that nothing listens on now, for a program that does not say which it took."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


class JobServer:
    """Used in a with statement; the server ends and its stores are removed at its end, unless they are to be kept. With
    `metrics` it tells its numbers at metrics_address."""

    def __init__(self, context, name="job-server", flags=(), keep=False, metrics=False):
        self.context = context
        self.data_dir = context.work / name
        self.flags = list(flags)
        self.keep = keep
        self.metrics_address = free_address() if metrics else "off"
        self.process = None
        self.address = ""

    def __enter__(self):
        self.remove_stores()
        command = [self.context.program("server/qamserve"), "--data-dir", self.data_dir, "--listen", "127.0.0.1:0",
                   "--http-listen", "off", "--metrics-listen", self.metrics_address, "--log-level", "error", "--threads",
                   str(self.context.threads), *self.flags]
        self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            self.__exit__()
            raise Unmeasurable(f"the server did not start: {line.strip()}")
        self.address = line.removeprefix("listening on ").strip()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.remove_stores()

    def remove_stores(self):
        if not self.keep:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def qamctl(self, verb, *arguments):
        command = [self.context.program("client/qamctl"), verb, *arguments, "--json", "--address", self.address]
        return [str(part) for part in command]

    def run(self, verb, model, *options):
        """Runs a job to its end; its last view, and the seconds at which each of its stages was first seen.

        The seconds count from the job's start; "end" is the last view's.
        """
        print(f"      $ {self.show(model, *options, verb=verb)}", flush=True)
        client = subprocess.Popen(self.qamctl(verb, model, *options, "--watch"), stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, text=True)
        seen, start, view = {}, None, {}
        for line in client.stdout:
            now = time.monotonic()
            view = json.loads(line)
            start = start or now
            if "progress" in view:
                seen.setdefault(view["progress"]["stage"], now - start)
            seen["end"] = now - start
        if client.wait() != 0 or view.get("state") != "JOB_STATE_SUCCEEDED":
            raise Unmeasurable(f"the job ended as {view.get('state')}: {view.get('error')}")
        return view, seen

    def quantize(self, model, *options):
        return self.run("quantize", model, *options)

    def estimate(self, model, *options):
        """What the server says beforehand of such a job."""
        done = subprocess.run(self.qamctl("quantize", model, *options, "--validate-only"), stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Unmeasurable(f"no estimate: {done.stderr.strip()}")
        return json.loads(done.stdout)["estimate"]

    def study(self, model, *options):
        """Runs a study to its end; its table."""
        view, _ = self.run("study", model, *options)
        table = subprocess.run(self.qamctl("study", "table", view["name"]), stdin=subprocess.DEVNULL,
                               capture_output=True, text=True, check=True)
        return json.loads(table.stdout)

    def show(self, model, *options, verb="quantize"):
        """The command of `run` as a reader would type it."""
        return self.context.show([self.context.program("client/qamctl"), verb, model, *options, "--watch"])
