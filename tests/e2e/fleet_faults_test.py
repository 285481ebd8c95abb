#!/usr/bin/env python3
"""What goes wrong in a fleet is said where people look: on the job, in the log, in a metric; and the rest goes on.

usage: fleet_faults_test.py BUILD_FOLDER      ends with 77 where PostgreSQL or SeaweedFS is not installed, with 1 if CI=true

One api process and workers over PostgreSQL and SeaweedFS:
 * wrong credentials, a bucket that is not there, a schema that a newer program changed: the process ends and says why;
 * a newer program has added to the schema: processes and jobs go on as before, and new processes start;
 * an older schema: a process that may not migrate ends, says so and changes nothing; `qamserve migrate` mends it;
 * a password of PostgreSQL is wrong: at the start the process ends; later it says so and goes on with the right one;
 * a file of a checkpoint is altered or gone in the object store: its job ends with the file's digest;
 * a worker's disk is full: the job says so, and is done when it is tried again by one with room;
 * a job is of another codec version than the workers: it says so, and nobody begins it;
 * a worker is paused for longer than its lease: another one does its task, and it finds out;
 * the database turns read-only in the middle of a job: the job goes on where it was once that is over.
"""
import json
import os
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
# A job whose tensors take a second or so each: the trellis' search is a hundred times slower than others.
SLOW_SHAPE = {"layers": 1, "hidden": 640, "intermediate": 640, "heads": 2}
SLOW = {"codec": "CODEC_TRELLIS", "bpw": 4}
# TaskState and TaskStage, as rows have them.
READY, LEASED, DONE, QUANTIZE = "1", "2", "3", "2"
# After the end of a lease: by then every process has seen that it is over.
LATE_MS = 2000
STORE_ERRORS = "qamserve_store_transactions_total", 'code="FAILED_PRECONDITION"'


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
        self.slow = self.slow_artifact = None

    def upload(self, shape=SHAPE):
        """A checkpoint of its own, and the digest of the file with its weights."""
        self.models += 1
        model = workload.make_model(self.fleet.build, self.folder / f"model-{self.models}", shape, self.models)
        done = subprocess.run([self.fleet.build / "client/qamctl", "upload", model, "--json", "--address", self.api.grpc],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        checkpoint = self.rest.call("GET", f"/v1/{json.loads(done.stdout)['checkpoint']['name']}")
        largest = max(checkpoint["files"], key=lambda file: int(file["sizeBytes"]))
        return checkpoint["name"], largest["sha256"]

    def object(self, digest):
        """Its path in the object store."""
        [path] = [path for path in self.fleet.weed.objects(f"/buckets/{BUCKET}/{PREFIX}") if path.endswith(digest)]
        return path

    def quantize(self, checkpoint, spec=None, **fields):
        spec = {**(spec or {"bpw": 4}), "calibration": workload.TEXT, "evaluation": workload.TEXT}
        return self.rest.call("POST", "/v1/jobs:quantize", {"checkpoint": checkpoint, "spec": spec, **fields})["name"]

    def quantize_slowly(self):
        """A job of slow tasks, the same each time; what it has to come to is known from a first one, undisturbed."""
        if self.slow is None:
            self.slow, _ = self.upload(SLOW_SHAPE)
            self.slow_artifact = self.wait(self.quantize(self.slow, SLOW))["artifact"]
        # As long as the artifact is there, nobody makes another one.
        self.rest.call("DELETE", f"/v1/{self.slow_artifact}")
        return self.quantize(self.slow, SLOW)

    def wait(self, name, done=lambda job: job["state"] in workload.FINAL):
        return until(lambda: job if done(job := self.rest.call("GET", f"/v1/{name}")) else None,
                     lambda: f"nothing came of {self.rest.call('GET', f'/v1/{name}')}")

    def tasks(self, job, columns):
        """Of its rows, in order."""
        return self.fleet.rows(f"SELECT {columns} FROM tasks WHERE job = '{job.removeprefix('jobs/')}' ORDER BY position")

    def clock_ms(self):
        """The database's, by which leases end."""
        [[now]] = self.fleet.rows("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        return int(now)

    def leased(self, job, process):
        """The index of a slow task that the process is at; None if it is at none."""
        rows = self.tasks(job, "position, state, stage, worker")
        return next((int(row[0]) for row in rows if row[1:] == [LEASED, QUANTIZE, instance(process)]), None)

    def pause_at_a_task(self, job, process):
        """Pauses it soon after it has begun a slow task, and returns the task's index."""
        last = None
        while True:
            task = until(lambda: self.leased(job, process), lambda: f"{process.name} has no slow task of {job}")
            if last in (None, task):
                last = task  # nobody knows how long it has been at that one
                time.sleep(0.02)
                continue
            process.pause()
            until(lambda: state_of(process) == "T", lambda: f"{process.name} does not stop")
            if self.leased(job, process) == task:
                return task
            process.resume()
            last = None

    def succeeds(self, checkpoint):
        job = self.wait(self.quantize(checkpoint))
        assert job["state"] == workload.SUCCEEDED, job
        return job

    def told(self, process, job, *words):
        """Whether a line of the log names the job and has these words."""
        return any(job.removeprefix("jobs/") in (text := json.dumps(line)) and all(word in text for word in words)
                   for line in process.lines())


def until(condition, otherwise):
    """The first answer of `condition` that is true. `otherwise` tells what is the matter if there is none."""
    end = time.monotonic() + WAIT_SECONDS
    while not (found := condition()):
        assert time.monotonic() < end, otherwise()
        time.sleep(0.05)
    return found


def until_logged(process, event, **fields):
    until(lambda: any(line["event"] == event and fields.items() <= line.items() for line in process.lines()),
          lambda: f"{process.name} does not log {event} {fields}:\n{process.tail()}")


def state_of(process):
    """One letter, as the kernel tells it."""
    return pathlib.Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def instance(process):
    """Its id in the fleet, since its last start."""
    return [line["instance"] for line in process.lines() if line["event"] == "joined_fleet"][-1]


def metric(process, name, label=""):
    """The sum of a metric over its labels, or over those of which one is `label`; 0 = nothing was counted yet."""
    with urllib.request.urlopen(f"http://{process.metrics}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert f"# TYPE {name} " in text, f"there is no metric {name}"
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines()
               if re.match(name + r"[{ ]", line) and label in line)


def until_metric(process, name, label, right):
    until(lambda: right(metric(process, name, label)), lambda: f"{process.name}: {name} is {metric(process, name, label)}")


def change(process, flags):
    """Other values for flags that it has."""
    for flag, value in flags.items():
        process.flags[process.flags.index(flag) + 1] = str(value)


def ends(fleet, name, why, environment=None, flags=None, switches=()):
    """A process that cannot do its work does not start, and the last thing it says is why. Returns that."""
    process = fleet.add(name, "worker", *switches)
    process.environment = {**process.environment, **(environment or {})}
    change(process, flags or {})
    process.start()
    code = process.process.wait(WAIT_SECONDS)
    assert code != 0, f"{name} ended as if all were well"
    for word in why:
        assert word in process.tail(), f"{name} does not say {word}:\n{process.tail()}"
    fleet.processes.remove(process)
    return process.tail()


def what_is_wrong_at_the_start(faults):
    fleet = faults.fleet
    ends(fleet, "wrong-secret", ["403", "AWS_SECRET_ACCESS_KEY", "(S3_CREDENTIALS)"], {"AWS_SECRET_ACCESS_KEY": "another"})
    ends(fleet, "no-bucket", ["bucket", "elsewhere", "(S3_BUCKET)"], flags={"--blob-store": f"s3://elsewhere/{PREFIX}"})
    ends(fleet, "wrong-database", ["elsewhere", "(STORE_MISSING)"],
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
    ends(faults.fleet, "too-old", [f"schema version {newer}", "(STORE_VERSION)"])
    faults.fleet.rows(f"UPDATE schema_migrations SET oldest_program = {version} WHERE version = {newer}")


def an_older_schema(faults):
    """A database of its own, as an older program would have left it."""
    fleet, postgres = faults.fleet, faults.fleet.postgres
    environment = {"QAMSERVE_METADATA_STORE": postgres.create("older")}
    postgres.rows("older", "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, applied_ms BIGINT NOT NULL);"
                           " INSERT INTO schema_migrations (version, applied_ms) VALUES (4, 0)")

    def dump():
        # Without what is new in each dump.
        text = postgres.run("pg_dump", "-h", postgres.home, "-U", "postgres", "older").stdout
        return [line for line in text.splitlines() if not line.startswith("\\")]
    before = dump()
    assert any("schema_migrations" in line for line in before), before
    # Blobs of its own as well: to another database those of this fleet would be garbage.
    elsewhere = {"--blob-store": f"s3://{BUCKET}/older"}
    ends(fleet, "no-migrate", ["schema version 4", "(STORE_NEEDS_MIGRATION)"], environment, elsewhere, ["--no-migrate"])
    assert dump() == before, "a process that may not migrate has changed the database"
    done = subprocess.run([fleet.build / "server/qamserve", "migrate"], env={**fleet.environment, **environment},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    [[version]] = postgres.rows("older", "SELECT MAX(version) FROM schema_migrations")
    assert int(version) > 4 and f"schema {version};" in done.stdout, done.stdout
    process = fleet.add("migrated", "worker", "--no-migrate")
    process.environment = {**process.environment, **environment}
    change(process, elsewhere)
    process.start()
    process.wait_ready()
    assert process.stop() == 0


def end_sessions(postgres, which):
    """So that new ones begin with what was changed, which must have been committed."""
    postgres.rows("postgres", f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {which}")


class Guarded:
    """A user of the database, who needs a password, and a file with one, as processes are given it."""

    def __init__(self, faults, password):
        self.postgres, self.file = faults.fleet.postgres, faults.folder / "passwords"
        rules = self.postgres.home / "data/pg_hba.conf"
        rules.write_text("local all guarded scram-sha-256\n" + rules.read_text())
        faults.fleet.rows("CREATE ROLE guarded LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO guarded;"
                          " GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guarded; SELECT pg_reload_conf()")
        knock = ["psql", "-X", "-w", "-h", self.postgres.home, "-U", "guarded", "-d", Fleet.DATABASE, "-c", "SELECT 1"]
        until(lambda: self.postgres.run(*knock, check=False).returncode != 0, lambda: "nobody asks for a password")
        self.change(password)
        store = faults.fleet.environment["QAMSERVE_METADATA_STORE"].replace("//postgres@", "//guarded@")
        self.environment = {"QAMSERVE_METADATA_STORE": store, "PGPASSFILE": str(self.file)}

    def change(self, password):
        """The server's, and ends all sessions."""
        self.postgres.rows("postgres", f"ALTER ROLE guarded PASSWORD '{password}'")
        end_sessions(self.postgres, "usename = 'guarded'")

    def give(self, password):
        """To the processes."""
        new = self.file.with_suffix(".new")
        new.touch(0o600)
        new.write_text(f"*:*:*:*:{password}\n")
        os.replace(new, self.file)


def a_wrong_password(faults):
    guarded = Guarded(faults, "sesame-1")
    guarded.give("sesame-0")
    last_words = ends(faults.fleet, "wrong-password", ["guarded", "(STORE_CREDENTIALS)"], guarded.environment)
    assert "sesame" not in last_words, last_words
    guarded.give("sesame-1")
    process = faults.fleet.add("guarded", "worker", "--threads", 1, "--pools", "guarded")
    process.environment = {**process.environment, **guarded.environment}
    process.start()
    process.wait_ready()
    errors, reconnects = metric(process, *STORE_ERRORS), metric(process, "qamserve_store_reconnects_total")
    guarded.change("sesame-2")
    until_logged(process, "metadata_store_lost", reason="STORE_CREDENTIALS")
    until_metric(process, *STORE_ERRORS, lambda value: value > errors)
    # Probes are as they were: to start it again would help nobody.
    assert process.is_ready()
    job = faults.quantize(faults.upload()[0], pool="guarded")
    guarded.give("sesame-2")
    until_logged(process, "metadata_store_back")
    until_metric(process, "qamserve_store_reconnects_total", "", lambda value: value > reconnects)
    assert faults.wait(job)["state"] == workload.SUCCEEDED
    assert process.stop() == 0
    assert "sesame" not in process.log().read_text(), f"the log has a password:\n{process.tail()}"


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
    # Of QamserveJobsFail, and of QamserveDiskNearlyFull for disks that are what they seem to be.
    assert metric(full, "qamserve_jobs_finished_total", 'state="failed"') > 0
    assert 0 < metric(full, "qamserve_data_disk_free_bytes") < metric(full, "qamserve_data_disk_bytes")
    assert full.stop() == 0
    faults.worker.start()
    faults.worker.wait_ready()
    again = faults.rest.call("POST", f"/v1/{job['name']}:retry", {})
    assert faults.wait(again["name"])["state"] == workload.SUCCEEDED


def a_job_of_another_codec_version(faults):
    job = faults.quantize(faults.upload()[0], pool="other")
    waits = faults.wait(job, lambda job: job["progress"].get("waitingFor"))["progress"]["waitingFor"]
    assert "pool other" in waits and "none is registered" in waits, waits
    until_metric(faults.api, "qamserve_stranded_jobs", 'reason="pool"', lambda value: value == 1)
    [[codec]] = faults.fleet.rows("SELECT DISTINCT codec_version FROM instances")
    row = f"WHERE id = '{job.removeprefix('jobs/')}'"
    faults.fleet.rows(f"UPDATE jobs SET codec_version = 'qamw-later' {row}")
    worker = faults.fleet.add("other", "worker", "--threads", 1, "--pools", "other")
    worker.start()
    worker.wait_ready()
    until_metric(faults.api, "qamserve_stranded_jobs", 'reason="codec"', lambda value: value == 1)
    assert metric(faults.api, "qamserve_stranded_jobs", 'reason="pool"') == 0
    waits = f"a worker of pool other with codec qamw-later; those registered have {codec}"
    faults.wait(job, lambda job: job["progress"].get("waitingFor") == waits)
    # It does work, but not of the older job.
    younger = faults.quantize(faults.upload()[0], pool="other")
    assert faults.wait(younger)["state"] == workload.SUCCEEDED
    assert not [row for row in faults.tasks(job, "state, attempts, lapses") if row != [READY, "0", "0"]]
    faults.fleet.rows(f"UPDATE jobs SET codec_version = '{codec}' {row}")
    assert faults.wait(job)["state"] == workload.SUCCEEDED
    until_metric(faults.api, "qamserve_stranded_jobs", "", lambda value: value == 0)
    assert worker.stop() == 0


def a_lease_that_is_stolen(faults):
    thief = faults.fleet.add("thief", "worker", "--threads", 1)
    thief.start()
    thief.wait_ready()
    processes = (faults.api, faults.worker, thief)
    before = sum(metric(process, "qamserve_lease_expiries_total") for process in processes)
    job = faults.quantize_slowly()
    task = faults.pause_at_a_task(job, faults.worker)
    until(lambda: faults.tasks(job, "worker")[task] == [instance(thief)], lambda: f"nobody takes task {task} of {job}")
    faults.worker.resume()
    until_logged(faults.worker, "lease_lost", job=job.removeprefix("jobs/"), task=task)
    assert sum(metric(process, "qamserve_lease_expiries_total") for process in processes) > before
    done = faults.wait(job)
    assert done["state"] == workload.SUCCEEDED and done["artifact"] == faults.slow_artifact, done
    assert thief.stop() == 0


def a_database_that_is_read_only(faults):
    """In the middle of a task, for longer than a lease."""
    postgres = faults.fleet.postgres
    alter = f"ALTER DATABASE {Fleet.DATABASE}"
    processes = (faults.api, faults.worker)
    before = [metric(process, *STORE_ERRORS) for process in processes]
    job = faults.quantize_slowly()
    task = faults.pause_at_a_task(job, faults.worker)
    postgres.rows("postgres", f"{alter} SET default_transaction_read_only = on")
    end_sessions(postgres, f"datname = '{Fleet.DATABASE}'")
    faults.worker.resume()
    for process, errors in zip(processes, before):
        until_logged(process, "metadata_store_lost", reason="STORE_READ_ONLY")
        until_metric(process, *STORE_ERRORS, lambda value, errors=errors: value > errors)
        assert process.is_ready()
    until_logged(faults.worker, "store_waited_for", reason="STORE_READ_ONLY", job=job.removeprefix("jobs/"), task=task)
    rows = faults.tasks(job, "state, attempts, lapses, lease_expires_ms, outcome_json")
    late = int(rows[task][3]) + LATE_MS
    until(lambda: faults.clock_ms() > late, lambda: f"the lease does not end at {late}")
    # What is there can be read, and nothing changes.
    assert faults.wait(job, lambda _: True)["state"] == "JOB_STATE_RUNNING"
    assert faults.tasks(job, "state, attempts, lapses, lease_expires_ms, outcome_json") == rows
    try:
        faults.quantize(faults.slow, pool="other")
        raise AssertionError("a job was created in a database that is read-only")
    except RuntimeError as refused:
        assert "STORE_READ_ONLY" in str(refused), refused
    # Sessions that began meanwhile stay read-only.
    postgres.rows("postgres", f"{alter} RESET default_transaction_read_only")
    for process in processes:
        until_logged(process, "metadata_store_back")
    done = faults.wait(job)
    assert done["state"] == workload.SUCCEEDED and done["artifact"] == faults.slow_artifact, done
    # Nothing was lost, so that nothing was done twice.
    assert not [row for row in faults.tasks(job, "state, attempts, lapses") if row != [DONE, "1", "0"]]


def main():
    if why := missing():
        return exit_code_without(why)
    build = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="qamserve-faults-") as folder, \
            Fleet(build, folder, ["--worker-nice", 0, "--lease-seconds", 3, "--memory-limit-mib", 256]) as fleet:
        faults = Faults(fleet, pathlib.Path(folder))
        steps = [what_is_wrong_at_the_start, a_newer_program_beside, an_older_schema, a_wrong_password, a_file_that_is_altered,
                 a_file_that_is_gone, a_disk_that_is_full, a_job_of_another_codec_version, a_lease_that_is_stolen,
                 a_database_that_is_read_only]
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
