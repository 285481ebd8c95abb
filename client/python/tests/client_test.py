"""Both clients against a scripted server: what they send, what they make of answers, and what they do when things break.

Each test runs twice, with Client and with AsyncClient."""
import asyncio
import hashlib
import inspect
import json
import os
import pathlib
import tempfile
import threading
import time
import unittest
from importlib import metadata

import grpc
from scripted_server import ScriptedServer, abort

import qamserve
from qamserve import errors
from qamserve.v1 import admin_pb2, artifact_pb2, checkpoint_pb2, common_pb2, inference_pb2, job_pb2, serving_pb2

# grpc.aio keeps to one event loop in a process.
LOOP = asyncio.new_event_loop()
FAST = qamserve.RetryPolicy(call_attempts=3, transfer_attempts=4, initial_backoff=0.01, max_backoff=0.02)


class Blocking:
    """AsyncClient, or one of its handles, with calls that block: so that one test does for both."""

    def __init__(self, target, loop):
        self._target, self._loop = target, loop

    def __getattr__(self, name):
        member = getattr(self._target, name)
        return (lambda *a, **k: self._result(member(*a, **k))) if callable(member) else self._wrapped(member)

    def _wrapped(self, value):
        return Blocking(value, self._loop) if type(value).__name__.startswith("Async") else value

    def _result(self, value):
        if inspect.isasyncgen(value):
            return self._iterate(value)
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(value)
        return self._wrapped(value)

    def _iterate(self, generator):
        try:
            while True:
                try:
                    yield self._loop.run_until_complete(generator.__anext__())
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run_until_complete(generator.aclose())


class Both(unittest.TestCase):
    """Runs a test with one of the clients; the subclasses below say which."""
    asynchronous = False

    def setUp(self):
        self.server = ScriptedServer()
        self.addCleanup(self.server.stop)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        if self.asynchronous:
            self.loop = LOOP
        self.client = self.new_client()
        self.addCleanup(lambda: self.client.close())

    def new_client(self, **options):
        options.setdefault("retry", FAST)
        if not self.asynchronous:
            return qamserve.Client(self.server.address, **options)

        async def make():
            return qamserve.AsyncClient(self.server.address, **options)

        return Blocking(self.loop.run_until_complete(make()), self.loop)

    def raised(self, kind, call, *arguments, **named):
        with self.assertRaises(kind) as caught:
            call(*arguments, **named)
        return caught.exception

    def model_folder(self, weights=b"w" * 3_000_000):
        folder = self.folder / "model"
        folder.mkdir()
        for name, data in {"config.json": b"{}", "model.safetensors": weights, "tokenizer.json": b"{ }", "README.md": b"no",
                           "pytorch_model.bin": b"no", ".hidden": b"no"}.items():
            (folder / name).write_bytes(data)
        return folder


class UploadTests:
    def test_sends_the_files_of_a_model_and_nothing_else(self):
        seen = []
        checkpoint = self.client.upload(self.model_folder(), on_progress=seen.append)
        self.assertEqual(checkpoint.name, "checkpoints/1")
        request = self.server.calls["CreateUpload"][0]
        self.assertEqual([f.name for f in request.files], ["config.json", "model.safetensors", "tokenizer.json"])
        self.assertEqual(request.display_name, "model")
        self.assertEqual(self.server.store[hashlib.sha256(b"w" * 3_000_000).hexdigest()], b"w" * 3_000_000)
        self.assertEqual({p.phase for p in seen}, {"hash", "transfer", "check"})
        self.assertEqual((seen[-1].done_bytes, seen[-1].total_bytes), (3_000_005, 3_000_005))

    def test_goes_on_where_it_was_cut(self):
        weights = os.urandom(4_000_000)
        self.server.cuts = [0, None, 1, 3, 2]
        retries = []
        self.client.upload(self.model_folder(weights),
                           on_progress=lambda p: retries.append(p) if p.phase == "retry" else None)
        self.assertEqual(self.server.store[hashlib.sha256(weights).hexdigest()], weights)
        self.assertEqual(self.server.received, 4_000_005, "no byte was sent twice")
        self.assertEqual(len(retries), 4)
        self.assertEqual(retries[0].error.code, grpc.StatusCode.UNAVAILABLE)

    def test_gives_up_when_nothing_arrives_any_more(self):
        self.server.cuts = [0] * 20
        error = self.raised(errors.UnavailableError, self.client.upload, self.model_folder())
        self.assertEqual(error.reason, "SERVER_UNREACHABLE")
        self.assertEqual(len(self.server.calls["UploadFile"]), FAST.transfer_attempts)

    def test_more_cuts_than_attempts_do_not_matter_while_bytes_arrive(self):
        weights = os.urandom(10 * (512 << 10))
        self.server.cuts = [None] + [1] * 9  # the first file whole, then a message at a time
        self.client.upload(self.model_folder(weights))
        self.assertEqual(self.server.store[hashlib.sha256(weights).hexdigest()], weights)

    def test_sends_what_is_missing_only(self):
        folder = self.model_folder()
        self.client.upload(folder)
        self.server.received = 0
        seen = []
        self.client.upload(folder, on_progress=seen.append)
        self.assertEqual(self.server.received, 0)
        self.assertEqual(seen[-1].skipped_bytes, 3_000_005)

    def test_has_bytes_that_nobody_checked_checked(self):
        folder = self.model_folder()
        for data in (b"{}", b"w" * 3_000_000, b"{ }"):
            self.server.store[hashlib.sha256(data).hexdigest()] = data
        self.client.upload(folder)
        self.assertEqual(len(self.server.complete), 3)
        self.assertEqual(self.server.received, 0)

    def test_a_file_that_changes_meanwhile_is_named(self):
        folder = self.model_folder()

        def change(progress):
            if progress.phase == "transfer" and progress.file == "config.json":
                (folder / "model.safetensors").write_bytes(b"x" * 3_000_000)

        error = self.raised(errors.DataLossError, self.client.upload, folder, on_progress=change)
        self.assertEqual(error.reason, "UPLOAD_DIGEST")
        self.assertIn("model.safetensors was changed while it was sent", error.message)

    def test_an_exception_of_on_progress_stops_it_and_comes_out(self):
        def stop(progress):
            if progress.phase == "transfer" and progress.done_bytes > 1_000_000:
                raise KeyError("stop")

        self.raised(KeyError, self.client.upload, self.model_folder(), on_progress=stop)
        self.assertLess(self.server.received, 3_000_000)
        self.client.upload(self.folder / "model")
        self.assertEqual(self.server.received, 3_000_005)

    def test_waits_for_the_check_of_a_server_that_restarts(self):
        answers = iter([True, False])

        def complete(request, context):
            if next(answers):
                abort(context, grpc.StatusCode.UNAVAILABLE, "restarting")
            return checkpoint_pb2.CompleteUploadResponse(checkpoint=checkpoint_pb2.Checkpoint(name="checkpoints/2"))

        self.server.answers["CompleteUpload"] = complete
        self.assertEqual(self.client.upload(self.model_folder()).name, "checkpoints/2")

    def test_texts_come_from_files_and_from_memory(self):
        path = self.folder / "t.txt"
        path.write_text("hello")
        self.assertEqual(self.client.upload_text(path).name, "texts/1")
        self.client.upload_text(content="grüße", display_name="greeting")
        self.assertEqual(self.server.store[hashlib.sha256("grüße".encode()).hexdigest()], "grüße".encode())
        self.assertEqual(self.server.calls["CreateUpload"][1].kind, checkpoint_pb2.UPLOAD_KIND_TEXT)
        self.raised(TypeError, self.client.upload_text)

    def test_what_is_no_model_is_refused_here(self):
        def reason(path):
            return self.raised(errors.QamserveError, self.client.upload, path).reason

        self.assertEqual(reason(self.folder / "nothing"), "FILE_NOT_FOUND")
        self.assertEqual(reason(self.folder), "UPLOAD_NOT_A_MODEL")
        (self.folder / "config.json").write_text("{}")
        self.assertEqual(reason(self.folder), "UPLOAD_FILE_MISSING")
        index = self.folder / "model.safetensors.index.json"
        for text, expected in (("[]", "UPLOAD_INDEX_INVALID"), ('{"weight_map": {"a": "../b"}}', "UPLOAD_INDEX_INVALID"),
                               ('{"weight_map": {"a": "b.safetensors"}}', "UPLOAD_FILE_MISSING"),
                               ("[" * 100_000, "UPLOAD_INDEX_INVALID")):
            index.write_text(text)
            self.assertEqual(reason(self.folder), expected, text[:20])
        index.unlink()
        (self.folder / "b.safetensors").touch()
        self.assertEqual(reason(self.folder), "UPLOAD_FILE_EMPTY")
        for name in ("a.gguf", "b.gguf"):
            (self.folder / name).write_text("GGUF")
        (self.folder / "config.json").unlink()
        self.assertEqual(reason(self.folder), "UPLOAD_AMBIGUOUS")
        self.assertEqual(self.server.calls, {})


class DownloadTests:
    def test_goes_on_where_it_was_cut_and_checks(self):
        self.server.files = {"model.safetensors": os.urandom(10_000), "config.json": b"{}"}
        self.server.cuts = [3, 0, 2]
        self.client.artifact("artifacts/1").download(self.folder / "out")
        for name, data in self.server.files.items():
            self.assertEqual((self.folder / "out" / name).read_bytes(), data)
        self.assertEqual([c.offset for c in self.server.calls["DownloadFile"]], [0, 3000, 3000, 5000, 0])
        self.assertEqual(len(list((self.folder / "out").iterdir())), 2)
        seen = []
        self.client.download_artifact("artifacts/1", self.folder / "out", on_progress=seen.append)
        self.assertEqual(seen[-1].skipped_bytes, 10_000, "of the last file told of")
        self.assertEqual(len(self.server.calls["DownloadFile"]), 5, "nothing is fetched again")

    def test_damage_leaves_nothing_under_the_files_name(self):
        self.server.files = {"a": b"x" * 10}
        self.server.answers["DownloadFile"] = lambda r, c: [artifact_pb2.DownloadFileResponse(data=b"y" * 10)]
        error = self.raised(errors.DataLossError, self.client.download_artifact, "artifacts/1", self.folder)
        self.assertEqual(error.reason, "DOWNLOAD_DIGEST")
        self.server.answers["DownloadFile"] = lambda r, c: [artifact_pb2.DownloadFileResponse(data=b"y" * 11)]
        error = self.raised(errors.DataLossError, self.client.download_artifact, "artifacts/1", self.folder)
        self.assertEqual(error.reason, "DOWNLOAD_SIZE")
        self.assertFalse((self.folder / "a").exists())

    def test_names_outside_the_folder_are_refused(self):
        for name in ("../a", "/a", "..", "", "a\\b"):
            self.server.answers["GetArtifact"] = lambda r, c, name=name: artifact_pb2.Artifact(
                files=[common_pb2.FileInfo(name=name, size_bytes=1)])
            error = self.raised(errors.DataLossError, self.client.download_artifact, "artifacts/1", self.folder)
            self.assertEqual(error.reason, "DOWNLOAD_NAME")


class JobTests:
    def job(self, state=job_pb2.JOB_STATE_QUEUED, **fields):
        return job_pb2.Job(name="jobs/1", state=state, **fields)

    def script(self, *streams):
        """WatchJob's answers, one list a stream; an exception in it is raised by aborting."""
        left = list(streams)

        def watch(request, context):
            for item in left.pop(0):
                if item is None:
                    abort(context, grpc.StatusCode.UNAVAILABLE, "restarting")
                yield item

        self.server.answers["WatchJob"] = watch
        self.server.answers["CreateQuantizeJob"] = lambda r, c: self.job()

    def test_waits_through_a_restart_and_tells_each_tensor_once(self):
        a, b = common_pb2.TensorReport(name="a"), common_pb2.TensorReport(name="b")
        self.script([self.job(), self.job(job_pb2.JOB_STATE_RUNNING, tensors=[a]), None], [None], [],
                    [self.job(job_pb2.JOB_STATE_RUNNING, tensors=[a, b]),
                     self.job(job_pb2.JOB_STATE_SUCCEEDED, artifact="artifacts/1")])
        seen = []
        handle = self.client.quantize("checkpoints/1", 5.5)
        self.assertEqual(handle.state, "queued")
        self.raised(ValueError, lambda: handle.artifact)
        job = handle.wait(seen.append)
        self.assertEqual(job.artifact, "artifacts/1")
        self.assertEqual([t.name for j in seen for t in j.tensors], ["a", "b"])
        self.assertEqual(handle.state, "succeeded")
        self.assertTrue(handle.done)
        self.assertEqual(handle.artifact.name, "artifacts/1")

    def test_an_end_that_is_no_success_is_an_exception(self):
        for state, kind in ((job_pb2.JOB_STATE_REJECTED, errors.JobRejectedError),
                            (job_pb2.JOB_STATE_FAILED, errors.JobFailedError),
                            (job_pb2.JOB_STATE_CANCELLED, errors.JobCancelledError)):
            final = self.job(state, error=job_pb2.JobError(reason="GATE_QUALITY", message="KL 0.2", code=9))
            self.script([final], [final])
            error = self.raised(kind, self.client.quantize("checkpoints/1").wait)
            self.assertEqual((error.reason, error.code), ("GATE_QUALITY", grpc.StatusCode.FAILED_PRECONDITION))
            self.assertEqual(error.job.state, state)
            self.assertEqual(self.client.quantize("checkpoints/1").wait(check=False).state, state)

    def test_a_timeout_ends_the_waiting(self):
        def watch(request, context):
            yield self.job(job_pb2.JOB_STATE_RUNNING)
            while context.is_active():
                time.sleep(0.01)

        self.script()
        self.server.answers["WatchJob"] = watch
        self.raised(errors.DeadlineExceededError, self.client.quantize("checkpoints/1").wait, timeout=0.3)

    def test_specs(self):
        self.script()
        self.client.quantize("checkpoints/1", 4, "trellis", calibration="built-in", evaluation={"windows": 3},
                             error_feedback=True, rates={"*.down_proj": 6}, display_name="d", load_as="m", rotation="block")
        request = self.server.calls["CreateQuantizeJob"][0]
        spec = request.spec
        self.assertEqual((spec.codec, spec.bpw, spec.error_feedback), (job_pb2.CODEC_TRELLIS, 4, True))
        self.assertEqual((spec.calibration.text, spec.evaluation.windows), ("texts/built-in", 3))
        self.assertEqual((spec.rates[0].filter, spec.rates[0].bpw, spec.rotation), ("*.down_proj", 6, job_pb2.ROTATION_BLOCK))
        self.assertEqual((request.display_name, request.load_as), ("d", "m"))
        self.assertRegex(request.request_id, "^[0-9a-f-]{36}$")
        self.client.quantize("checkpoints/1", target={"kl": 0.01}, calibration=checkpoint_pb2.Text(name="texts/9"))
        spec = self.server.calls["CreateQuantizeJob"][1].spec
        self.assertEqual((spec.bpw, spec.target.kl, spec.calibration.text), (0, 0.01, "texts/9"))
        for wrong in ({"codec": "jont"}, {"bits": 3}, {"target": {"klx": 1}}, {"calibration": {"window": 1}}):
            self.raised((TypeError, ValueError), self.client.quantize, "checkpoints/1", **wrong)
        self.raised(TypeError, self.client.quantize, 7)

    def test_studies(self):
        self.server.answers["CreateStudyJob"] = lambda r, c: self.job()
        self.server.answers["GetStudy"] = lambda r, c: job_pb2.StudyTable(
            job=r.job, content='{"rows": [{"bpw": 4, "quality": {"kl_mean": 0.1}}]}', content_type="application/json")
        handle = self.client.study(["checkpoints/1"], [{"codec": "joint", "rates": [4, 5]}])
        request = self.server.calls["CreateStudyJob"][0]
        self.assertEqual((list(request.methods[0].rates), request.methods[0].spec.codec), ([4, 5], job_pb2.CODEC_JOINT))
        self.assertEqual(handle.study().rows[0]["quality"]["kl_mean"], 0.1)
        self.assertEqual(list(handle.study().to_pandas().columns), ["bpw", "quality.kl_mean"])
        self.raised(ValueError, self.client.study, "checkpoints/1", [{"codec": "joint"}])

    def test_reports(self):
        self.server.answers["GetReport"] = lambda r, c: artifact_pb2.Report(
            artifact=r.artifact, json='{"spec": {"codec": "joint"}}', quality=common_pb2.QualityReport(kl_mean=0.5, windows=2),
            tensors=[common_pb2.TensorReport(name="a", bpw=5.5)])
        report = self.client.artifact("artifacts/1").report()
        self.assertEqual(report.to_dict()["spec"]["codec"], "joint")
        self.assertEqual((report.metrics()["kl_mean"], report.metrics()["windows"]), (0.5, 2.0))
        self.assertNotIn("text_source", report.metrics())
        self.assertEqual(report.to_pandas().loc[0, "bpw"], 5.5)

    def test_lists_have_all_pages(self):
        def page(request, context):
            last = request.page_token == "3"
            return job_pb2.ListJobsResponse(jobs=[self.job()], next_page_token="" if last else
                                            str(int(request.page_token or 0) + 1))

        self.server.answers["ListJobs"] = page
        self.assertEqual(len(self.client.list_jobs()), 4)


class InferenceTests:
    def parts(self, *texts):
        parts = [inference_pb2.GenerateResponse(text=t, tokens=[n], model="servedModels/m") for n, t in enumerate(texts)]
        parts[-1].finish_reason = inference_pb2.FINISH_REASON_STOP
        parts[-1].usage.completion_tokens = len(texts)
        return parts

    def test_whole_answers_and_streams(self):
        self.server.answers["Generate"] = lambda r, c: self.parts("a", "b")
        answer = self.client.generate("m", "say", max_tokens=5, stop="x", temperature=0, logit_bias={3: -1.5})
        self.assertEqual((answer.text, answer.tokens, answer.finish_reason, answer.model),
                         ("ab", [0, 1], "stop", "servedModels/m"))
        self.assertEqual(answer.usage.completion_tokens, 2)
        request = self.server.calls["Generate"][0]
        self.assertEqual((request.prompt, request.params.max_tokens, list(request.params.stop)), ("say", 5, ["x"]))
        self.assertTrue(request.params.HasField("temperature"))
        self.assertEqual(request.params.logit_bias[3], -1.5)
        self.assertEqual([p.text for p in self.client.generate_stream("m", [1, 2])], ["a", "b"])
        self.assertEqual(list(self.server.calls["Generate"][1].prompt_tokens.ids), [1, 2])

    def test_chats(self):
        self.server.answers["Chat"] = lambda r, c: self.parts("hi")
        calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
        self.client.chat("m", [{"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": calls},
                               {"role": "tool", "content": "7", "tool_call_id": "1"}],
                         tools=[{"type": "function"}], json_schema={"type": "object"}, template_args={"enable_thinking": False})
        request = self.server.calls["Chat"][0]
        self.assertIn('"name": "f"', request.messages[1].tool_calls_json)
        self.assertEqual(request.messages[2].tool_call_id, "1")
        self.assertEqual(request.params.constraint.json_schema, '{"type": "object"}')
        self.assertEqual(request.tools_json, '[{"type": "function"}]')
        self.assertEqual(request.template_args_json, '{"enable_thinking": false}')
        self.client.chat("m", [], choices=["yes", "no"])
        self.assertEqual(self.server.calls["Chat"][1].params.constraint.choice_json, '["yes", "no"]')
        self.raised(TypeError, self.client.chat, "m", [], regex="a", grammar="b")
        self.raised(TypeError, self.client.chat, "m", [], max_token=3)
        self.raised(TypeError, self.client.chat, "m", [{"rolle": "user"}])

    def test_an_error_in_the_middle_of_a_stream(self):
        def broken(request, context):
            yield self.parts("a", "b")[0]
            abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, "slow", "SLOW_READER")

        self.server.answers["Generate"] = broken
        seen = []

        def read():
            for part in self.client.generate_stream("m", "p"):
                seen.append(part.text)

        self.assertEqual(self.raised(errors.ResourceExhaustedError, read).reason, "SLOW_READER")
        self.assertEqual(seen, ["a"])
        self.assertEqual(len(self.server.calls["Generate"]), 1, "never repeated")

    def test_leaving_a_stream_cancels_it(self):
        gone = threading.Event()

        def endless(request, context):
            context.add_callback(gone.set)
            while context.is_active():
                yield self.parts("a", "b")[0]

        self.server.answers["Generate"] = endless
        stream = self.client.generate_stream("m", "p")
        next(iter(stream))
        stream.close()
        self.assertTrue(gone.wait(10))

    def test_the_rest(self):
        self.server.answers["Score"] = lambda r, c: inference_pb2.ScoreResponse(logprobs=[-1.0])
        self.server.answers["Embed"] = lambda r, c: inference_pb2.EmbedResponse(
            embeddings=[inference_pb2.Embedding(values=[0.5]) for _ in r.inputs])
        self.server.answers["Tokenize"] = lambda r, c: inference_pb2.TokenizeResponse(tokens=[4, 5])
        self.server.answers["Detokenize"] = lambda r, c: inference_pb2.DetokenizeResponse(text="t")
        self.server.answers["LoadModel"] = lambda r, c: serving_pb2.ServedModel(name="servedModels/" + r.name)
        self.server.answers["UnloadModel"] = lambda r, c: serving_pb2.ServedModel(name=r.name)
        self.server.answers["UpdateAlias"] = lambda r, c: serving_pb2.Alias(name=r.name, targets=r.targets)
        self.assertEqual(list(self.client.score("m", "text", top=2).logprobs), [-1.0])
        self.assertEqual(self.client.embed("m", ["a", [1, 2]]), [[0.5], [0.5]])
        self.assertEqual(list(self.server.calls["Embed"][0].inputs[1].tokens.ids), [1, 2])
        self.assertEqual(self.client.embed("m", "one"), [[0.5]])
        self.assertEqual(self.client.tokenize("m", "t"), [4, 5])
        self.assertEqual(self.client.detokenize("m", [4]), "t")
        model = self.client.load(artifact_pb2.Artifact(name="artifacts/1"), "m")
        self.assertEqual(self.client.unload(model).name, "servedModels/m")
        self.assertEqual(self.client.alias("prod", {"m": 95, "n": 5}).targets[1].weight, 5)
        self.assertEqual(self.server.calls["UpdateAlias"][0].name, "aliases/prod")


class AdminTests:
    @staticmethod
    def backup_of(*rows):
        lines = b"".join(line + b"\n" for line in (b'{"format":"qamserve"}', *rows))
        end = {"rows": len(rows), "sha256": hashlib.sha256(lines).hexdigest()}
        return lines + json.dumps(end).encode() + b"\n"

    def answer_with(self, data):
        pieces = [data[at:at + 7] for at in range(0, len(data), 7)]
        self.server.answers["BackupMetadata"] = lambda r, c: [admin_pb2.BackupChunk(data=piece) for piece in pieces]

    def test_lists_come_whole(self):
        answers = self.server.answers
        instance = admin_pb2.Instance(name="instances/1", tasks=2)
        answers["ListInstances"] = lambda r, c: admin_pb2.ListInstancesResponse(instances=[instance])
        answers["ListLeases"] = lambda r, c: admin_pb2.ListLeasesResponse(leases=[admin_pb2.Lease(task=3)])
        answers["GetQueue"] = lambda r, c: admin_pb2.Queue(jobs_unfinished=4)
        answers["GetSchema"] = lambda r, c: admin_pb2.Schema(version=5)
        self.assertEqual(self.client.list_instances(), [instance])
        self.assertEqual(self.client.list_leases()[0].task, 3)
        self.assertEqual(self.client.get_queue().jobs_unfinished, 4)
        self.assertEqual(self.client.get_schema().version, 5)

    def test_drains_and_takes_it_back(self):
        failures = [True]

        def drain(request, context):
            if failures.pop() if failures else False:
                abort(context, grpc.StatusCode.UNAVAILABLE, "away")
            return admin_pb2.Instance(name=request.name, drain_requested=not request.undo)

        self.server.answers["DrainInstance"] = drain
        instance = self.client.drain_instance("instances/1")
        self.assertTrue(instance.drain_requested)
        self.assertEqual(len(self.server.calls["DrainInstance"]), 2, "it may be said twice")
        self.assertFalse(self.client.drain_instance(instance, undo=True).drain_requested)
        self.assertTrue(self.server.calls["DrainInstance"][-1].undo)

    def test_releases_a_task_and_collects_garbage(self):
        self.server.answers["ReleaseLease"] = lambda r, c: admin_pb2.ReleaseLeaseResponse()
        self.server.answers["CollectGarbage"] = lambda r, c: admin_pb2.Garbage(dry_run=r.dry_run, blobs=2)
        self.client.release_lease("jobs/1", 7)
        request = self.server.calls["ReleaseLease"][0]
        self.assertEqual((request.job, request.task), ("jobs/1", 7))
        self.assertTrue(request.request_id)
        self.assertTrue(self.client.collect_garbage(dry_run=True).dry_run)
        self.assertFalse(self.client.collect_garbage().dry_run)

    def test_a_backup_appears_when_it_is_whole(self):
        path, data = self.folder / "rows.jsonl", self.backup_of(b'{"a":1}', b'{"b":2}')
        self.answer_with(data)
        self.assertEqual(self.client.backup(path), 2)
        self.assertEqual(path.read_bytes(), data)
        self.assertEqual(list(self.folder.iterdir()), [path])

    def test_a_backup_that_is_not_right_leaves_what_was_there(self):
        path, data = self.folder / "rows.jsonl", self.backup_of(b'{"a":1}', b'{"b":2}')
        path.write_bytes(b"older")
        last = data.rstrip(b"\n").rfind(b"\n") + 1
        for bad in (b"", data[:last], data[:-1], data.replace(b'"a":1', b'"a":3'), data.replace(b'{"a":1}\n', b"")):
            self.answer_with(bad)
            self.assertEqual(self.raised(errors.DataLossError, self.client.backup, path).reason, "BACKUP_CORRUPT")
            self.assertEqual(path.read_bytes(), b"older")
            self.assertEqual(list(self.folder.iterdir()), [path])

    def test_a_backup_that_breaks_off_is_an_error(self):
        def cut(request, context):
            yield admin_pb2.BackupChunk(data=b"{}\n")
            abort(context, grpc.StatusCode.UNAVAILABLE, "cut")

        self.server.answers["BackupMetadata"] = cut
        self.raised(errors.UnavailableError, self.client.backup, self.folder / "rows.jsonl")
        self.assertEqual(list(self.folder.iterdir()), [])


class ErrorTests:
    def fails(self, code, *more, **named):
        return lambda request, context: abort(context, code, "the message", *more, **named)

    def test_details_become_fields_of_the_exception(self):
        self.server.answers["GetJob"] = self.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "KEY_LIMIT", retry_after=1.5,
                                                   violations=[("spec.bpw", "too much")])
        error = self.raised(errors.ResourceExhaustedError, self.client.get_job, "jobs/1")
        self.assertEqual((error.reason, error.retry_after, error.metadata), ("KEY_LIMIT", 1.5, {"limit": "7"}))
        self.assertEqual(error.field_violations, [("spec.bpw", "too much")])
        self.assertIn("the message", str(error))

    def test_each_code_has_its_class(self):
        for code, kind in errors._CLASSES.items():
            self.server.answers["GetJob"] = self.fails(code)
            error = self.raised(kind, self.client.get_job, "jobs/1")
            self.assertEqual(error.code, code)
        self.server.answers["GetJob"] = self.fails(grpc.StatusCode.INTERNAL)
        self.assertEqual(self.raised(errors.QamserveError, self.client.get_job, "jobs/1").reason, "INTERNAL")

    def test_details_that_are_not_ours_are_no_obstacle(self):
        def odd(request, context):
            context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff"),))
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")

        self.server.answers["GetJob"] = odd
        self.assertEqual(self.raised(errors.NotFoundError, self.client.get_job, "jobs/1").reason, "NOT_FOUND")

    def unavailable_then(self, answer, times):
        left = [True] * times

        def scripted(request, context):
            if left:
                left.pop()
                abort(context, grpc.StatusCode.UNAVAILABLE, "restarting")
            return answer

        return scripted

    def test_reads_are_tried_again(self):
        self.server.answers["GetJob"] = self.unavailable_then(job_pb2.Job(name="jobs/1"), 2)
        self.assertEqual(self.client.get_job("jobs/1").name, "jobs/1")
        self.server.answers["GetJob"] = self.unavailable_then(job_pb2.Job(), 3)
        self.raised(errors.UnavailableError, self.client.get_job, "jobs/1")

    def test_changes_are_tried_again_under_the_same_id(self):
        self.server.answers["CancelJob"] = self.unavailable_then(job_pb2.Job(name="jobs/1"), 2)
        self.client.cancel_job("jobs/1")
        self.assertEqual(len({r.request_id for r in self.server.calls["CancelJob"]}), 1)
        self.assertEqual(len(self.server.calls["CancelJob"]), 3)

    def test_scoring_is_not(self):
        self.server.answers["Score"] = self.unavailable_then(inference_pb2.ScoreResponse(), 1)
        self.raised(errors.UnavailableError, self.client.score, "m", "t")
        self.assertEqual(len(self.server.calls["Score"]), 1)

    def test_nobody_there(self):
        self.server.stop()
        error = self.raised(errors.UnavailableError, self.client.get_job, "jobs/1")
        self.assertEqual(error.reason, errors.SERVER_UNREACHABLE)

    def test_the_key_goes_along(self):
        self.server.answers["GetJob"] = lambda r, c: job_pb2.Job()
        client = self.new_client(api_key="qsk-1")
        self.addCleanup(lambda: client.close())
        client.get_job("jobs/1")
        self.assertEqual(self.server.metadata["authorization"], "Bearer qsk-1")
        self.client.get_job("jobs/1")
        self.assertNotIn("authorization", self.server.metadata)

    def test_a_timeout(self):
        self.server.answers["GetJob"] = lambda r, c: time.sleep(1) or job_pb2.Job()
        client = self.new_client(timeout=0.1)
        self.addCleanup(lambda: client.close())
        self.raised(errors.DeadlineExceededError, client.get_job, "jobs/1")


def _both(tests):
    """Makes of a class of tests a TestCase for each client."""
    for asynchronous in (False, True):
        name = f"{'Async' if asynchronous else 'Sync'}{tests.__name__}"
        globals()[name] = type(name, (tests, Both), {"asynchronous": asynchronous})


for _tests in (UploadTests, DownloadTests, JobTests, InferenceTests, AdminTests, ErrorTests):
    _both(_tests)


class PackageTest(unittest.TestCase):
    def test_both_clients_have_the_same_methods(self):
        def methods(cls):
            return {name: list(inspect.signature(member).parameters.values())
                    for name, member in vars(cls).items() if callable(member) and not name.startswith("_")}

        def described(cls):
            return {name: [(p.name, p.kind, p.default, str(p.annotation)) for p in parameters]
                    for name, parameters in methods(cls).items()}

        self.assertEqual(described(qamserve.Client), described(qamserve.AsyncClient))

    def test_everything_public_is_described(self):
        for cls in (qamserve.AsyncClient, qamserve.AsyncJobHandle):
            for name in ("upload", "quantize", "watch", "wait"):
                if hasattr(cls, name):
                    self.assertTrue(getattr(cls, name).__doc__, name)

    def test_it_is_typed_and_its_dependencies_are_those_that_it_was_built_for(self):
        folder = pathlib.Path(qamserve.__file__).parent
        self.assertTrue((folder / "py.typed").is_file())
        self.assertTrue((folder / "v1" / "job_pb2.pyi").is_file())
        from packaging.requirements import Requirement
        for text in metadata.requires("qamserve"):
            requirement = Requirement(text)
            if requirement.marker is None:
                self.assertIn(metadata.version(requirement.name), requirement.specifier)


if __name__ == "__main__":
    unittest.main()
