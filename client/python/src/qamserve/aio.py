"""The client with `await`: the same methods as Client, whose docstrings hold here, too."""
from __future__ import annotations

import asyncio
import pathlib
import time
from typing import (TYPE_CHECKING, Any, AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, List, Mapping,
                    Optional, Sequence, Union)

import grpc
import grpc.aio

from . import _flows, _requests
from ._backup import backup
from ._channel import (QUICK_SECONDS, SLOW_SECONDS, Stubs, TlsOption, call_metadata, is_repeatable, open_channel,
                       resolve_address)
from ._files import PathLike, find_model_files, find_text_file, text_in_memory
from ._flows import OnProgress
from ._results import Generation, Report, StudyTable, drop_seen_tensors, is_final
from ._retry import Backoff, RetryPolicy, passes_by_itself
from .client import Client
from .errors import SERVER_UNREACHABLE, QamserveError, from_grpc, local_error
from .handles import AsyncArtifactHandle, AsyncJobHandle, copy_docs
from .v1 import admin_pb2, artifact_pb2, checkpoint_pb2, inference_pb2, job_pb2, serving_pb2, system_pb2

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .types import Sampling

# What grpc.aio says in place of the server's status when a write finds the call ended before the status was read. Asking
# where the upload stands, and sending again, brings the status or success.
_LOST_STATUS = "Internal error from Core"


@copy_docs(Client)
class AsyncClient:
    """Calls a qamserve server from asyncio. Made and used within one event loop; arguments and errors are those of Client.

    Files are read and written in threads, where `on_progress` of a transfer is called, too; cancelling the task that awaits
    cancels the call.
    """

    def __init__(self, address: Optional[str] = None, *, api_key: Optional[str] = None, tls: TlsOption = None,
                 timeout: Optional[float] = None, retry: Optional[RetryPolicy] = None):
        self.address = resolve_address(address)
        self._metadata = call_metadata(api_key)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._channel = open_channel(grpc.aio, self.address, tls)
        self.stubs = Stubs(self._channel)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    # --- Checkpoints and texts ---

    async def upload(self, path: PathLike, *, display_name: str = "",
                     on_progress: Optional[OnProgress] = None) -> "checkpoint_pb2.Checkpoint":
        files = find_model_files(path)
        return (await self._upload(files, checkpoint_pb2.UPLOAD_KIND_CHECKPOINT, display_name or pathlib.Path(path).name,
                                   on_progress)).checkpoint

    async def upload_text(self, path: Optional[PathLike] = None, *, content: Union[None, str, bytes] = None,
                          display_name: str = "", on_progress: Optional[OnProgress] = None) -> "checkpoint_pb2.Text":
        if (path is None) == (content is None):
            raise TypeError("upload_text needs either a path or content")
        files = find_text_file(path) if path is not None else text_in_memory(content or "", "text.txt")
        return (await self._upload(files, checkpoint_pb2.UPLOAD_KIND_TEXT, display_name or files[0].name, on_progress)).text

    async def import_model(self, source: str, *, display_name: str = "") -> "checkpoint_pb2.Checkpoint":
        where = {"source": source} if "://" in source else {"path": source}
        request = checkpoint_pb2.ImportCheckpointRequest(
            kind=checkpoint_pb2.UPLOAD_KIND_CHECKPOINT, display_name=display_name, request_id=_requests.new_request_id(),
            **where)
        return (await self._call("checkpoints.ImportCheckpoint", request, slow=True)).checkpoint

    async def get_checkpoint(self, name: Any) -> "checkpoint_pb2.Checkpoint":
        return await self._call("checkpoints.GetCheckpoint",
                                checkpoint_pb2.GetCheckpointRequest(name=_requests.name_of(name)))

    async def list_checkpoints(self) -> List["checkpoint_pb2.Checkpoint"]:
        return await self._run(_flows.all_pages("checkpoints.ListCheckpoints", checkpoint_pb2.ListCheckpointsRequest(),
                                                "checkpoints"))

    async def delete_checkpoint(self, name: Any) -> None:
        await self._change("checkpoints.DeleteCheckpoint",
                           checkpoint_pb2.DeleteCheckpointRequest(name=_requests.name_of(name)))

    # --- Jobs ---

    async def quantize(self, checkpoint: Any, bpw: Optional[float] = None, codec: Union[str, int, None] = None, *,
                       display_name: str = "", priority: int = 0, load_as: str = "", pool: str = "",
                       project: str = "", **spec: Any) -> AsyncJobHandle:
        request = job_pb2.CreateQuantizeJobRequest(
            checkpoint=_requests.name_of(checkpoint), display_name=display_name, priority=priority, load_as=load_as,
            pool=pool, project=project, spec=_requests.quantize_spec({"bpw": bpw, "codec": codec, **spec}))
        return AsyncJobHandle(self, await self._change("jobs.CreateQuantizeJob", request))

    async def estimate(self, checkpoint: Any, bpw: Optional[float] = None, codec: Union[str, int, None] = None,
                       **spec: Any) -> "job_pb2.Estimate":
        request = job_pb2.CreateQuantizeJobRequest(
            checkpoint=_requests.name_of(checkpoint), validate_only=True,
            spec=_requests.quantize_spec({"bpw": bpw, "codec": codec, **spec}))
        return (await self._call("jobs.CreateQuantizeJob", request)).estimate

    async def evaluate(self, artifact: Any, evaluation: "_requests.TextSelection" = None, *, pool: str = "",
                       project: str = "") -> AsyncJobHandle:
        request = job_pb2.CreateEvaluateJobRequest(artifact=_requests.name_of(artifact),
                                                   evaluation=_requests.text_selection(evaluation), pool=pool,
                                                   project=project)
        return AsyncJobHandle(self, await self._change("jobs.CreateEvaluateJob", request))

    async def study(self, checkpoints: Union[str, Any, Sequence[Any]], methods: Sequence[Mapping[str, Any]], *,
                    calibration: "_requests.TextSelection" = None, evaluation: "_requests.TextSelection" = None,
                    display_name: str = "", priority: int = 0, without_probes: bool = False, pool: str = "",
                    project: str = "") -> AsyncJobHandle:
        names = list(checkpoints) if isinstance(checkpoints, (list, tuple)) else [checkpoints]
        request = job_pb2.CreateStudyJobRequest(
            checkpoints=[_requests.name_of(name) for name in names], methods=_requests.study_methods(methods),
            calibration=_requests.text_selection(calibration), evaluation=_requests.text_selection(evaluation),
            display_name=display_name, priority=priority, without_probes=without_probes, pool=pool, project=project)
        return AsyncJobHandle(self, await self._change("jobs.CreateStudyJob", request))

    async def job(self, name: Any) -> AsyncJobHandle:
        return AsyncJobHandle(self, await self.get_job(name))

    async def get_job(self, name: Any) -> "job_pb2.Job":
        return await self._call("jobs.GetJob", job_pb2.GetJobRequest(name=_requests.name_of(name)))

    async def list_jobs(self) -> List["job_pb2.Job"]:
        return await self._run(_flows.all_pages("jobs.ListJobs", job_pb2.ListJobsRequest(), "jobs"))

    async def watch_job(self, name: Any, *, timeout: Optional[float] = None) -> AsyncIterator["job_pb2.Job"]:
        request = job_pb2.WatchJobRequest(name=_requests.name_of(name))
        seen: set = set()
        backoff = Backoff(self._retry, self._retry.transfer_attempts)
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            call = self.stubs.jobs.WatchJob(request, timeout=left, metadata=self._metadata)
            try:
                async for job in call:
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
            await asyncio.sleep(pause)

    async def cancel_job(self, name: Any) -> "job_pb2.Job":
        return await self._change("jobs.CancelJob", job_pb2.CancelJobRequest(name=_requests.name_of(name)))

    async def retry_job(self, name: Any) -> "job_pb2.Job":
        return await self._change("jobs.RetryJob", job_pb2.RetryJobRequest(name=_requests.name_of(name)))

    async def delete_job(self, name: Any) -> None:
        await self._change("jobs.DeleteJob", job_pb2.DeleteJobRequest(name=_requests.name_of(name)))

    async def get_study(self, job: Any) -> StudyTable:
        answer = await self._call("jobs.GetStudy", job_pb2.GetStudyRequest(job=_requests.name_of(job)))
        return StudyTable.of(answer)

    # --- Artifacts ---

    def artifact(self, name: Any) -> AsyncArtifactHandle:
        return AsyncArtifactHandle(self, _requests.name_of(name))

    async def get_artifact(self, name: Any) -> "artifact_pb2.Artifact":
        return await self._call("artifacts.GetArtifact", artifact_pb2.GetArtifactRequest(name=_requests.name_of(name)))

    async def list_artifacts(self, checkpoint: Any = "") -> List["artifact_pb2.Artifact"]:
        request = artifact_pb2.ListArtifactsRequest(checkpoint=_requests.name_of(checkpoint))
        return await self._run(_flows.all_pages("artifacts.ListArtifacts", request, "artifacts"))

    async def download_artifact(self, name: Any, folder: PathLike, *,
                                on_progress: Optional[OnProgress] = None) -> "artifact_pb2.Artifact":
        return await self._run(_flows.download(_requests.name_of(name), pathlib.Path(folder), on_progress, self._retry))

    async def get_report(self, artifact: Any) -> Report:
        return Report.of(await self._call("artifacts.GetReport",
                                           artifact_pb2.GetReportRequest(artifact=_requests.name_of(artifact))))

    async def delete_artifact(self, name: Any) -> None:
        await self._change("artifacts.DeleteArtifact", artifact_pb2.DeleteArtifactRequest(name=_requests.name_of(name)))

    # --- Served models and aliases ---

    async def load(self, source: Any, name: str, *, context_tokens: int = 0,
                   replicas: int = 0) -> "serving_pb2.ServedModel":
        return await self._change("serving.LoadModel", serving_pb2.LoadModelRequest(
            name=name, source=_requests.name_of(source), context_tokens=context_tokens, replicas=replicas), slow=True)

    async def unload(self, name: Any, *, drain_seconds: float = 0.0) -> "serving_pb2.ServedModel":
        return await self._change("serving.UnloadModel", serving_pb2.UnloadModelRequest(
            name=_requests.served_model_name(name), drain_seconds=drain_seconds), slow=True)

    async def get_model(self, name: Any) -> "serving_pb2.ServedModel":
        return await self._call("serving.GetServedModel",
                                serving_pb2.GetServedModelRequest(name=_requests.served_model_name(name)))

    async def list_models(self) -> List["serving_pb2.ServedModel"]:
        return await self._run(_flows.all_pages("serving.ListServedModels", serving_pb2.ListServedModelsRequest(), "models"))

    async def alias(self, name: str, targets: Union[str, Mapping[str, int]], *, etag: str = "") -> "serving_pb2.Alias":
        return await self._change("serving.UpdateAlias", serving_pb2.UpdateAliasRequest(
            name=_requests.alias_name(name), targets=_requests.alias_targets(targets), etag=etag))

    async def get_alias(self, name: Any) -> "serving_pb2.Alias":
        return await self._call("serving.GetAlias", serving_pb2.GetAliasRequest(name=_requests.alias_name(name)))

    async def list_aliases(self) -> List["serving_pb2.Alias"]:
        return await self._run(_flows.all_pages("serving.ListAliases", serving_pb2.ListAliasesRequest(), "aliases"))

    async def delete_alias(self, name: Any, *, etag: str = "") -> None:
        await self._change("serving.DeleteAlias",
                           serving_pb2.DeleteAliasRequest(name=_requests.alias_name(name), etag=etag))

    # --- Inference ---

    async def generate(self, model: str, prompt: Union[str, Sequence[int]], *, priority: int = 0,
                       timeout_seconds: float = 0.0, **sampling: "Unpack[Sampling]") -> Generation:
        return await _whole(self.generate_stream(model, prompt, priority=priority,
                                                 timeout_seconds=timeout_seconds, **sampling))

    def generate_stream(self, model: str, prompt: Union[str, Sequence[int]], *, priority: int = 0,
                        timeout_seconds: float = 0.0,
                        **sampling: "Unpack[Sampling]") -> AsyncIterator["inference_pb2.GenerateResponse"]:
        return self._stream(self.stubs.inference.Generate,
                            _requests.generate_request(model, prompt, sampling, priority, timeout_seconds))

    async def chat(self, model: str, messages: Iterable["_requests.Message"], *, tools: Any = None, template_args: Any = None,
                   continue_last_message: bool = False, priority: int = 0, timeout_seconds: float = 0.0,
                   **sampling: "Unpack[Sampling]") -> Generation:
        return await _whole(self.chat_stream(model, messages, tools=tools, template_args=template_args,
                                             continue_last_message=continue_last_message, priority=priority,
                                             timeout_seconds=timeout_seconds, **sampling))

    def chat_stream(self, model: str, messages: Iterable["_requests.Message"], *, tools: Any = None,
                    template_args: Any = None, continue_last_message: bool = False, priority: int = 0,
                    timeout_seconds: float = 0.0,
                    **sampling: "Unpack[Sampling]") -> AsyncIterator["inference_pb2.GenerateResponse"]:
        return self._stream(self.stubs.inference.Chat, _requests.chat_request(
            model, messages, sampling, priority, timeout_seconds, tools, template_args, continue_last_message))

    async def score(self, model: str, text: Union[str, Sequence[int]], *, top: int = 0) -> "inference_pb2.ScoreResponse":
        request = inference_pb2.ScoreRequest(model=_requests.name_of(model), top=top)
        _requests.fill_tokens_or_text(request, text, "text", "tokens")
        return await self._call("inference.Score", request, slow=True)

    async def compare(self, base: str, other: str, text: str, *, prompt: str = "",
                      messages: Iterable["_requests.Message"] = ()) -> "inference_pb2.CompareResponse":
        return await self._call("inference.Compare", inference_pb2.CompareRequest(
            base=_requests.name_of(base), other=_requests.name_of(other), text=text, prompt=prompt,
            messages=_requests.chat_messages(messages)), slow=True)

    async def embed(self, model: str, inputs: Union[str, Sequence[Any]], *, normalize: bool = False) -> List[List[float]]:
        answer = await self._call("inference.Embed", _requests.embed_request(model, inputs, normalize), slow=True)
        return [list(embedding.values) for embedding in answer.embeddings]

    async def tokenize(self, model: str, text: str, *, add_special: bool = False, parse_special: bool = False) -> List[int]:
        return list((await self._call("inference.Tokenize", inference_pb2.TokenizeRequest(
            model=_requests.name_of(model), text=text, add_special=add_special, parse_special=parse_special))).tokens)

    async def detokenize(self, model: str, tokens: Sequence[int], *, skip_special: bool = False) -> str:
        return (await self._call("inference.Detokenize", inference_pb2.DetokenizeRequest(
            model=_requests.name_of(model), tokens=tokens, skip_special=skip_special))).text

    async def system(self) -> "system_pb2.System":
        return await self._call("system.GetSystem", system_pb2.GetSystemRequest())

    # --- Running the service; needs a key with scope admin ---

    async def list_instances(self) -> List["admin_pb2.Instance"]:
        return list((await self._call("admin.ListInstances", admin_pb2.ListInstancesRequest())).instances)

    async def drain_instance(self, name: Any, *, undo: bool = False) -> "admin_pb2.Instance":
        return await self._call("admin.DrainInstance",
                                admin_pb2.DrainInstanceRequest(name=_requests.name_of(name), undo=undo))

    async def get_queue(self) -> "admin_pb2.Queue":
        return await self._call("admin.GetQueue", admin_pb2.GetQueueRequest())

    async def list_leases(self) -> List["admin_pb2.Lease"]:
        return list((await self._call("admin.ListLeases", admin_pb2.ListLeasesRequest())).leases)

    async def release_lease(self, job: Any, task: int) -> None:
        await self._change("admin.ReleaseLease", admin_pb2.ReleaseLeaseRequest(job=_requests.name_of(job), task=task))

    async def collect_garbage(self, *, dry_run: bool = False) -> "admin_pb2.Garbage":
        return await self._call("admin.CollectGarbage", admin_pb2.CollectGarbageRequest(dry_run=dry_run), slow=True)

    async def get_schema(self) -> "admin_pb2.Schema":
        return await self._call("admin.GetSchema", admin_pb2.GetSchemaRequest())

    async def backup(self, path: PathLike) -> int:
        return await self._run(backup(pathlib.Path(path)))

    # --- How calls are made ---

    def _deadline(self, slow: bool) -> float:
        return self._timeout if self._timeout is not None else SLOW_SECONDS if slow else QUICK_SECONDS

    async def _call_once(self, method: str, request: Any, slow: bool = False) -> Any:
        try:
            return await self.stubs.find(method)(request, timeout=self._deadline(slow), metadata=self._metadata)
        except grpc.RpcError as error:
            raise from_grpc(error) from error

    async def _call(self, method: str, request: Any, slow: bool = False) -> Any:
        backoff = Backoff(self._retry, self._retry.call_attempts)
        while True:
            try:
                return await self._call_once(method, request, slow)
            except QamserveError as error:
                again = error.code is grpc.StatusCode.UNAVAILABLE and is_repeatable(method, request)
                pause = backoff.next_pause(error) if again else None
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _change(self, method: str, request: Any, slow: bool = False) -> Any:
        request.request_id = _requests.new_request_id()
        return await self._call(method, request, slow)

    async def _stream(self, stub: Callable[..., Any], request: Any) -> AsyncIterator[Any]:
        call = stub(request, timeout=self._timeout, metadata=self._metadata)
        try:
            async for message in call:
                yield message
        except grpc.RpcError as error:
            raise from_grpc(error) from error
        finally:
            call.cancel()

    async def _upload(self, files: Any, kind: int, display_name: str, on_progress: Optional[OnProgress]) -> Any:
        return await self._run(_flows.upload(files, kind, display_name, on_progress, self._retry))

    async def _run(self, flow: "_flows.Flow") -> Any:
        result: Any = None
        error: Optional[BaseException] = None
        while True:
            try:
                action = flow.send(result) if error is None else flow.throw(error)
            except StopIteration as done:
                return done.value
            result = error = None
            try:
                result = await self._do(action)
            except BaseException as raised:  # the flow closes its files, and lets it pass
                error = raised

    async def _do(self, action: "_flows.Action") -> Any:
        if isinstance(action, _flows.Call):
            call = self._call if action.repeat else self._call_once
            return await call(action.method, action.request, action.slow)
        if isinstance(action, _flows.Work):
            return await asyncio.to_thread(action.run)
        if isinstance(action, _flows.Sleep):
            return await asyncio.sleep(action.seconds)
        stub = self.stubs.find(action.method)
        if isinstance(action, _flows.Send):
            return await self._send(stub, action.requests)
        async for message in self._stream(stub, action.request):
            await asyncio.to_thread(action.take, message)
        return None

    async def _send(self, stub: Callable[..., Any], requests: Iterator[Any]) -> Any:
        """gRPC has no way to hand an exception of the iterator back: it is caught, ends the call, and is raised again."""
        failure: List[BaseException] = []

        async def guarded() -> AsyncIterator[Any]:
            try:
                while (message := await asyncio.to_thread(next, requests, None)) is not None:
                    yield message
            except Exception as error:
                failure.append(error)
                call.cancel()

        call = stub(guarded(), timeout=self._timeout, metadata=self._metadata)
        try:
            return await call
        except grpc.RpcError as error:
            if failure:
                raise failure[0] from None
            if error.code() is grpc.StatusCode.INTERNAL and error.details() == _LOST_STATUS:
                raise local_error(grpc.StatusCode.UNAVAILABLE, SERVER_UNREACHABLE,
                                  "the server ended the call while bytes were sent") from error
            raise from_grpc(error) from error
        except asyncio.CancelledError:
            if failure:
                raise failure[0] from None
            raise


async def _whole(parts: AsyncIterable[Any]) -> Generation:
    generation = Generation()
    async for part in parts:
        generation.add(part)
    return generation
