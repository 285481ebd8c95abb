#!/usr/bin/env python3
"""Many idle streams and some busy ones at once: memory of the server and how long tokens wait for each other.

usage: stress.py [BUILD_FOLDER] [--idle N] [--active N] [--seconds S]     (see tests/python/environment.py)

Half of the idle streams are gRPC WatchJob calls, spread over several connections, half are server-sent events over HTTP, one
connection each; all watch a job that does not end. The active ones are OpenAI chat streams and gRPC generations, in equal parts,
one after another for so many seconds. Prints one line of JSON. Fails if a stream breaks, an idle one does not tell of the job's
end when it comes, or the process has threads by the stream; how long tokens took is told and not judged.
"""
import argparse
import asyncio
import json
import pathlib
import re
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from clients_support import Server, make_tiny_model  # noqa: E402

import qamserve  # noqa: E402

STREAMS_A_CONNECTION = 100
TOKENS = 48
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": TOKENS, "stream": True,
        "ignore_eos": True}


async def open_http(server, method, path, body=None):
    """Reader and writer of a request whose answer's head has been read; asserts that it is 200."""
    host, port = server.http.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    data = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {server.http}\r\nAccept: text/event-stream\r\nContent-Length: {len(data)}\r\n"
    writer.write((head + "Content-Type: application/json\r\n\r\n").encode() + data)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in answer.split(b"\r\n")[0], answer
    return reader, writer


class Idle:
    """A stream that waits for the end of a job."""

    def __init__(self):
        self.begun, self.ended = asyncio.Event(), False

    async def watch_http(self, server, job):
        reader, writer = await open_http(server, "GET", f"/v1/{job}:watch")
        try:
            while line := await reader.readline():
                if line.startswith(b"data:"):
                    self.begun.set()
                    self.ended = self.ended or b"JOB_STATE_CANCELLED" in line
                if self.ended:
                    return
        finally:
            writer.close()

    async def watch_grpc(self, client, job):
        async for seen in client.watch_job(job):
            self.begun.set()
            self.ended = seen.state == qamserve.v1.job_pb2.JOB_STATE_CANCELLED


class Latencies:
    def __init__(self):
        self.first, self.between, self.streams = [], [], 0

    def of(self, times):
        """Times of a stream's tokens, the request's first."""
        gaps = [b - a for a, b in zip(times, times[1:])]
        self.first.append(gaps[0])
        self.between += gaps[1:]
        self.streams += 1

    def summary(self):
        def at(values, q):
            return round(1000 * statistics.quantiles(values, n=1000, method="inclusive")[int(q * 10) - 1], 2)

        return {"streams": self.streams, "tokens": len(self.between) + len(self.first),
                **{f"first_ms_p{q:g}": at(self.first, q) for q in (50, 99)},
                **{f"between_ms_p{q:g}": at(self.between, q) for q in (50, 99, 99.9)}}


async def generate_http(server, end, latencies):
    while time.monotonic() < end:
        times = [time.monotonic()]
        reader, writer = await open_http(server, "POST", "/v1/chat/completions", CHAT)
        done = False
        while not done and (line := await reader.readline()):
            assert b'"error"' not in line, line
            if line.startswith(b"data: [DONE]"):
                done = True
            elif b'"delta"' in line and b'"content"' in line:
                times.append(time.monotonic())
        writer.close()
        assert done, "a stream broke off"
        latencies.of(times)


async def generate_grpc(client, end, latencies):
    while time.monotonic() < end:
        times = [time.monotonic()]
        async for part in client.generate_stream("tiny", "hi", max_tokens=TOKENS, ignore_eos=True):
            if part.tokens:
                times.append(time.monotonic())
        latencies.of(times)


async def active(server, clients, count, seconds):
    latencies = Latencies()
    end = time.monotonic() + seconds
    await asyncio.gather(*[generate_http(server, end, latencies) if n % 2 else generate_grpc(clients[n % len(clients)], end, latencies)
                           for n in range(count)])
    return latencies.summary()


def state_of(server):
    """Resident MiB, threads and open files of the process."""
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    files = len(list(pathlib.Path(f"/proc/{server.process.pid}/fd").iterdir()))
    return {"rss_mib": round(server.resident_bytes()[0] / 2 ** 20, 1), "files": files,
            "threads": int(re.search(r"Threads:\s+(\d+)", status).group(1))}


async def hold_idle(server, clients, job, count):
    idle = [Idle() for _ in range(count)]
    tasks = [asyncio.create_task(one.watch_http(server, job) if n % 2 else one.watch_grpc(clients[n % len(clients)], job))
             for n, one in enumerate(idle)]
    begun = asyncio.gather(*[one.begun.wait() for one in idle])
    done, _ = await asyncio.wait([begun, *tasks], timeout=120, return_when=asyncio.FIRST_COMPLETED)
    assert begun in done, f"only {sum(one.begun.is_set() for one in idle)} of {count} idle streams began: {done}"
    return idle, tasks


async def run(server, arguments, scratch):
    clients = [qamserve.AsyncClient(server.grpc) for _ in range(max(1, arguments.idle // 2 // STREAMS_A_CONNECTION + 1))]
    client = clients[0]
    checkpoint = await client.upload(make_tiny_model(arguments.build, scratch / "tiny"))
    await client.load(checkpoint, "tiny")
    await active(server, clients, arguments.active, 2)  # warm
    report = {"idle": arguments.idle, "active": arguments.active}
    report["alone"] = {**await active(server, clients, arguments.active, arguments.seconds), **state_of(server)}

    # The server has no worker, so the job waits and says nothing.
    watched = await client.quantize(checkpoint, 5.5)
    idle, tasks = await hold_idle(server, clients, watched.name, arguments.idle)
    report["idle_only"] = state_of(server)
    report["both"] = {**await active(server, clients, arguments.active, arguments.seconds), **state_of(server)}
    assert not any(task.done() for task in tasks), "an idle stream ended"
    started = time.monotonic()
    await watched.cancel()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    report["end_heard_by_all_ms"] = round(1000 * (time.monotonic() - started), 1)
    assert all(one.ended for one in idle), "an idle stream did not hear of the end"
    for one in clients:
        await one.close()
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", nargs="?", default="build", type=pathlib.Path)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--active", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15)
    arguments = parser.parse_args()
    arguments.build = arguments.build.resolve()
    flags = ["--max-running", str(arguments.active), "--threads", "2", "--roles", "api,inference"]
    with tempfile.TemporaryDirectory() as folder, Server(arguments.build, *flags) as server:
        report = asyncio.run(run(server, arguments, pathlib.Path(folder)))
    print(json.dumps(report))
    assert report["idle_only"]["threads"] <= report["alone"]["threads"] + 8, "threads grow with idle streams"
    return 0


if __name__ == "__main__":
    sys.exit(main())
