"""What is asked of a fleet when the killing is over."""
import collections
import datetime
import hashlib
import json
import pathlib
import time

from fleet import BUCKET, PREFIX

DONE, LEASED = "3", "2"                # TaskState
SUCCEEDED_ROW, REJECTED_ROW = "4", "5"  # JobState
LARGE_SKEW_SECONDS = 600


def same_outcomes(ours, theirs, wanted):
    assert ours.keys() == theirs.keys(), f"other jobs: {ours.keys() ^ theirs.keys()}"
    problems = []
    for key in sorted(ours):
        if ours[key]["state"] != wanted[key]:
            problems.append(f"{key} ended as {ours[key]['state']} {ours[key]['reason']}, not {wanted[key]}")
        problems += [f"{key}: {field} is {ours[key][field]}, undisturbed {theirs[key][field]}"
                     for field in ours[key] if ours[key][field] != theirs[key][field]]
    assert not problems, "\n".join(problems)
    assert any(one["artifact"] for one in ours.values())


def events(fleet):
    """How often each event of the log was told of each task."""
    told = collections.defaultdict(collections.Counter)
    for process in fleet.processes:
        for line in process.lines():
            if "task" in line:
                told[line["event"]][(line["job"], str(line["task"]))] += 1
    return told


def leases(fleet, jobs, summary):
    """Completions are no more than leases allow. The log of a process that was killed may lack its last word, so it says
    how often something happened at least; rows say it exactly."""
    names = {name.removeprefix("jobs/") for name in jobs.values()}
    rows = [row for row in fleet.rows("SELECT job, position, state, lapses, attempts, done_sequence FROM tasks") if row[0] in names]
    told = events(fleet)
    assert not told["task_not_deterministic"], f"tasks came to different bytes: {told['task_not_deterministic']}"
    assert not [row for row in rows if row[2] == LEASED], "tasks are leased although all jobs have ended"
    problems, sequences = [], collections.defaultdict(list)
    for job, position, state, lapses, _, sequence in rows:
        at = (job, position)
        done, twice = told["task_done"][at], told["task_done_twice"][at]
        if state == DONE:
            sequences[job].append(int(sequence))
        if done > 1:
            problems.append(f"task {at} was recorded as done {done} times")
        if twice > int(lapses) or told["lease_expired"][at] > int(lapses):
            problems.append(f"task {at} lapsed {lapses} times, was done again {twice} times, told {told['lease_expired'][at]} lapses")
    for job, mine in sequences.items():
        if sorted(mine) != list(range(1, len(mine) + 1)):
            problems.append(f"job {job}: its tasks were done in the order {sorted(mine)}")
    assert not problems, "\n".join(problems)
    summary.update(tasks=len(rows), lapses=sum(int(row[3]) for row in rows), most_lapses=max(int(row[3]) for row in rows),
                   done_twice=sum(told["task_done_twice"].values()), retried=sum(told["task_retried"].values()))


def clocks(fleet):
    """That clocks were wrong: the log of a worker tells its own."""
    now = time.time()
    seen = [datetime.datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp() - now
            for worker in fleet.of("worker") for line in worker.lines()]
    # Of what was told before now, a clock that is late says so, too, and one that is right does not say that it is early.
    assert any(skew > LARGE_SKEW_SECONDS / 2 for skew in seen), "no worker's clock was minutes early"


def scratch_is_empty(fleet):
    """Of processes that ended in order."""
    left = [path for process in fleet.processes for path in (pathlib.Path(process.data) / "work").rglob("*") if path.is_file()]
    assert not left, f"left behind: {left}"


def digests_of_rows(fleet):
    """What rows need, said here once more and in other words than the server's."""
    needed = set()
    for sql in ("SELECT sha256 FROM checkpoint_files", "SELECT digest FROM texts", "SELECT sha256 FROM artifact_files",
                # Finished jobs are over; others can go on.
                f"SELECT b.sha256 FROM task_blobs b JOIN jobs j ON j.id = b.job WHERE j.state NOT IN ({SUCCEEDED_ROW}, {REJECTED_ROW})"):
        needed.update(row[0] for row in fleet.rows(sql))
    return needed


def stored(fleet):
    """Digests of the blobs in the bucket; those that have a mark of renewal, an empty object; and paths of everything else that
    belongs to the fleet."""
    home = f"/buckets/{BUCKET}/{PREFIX}/"
    paths = [path.removeprefix(home) for path in fleet.weed.objects() if path.startswith(home)]
    blobs, marks = ({path.removeprefix(kind) for path in paths if path.startswith(kind)} for kind in ("blobs/", "renewed/"))
    return blobs, marks, [path for path in paths if not path.startswith(("blobs/", "renewed/"))]


def collect(api, grace_seconds):
    time.sleep(grace_seconds + 1.5)  # the store tells whole seconds
    would = api.call("POST", "/v1/admin/garbage:collect", {"dryRun": True})
    did = api.call("POST", "/v1/admin/garbage:collect", {})
    assert (would["blobs"], would["bytes"]) == (did["blobs"], did["bytes"]), f"a dry run told something else: {would}, {did}"
    again = api.call("POST", "/v1/admin/garbage:collect", {})
    assert int(again["blobs"]) == 0 and int(again["partialUploads"]) == 0, f"garbage was left: {again}"
    return int(did["blobs"])


def garbage(fleet, api, jobs, grace_seconds, summary):
    summary["garbage_blobs"] = collect(api, grace_seconds)
    blobs, _, others = stored(fleet)
    needed = digests_of_rows(fleet)
    assert needed, "no row refers to a blob"
    assert blobs == needed, f"orphans: {sorted(blobs - needed)}; missing: {sorted(needed - blobs)}"
    assert not others, f"beside the blobs: {others}"
    for digest in sorted(blobs):
        content = fleet.weed.ask("GET", f"/buckets/{BUCKET}/{PREFIX}/blobs/{digest}")
        assert hashlib.sha256(content).hexdigest() == digest, f"{digest} has {len(content)} other bytes"
    summary["blobs"] = len(blobs)
    for name in jobs.values():
        api.call("DELETE", f"/v1/{name}")
    for kind in ("artifacts", "checkpoints"):
        while found := api.call("GET", f"/v1/{kind}?pageSize=1000")[kind]:
            for one in found:
                api.call("DELETE", f"/v1/{one['name']}")
    collect(api, grace_seconds)
    # Whoever is killed between a blob and its mark leaves the mark, which goes when old uploads do.
    blobs, marks, others = stored(fleet)
    summary["marks_left"] = len(marks)
    kept = {row[0] for row in fleet.rows("SELECT digest FROM texts")}  # the built-in one
    assert blobs == kept and not others, f"left when everything was deleted: {sorted(blobs - kept)} {others}"
