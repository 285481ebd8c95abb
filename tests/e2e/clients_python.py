"""The project's own Python package against a running server with a tiny model."""
import asyncio
import pathlib
import subprocess
import sys
import threading

import grpc
import numpy as np

import qamserve
from clients_support import SMALL_TEXT, make_tiny_gemma
from qamserve import errors
from qamserve.artifact import ArtifactReader, _read_header

# Every codec, rotation and exception that an artifact may have.
FORMATS = [("joint", 5.5, {}), ("joint", 3, {"embedding_bits": 8}), ("trellis", 4.5, {}), ("polar", 4, {}), ("scalar", 3.5, {}),
           ("uniform", 4, {}), ("int8", None, {}), ("full", None, {}), ("joint", 6, {"rotation": "block"}),
           ("joint", 2.5, {"rotation": "none", "channel_scale": False}),
           ("trellis", 2.5, {"rates": {"*.down_proj": 5, "*.o_proj": 3}, "error_feedback": True})]


def small(codec, **more):
    texts = {"evaluation": SMALL_TEXT} if codec == "full" else {"calibration": SMALL_TEXT, "evaluation": SMALL_TEXT}
    return {**texts, **more}


class PythonTests:
    """Mixed into a TestCase that has `server`, `client`, `model`, `checkpoint`, `build` and `scratch`."""

    def export(self, artifact):
        """The tensors of the C++ export in F32, as bytes of one file with their places."""
        folder = artifact.with_name(artifact.name + "-hf")
        subprocess.run([self.build / "client/qamctl", "artifacts", "export", artifact, "--format", "hf", "--dtype", "f32", "--out",
                        folder], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        path = folder / "model.safetensors"
        return np.fromfile(path, np.uint8), _read_header(path)

    def test_every_codec_is_read_as_the_export_reads_it(self):
        gemma = self.client.upload(make_tiny_gemma(self.build, self.scratch / "gemma3"))
        for n, (codec, bpw, more) in enumerate(FORMATS):
            checkpoint = gemma if n % 4 == 0 else self.checkpoint
            job = self.client.quantize(checkpoint, bpw, codec, **small(codec, **more))
            job.wait()
            folder = self.scratch / f"artifact-{n}"
            job.artifact.download(folder)
            raw, infos = self.export(folder)
            reader = ArtifactReader(folder)
            self.assertEqual(set(reader.names()), set(infos))
            for name, weight in reader.items():
                expected = raw[infos[name].begin:infos[name].end].view("<f4").reshape(infos[name].shape)
                # A float or two of rounding: division by 127 here, multiplication by its inverse there.
                np.testing.assert_allclose(weight, expected, rtol=0, atol=1e-6 * np.abs(expected).max(),
                                           err_msg=f"{codec} {bpw} {more}: {name}")

    def test_reports_and_studies(self):
        job = self.client.quantize(self.checkpoint, 4, "joint", **small("joint"))
        job.wait()
        report = job.report()
        self.assertEqual(len(report.to_pandas()), 14)
        self.assertGreater(report.metrics()["kl_mean"], 0)
        self.assertEqual(report.to_dict()["spec"]["codec"], "joint")
        study = self.client.study(self.checkpoint, [{"codec": "joint", "rates": [3, 4]}, {"codec": "polar", "rates": [4]}],
                                  calibration=SMALL_TEXT, evaluation=SMALL_TEXT, without_probes=True)
        study.wait()
        rows = study.study().to_pandas()
        self.assertEqual(len(rows), 3)
        self.assertGreater(self.client.estimate(self.checkpoint, 4).artifact_bytes, 0)

    def test_a_job_that_is_refused_and_one_that_is_cancelled(self):
        job = self.client.quantize(self.checkpoint, 2.5, "joint", max_kl=1e-6, **small("joint"))
        with self.assertRaises(errors.JobRejectedError) as caught:
            job.wait()
        self.assertIn("KL", caught.exception.message)
        job = self.client.quantize(self.checkpoint, 5, "trellis", calibration={"windows": 64, "window_tokens": 256},
                                   evaluation=SMALL_TEXT, error_feedback=True)
        job.cancel()
        with self.assertRaises(errors.JobCancelledError):
            job.wait()
        with self.assertRaises(errors.InvalidArgumentError) as caught:
            self.client.quantize(self.checkpoint, 9)
        self.assertEqual(caught.exception.reason, "BPW_RANGE")

    def test_inference(self):
        client, model = self.client, self.model
        tokens = client.tokenize(model, "hello there")
        self.assertEqual(client.detokenize(model, tokens), "hello there")
        whole = client.generate(model, "hello", max_tokens=10, temperature=0, ignore_eos=True)
        self.assertEqual(len(whole.tokens), 10)
        self.assertEqual(whole.finish_reason, "length")
        parts = list(client.generate_stream(model, "hello", max_tokens=10, temperature=0, ignore_eos=True))
        self.assertEqual([t for p in parts for t in p.tokens], whole.tokens)
        scored = client.score(model, client.tokenize(model, "hello") + whole.tokens, top=1)
        for detail in scored.details[len(tokens):]:
            self.assertEqual(len(detail.top), 1)
        again = client.generate(model, "hello", max_tokens=10, temperature=0, ignore_eos=True, logprobs=1)
        for said, read in zip(again.logprobs, list(scored.logprobs)[-10:]):
            self.assertAlmostEqual(said.logprob, read, places=5)
        self.assertIn(client.generate(model, "x", choices=["left", "right"], seed=3).text, ("left", "right"))
        vectors = client.embed(model, ["hello", "there"], normalize=True)
        self.assertAlmostEqual(sum(v * v for v in vectors[0]), 1, places=4)
        self.assertAlmostEqual(client.compare(model, model, "there", prompt="hello ").kl_mean, 0, places=9)
        self.assertTrue(client.system().version)

    def test_leaving_a_stream_frees_its_place(self):
        stream = self.client.generate_stream(self.model, "hello", max_tokens=200, ignore_eos=True)
        next(stream)
        stream.close()
        self.wait_until_idle()

    def test_async(self):
        async def run():
            async with qamserve.AsyncClient(self.server.grpc) as client:
                job = await client.quantize(self.checkpoint, 3.5, "joint", **small("joint"))
                await job.wait()
                await job.artifact.download(self.scratch / "async")
                answers = await asyncio.gather(*[client.generate(self.model, "ab", max_tokens=8, seed=s) for s in range(1, 9)])
                parts = [p.text async for p in client.chat_stream(self.model, [{"role": "user", "content": "hi"}], max_tokens=4)]
                with self.assertRaises(errors.NotFoundError):
                    await client.generate("nobody", "x")
                return answers, parts

        answers, parts = asyncio.run(run())
        self.assertEqual(len(answers), 8)
        self.assertTrue(parts)
        self.assertTrue(ArtifactReader(self.scratch / "async").names())

    def test_the_pipeline_of_the_examples(self):
        pipeline = pathlib.Path(__file__).resolve().parents[2] / "client/python/examples/pipeline.py"

        def step(*arguments, status=0):
            done = subprocess.run([sys.executable, str(pipeline), *map(str, arguments)], capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, env={**self.environment, "QAMSERVE_ADDRESS": self.server.grpc},
                                  check=False)
            self.assertEqual(done.returncode, status, done.stdout + done.stderr)
            return done

        out = self.scratch / "pipeline"
        step("upload", self.folder, "--out", out / "checkpoint")
        step("quantize", (out / "checkpoint").read_text(), "--bpw", 5, "--out", out / "artifact")
        artifact = (out / "artifact").read_text()
        step("gate", artifact, "--max-kl", 1000, "--metrics", out / "metrics.json")
        self.assertIn("kl_ci95_high", (out / "metrics.json").read_text())
        self.assertIn("the limit is", step("gate", artifact, "--max-kl", 1e-9, status=1).stderr)
        self.assertIn("is ready", step("serve", artifact, "--name", "piped", "--alias", "piped-alias").stdout)
        self.client.delete_alias("piped-alias")
        self.client.unload("piped")
        self.assertIn("NOT_FOUND", step("gate", "artifacts/" + "0" * 64, status=1).stderr)


class RestartTests:
    """Mixed into a TestCase whose `start_server()` gives a server of its own, and that has `folder`."""

    def test_a_server_that_is_killed_loses_no_job_and_no_watcher(self):
        with self.start_server() as server:
            client = qamserve.Client(server.grpc, retry=qamserve.RetryPolicy(initial_backoff=0.05, max_backoff=0.5,
                                                                             transfer_attempts=100))
            with client:
                job = client.quantize(client.upload(self.folder), 4, "trellis", **small("trellis"))
                begun = threading.Event()

                def restart():
                    begun.wait(60)
                    server.kill()
                    server.start()

                thread = threading.Thread(target=restart)
                thread.start()
                final = job.wait(lambda seen: begun.set() if seen.progress.tasks_done else None, timeout=120)
                begun.set()
                thread.join()
                self.assertTrue(final.artifact)
                self.assertEqual(grpc.StatusCode.OK.value[0], final.error.code)
