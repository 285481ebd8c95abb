"""The client with blocking calls. Start here; aio.py has the same methods with `await`."""
from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, List, Mapping, Optional, Sequence, Union

import grpc

from . import _flows, _requests
from ._backup import backup
from ._channel import (QUICK_SECONDS, SLOW_SECONDS, Stubs, TlsOption, call_metadata, is_repeatable, open_channel,
                       resolve_address)
from ._files import PathLike, find_model_files, find_text_file, text_in_memory
from ._flows import OnProgress
from ._results import Generation, Report, StudyTable, drop_seen_tensors, is_final
from ._retry import Backoff, RetryPolicy, passes_by_itself
from ._sending import SyncSender
from .errors import QamserveError, from_grpc, local_error
from .handles import ArtifactHandle, JobHandle
from .v1 import admin_pb2, artifact_pb2, checkpoint_pb2, inference_pb2, job_pb2, serving_pb2, system_pb2

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import Sampling


class Client:
    """Calls a qamserve server. Thread-safe.

    address: "host:port"; without one QAMSERVE_ADDRESS, else 127.0.0.1:50051.
    api_key: sent with each call; without one QAMSERVE_API_KEY, if that is set.
    tls: None for plain text, True for TLS with the system's authorities, or a `Tls`. A key that travels in plain text can be
        read by everyone on the way.
    timeout: seconds that one call may take; None: a minute, an hour for loads, imports and checks, no limit for streams.
    retry: see RetryPolicy.

    Failures are raised as QamserveError (qamserve.errors). Resources are the API's messages (qamserve.types); where a name is
    asked for, a message or a handle that has one will do. Use it in a with statement, or call close().
    """

    def __init__(self, address: Optional[str] = None, *, api_key: Optional[str] = None, tls: TlsOption = None,
                 timeout: Optional[float] = None, retry: Optional[RetryPolicy] = None):
        self.address = resolve_address(address)
        self._metadata = call_metadata(api_key)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._channel = open_channel(grpc, self.address, tls)
        self.stubs = Stubs(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every call that still runs."""
        self._channel.close()

    # --- Checkpoints and texts ---

    def upload(self, path: PathLike, *, display_name: str = "",
               on_progress: Optional[OnProgress] = None) -> "checkpoint_pb2.Checkpoint":
        """Sends a GGUF file or a Hugging Face folder and returns it as a checkpoint.

        Only bytes that the server lacks are sent; a transfer that is cut goes on where it stopped, and so does a later call
        after this one failed. `on_progress` may be called from another thread, one call at a time; to stop, raise from it.
        """
        files = find_model_files(path)
        return self._upload(files, checkpoint_pb2.UPLOAD_KIND_CHECKPOINT, display_name or pathlib.Path(path).name,
                            on_progress).checkpoint

    def upload_text(self, path: Optional[PathLike] = None, *, content: Union[None, str, bytes] = None,
                    display_name: str = "", on_progress: Optional[OnProgress] = None) -> "checkpoint_pb2.Text":
        """Sends a UTF-8 text to calibrate or evaluate on: a file, or `content`."""
        if (path is None) == (content is None):
            raise TypeError("upload_text needs either a path or content")
        files = find_text_file(path) if path is not None else text_in_memory(content or "", "text.txt")
        return self._upload(files, checkpoint_pb2.UPLOAD_KIND_TEXT, display_name or files[0].name, on_progress).text

    def import_model(self, source: str, *, display_name: str = "") -> "checkpoint_pb2.Checkpoint":
        """Lets the server fetch a model: "hf://organisation/model@revision", "s3://bucket/prefix", or a path below the
        server's --import-root."""
        where = {"source": source} if "://" in source else {"path": source}
        request = checkpoint_pb2.ImportCheckpointRequest(
            kind=checkpoint_pb2.UPLOAD_KIND_CHECKPOINT, display_name=display_name, request_id=_requests.new_request_id(),
            **where)
        return self._call("checkpoints.ImportCheckpoint", request, slow=True).checkpoint

    def get_checkpoint(self, name: Any) -> "checkpoint_pb2.Checkpoint":
        return self._call("checkpoints.GetCheckpoint",
                          checkpoint_pb2.GetCheckpointRequest(name=_requests.name_of(name)))

    def list_checkpoints(self) -> List["checkpoint_pb2.Checkpoint"]:
        return self._run(_flows.all_pages("checkpoints.ListCheckpoints", checkpoint_pb2.ListCheckpointsRequest(),
                                          "checkpoints"))

    def delete_checkpoint(self, name: Any) -> None:
        self._change("checkpoints.DeleteCheckpoint",
                     checkpoint_pb2.DeleteCheckpointRequest(name=_requests.name_of(name)))

    # --- Jobs ---

    def quantize(self, checkpoint: Any, bpw: Optional[float] = None, codec: Union[str, int, None] = None, *,
                 display_name: str = "", priority: int = 0, load_as: str = "", pool: str = "",
                 project: str = "", **spec: Any) -> JobHandle:
        """Starts a quantize job, or finds the one that does the same.

        bpw: bits a weight; None = 5.5 unless `target` or `ladder` takes its place. codec: "joint" (the default), "trellis",
        "polar", "scalar", "uniform", "int8" or "full". `spec`: the other fields of QuantizeSpec: calibration and evaluation
        (a text's name, a Text, "built-in", or a dict with windows), error_feedback, max_kl, rates={"*.down_proj": 6},
        target={"kl": 0.01}, ladder=[3, 4, 5], embedding_bits=8, ... pool: whose workers do it ("" = cpu). project: jobs of
        equal priority of several projects get workers in turn ("" = the key's).
        """
        request = job_pb2.CreateQuantizeJobRequest(
            checkpoint=_requests.name_of(checkpoint), display_name=display_name, priority=priority, load_as=load_as,
            pool=pool, project=project, spec=_requests.quantize_spec({"bpw": bpw, "codec": codec, **spec}))
        return JobHandle(self, self._change("jobs.CreateQuantizeJob", request))

    def estimate(self, checkpoint: Any, bpw: Optional[float] = None, codec: Union[str, int, None] = None,
                 **spec: Any) -> "job_pb2.Estimate":
        """What such a quantize job would take and make, without starting it."""
        request = job_pb2.CreateQuantizeJobRequest(
            checkpoint=_requests.name_of(checkpoint), validate_only=True,
            spec=_requests.quantize_spec({"bpw": bpw, "codec": codec, **spec}))
        return self._call("jobs.CreateQuantizeJob", request).estimate

    def evaluate(self, artifact: Any, evaluation: "_requests.TextSelection" = None, *, pool: str = "",
                 project: str = "") -> JobHandle:
        """Measures an artifact against its checkpoint again, on a text of your choice."""
        request = job_pb2.CreateEvaluateJobRequest(artifact=_requests.name_of(artifact),
                                                   evaluation=_requests.text_selection(evaluation), pool=pool,
                                                   project=project)
        return JobHandle(self, self._change("jobs.CreateEvaluateJob", request))

    def study(self, checkpoints: Union[str, Any, Sequence[Any]], methods: Sequence[Mapping[str, Any]], *,
              calibration: "_requests.TextSelection" = None, evaluation: "_requests.TextSelection" = None,
              display_name: str = "", priority: int = 0, without_probes: bool = False, pool: str = "",
              project: str = "") -> JobHandle:
        """Measures every method at every rate on every checkpoint: methods=[{"codec": "joint", "rates": [4, 5]}, ...]. The
        table is JobHandle.study()."""
        names = list(checkpoints) if isinstance(checkpoints, (list, tuple)) else [checkpoints]
        request = job_pb2.CreateStudyJobRequest(
            checkpoints=[_requests.name_of(name) for name in names], methods=_requests.study_methods(methods),
            calibration=_requests.text_selection(calibration), evaluation=_requests.text_selection(evaluation),
            display_name=display_name, priority=priority, without_probes=without_probes, pool=pool, project=project)
        return JobHandle(self, self._change("jobs.CreateStudyJob", request))

    def job(self, name: Any) -> JobHandle:
        """A handle on a job that is there already."""
        return JobHandle(self, self.get_job(name))

    def get_job(self, name: Any) -> "job_pb2.Job":
        return self._call("jobs.GetJob", job_pb2.GetJobRequest(name=_requests.name_of(name)))

    def list_jobs(self) -> List["job_pb2.Job"]:
        return self._run(_flows.all_pages("jobs.ListJobs", job_pb2.ListJobsRequest(), "jobs"))

    def watch_job(self, name: Any, *, timeout: Optional[float] = None) -> Iterator["job_pb2.Job"]:
        """The job now and on each change, each tensor once, to its final state. Goes on when the server restarts."""
        request = job_pb2.WatchJobRequest(name=_requests.name_of(name))
        seen: set = set()
        backoff = Backoff(self._retry, self._retry.transfer_attempts)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            call = self.stubs.jobs.WatchJob(request, timeout=left, metadata=self._metadata)
            try:
                for job in call:
                    backoff.reset()
                    drop_seen_tensors(job, seen)
                    yield job
                    if is_final(job.state):
                        return
                # A server that drains may end the stream politely; to a watcher that is the same as losing it.
                error = local_error(grpc.StatusCode.UNAVAILABLE, "WATCH_ENDED",
                                    f"the server ended the watch of {request.name}")
            except grpc.RpcError as broken:
                error = from_grpc(broken)
            finally:
                call.cancel()
            pause = backoff.next_pause(error) if passes_by_itself(error) else None
            if pause is None:
                raise error
            time.sleep(pause)

    def cancel_job(self, name: Any) -> "job_pb2.Job":
        return self._change("jobs.CancelJob", job_pb2.CancelJobRequest(name=_requests.name_of(name)))

    def retry_job(self, name: Any) -> "job_pb2.Job":
        """A FAILED or CANCELLED job goes on from the tasks that are done."""
        return self._change("jobs.RetryJob", job_pb2.RetryJobRequest(name=_requests.name_of(name)))

    def delete_job(self, name: Any) -> None:
        self._change("jobs.DeleteJob", job_pb2.DeleteJobRequest(name=_requests.name_of(name)))

    def get_study(self, job: Any) -> StudyTable:
        """What a job has measured so far, as a table."""
        answer = self._call("jobs.GetStudy", job_pb2.GetStudyRequest(job=_requests.name_of(job)))
        return StudyTable.of(answer)

    # --- Artifacts ---

    def artifact(self, name: Any) -> ArtifactHandle:
        """A handle on an artifact; asks the server nothing yet."""
        return ArtifactHandle(self, _requests.name_of(name))

    def get_artifact(self, name: Any) -> "artifact_pb2.Artifact":
        return self._call("artifacts.GetArtifact", artifact_pb2.GetArtifactRequest(name=_requests.name_of(name)))

    def list_artifacts(self, checkpoint: Any = "") -> List["artifact_pb2.Artifact"]:
        """All of them, or those made from a checkpoint."""
        request = artifact_pb2.ListArtifactsRequest(checkpoint=_requests.name_of(checkpoint))
        return self._run(_flows.all_pages("artifacts.ListArtifacts", request, "artifacts"))

    def download_artifact(self, name: Any, folder: PathLike, *,
                          on_progress: Optional[OnProgress] = None) -> "artifact_pb2.Artifact":
        """Fetches every file into `folder`, which is made. Goes on where an earlier attempt stopped; a file gets its name
        only once its digest is right."""
        return self._run(_flows.download(_requests.name_of(name), pathlib.Path(folder), on_progress, self._retry))

    def get_report(self, artifact: Any) -> Report:
        return Report.of(self._call("artifacts.GetReport",
                                    artifact_pb2.GetReportRequest(artifact=_requests.name_of(artifact))))

    def delete_artifact(self, name: Any) -> None:
        self._change("artifacts.DeleteArtifact", artifact_pb2.DeleteArtifactRequest(name=_requests.name_of(name)))

    # --- Served models and aliases ---

    def load(self, source: Any, name: str, *, context_tokens: int = 0,
             replicas: int = 0) -> "serving_pb2.ServedModel":
        """Serves an artifact or a checkpoint under a name. Returns when it is ready; of several replicas, when one is."""
        return self._change("serving.LoadModel", serving_pb2.LoadModelRequest(
            name=name, source=_requests.name_of(source), context_tokens=context_tokens, replicas=replicas), slow=True)

    def unload(self, name: Any, *, drain_seconds: float = 0.0) -> "serving_pb2.ServedModel":
        """Lets running requests finish for so long, then frees the model."""
        return self._change("serving.UnloadModel", serving_pb2.UnloadModelRequest(
            name=_requests.served_model_name(name), drain_seconds=drain_seconds), slow=True)

    def get_model(self, name: Any) -> "serving_pb2.ServedModel":
        return self._call("serving.GetServedModel",
                          serving_pb2.GetServedModelRequest(name=_requests.served_model_name(name)))

    def list_models(self) -> List["serving_pb2.ServedModel"]:
        return self._run(_flows.all_pages("serving.ListServedModels", serving_pb2.ListServedModelsRequest(), "models"))

    def alias(self, name: str, targets: Union[str, Mapping[str, int]], *, etag: str = "") -> "serving_pb2.Alias":
        """Points an alias at a model, or at several by weight: alias("prod", {"old": 95, "new": 5}). With an `etag` only if
        the alias is still what that was read from."""
        return self._change("serving.UpdateAlias", serving_pb2.UpdateAliasRequest(
            name=_requests.alias_name(name), targets=_requests.alias_targets(targets), etag=etag))

    def get_alias(self, name: Any) -> "serving_pb2.Alias":
        return self._call("serving.GetAlias", serving_pb2.GetAliasRequest(name=_requests.alias_name(name)))

    def list_aliases(self) -> List["serving_pb2.Alias"]:
        return self._run(_flows.all_pages("serving.ListAliases", serving_pb2.ListAliasesRequest(), "aliases"))

    def delete_alias(self, name: Any, *, etag: str = "") -> None:
        self._change("serving.DeleteAlias",
                     serving_pb2.DeleteAliasRequest(name=_requests.alias_name(name), etag=etag))

    # --- Inference ---

    def generate(self, model: str, prompt: Union[str, Sequence[int]], *, priority: int = 0,
                 timeout_seconds: float = 0.0, **sampling: "Unpack[Sampling]") -> Generation:
        """Continues a prompt (text or token ids). `sampling`: max_tokens, temperature, top_p, seed, stop, ... and, for what
        the answer must look like, one of json_schema, json_object, regex, grammar and choices (qamserve.types.Sampling)."""
        return _whole(self.generate_stream(model, prompt, priority=priority,
                                           timeout_seconds=timeout_seconds, **sampling))

    def generate_stream(self, model: str, prompt: Union[str, Sequence[int]], *, priority: int = 0,
                        timeout_seconds: float = 0.0,
                        **sampling: "Unpack[Sampling]") -> Iterator["inference_pb2.GenerateResponse"]:
        """The same as it comes. Leaving the loop early cancels the request."""
        return self._stream(self.stubs.inference.Generate,
                            _requests.generate_request(model, prompt, sampling, priority, timeout_seconds))

    def chat(self, model: str, messages: Iterable["_requests.Message"], *, tools: Any = None, template_args: Any = None,
             continue_last_message: bool = False, priority: int = 0, timeout_seconds: float = 0.0,
             **sampling: "Unpack[Sampling]") -> Generation:
        """Answers messages ({"role": "user", "content": "..."}) by the model's chat template. `tools` and `template_args` go
        to the template; the rest is as in generate()."""
        return _whole(self.chat_stream(model, messages, tools=tools, template_args=template_args,
                                       continue_last_message=continue_last_message, priority=priority,
                                       timeout_seconds=timeout_seconds, **sampling))

    def chat_stream(self, model: str, messages: Iterable["_requests.Message"], *, tools: Any = None,
                    template_args: Any = None, continue_last_message: bool = False, priority: int = 0,
                    timeout_seconds: float = 0.0,
                    **sampling: "Unpack[Sampling]") -> Iterator["inference_pb2.GenerateResponse"]:
        """The same as it comes. Leaving the loop early cancels the request."""
        return self._stream(self.stubs.inference.Chat, _requests.chat_request(
            model, messages, sampling, priority, timeout_seconds, tools, template_args, continue_last_message))

    def score(self, model: str, text: Union[str, Sequence[int]], *, top: int = 0) -> "inference_pb2.ScoreResponse":
        """Log-probability of each token of a text (or of token ids) given those before it; with the `top` best ones."""
        request = inference_pb2.ScoreRequest(model=_requests.name_of(model), top=top)
        _requests.fill_tokens_or_text(request, text, "text", "tokens")
        return self._call("inference.Score", request, slow=True)

    def compare(self, base: str, other: str, text: str, *, prompt: str = "",
                messages: Iterable["_requests.Message"] = ()) -> "inference_pb2.CompareResponse":
        """KL divergence of two served models at each token of a text, after a prompt or messages."""
        return self._call("inference.Compare", inference_pb2.CompareRequest(
            base=_requests.name_of(base), other=_requests.name_of(other), text=text, prompt=prompt,
            messages=_requests.chat_messages(messages)), slow=True)

    def embed(self, model: str, inputs: Union[str, Sequence[Any]], *, normalize: bool = False) -> List[List[float]]:
        """The mean of the last hidden states over each text's tokens."""
        answer = self._call("inference.Embed", _requests.embed_request(model, inputs, normalize), slow=True)
        return [list(embedding.values) for embedding in answer.embeddings]

    def tokenize(self, model: str, text: str, *, add_special: bool = False, parse_special: bool = False) -> List[int]:
        """`add_special`: with the tokens that begin a text; `parse_special`: "<|im_end|>" in the text is that token."""
        return list(self._call("inference.Tokenize", inference_pb2.TokenizeRequest(
            model=_requests.name_of(model), text=text, add_special=add_special, parse_special=parse_special)).tokens)

    def detokenize(self, model: str, tokens: Sequence[int], *, skip_special: bool = False) -> str:
        return self._call("inference.Detokenize", inference_pb2.DetokenizeRequest(
            model=_requests.name_of(model), tokens=tokens, skip_special=skip_special)).text

    def system(self) -> "system_pb2.System":
        """What the server is, what it runs on, how busy it is."""
        return self._call("system.GetSystem", system_pb2.GetSystemRequest())

    # --- Running the service; needs a key with scope admin ---

    def list_instances(self) -> List["admin_pb2.Instance"]:
        """The running processes of a fleet, oldest first, with their tasks and replicas; none of a server that is alone."""
        return list(self._call("admin.ListInstances", admin_pb2.ListInstancesRequest()).instances)

    def drain_instance(self, name: Any, *, undo: bool = False) -> "admin_pb2.Instance":
        """Lets an instance take nothing new, or with `undo` take up its work again. It is free of work when it has no tasks
        and no replicas. A process that is started again is not drained."""
        return self._call("admin.DrainInstance",
                          admin_pb2.DrainInstanceRequest(name=_requests.name_of(name), undo=undo))

    def get_queue(self) -> "admin_pb2.Queue":
        """What is unfinished, pool by pool, and the jobs in the order in which they get workers next."""
        return self._call("admin.GetQueue", admin_pb2.GetQueueRequest())

    def list_leases(self) -> List["admin_pb2.Lease"]:
        """Tasks under way, by whom, how far, until when."""
        return list(self._call("admin.ListLeases", admin_pb2.ListLeasesRequest()).leases)

    def release_lease(self, job: Any, task: int) -> None:
        """Takes a task, by its index, from its worker; another one gets it at once."""
        self._change("admin.ReleaseLease", admin_pb2.ReleaseLeaseRequest(job=_requests.name_of(job), task=task))

    def collect_garbage(self, *, dry_run: bool = False) -> "admin_pb2.Garbage":
        """Deletes what nothing needs any more, which the server also does every hour, or only tells what that would be."""
        return self._call("admin.CollectGarbage", admin_pb2.CollectGarbageRequest(dry_run=dry_run), slow=True)

    def get_schema(self) -> "admin_pb2.Schema":
        """The version of the metadata store's rows, and which programs can use them."""
        return self._call("admin.GetSchema", admin_pb2.GetSchemaRequest())

    def backup(self, path: PathLike) -> int:
        """Writes all rows of the metadata store to a file, which appears when it is whole and its digest is right, and
        returns how many there are. `qamserve restore` reads it. Blobs are not part of it."""
        return self._run(backup(pathlib.Path(path)))

    # --- How calls are made ---

    def _deadline(self, slow: bool) -> float:
        return self._timeout if self._timeout is not None else SLOW_SECONDS if slow else QUICK_SECONDS

    def _call_once(self, method: str, request: Any, slow: bool = False) -> Any:
        try:
            return self.stubs.find(method)(request, timeout=self._deadline(slow), metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_grpc(error) from error

    def _call(self, method: str, request: Any, slow: bool = False) -> Any:
        """As often as RetryPolicy says."""
        backoff = Backoff(self._retry, self._retry.call_attempts)
        while True:
            try:
                return self._call_once(method, request, slow)
            except QamserveError as error:
                again = error.code is grpc.StatusCode.UNAVAILABLE and is_repeatable(method, request)
                pause = backoff.next_pause(error) if again else None
                if pause is None:
                    raise
            time.sleep(pause)

    def _change(self, method: str, request: Any, slow: bool = False) -> Any:
        request.request_id = _requests.new_request_id()
        return self._call(method, request, slow)

    def _stream(self, stub: Callable[..., Any], request: Any) -> Iterator[Any]:
        return _Reading(stub(request, timeout=self._timeout, metadata=self._metadata))

    def _upload(self, files: Any, kind: int, display_name: str, on_progress: Optional[OnProgress]) -> Any:
        return self._run(_flows.upload(files, kind, display_name, on_progress, self._retry))

    def _run(self, flow: "_flows.Flow") -> Any:
        result: Any = None
        error: Optional[BaseException] = None
        while True:
            try:
                action = flow.send(result) if error is None else flow.throw(error)
            except StopIteration as done:
                return done.value
            result = error = None
            try:
                result = self._do(action)
            except BaseException as raised:  # the flow closes its files, and lets it pass
                error = raised

    def _do(self, action: "_flows.Action") -> Any:
        if isinstance(action, _flows.Call):
            return (self._call if action.repeat else self._call_once)(action.method, action.request, action.slow)
        if isinstance(action, _flows.Work):
            return action.run()
        if isinstance(action, _flows.Sleep):
            return time.sleep(action.seconds)
        stub = self.stubs.find(action.method)
        if isinstance(action, _flows.Send):
            return SyncSender(action.requests).send(stub, timeout=self._timeout, metadata=self._metadata)
        for message in self._stream(stub, action.request):
            action.take(message)
        return None


class _Reading(Iterator[Any]):
    """A stream of answers, whose errors are QamserveErrors; cancelled when it is dropped."""

    def __init__(self, call: Any):
        self._call = call

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise from_grpc(error) from error

    def close(self) -> None:
        self._call.cancel()

    def __del__(self) -> None:
        self._call.cancel()


def _whole(parts: Iterable[Any]) -> Generation:
    generation = Generation()
    for part in parts:
        generation.add(part)
    return generation


