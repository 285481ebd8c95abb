#!/usr/bin/env python3
"""A fleet whose processes are killed every few seconds makes exactly what one undisturbed server makes.

usage: chaos.py BUILD_FOLDER [--kills N] [--seed N] [--lease-seconds N] [--keep] [--verbose]

Two api and three worker processes over PostgreSQL and SeaweedFS do 30 jobs of all kinds, and 10 more at a time until there
were so many kills; then they finish in peace. Meanwhile a killer with a seed, which is printed, sends kill -9 to workers, api processes, PostgreSQL (all of
its processes) and SeaweedFS, and pauses them, workers for longer than a lease; workers run with clocks that are many minutes off or too
fast (libfaketime). At the end, of the same jobs on one server with SQLite that nobody disturbs:
 1. every job has ended as it should, with the same artifacts, measurements and tables, to the last digit;
 2. no task was completed more often than its leases have lapsed, and outcomes of those done twice were the same;
 3. after garbage collection the object store has exactly the blobs that rows refer to, each with the bytes of its name;
 4. when everything is deleted, nothing is left.
Ends with 77 where PostgreSQL, SeaweedFS or libfaketime is not installed, with 1 if CI=true.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "e2e")]
import checks  # noqa: E402
import workload  # noqa: E402
from clients_support import Server  # noqa: E402
from fleet import Api, Fleet, faketime_library, missing  # noqa: E402
from killer import Killer  # noqa: E402
from prerequisites import exit_code_without  # noqa: E402

WORKERS, APIS = 3, 2
FIRST_GRACE, LAST_GRACE = 60, 1  # seconds; the first is longer than all that befalls a task from its blob to its row
COLLECT_SECONDS = 10
POLL_SECONDS = 0.3
# One server does the first wave in a minute; this is for a machine that has other things to do.
WAVE_SECONDS = 600


class Client(threading.Thread):
    """Uploads models, creates jobs and waits for them, wave by wave, until `enough()`."""

    def __init__(self, build, folder, addresses, enough):
        super().__init__(daemon=True)
        self.build, self.folder, self.addresses, self.enough = build, folder, addresses, enough
        self.api = Api([http for _, http in addresses])
        self.waves, self.jobs, self.error = [], {}, None
        self.ended = 0
        self.collected = time.monotonic()
        self.upload_tries = 0
        self.broken_off = 0

    def run(self):
        try:
            while not self.waves or not self.enough():
                self.do_wave()
        except BaseException as error:  # told by the thread that waits for this one
            self.error = error

    def do_wave(self):
        wave = workload.Wave(self.build, self.folder, len(self.waves))
        self.waves.append(wave)
        wave.upload(self.upload)
        jobs = wave.create(self.api)
        self.jobs.update(jobs)
        end = time.monotonic() + WAVE_SECONDS
        evaluate = f"{wave.number}/evaluate"
        while True:
            states = self.states()
            first = jobs[wave.evaluated()]
            if evaluate not in jobs and states.get(first) == workload.SUCCEEDED:
                artifact = self.api.call("GET", f"/v1/{first}")["artifact"]
                self.jobs[evaluate] = jobs[evaluate] = wave.evaluate(self.api, artifact)
            self.ended = sum(states.get(name) in workload.FINAL for name in self.jobs.values())
            if evaluate in jobs and all(states.get(name) in workload.FINAL for name in jobs.values()):
                return
            if states.get(first) in workload.FINAL - {workload.SUCCEEDED}:
                raise AssertionError(f"{wave.evaluated()} ended as {states[first]}: {self.api.call('GET', f'/v1/{first}')}")
            if time.monotonic() > end:
                raise AssertionError(f"jobs did not end in {WAVE_SECONDS} s: {states}")
            if time.monotonic() - self.collected > COLLECT_SECONDS:
                self.collect()
                self.collected = time.monotonic()
            time.sleep(POLL_SECONDS)

    def collect(self):
        """The next one does what this one leaves because PostgreSQL, and with it the lock, went away in the middle of it."""
        try:
            self.api.call("POST", "/v1/admin/garbage:collect", {})
        except RuntimeError as error:
            if "LOCK_LOST" not in str(error):
                raise
            self.broken_off += 1

    def upload(self, model):
        for attempt in range(30):
            self.upload_tries += 1
            address = self.addresses[attempt % len(self.addresses)][0]
            done = subprocess.run([self.build / "client/qamctl", "upload", model, "--json", "--address", address],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return json.loads(done.stdout)["checkpoint"]["name"]
            time.sleep(0.3)
        raise AssertionError(f"{model} could not be uploaded: {done.stderr}")

    def states(self):
        states, token = {}, ""
        while True:
            page = self.api.call("GET", f"/v1/jobs?pageSize=1000&pageToken={token}")
            states.update({job["name"]: job["state"] for job in page["jobs"]})
            token = page.get("nextPageToken", "")
            if not token:
                return states


def undisturbed(build, waves):
    """What the same jobs come to on one server with stores of its own."""
    with Server(build, "--threads", str(os.cpu_count()), "--worker-nice", "0") as server:
        api = Api([server.http])
        client = Client(build, None, [(server.grpc, server.http)], None)
        jobs = {}
        for wave in waves:
            wave.upload(client.upload)
            own = wave.create(api)
            wait_for_all(client, own.values())
            artifact = api.call("GET", f"/v1/{own[wave.evaluated()]}")["artifact"]
            own[f"{wave.number}/evaluate"] = wave.evaluate(api, artifact)
            wait_for_all(client, own.values())
            jobs.update(own)
        return {key: workload.outcome(api, name) for key, name in jobs.items()}


def wait_for_all(client, names):
    end = time.monotonic() + WAVE_SECONDS
    while True:
        states = client.states()
        if all(states.get(name) in workload.FINAL for name in names):
            return
        assert time.monotonic() < end, f"jobs of the undisturbed server did not end in {WAVE_SECONDS} s"
        time.sleep(POLL_SECONDS)


def disturb(fleet, killer, client, kills):
    """To the end of all jobs, and of as many kills."""
    client.start()
    told = time.monotonic()
    while client.is_alive():
        killer.step()
        time.sleep(0.02)
        if time.monotonic() - told > 15:
            told = time.monotonic()
            print(f"  {killer.toll.total()} of {kills} kills, {client.ended} of {len(client.jobs)} jobs ended", flush=True)
    if client.error is not None:
        raise client.error


def run(arguments, folder, summary):
    say = (lambda text: print(f"  {text}", flush=True)) if arguments.verbose else (lambda text: None)
    build = arguments.build
    flags = ["--threads", "1", "--lease-seconds", arguments.lease_seconds, "--worker-nice", "0", "--log-level", "debug",
             "--memory-limit-mib", "256", "--kv-mib", "16"]
    with Fleet(build, folder, flags) as fleet:
        grace = ["--garbage-grace-seconds", FIRST_GRACE]
        apis = [fleet.add(f"api-{n + 1}", "api", *grace) for n in range(APIS)]
        for n in range(WORKERS):
            fleet.add(f"worker-{n + 1}", "worker", *grace)
        killer = Killer(fleet, arguments.kills, arguments.seed, arguments.lease_seconds, say)
        for process in fleet.processes:
            killer.start(process)
        for process in fleet.processes:
            process.wait_ready()
        client = Client(build, folder, [(api.grpc, api.http) for api in apis], lambda: killer.toll.total() >= arguments.kills)
        began = time.monotonic()
        disturb(fleet, killer, client, arguments.kills)
        summary.update(seconds=round(time.monotonic() - began, 1), kills=killer.toll.total(), killed=killer.toll.kills,
                       paused=killer.toll.pauses, clocks=killer.toll.clocks, gave_up=killer.toll.gave_up, jobs=len(client.jobs),
                       waves=len(client.waves), calls_repeated=client.api.refused, collections_broken_off=client.broken_off, uploads_begun=client.upload_tries)
        killer.calm()
        print(f"all {len(client.jobs)} jobs have ended after {summary['kills']} kills in {summary['seconds']} s; the same on one undisturbed server", flush=True)
        api = Api([api.http for api in apis])
        ours = {key: workload.outcome(api, name) for key, name in client.jobs.items()}
        began = time.monotonic()
        # What waits until a time that is past by a wrong clock does not wait: idle workers would take all processors.
        for process in fleet.of("worker"):
            process.pause()
        theirs = undisturbed(build, client.waves)
        for process in fleet.of("worker"):
            process.resume()
        summary["undisturbed_seconds"] = round(time.monotonic() - began, 1)
        checks.same_outcomes(ours, theirs, {key: wave.wanted(key) for wave in client.waves for key in ours})
        for process in fleet.processes:
            assert process.stop() == 0, f"{process.name} did not end in order:\n{process.tail()}"
        checks.leases(fleet, client.jobs, summary)
        checks.clocks(fleet)
        checks.scratch_is_empty(fleet)
        last = fleet.add("last", "api", "--garbage-grace-seconds", LAST_GRACE)
        last.start()
        last.wait_ready()
        checks.garbage(fleet, Api([last.http]), client.jobs, LAST_GRACE, summary)
        assert last.stop() == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    parser.add_argument("--lease-seconds", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="leave the logs where they are")
    parser.add_argument("--verbose", action="store_true", help="tell of each kill and pause")
    arguments = parser.parse_args()
    arguments.build = arguments.build.resolve()
    why = missing() or ("" if faketime_library() else "libfaketime is not installed (Debian: libfaketime)")
    if why:
        return exit_code_without(why)
    print(f"seed {arguments.seed} (again: tests/chaos/chaos.py {arguments.build} --kills {arguments.kills} --seed {arguments.seed})",
          flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="qamserve-chaos-"))
    summary = {"seed": arguments.seed}
    try:
        run(arguments, folder, summary)
    except BaseException:
        arguments.keep = True
        raise
    finally:
        print(json.dumps(summary))
        if arguments.keep:
            print(f"logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
