#!/usr/bin/env python3
"""Checks load_bench against a made-up llama-server and against our server with a tiny model, and the figures that
measure_load.py makes of what it says.

usage: load_test.py BUILD_DIR
"""
import copy
import http.server
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import measure_load
from context import Context, Unmeasurable
from job_server import JobServer, RunningJob
from keys import KEYS

BUILD = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else "build").resolve()
DELAY_SECONDS = 0.05


def load_bench(server, address, *options, status=0):
    command = [str(BUILD / "tests/bench/load_bench"), "--server", server, "--address", address, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode != status:
        raise AssertionError(f"status {done.returncode}: {done.stdout} {done.stderr}")
    return json.loads(done.stdout) if status == 0 else done.stderr


class FakeLlamaServer(http.server.ThreadingHTTPServer):
    """Answers /completion as llama-server does, or wrongly in one of the ways of Handler.answer."""
    request_queue_size = 64
    daemon_threads = True

    def __init__(self, manner="whole"):
        super().__init__(("127.0.0.1", 0), Handler)
        self.manner, self.bodies, self.let_go = manner, [], threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.let_go.set()
        self.shutdown()
        self.server_close()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def send(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def event(self, **fields):
        self.send(f"data: {json.dumps(fields)}\n\n")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append((self.path, body))
        if self.server.manner == "refuses":
            self.send_error(503, "busy")
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.server.manner == "silent":
            self.server.let_go.wait(60)
        if self.server.manner in ("breaks off", "silent"):
            self.close_connection = True
            return
        self.answer(body["n_predict"], self.server.manner)
        self.send("")

    def answer(self, tokens, manner):
        time.sleep(DELAY_SECONDS)
        self.send(": a comment\n\n")
        if manner == "says an error":
            self.event(error={"code": 500, "message": "no more room"})
            return
        # The first two in one event, as when they make one character; an event in two pieces.
        for count in range(2, tokens + 1):
            text = f"data: {json.dumps({'content': 'x', 'stop': False, 'tokens_predicted': count})}\n\n"
            self.send(text[:9])
            self.send(text[9:])
            if manner == "short" and count == tokens // 2:
                tokens = count
                break
        kind = "none" if manner == "gives no reason" else "limit"
        self.event(content="", stop=True, stop_type=kind, tokens_predicted=tokens)


class LlamaServer(unittest.TestCase):
    def load(self, manner, *options):
        with FakeLlamaServer(manner) as server:
            result = load_bench("llama-server", server.address, "--vocab-tokens", 500, *options)
            return result, list(server.bodies)

    def test_one_request_a_stream(self):
        result, bodies = self.load("whole", "--streams", 5, "--seconds", 0, "--prompt-tokens", 12, "--answer-tokens", 8)
        self.assertEqual(result["requests"], {"started": 5, "finished": 5, "lost": 0, "short": 0})
        self.assertEqual(result["tokens"], 5 * 8)
        self.assertEqual(result["ttft_ms"]["count"], 5)
        self.assertGreaterEqual(result["ttft_ms"]["p50"], 1000 * DELAY_SECONDS)
        self.assertNotIn("rss_bytes", result)
        prompts = [body["prompt"] for _, body in bodies]
        self.assertEqual(len({tuple(prompt) for prompt in prompts}), 5)
        for path, body in bodies:
            self.assertEqual(path, "/completion")
            self.assertEqual(len(body["prompt"]), 12)
            self.assertTrue(all(64 <= token < 500 for token in body["prompt"]))
            self.assertEqual((body["n_predict"], body["stream"], body["ignore_eos"], body["cache_prompt"]),
                             (8, True, True, False))

    def test_streams_are_replaced_and_the_first_ones_cut(self):
        result, bodies = self.load("whole", "--streams", 4, "--seconds", 2, "--prompt-tokens", 3, "--answer-tokens", 8)
        asked = sorted(body["n_predict"] for _, body in bodies)
        self.assertEqual(asked, [2, 4, 6] + [8] * (len(bodies) - 3))
        requests = result["requests"]
        # A stream takes little more than the delay, so 4 of them could go 40 times in 2 s.
        self.assertGreater(requests["started"], 12)
        self.assertEqual(requests, {"started": len(bodies), "finished": len(bodies), "lost": 0, "short": 0})
        self.assertEqual(result["tokens"], 2 + 4 + 6 + 8 * (len(bodies) - 3))
        self.assertAlmostEqual(result["window_seconds"], 2, delta=0.01)
        self.assertLess(result["tokens_per_second"], result["tokens"] / 2 * 1.01)
        self.assertGreater(result["tokens_per_second"], result["tokens"] / 2 * 0.7)

    def test_the_same_prompts_for_every_server(self):
        _, first = self.load("whole", "--streams", 1, "--seconds", 0)
        _, second = self.load("short", "--streams", 1, "--seconds", 0)
        _, third = self.load("whole", "--streams", 1, "--seconds", 0, "--seed", 2)
        self.assertEqual(first[0][1]["prompt"], second[0][1]["prompt"])
        self.assertNotEqual(first[0][1]["prompt"], third[0][1]["prompt"])

    def test_what_is_lost_is_told_and_not_asked_again(self):
        for manner, word in (("refuses", "503"), ("breaks off", "HTTP"), ("says an error", "no more room"),
                             ("gives no reason", "NO_STOP_TYPE")):
            with self.subTest(manner):
                result, bodies = self.load(manner, "--streams", 3, "--seconds", 2, "--answer-tokens", 6)
                self.assertEqual(len(bodies), 3)
                self.assertEqual(result["requests"], {"started": 3, "finished": 0, "lost": 3, "short": 0})
                self.assertIn(word, result["errors"][0])

    def test_a_server_that_says_nothing_is_left(self):
        result, _ = self.load("silent", "--streams", 3, "--seconds", 1, "--finish-seconds", 1)
        self.assertEqual(result["requests"], {"started": 3, "finished": 0, "lost": 3, "short": 0})
        self.assertIn("LOAD_TIME: 0 of", result["errors"][0])
        self.assertIsNone(result["ttft_ms"]["p50"])

    def test_short_answers_with_a_reason_are_not_lost(self):
        result, _ = self.load("short", "--streams", 2, "--seconds", 0, "--answer-tokens", 8)
        self.assertEqual(result["requests"], {"started": 2, "finished": 2, "lost": 0, "short": 2})
        self.assertEqual(result["tokens"], 8)

    def test_nobody_there(self):
        with FakeLlamaServer() as server:
            address = server.address
        result = load_bench("llama-server", address, "--streams", 2, "--seconds", 1)
        self.assertEqual(result["requests"]["lost"], 2)

    def test_other_machines_are_refused(self):
        for server in ("qamserve", "llama-server"):
            for address in ("10.0.0.1:80", "localhost:80", "example.com:80", "127.0.0.1", "127.0.0.1:", "[::1]:8x",
                            "127.0.0.1.evil.org:80", "0.0.0.0:80"):
                with self.subTest(address):
                    self.assertIn("LOAD_ADDRESS", load_bench(server, address, status=1))


class OurServer(unittest.TestCase):
    """With a tiny model, which answers in no time what others take minutes for."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.context = Context(BUILD, cls.folder.name, 1)
        subprocess.run([str(BUILD / "tests/support/make_tiny_model"), "llama", cls.folder.name + "/tiny"], check=True)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def load(self, flags, *options):
        flags = ["--kv-mib", "256", "--memory-limit-mib", "1024", "--disk-reserve-mib", "0", *map(str, flags)]
        with JobServer(self.context, flags=flags, metrics=True) as server:
            uploaded = subprocess.run(server.qamctl("upload", self.folder.name + "/tiny"), capture_output=True,
                                      text=True, check=True)
            checkpoint = json.loads(uploaded.stdout)["checkpoint"]["name"]
            subprocess.run(server.qamctl("load", checkpoint, "--name", "load"), capture_output=True, check=True)
            result = load_bench("qamserve", server.address, "--vocab-tokens", 262, "--pid", server.process.pid, *options)
            return {**result, "decode": measure_load.counted(measure_load.fetch(server.metrics_address, "/metrics"), "load")}

    def test_256_streams_at_a_time(self):
        result = self.load(["--max-running", 256], "--streams", 256, "--seconds", 0, "--prompt-tokens", 8,
                           "--answer-tokens", 120)
        self.assertEqual(result["requests"], {"started": 256, "finished": 256, "lost": 0, "short": 0}, result["errors"])
        self.assertEqual(result["answering_max"], 256)
        self.assertEqual(result["tokens"], 256 * 120)
        self.assertEqual(result["ttft_ms"]["count"], 256)

    def test_streams_are_held(self):
        result = self.load([], "--streams", 8, "--seconds", 3, "--warm-up-seconds", 1, "--prompt-tokens", 8,
                           "--answer-tokens", 16)
        requests = result["requests"]
        self.assertEqual((requests["lost"], requests["short"]), (0, 0), result["errors"])
        self.assertEqual(requests["started"], requests["finished"])
        self.assertGreater(requests["started"], 8)
        self.assertGreater(result["tokens_per_second"], 0)
        self.assertTrue(all(value > 0 for value in result["decode"].values()), result["decode"])
        self.assertLessEqual(result["inter_token_ms"]["p50"], result["inter_token_ms"]["p99"])
        rss = result["rss_bytes"]
        self.assertGreater(rss["first"], 1 << 20)
        self.assertGreaterEqual(rss["max"], rss["last"])
        self.assertAlmostEqual(result["rss_growth"], rss["last"] / rss["at_20_percent"] - 1)

    def test_a_job_runs_beside_and_is_cancelled(self):
        # Minutes of windows, of which it does seconds.
        job_options = ["--bpw", "5.5", "--calibration", "built-in", "--evaluation", "built-in", "--window-tokens", "1024"]
        model = self.folder.name + "/random"
        subprocess.run([str(BUILD / "tests/support/make_random_model"), "--out", model, "--layers", "12", "--hidden", "512",
                        "--intermediate", "1408", "--heads", "8", "--kv-heads", "4", "--vocab", "2048"], check=True, capture_output=True)
        with JobServer(self.context, "beside", flags=["--disk-reserve-mib", "0"]) as server:
            with RunningJob(server, model, *job_options) as job:
                self.assertTrue(job.running())
                self.assertTrue(job.stages)
                self.assertIn("--bpw 5.5", job.shown)
            self.assertFalse(job.running())
            self.assertEqual(job.view["state"], "JOB_STATE_CANCELLED")
            with self.assertRaisesRegex(Unmeasurable, "the job did not start"):
                with RunningJob(server, self.folder.name + "/nothing-is-here"):
                    pass

    def test_a_full_queue_is_told(self):
        result = self.load(["--max-running", 1, "--max-waiting", 1], "--streams", 16, "--seconds", 1,
                           "--prompt-tokens", 8, "--answer-tokens", 200)
        self.assertGreater(result["requests"]["lost"], 0)
        self.assertIn("QUEUE_FULL", result["errors"][0])


def result(tokens_per_second, **more):
    """What load_bench would say."""
    latency = {"p50": 10.0, "p99": 20.0, "count": 99}
    return {"requests": {"started": 300, "finished": 300, "lost": 0, "short": 0}, "answering_max": 256,
            "tokens_per_second": tokens_per_second, "window_seconds": 300.0, "client_cpu": 0.05, "errors": [],
            "ttft_ms": dict(latency), "inter_token_ms": dict(latency), "rss_growth": 0.001,
            "rss_bytes": {"first": 2**30, "at_20_percent": 2**30, "last": 2**30, "max": 2**30}, **more}


# What our server would count in a round, and what read_bench would say.
DECODE = {"steps": 100.0, "seconds": 4.0, "weight_bytes": 100 * 80e6}
MACHINE = {"read_gb_per_second": 20.0, "last_level_cache_bytes": 32 << 20}


class Figures(unittest.TestCase):
    def test_ratios_are_of_rounds(self):
        ours = [result(speed, decode=DECODE) for speed in (120, 150, 90)]
        figures = measure_load.few_figures(ours, [result(100)] * 3, "a ; b", 0.015, MACHINE)
        figure = figures["smollm2.streams16.ratio_llama_server"]
        self.assertAlmostEqual(figure.value, 1.2)
        self.assertIn("0.900 to 1.500", figure.note)
        self.assertIn("a step that only generates takes 40.0 ms: 2.0 GB/s of weights, 10 % of read bandwidth (of 80 MB of weights, "
                      "cache 32 MiB)", figure.note)
        lost = result(100, requests={"started": 9, "finished": 8, "lost": 1, "short": 0})
        with self.assertRaisesRegex(Unmeasurable, "1 streams were lost"):
            measure_load.few_figures(ours, [result(100), lost, result(100)], "a", 0.015, MACHINE)

    def test_counters_are_those_of_the_model(self):
        metrics = "".join(f'# TYPE {metric} counter\n{metric}{{model="other"}} 5\n{metric}{{model="load"}} {at}.5\n'
                          for at, metric in enumerate(measure_load.COUNTERS.values()))
        self.assertEqual(measure_load.counted(metrics, "load"), {"steps": 0.5, "seconds": 1.5, "weight_bytes": 2.5})
        with self.assertRaisesRegex(Unmeasurable, "does not tell qamserve_decode_steps_total of nobody"):
            measure_load.counted(metrics, "nobody")

    def test_commands_can_be_typed_as_they_stand(self):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(pathlib.Path(folder) / "build", pathlib.Path(folder) / "cache", 2)
            context.peer = pathlib.Path(folder) / "peer"
            context.model = lambda name: context.cache / "models" / f"{name}.gguf"
            context.program = lambda path: context.build / path
            context.peer_model = context.peer_model_path
            few, commands = measure_load.FEW, []
            made = ("artifacts/1", 0.1, "build/client/qamctl quantize m --name load-artifact")
            with mock.patch.object(measure_load, "artifact", lambda context: made):
                for server in (measure_load.OurServer(context, few), measure_load.PeerServer(context, few)):
                    commands.append(measure_load.stopped(f"{server.show()} ; {measure_load.shown_bench(context, few, server)}"))
        ours, theirs = commands
        load = ("--streams 16 --prompt-tokens 128 --answer-tokens 128 --vocab-tokens 49152 --warm-up-seconds 15 --seconds 45 --pid "
                "$SERVER ; kill $SERVER")
        self.assertEqual(ours, "build/server/qamserve --data-dir $WORK/load-server --log-level error --threads 2 --max-running 16 & "
                               "SERVER=$! ; build/client/qamctl quantize m --name load-artifact ; build/client/qamctl load load-artifact "
                               "--name load --context-tokens 512 ; build/tests/bench/load_bench --server qamserve --address "
                               f"127.0.0.1:50051 {load}")
        self.assertIn("$PEER/llama-quantize --allow-requantize --pure --token-embedding-type q8_0 --output-tensor-type q8_0 "
                      "$WORK/smollm2-F16.gguf $WORK/smollm2-Q8_0-head8.gguf Q8_0 ; $PEER/llama-server -m "
                      "$WORK/smollm2-Q8_0-head8.gguf --host 127.0.0.1 --port 8081 -t 2 -np 16 -c 8192 --threads-http 32 --cache-ram 0 & "
                      "SERVER=$! ; build/tests/bench/load_bench --server llama-server --address 127.0.0.1:8081 " + load, theirs)
        self.assertNotIn("PORT", ours + theirs)

    def test_many_give_every_key_and_the_peer(self):
        peer = result(50, ttft_ms={"p50": 40.0, "p99": 80.0, "count": 9})
        figures = measure_load.many_figures(result(100), peer, "a ; b")
        self.assertEqual(sorted(figures), sorted(key for key in KEYS if key.startswith("engine.streams256.")))
        self.assertEqual(figures["engine.streams256.lost"].value, 0)
        self.assertAlmostEqual(figures["engine.streams256.ttft_ms.p99"].ratio, 0.25)
        self.assertIn("80 ms", figures["engine.streams256.ttft_ms.p99"].peer)

    def test_another_load_than_asked_for_is_no_figure(self):
        measure_load.check(measure_load.MANY, "ours", result(1))
        queued = result(1, answering_max=16)
        with self.assertRaisesRegex(Unmeasurable, "only 16 of 256"):
            measure_load.check(measure_load.MANY, "ours", queued)
        short = copy.deepcopy(result(1))
        short["requests"]["short"] = 2
        with self.assertRaisesRegex(Unmeasurable, "2 answers with fewer than 64"):
            measure_load.check(measure_load.MANY, "ours", short)

    def test_beside_a_job_ratios_are_of_rounds(self):
        def of(p99):
            return result(100, inter_token_ms={"p50": 10.0, "p99": p99, "count": 9})
        figures = measure_load.beside_figures([of(10.0), of(20.0), of(10.0)], [of(30.0), of(30.0), of(20.0)], ["quantize"], "a ; b")
        figure = figures["fleet.serving_beside_job.inter_token_p99_ratio"]
        self.assertAlmostEqual(figure.value, 2)
        self.assertIn("ratios 1.500 to 3.000", figure.note)
        self.assertIn("the job was in quantize", figure.note)
        with self.assertRaisesRegex(Unmeasurable, "no time from token to token"):
            measure_load.beside_figures([of(10.0)], [of(None)], [], "a")

    def test_beside_a_job_that_has_ended_is_no_figure(self):
        measure_load.check_beside(result(1), True)
        with self.assertRaisesRegex(Unmeasurable, "the job ended before"):
            measure_load.check_beside(result(1), False)
        with self.assertRaisesRegex(Unmeasurable, "1 streams were lost"):
            measure_load.check_beside(result(1, requests={"started": 9, "finished": 8, "lost": 1, "short": 0}), True)

    def test_contexts_hold_prompt_and_answer(self):
        for load in (measure_load.FEW, measure_load.MANY, measure_load.BESIDE):
            self.assertGreater(measure_load.context_tokens(load), load["prompt"] + load["answer"])
            self.assertEqual(measure_load.context_tokens(load) % 256, 0)


if __name__ == "__main__":
    unittest.main()
