"""What a fleet runs on and its processes, for tests and measurements in Python: PostgreSQL, SeaweedFS and qamserve as child
processes on loopback, which can be killed, paused and started again. Ends only what it started.

Nothing here waits longer than it is told to, and nothing is thread-safe. Processes die with the thread that started them.
"""
import ctypes
import http.client
import itertools
import json
import os
import pathlib
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request

ACCESS_KEY, SECRET_KEY, BUCKET, PREFIX = "writerkey", "writersecret", "blobs", "fleet"
IDENTITIES = {"identities": [{"name": "writer", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                              "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]}]}
START_SECONDS = 90  # seconds on a busy machine; two by itself
STOP_SECONDS = 60
PR_SET_PDEATHSIG = 1
# fsync and full pages as in service: what is killed here comes back by the log that a crash leaves.
POSTGRES_SETTINGS = ("listen_addresses = ''", "fsync = on", "full_page_writes = on", "synchronous_commit = on",
                     "shared_buffers = 32MB", "max_connections = 150", "max_wal_size = 256MB")
FAKETIME = "faketime/libfaketime.so.1"


def postgres_programs():
    """The folder of the newest PostgreSQL's programs, or None."""
    if given := os.environ.get("QAMSERVE_POSTGRES_BIN"):
        return pathlib.Path(given)
    found = [path.parent for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


def weed_program():
    """SeaweedFS, or None."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return shutil.which(os.environ.get("QAMSERVE_WEED") or str(cache / "qamserve/seaweedfs-4.48/weed"))


def faketime_library():
    """What gives a process another clock, or None."""
    found = sorted(pathlib.Path("/usr/lib").glob("*/" + FAKETIME))
    return found[0] if found else None


def missing():
    """Why there can be no fleet here; "" if there can."""
    if postgres_programs() is None:
        return "PostgreSQL is not installed (Debian: postgresql)"
    if weed_program() is None:
        return "there is no SeaweedFS: scripts/fetch_seaweedfs.sh gets it"
    return ""


def free_port():
    """One that is free. Below those that the system gives out by itself, so that it is still free when a process that was
    killed wants it back."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        if is_free(port):
            return port


def is_free(port):
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False


def memory_folder(prefix):
    """A new folder, in memory where there is such a file system: processes are killed here, machines are not, and what is
    made safe on a disk waits for everything else that the machine writes."""
    return tempfile.mkdtemp(prefix=prefix, dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp")


def die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def children(pid):
    try:
        return list(map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def is_running(pid):
    """False of one that has ended, whether or not anybody has heard of it."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Child:
    """A process that can be started again. `name` is that of its log files, one for each start."""

    def __init__(self, name, folder):
        self.name, self.folder = name, pathlib.Path(folder)
        self.process, self.starts = None, 0

    def log(self, start=None):
        return self.folder / f"{self.name}-{start or self.starts}.log"

    def spawn(self, command, **options):
        self.starts += 1
        with open(self.log(), "w") as log:
            self.process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log, preexec_fn=die_with_parent, **options)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def processes(self):
        """Its own id first."""
        return [self.process.pid] if self.running() else []

    def kill(self):
        """As the out-of-memory killer would."""
        if self.running():
            self.process.kill()
            self.process.wait()

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def signal(self, number):
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # a process of a process, which has ended meanwhile

    def tail(self, size=2000):
        try:
            return self.log().read_text(errors="replace")[-size:]
        except OSError:
            return ""


def wait_until(condition, what, child):
    end = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > end or not child.running():
            raise RuntimeError(f"{what}:\n{child.tail()}")
        time.sleep(0.05)


class Postgres(Child):
    """A cluster of its own, reached by a socket in its folder and nothing else."""

    def __init__(self, logs):
        super().__init__("postgres", logs)
        self.programs = postgres_programs()
        self.home = pathlib.Path(memory_folder("qamserve-pg-"))
        self.home.chmod(0o755)
        # PostgreSQL does not run as root.
        self.identity = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self.home, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_"))}
        self.environment["LC_ALL"] = "C.UTF-8"
        self.run("initdb", "-D", self.home / "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
        with open(self.home / "data/postgresql.conf", "a") as conf:
            conf.write("\n".join([*POSTGRES_SETTINGS, f"unix_socket_directories = '{self.home}'", ""]))

    def run(self, program, *arguments, check=True):
        return subprocess.run([self.programs / program, *map(str, arguments)], stdin=subprocess.DEVNULL, cwd="/",
                              capture_output=True, text=True, check=check, env=self.environment, **self.identity)

    def start(self):
        """Without waiting."""
        self.spawn([self.programs / "postgres", "-D", self.home / "data"], cwd="/", env=self.environment, **self.identity)

    def wait_ready(self):
        wait_until(lambda: self.run("pg_isready", "-q", "-h", self.home, check=False).returncode == 0,
                   "PostgreSQL did not start", self)

    def create(self, database):
        self.run("createdb", "-h", self.home, "-U", "postgres", database)
        return f"postgresql://postgres@/{database}?host={urllib.parse.quote(str(self.home), safe='')}"

    def rows(self, database, sql):
        """Of a query: texts, row by row."""
        done = self.run("psql", "-X", "-q", "-A", "-t", "-F", "\t", "-h", self.home, "-U", "postgres", "-d", database, "-c", sql)
        return [line.split("\t") for line in done.stdout.splitlines()]

    def processes(self):
        return [self.process.pid, *children(self.process.pid)] if self.running() else []

    def kill(self):
        """All of its processes, at once."""
        if not self.running():
            return
        os.kill(self.process.pid, signal.SIGSTOP)  # starts no more of them
        pids = self.processes()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()
        # While one of them is left, a new server refuses to start.
        end = time.monotonic() + STOP_SECONDS
        while any(map(is_running, pids)) and time.monotonic() < end:
            time.sleep(0.002)

    def close(self):
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


class Weed(Child):
    """SeaweedFS with an empty bucket BUCKET and one key, which may do everything."""

    def __init__(self, logs):
        super().__init__("seaweedfs", logs)
        self.home = pathlib.Path(memory_folder("qamserve-s3-"))
        (self.home / "s3.json").write_text(json.dumps(IDENTITIES))
        self.ports = {part: (free_port(), free_port()) for part in ("s3", "master", "volume", "filer")}  # HTTP and gRPC
        self.endpoint = f"http://127.0.0.1:{self.ports['s3'][0]}"

    def start(self):
        """Without waiting."""
        self.spawn([weed_program(), "server", f"-dir={self.home}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=200",
                    "-master.telemetry=false", "-master.electionTimeout=1s", "-master.heartbeatInterval=100ms", "-s3", "-s3.autoCreateBucket=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
                    f"-s3.config={self.home}/s3.json",
                    *[f"-{part}.port={http}" for part, (http, _) in self.ports.items()],
                    *[f"-{part}.port.grpc={grpc}" for part, (_, grpc) in self.ports.items()]])

    def wait_ready(self):
        """Its parts find each other one after the other; the last thing that works is to keep a file."""
        def keeps_files():
            try:
                self.ask("PUT", "/qamserve-ready", b"ready")
                self.ask("DELETE", "/qamserve-ready")
                return self.s3_answers()
            except OSError:
                return False
        wait_until(keeps_files, "SeaweedFS did not start", self)

    def create_bucket(self):
        self.ask("POST", f"/buckets/{BUCKET}/")

    def s3_answers(self):
        try:
            urllib.request.urlopen(self.endpoint, timeout=10).close()
        except urllib.error.HTTPError:
            return True  # it wants a key
        return True

    def ask(self, method, path, body=None):
        """Of its filer, which shows the files of buckets to those on this machine."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports['filer'][0]}{path}", data=body, method=method,
                                         headers={"Accept": "application/json",
                                                  **({} if body is None else {"Content-Type": "application/octet-stream"})})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def listing(self, folder):
        """Names in a folder, and whether each is a folder itself."""
        entries, last = [], ""
        while True:
            query = urllib.parse.urlencode({"limit": 1000, "lastFileName": last})
            try:
                page = json.loads(self.ask("GET", f"{folder}/?{query}"))
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return entries
                raise
            found = page.get("Entries") or []
            entries += [(pathlib.PurePosixPath(one["FullPath"]).name, bool(one["Mode"] & (1 << 31))) for one in found]
            if len(found) < 1000:
                return entries
            last = page["LastFileName"]

    def objects(self, folder=f"/buckets/{BUCKET}"):
        """Paths of all objects below a folder; unfinished multipart uploads are below .uploads."""
        paths = []
        for name, is_folder in self.listing(folder):
            paths += self.objects(f"{folder}/{name}") if is_folder else [f"{folder}/{name}"]
        return paths

    def close(self):
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
        for part, (_, grpc) in self.ports.items():
            pathlib.Path(f"/tmp/seaweedfs-{part}-grpc-{grpc}.sock").unlink(missing_ok=True)


class Process(Child):
    """A qamserve of a fleet. Its addresses stay the same from start to start."""

    def __init__(self, build, logs, name, role, environment, flags):
        super().__init__(name, logs)
        self.build, self.role, self.environment, self.flags = build, role, environment, list(map(str, flags))
        self.data = self.folder / "data" / name
        self.grpc, self.http, self.metrics = (f"127.0.0.1:{free_port()}" for _ in range(3))

    def start(self, clock=""):
        """Without waiting. `clock`: what libfaketime is told, such as "+3h"; "" = the machine's clock."""
        environment = dict(self.environment)
        if clock:
            environment.update(LD_PRELOAD=str(faketime_library()), FAKETIME=clock, FAKETIME_DONT_FAKE_MONOTONIC="1",
                               NO_FAKE_STAT="1")  # times of files are the file system's business
        self.spawn([self.build / "server/qamserve", "--roles", self.role, "--data-dir", self.data, "--listen", self.grpc,
                    "--http-listen", self.http if self.role == "api" else "off", "--metrics-listen", self.metrics, *self.flags],
                   env=environment)

    def is_ready(self):
        try:
            urllib.request.urlopen(f"http://{self.metrics}/readyz", timeout=10).close()
            return True
        except OSError:
            return False

    def wait_ready(self):
        wait_until(self.is_ready, f"{self.name} did not start", self)

    def stop(self):
        """Its exit code, after SIGTERM."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.name} did not end:\n{self.tail()}") from None

    def lines(self):
        """Of its logs, as objects, from all of its starts. One that was killed may have left half a line."""
        for start in range(1, self.starts + 1):
            text = self.log(start).read_text(errors="replace").splitlines()
            for at, line in enumerate(text):
                if not line.startswith("{"):
                    continue  # where it listens
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    if at + 1 < len(text):
                        raise


class Fleet:
    """PostgreSQL, SeaweedFS and processes over them; used in a with statement. `flags` are of all processes."""

    DATABASE = "fleet"

    def __init__(self, build, folder, flags=()):
        self.build, self.folder = pathlib.Path(build).resolve(), pathlib.Path(folder)
        self.flags = list(map(str, flags))
        self.processes = []
        self.postgres = self.weed = None
        self.environment = {}

    def __enter__(self):
        try:
            self.postgres, self.weed = Postgres(self.folder), Weed(self.folder)
            for one in (self.postgres, self.weed):
                one.start()
            for one in (self.postgres, self.weed):
                one.wait_ready()
            self.weed.create_bucket()
            # The URI goes by the environment, as one with a password must.
            self.environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                                "QAMSERVE_METADATA_STORE": self.postgres.create(self.DATABASE)}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for one in self.processes:
            one.kill()
        for one in (self.postgres, self.weed):
            if one is not None:
                one.close()

    def add(self, name, role, *flags):
        """A process that is not started yet."""
        common = ["--blob-store", f"s3://{BUCKET}/{PREFIX}", "--s3-endpoint", self.weed.endpoint, "--disk-reserve-mib", "0"]
        process = Process(self.build, self.folder, name, role, self.environment, [*common, *self.flags, *flags])
        self.processes.append(process)
        return process

    def of(self, role):
        return [one for one in self.processes if one.role == role]

    def rows(self, sql):
        return self.postgres.rows(self.DATABASE, sql)


class Api:
    """REST calls to whichever of several processes answers, tried again for as long as none does. Thread-safe."""

    # Nobody there, not now, and of a proxy's kind; anything else is an answer.
    PASSING = (502, 503, 504)

    def __init__(self, addresses, patience_seconds=120):
        self.addresses, self.patience = itertools.cycle(list(addresses)), patience_seconds
        self.refused = 0  # calls that had to be made again

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        end = time.monotonic() + self.patience
        while True:
            request = urllib.request.Request(f"http://{next(self.addresses)}{path}", data=data, method=method,
                                             headers={"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                why = f"{error.code} {error.read().decode(errors='replace')}"
                if error.code not in self.PASSING:
                    raise RuntimeError(f"{method} {path}: {why}") from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                why = repr(error)
            if time.monotonic() > end:
                raise RuntimeError(f"{method} {path} had no answer in {self.patience} s: {why}")
            self.refused += 1
            time.sleep(0.2)
