"""Streams at once on our server and on llama-server: the same load of load_bench on both, one server at a time.

Equal quality stands beside equal quality: our 5.5 bpw and the Q8_0 file of llama.cpp, which is its nearest in KL; the
head has 8 bits on both sides. Each side's server has a place for every stream, and no prompt begins like another.
"""
import contextlib
import dataclasses
import functools
import os
import re
import statistics
import subprocess
import time
import urllib.error
import urllib.request

from context import Unmeasurable
from figure import Figure
from job_server import JobServer, RunningJob, free_address
from measure_jobs import texts
from measure_speed import cache_note

RATE = "5.5"
PEER_KIND = "Q8_0"
VOCABULARY = 49152
ROUNDS = 3
# Part of the streams that must be seen answering at a time: a few always wait for their first token, and a server that
# lets streams queue has far fewer.
LEAST_ANSWERING = 0.8
START_SECONDS = 120
STOP_SECONDS = 60
# Shape of a load: streams, tokens of prompt and answer, seconds before and while it is measured. The long one may be
# made longer: what must stay flat for minutes must do so for a night.
FEW = {"streams": 16, "prompt": 128, "answer": 128, "warm_up": 15, "seconds": 45}
MANY = {"streams": 256, "prompt": 64, "answer": 64, "warm_up": 90,
        "seconds": int(os.environ.get("QAMSERVE_LOAD_SECONDS", "300"))}
# A few streams that a job on the same machine gets in the way of, and a job that outlasts them.
BESIDE = {"streams": 4, "prompt": 128, "answer": 128, "warm_up": 15, "seconds": 45}
BESIDE_JOB = ["--codec", "trellis", "--error-feedback", "--bpw", "4"]
# Where the servers of the rows' commands listen: ours does so by default.
OUR_ADDRESS, PEER_ADDRESS = "127.0.0.1:50051", "127.0.0.1:8081"
ARTIFACT = "load-artifact"
# What our server counts of its steps, and what that is called here.
COUNTERS = {"steps": "qamserve_decode_steps_total", "seconds": "qamserve_decode_step_seconds_total",
            "weight_bytes": "qamserve_decode_weight_bytes_total"}
LATENCIES = [(field, part) for field in ("ttft_ms", "inter_token_ms") for part in ("p50", "p99")]


def context_tokens(load):
    """What a sequence may have; llama-server rounds up to 256, so that both get the same."""
    return (load["prompt"] + load["answer"]) // 256 * 256 + 256


@functools.lru_cache
def artifact(context):
    """(resource name, mean KL, the command) of the artifact that is served, which a server of its own makes once and keeps."""
    options = ["--bpw", RATE, "--embedding-bits", "8", "--name", ARTIFACT, *texts(context)]
    with JobServer(context, "load-server", keep=True) as server:
        view, _ = server.quantize(context.model("smollm2"), *options)
        return view["artifact"], view["quality"]["klMean"], server.show(context.model("smollm2"), *options)


def fetch(address, path):
    """What a server of this machine answers over HTTP, whatever proxy there is."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://{address}{path}", timeout=5) as answer:
        return answer.read().decode()


def in_background(command):
    """A server as a reader would start it, before commands that name its process."""
    return f"{command} & SERVER=$!"


def counted(metrics, model):
    """Of what /metrics says of a model: steps that only generated, their seconds, the weights' bytes that they read."""
    out = {}
    for name, metric in COUNTERS.items():
        found = re.search(rf'^{metric}{{model="{model}"}} (\S+)$', metrics, re.MULTILINE)
        if not found:
            raise Unmeasurable(f"the server does not tell {metric} of {model}")
        out[name] = float(found.group(1))
    return out


class OurServer:
    """qamserve with the artifact loaded, in a with statement."""
    kind, shown_address = "qamserve", OUR_ADDRESS

    def __init__(self, context, load):
        self.context, self.load = context, load
        self.flags = ["--max-running", str(load["streams"])]

    def __enter__(self):
        name = artifact(self.context)[0]
        with contextlib.ExitStack() as stack:
            self.server = stack.enter_context(JobServer(self.context, "load-server", self.flags, keep=True, metrics=True))
            # A served model comes back at the next start, which may be another load's.
            stack.callback(self.qamctl, "unload", "load")
            loaded = self.qamctl("load", name, "--name", "load", "--context-tokens", str(context_tokens(self.load)))
            if loaded.returncode != 0:
                raise Unmeasurable(f"the artifact was not loaded: {loaded.stderr.strip()}")
            self.pid, self.address = self.server.process.pid, self.server.address
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    def counted(self):
        return counted(fetch(self.server.metrics_address, "/metrics"), "load")

    def qamctl(self, *arguments):
        return subprocess.run(self.server.qamctl(*arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)

    def show(self):
        show, program = self.context.show, self.context.program
        tokens = context_tokens(self.load)
        serve = [program("server/qamserve"), "--data-dir", self.context.work / "load-server", "--log-level", "error", "--threads",
                 self.context.threads, *self.flags]
        load = [program("client/qamctl"), "load", ARTIFACT, "--name", "load", "--context-tokens", tokens]
        return f"{in_background(show(serve))} ; {artifact(self.context)[2]} ; {show(load)}"


class PeerServer:
    """llama-server, in a with statement."""
    kind, shown_address = "llama-server", PEER_ADDRESS

    def __init__(self, context, load):
        self.context, self.load = context, load

    def command(self, address):
        streams = self.load["streams"]
        host, _, port = address.rpartition(":")
        # Its cache of prompts in memory (--cache-ram) would only cost here, as would a wait for a thread.
        return [self.context.peer / "llama-server", "-m", self.context.peer_model(PEER_KIND, eight_bit_head=True),
                "--host", host, "--port", port, "-t", self.context.threads, "-np", streams, "-c",
                streams * context_tokens(self.load), "--threads-http", streams + 16, "--cache-ram", 0]

    def __enter__(self):
        self.address = free_address()
        log = self.context.work / "llama-server.log"
        command = [str(part) for part in self.command(self.address)]
        with open(log, "wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.pid = self.process.pid
        if not self.wait_until_ready():
            self.__exit__()
            raise Unmeasurable(f"llama-server did not start: {log.read_text(errors='replace')[-1000:]}")
        return self

    def wait_until_ready(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                fetch(self.address, "/health")
                return True
            except (urllib.error.URLError, OSError):  # 503 while it loads
                time.sleep(0.2)
        return False

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def show(self):
        return (f"{self.context.show_peer_model(PEER_KIND, eight_bit_head=True)} ; "
                f"{in_background(self.context.show(self.command(PEER_ADDRESS)))}")

    def counted(self):
        return None


def bench_command(context, load, kind, address, pid):
    return [context.program("tests/bench/load_bench"), "--server", kind, "--address", address, "--streams",
            load["streams"], "--prompt-tokens", load["prompt"], "--answer-tokens", load["answer"], "--vocab-tokens",
            VOCABULARY, "--warm-up-seconds", load["warm_up"], "--seconds", load["seconds"], "--pid", pid]


def check(load, kind, result):
    """Whether the load was the one that was asked for; what was lost is a figure."""
    requests = result["requests"]
    if requests["short"]:
        raise Unmeasurable(f"{kind} gave {requests['short']} answers with fewer than {load['answer']} tokens")
    if not requests["lost"] and result["answering_max"] < LEAST_ANSWERING * load["streams"]:
        raise Unmeasurable(f"{kind} answered only {result['answering_max']} of {load['streams']} streams at a time")


def run(context, load, kind_of_server):
    """(what load_bench says and, of our server, what it counted, the commands) of one server, which they leave running."""
    with kind_of_server(context, load) as server:
        result = context.run_json(bench_command(context, load, server.kind, server.address, server.pid))
        check(load, server.kind, result)
        return {**result, "decode": server.counted()}, f"{server.show()} ; {shown_bench(context, load, server)}"


def shown_bench(context, load, server):
    return context.show(bench_command(context, load, server.kind, server.shown_address, "$SERVER"))


def stopped(command):
    """The commands of `run`, and the end of the server."""
    return f"{command} ; kill $SERVER"


def told(result):
    """What a run was like, in words."""
    requests = result["requests"]
    return (f"{result['tokens_per_second']:.1f} tokens/s, {requests['started']} requests, {requests['lost']} lost, "
            f"up to {result['answering_max']} answering at a time, load_bench took {result['client_cpu']:.2f} cores")


def told_steps(ours, machine):
    """What our server's steps read of memory, of rounds; `machine`: what read_bench says of it. Prompts are not in them."""
    steps, seconds, read = (sum(result["decode"][name] for result in ours) for name in COUNTERS)
    rate = read / seconds / 1e9
    cache = cache_note({**machine, "bytes_per_token": read / steps})
    return (f"a step that only generates takes {1e3 * seconds / steps:.1f} ms: {rate:.1f} GB/s of weights, "
            f"{100 * rate / machine['read_gb_per_second']:.0f} % of read bandwidth{cache}")


def few_figures(ours, theirs, command, kl, machine):
    """Of rounds of both servers in turn."""
    ratios = [mine["tokens_per_second"] / peer["tokens_per_second"] for mine, peer in zip(ours, theirs)]
    lost = sum(result["requests"]["lost"] for result in ours + theirs)
    if lost:
        raise Unmeasurable(f"{lost} streams were lost: {ours[0]['errors'] + theirs[0]['errors']}")
    mine, peer = (statistics.median(result["tokens_per_second"] for result in results) for results in (ours, theirs))
    latencies = ", ".join(f"{field} {part} {ours[0][field][part]:.0f} to {theirs[0][field][part]:.0f}"
                          for field, part in LATENCIES)
    return {"smollm2.streams16.ratio_llama_server": Figure(
        statistics.median(ratios), command, ratio=statistics.median(ratios),
        peer=f"llama-server {PEER_KIND}, -np 16: {peer:.1f} tokens/s",
        note=f"{mine:.1f} tokens/s; ratios {min(ratios):.3f} to {max(ratios):.3f}; {told_steps(ours, machine)}; our KL {kl:.5f}; "
             f"ours to theirs in the first round: {latencies}")}


def few(context):
    ours, theirs, commands = [], [], []
    for _ in range(ROUNDS):
        for results, server in ((theirs, PeerServer), (ours, OurServer)):
            result, command = run(context, FEW, server)
            results.append(result)
            commands.append(command)
    read = [context.program("tests/bench/read_bench"), "--threads", context.threads]
    machine = context.run_json(read)
    command = f"{stopped(commands[1])} ; {stopped(commands[0])} ; {context.show(read)}"
    figures = few_figures(ours, theirs, command, artifact(context)[1], machine)
    return with_peer_version(context, figures)


def with_peer_version(context, figures):
    return {key: dataclasses.replace(figure, peer=context.of_peer(figure.peer)) for key, figure in figures.items()}


def many_figures(ours, theirs, command):
    """Of one run of each server."""
    rss = ours["rss_bytes"]
    memory = ", ".join(f"{name.replace('_', ' ')} {rss[name] / 2**20:.0f} MiB" for name in rss)
    out = {
        "engine.streams256.lost": Figure(
            ours["requests"]["lost"], command, peer=f"llama-server {PEER_KIND}, -np 256: {told(theirs)}",
            note="; ".join([f"{ours['window_seconds']:.0f} s; {told(ours)}", *ours["errors"]])),
        "engine.streams256.rss_growth": Figure(
            ours["rss_growth"], command, peer=f"llama-server: {theirs['rss_growth']:.4f}", note=memory),
    }
    for field, part in LATENCIES:
        mine, peer = ours[field][part], theirs[field][part]
        if mine is None or peer is None:
            raise Unmeasurable(f"a server gave no {field}: {ours['errors'] + theirs['errors']}")
        out[f"engine.streams256.{field}.{part}"] = Figure(
            mine, command, peer=f"llama-server {PEER_KIND}, -np 256: {peer:.0f} ms", ratio=mine / peer,
            note=f"{ours[field]['count']} here, {theirs[field]['count']} there")
    return out


def many(context):
    # The peer first: it is the one that may not be there.
    theirs, their_command = run(context, MANY, PeerServer)
    ours, our_command = run(context, MANY, OurServer)
    return with_peer_version(context, many_figures(ours, theirs, f"{stopped(our_command)} ; {stopped(their_command)}"))


def run_beside_job(context):
    """(what load_bench says of our server while it quantizes, the stages that the job was in, the commands of both)."""
    with OurServer(context, BESIDE) as server:
        with RunningJob(server.server, context.model("smollm2"), *BESIDE_JOB, *texts(context)) as job:
            result = context.run_json(bench_command(context, BESIDE, server.kind, server.address, server.pid))
            check_beside(result, job.running())
            return result, list(job.stages), f"{job.shown} & ; {shown_bench(context, BESIDE, server)}"


def check_beside(result, job_runs):
    """As `check`, but a server that is slowed down may well answer fewer at a time."""
    requests = result["requests"]
    if requests["lost"] or requests["short"]:
        raise Unmeasurable(f"{requests['lost']} streams were lost and {requests['short']} too short: {result['errors']}")
    if not job_runs:
        raise Unmeasurable("the job ended before the load did")


def beside_figures(alone, beside, stages, command):
    """Of rounds of both in turn: {key: Figure}."""
    p99 = [[result["inter_token_ms"]["p99"] for result in results] for results in (alone, beside)]
    if None in p99[0] + p99[1]:
        raise Unmeasurable("a load gave no time from token to token")
    ratios = [with_job / without for without, with_job in zip(*p99)]
    speeds = [statistics.median(result["tokens_per_second"] for result in results) for results in (alone, beside)]
    middle = [statistics.median(values) for values in p99]
    p50 = [statistics.median(result["inter_token_ms"]["p50"] for result in results) for results in (alone, beside)]
    return {"fleet.serving_beside_job.inter_token_p99_ratio": Figure(
        statistics.median(ratios), command, peer=f"no job: {middle[0]:.1f} ms", ratio=statistics.median(ratios),
        note=f"{middle[1]:.1f} ms beside the job; ratios {min(ratios):.3f} to {max(ratios):.3f}; p50 {p50[0]:.1f} to {p50[1]:.1f} ms, "
             f"{speeds[0]:.1f} to {speeds[1]:.1f} tokens/s; the job was in {', '.join(stages)}")}


def beside_job(context):
    alone, beside, stages = [], [], []
    for _ in range(ROUNDS):
        result, command = run(context, BESIDE, OurServer)
        alone.append(result)
        result, seen, job = run_beside_job(context)
        beside.append(result)
        stages += [stage for stage in seen if stage not in stages]
    return beside_figures(alone, beside, stages, stopped(f"{command} ; {job}"))


def measurements():
    """(keys it gives, function of a Context)."""
    return [(["smollm2.streams16.ratio_llama_server"], few),
            (["fleet.serving_beside_job.inter_token_p99_ratio"], beside_job),
            (["engine.streams256.lost", "engine.streams256.rss_growth",
              *(f"engine.streams256.{field}.{part}" for field, part in LATENCIES)], many)]
