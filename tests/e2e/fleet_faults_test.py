#!/usr/bin/env python3
"""What goes wrong in a fleet is said where people look: on the job, in the log, in a metric; and the rest goes on.

usage: fleet_faults_test.py BUILD_FOLDER      ends with 77 where PostgreSQL or SeaweedFS is not installed, with 1 if CI=true

One api process and workers over PostgreSQL and SeaweedFS:
 * wrong credentials, a bucket that is not there, a schema that a newer program changed: the process ends and says why;
 * a newer program has added to the schema: processes and jobs go on as before, and new processes start;
 * a file of a checkpoint is altered or gone in the object store: its job ends with the file's digest;
 * a worker's disk is full: the job says so, and is done when it is tried again by one with room.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "chaos")]
import workload  # noqa: E402
from fleet import BUCKET, PREFIX, Api, Fleet, missing  # noqa: E402
from prerequisites import exit_code_without  # noqa: E402

WAIT_SECONDS = 120
SHAPE = {"layers": 2, "hidden": 64, "intermediate": 128, "heads": 4}
FULL = {"--disk-reserve-mib": 1 << 30}  # no disk has so much to spare


class Faults:
    def __init__(self, fleet, folder):
        self.fleet, self.folder = fleet, folder
        self.api = fleet.add("api", "api")
        self.worker = fleet.add("worker", "worker", "--threads", 1)
        for process in (self.api, self.worker):
            process.start()
        for process in (self.api, self.worker):
            process.wait_ready()
        self.rest = Api([self.api.http])
        self.models = 0

    def upload(self):
        """A checkpoint of its own, and the digest of the file with its weights."""
        self.models += 1
        model = workload.make_model(self.fleet.build, self.folder / f"model-{self.models}", SHAPE, self.models)
        done = subprocess.run([self.fleet.build / "client/qamctl", "upload", model, "--json", "--address", self.api.grpc],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        checkpoint = self.rest.call("GET", f"/v1/{json.loads(done.stdout)['checkpoint']['name']}")
        largest = max(checkpoint["files"], key=lambda file: int(file["sizeBytes"]))
        return checkpoint["name"], largest["sha256"]

    def object(self, digest):
        """Its path in the object store."""
        [path] = [path for path in self.fleet.weed.objects(f"/buckets/{BUCKET}/{PREFIX}") if path.endswith(digest)]
        return path

    def quantize(self, checkpoint):
        spec = {"bpw": 4, "calibration": workload.TEXT, "evaluation": workload.TEXT}
        return self.rest.call("POST", "/v1/jobs:quantize", {"checkpoint": checkpoint, "spec": spec})["name"]

    def wait(self, name, done=lambda job: job["state"] in workload.FINAL):
        end = time.monotonic() + WAIT_SECONDS
        while not done(job := self.rest.call("GET", f"/v1/{name}")):
            assert time.monotonic() < end, f"nothing came of {job}"
            time.sleep(0.1)
        return job

    def succeeds(self, checkpoint):
        job = self.wait(self.quantize(checkpoint))
        assert job["state"] == workload.SUCCEEDED, job
        return job

    def told(self, process, job, *words):
        """Whether a line of the log names the job and has these words."""
        return any(job.removeprefix("jobs/") in (text := json.dumps(line)) and all(word in text for word in words)
                   for line in process.lines())


def metric(process, name):
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(f"http://{process.metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = [float(line.rpartition(" ")[2]) for line in lines if re.match(name + r"[{ ]", line)]
    assert found, f"there is no metric {name}"
    return sum(found)


def change(process, flags):
    """Other values for flags that it has."""
    for flag, value in flags.items():
        process.flags[process.flags.index(flag) + 1] = str(value)


def ends(fleet, name, why, environment=None, flags=None):
    """A process that cannot do its work does not start, and the last thing it says is why."""
    process = fleet.add(name, "worker")
    process.environment = {**process.environment, **(environment or {})}
    change(process, flags or {})
    process.start()
    code = process.process.wait(WAIT_SECONDS)
    assert code != 0, f"{name} ended as if all were well"
    for word in why:
        assert word in process.tail(), f"{name} does not say {word}:\n{process.tail()}"
    fleet.processes.remove(process)


def what_is_wrong_at_the_start(faults):
    fleet = faults.fleet
    ends(fleet, "wrong-secret", ["403", "AWS_SECRET_ACCESS_KEY"], {"AWS_SECRET_ACCESS_KEY": "another"})
    ends(fleet, "no-bucket", ["bucket", "elsewhere"], flags={"--blob-store": f"s3://elsewhere/{PREFIX}"})
    ends(fleet, "wrong-database", ["elsewhere"],
         {"QAMSERVE_METADATA_STORE": fleet.environment["QAMSERVE_METADATA_STORE"].replace("/fleet?", "/elsewhere?")})


def a_newer_program_beside(faults):
    """The rows that it writes when it has added to the schema, while a job is being done."""
    checkpoint, _ = faults.upload()
    job = faults.quantize(checkpoint)
    [[version]] = faults.fleet.rows("SELECT MAX(version) FROM schema_migrations")
    newer = int(version) + 1
    faults.fleet.rows("ALTER TABLE jobs ADD COLUMN color TEXT NOT NULL DEFAULT 'red'; ALTER TABLE tasks ADD COLUMN color TEXT NOT NULL DEFAULT 'red';"
                      f" INSERT INTO schema_migrations (version, applied_ms, oldest_program) VALUES ({newer}, 0, {version})")
    assert faults.wait(job)["state"] == workload.SUCCEEDED
    another = faults.fleet.add("beside", "worker", "--threads", 1)
    another.start()
    another.wait_ready()
    assert another.stop() == 0
    checkpoint, _ = faults.upload()
    faults.succeeds(checkpoint)
    # One that changed what this program reads keeps it from starting.
    faults.fleet.rows(f"UPDATE schema_migrations SET oldest_program = {newer} WHERE version = {newer}")
    ends(faults.fleet, "too-old", [f"schema version {newer}"])
    faults.fleet.rows(f"UPDATE schema_migrations SET oldest_program = {version} WHERE version = {newer}")


def a_file_that_is_altered(faults):
    checkpoint, digest = faults.upload()
    path = faults.object(digest)
    content = faults.fleet.weed.ask("GET", path)
    faults.fleet.weed.ask("PUT", path, content[:-1] + bytes([content[-1] ^ 1]))
    job = faults.wait(faults.quantize(checkpoint))
    assert job["state"] == "JOB_STATE_FAILED" and job["error"]["reason"] == "BLOB_CORRUPT" and digest in job["error"]["message"], job
    assert faults.told(faults.worker, job["name"], "BLOB_CORRUPT"), faults.worker.tail()
    assert metric(faults.worker, "qamserve_corrupt_blobs_total") > 0


def a_file_that_is_gone(faults):
    checkpoint, digest = faults.upload()
    faults.fleet.weed.ask("DELETE", faults.object(digest))
    job = faults.wait(faults.quantize(checkpoint))
    assert job["state"] == "JOB_STATE_FAILED" and job["error"]["reason"] == "BLOB_NOT_FOUND" and digest in job["error"]["message"], job
    assert faults.told(faults.worker, job["name"], "BLOB_NOT_FOUND"), faults.worker.tail()
    assert metric(faults.worker, "qamserve_missing_blobs_total") > 0


def a_disk_that_is_full(faults):
    assert faults.worker.stop() == 0
    full = faults.fleet.add("full", "worker", "--threads", 1)
    change(full, FULL)
    full.start()
    full.wait_ready()
    checkpoint, _ = faults.upload()
    job = faults.wait(faults.quantize(checkpoint))
    assert job["state"] == "JOB_STATE_FAILED" and "DISK" in job["error"]["reason"], job
    assert faults.told(full, job["name"], "DISK"), full.tail()
    assert full.stop() == 0
    faults.worker.start()
    faults.worker.wait_ready()
    again = faults.rest.call("POST", f"/v1/{job['name']}:retry", {})
    assert faults.wait(again["name"])["state"] == workload.SUCCEEDED


def main():
    if why := missing():
        return exit_code_without(why)
    build = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="qamserve-faults-") as folder, \
            Fleet(build, folder, ["--worker-nice", 0, "--lease-seconds", 3, "--memory-limit-mib", 256]) as fleet:
        faults = Faults(fleet, pathlib.Path(folder))
        steps = [what_is_wrong_at_the_start, a_newer_program_beside, a_file_that_is_altered, a_file_that_is_gone, a_disk_that_is_full]
        for step in steps:
            began = time.monotonic()
            step(faults)
            checkpoint, _ = faults.upload()
            faults.succeeds(checkpoint)
            print(f"{step.__name__}: {time.monotonic() - began:.1f} s", flush=True)
        for process in (faults.api, faults.worker):
            assert process.stop() == 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
