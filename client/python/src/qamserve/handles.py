"""Jobs and artifacts that know their client. Not made by hand: Client and AsyncClient give them."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, AsyncIterator, Callable, Iterator, Optional, TypeVar

from ._files import PathLike
from ._flows import OnProgress
from ._results import Report, StudyTable, is_final
from .errors import JobCancelledError, JobFailedError, JobRejectedError
from .v1 import artifact_pb2, job_pb2

if TYPE_CHECKING:
    from .aio import AsyncClient
    from .client import Client

_T = TypeVar("_T", bound=type)
OnJob = Callable[["job_pb2.Job"], Any]
_ERRORS = {job_pb2.JOB_STATE_REJECTED: JobRejectedError, job_pb2.JOB_STATE_FAILED: JobFailedError,
           job_pb2.JOB_STATE_CANCELLED: JobCancelledError}


def copy_docs(source: type) -> Callable[[_T], _T]:
    """Gives methods without a docstring that of the same method of `source`."""

    def decorate(target: _T) -> _T:
        for name, member in vars(target).items():
            original = getattr(source, name, None)
            if callable(member) and not member.__doc__ and original is not None:
                member.__doc__ = original.__doc__
        return target

    return decorate


class _Job:
    """What both handles have: the job as it was last seen."""

    def __init__(self, job: "job_pb2.Job"):
        self.job = job

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def state(self) -> str:
        """ "queued", "running", "gating", "succeeded", "rejected", "failed" or "cancelled", as last seen."""
        return job_pb2.JobState.Name(self.job.state)[len("JOB_STATE_"):].lower()

    @property
    def done(self) -> bool:
        return is_final(self.job.state)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.state}>"

    def _artifact_name(self) -> str:
        if not self.job.artifact:
            raise ValueError(f"{self.name} has no artifact ({self.state}); wait() for it first")
        return self.job.artifact

    def _result(self, check: bool) -> "job_pb2.Job":
        if check and self.job.state in _ERRORS:
            raise _ERRORS[self.job.state](self.job)
        return self.job


class JobHandle(_Job):
    """A job on the server."""

    def __init__(self, client: "Client", job: "job_pb2.Job"):
        super().__init__(job)
        self._client = client

    def refresh(self) -> "job_pb2.Job":
        """Asks the server how it stands."""
        self.job = self._client.get_job(self.name)
        return self.job

    def watch(self, *, timeout: Optional[float] = None) -> Iterator["job_pb2.Job"]:
        """The job now and on each change, each tensor once, to its final state."""
        for job in self._client.watch_job(self.name, timeout=timeout):
            self.job = job
            yield job

    def wait(self, on_progress: Optional[OnJob] = None, *, timeout: Optional[float] = None,
             check: bool = True) -> "job_pb2.Job":
        """Waits for the end; `on_progress` gets each change. Raises JobRejectedError, JobFailedError or JobCancelledError if
        the job did not succeed (not with check=False), DeadlineExceededError after `timeout` seconds; the job goes on."""
        for job in self.watch(timeout=timeout):
            if on_progress is not None:
                on_progress(job)
        return self._result(check)

    def cancel(self) -> "job_pb2.Job":
        self.job = self._client.cancel_job(self.name)
        return self.job

    def retry(self) -> "job_pb2.Job":
        """A failed or cancelled job goes on from the tasks that are done."""
        self.job = self._client.retry_job(self.name)
        return self.job

    def delete(self) -> None:
        self._client.delete_job(self.name)

    @property
    def artifact(self) -> "ArtifactHandle":
        """What the job made. ValueError before it has, and of jobs that make none."""
        return ArtifactHandle(self._client, self._artifact_name())

    def report(self) -> Report:
        """The report of what the job made."""
        return self.artifact.report()

    def study(self) -> StudyTable:
        """What the job has measured so far, as a table."""
        return self._client.get_study(self.name)


class ArtifactHandle:
    """An artifact on the server."""

    def __init__(self, client: "Client", name: str):
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<ArtifactHandle {self.name}>"

    def get(self) -> "artifact_pb2.Artifact":
        return self._client.get_artifact(self.name)

    def download(self, folder: PathLike, *, on_progress: Optional[OnProgress] = None) -> "artifact_pb2.Artifact":
        """See Client.download_artifact."""
        return self._client.download_artifact(self.name, folder, on_progress=on_progress)

    def report(self) -> Report:
        return self._client.get_report(self.name)

    def delete(self) -> None:
        self._client.delete_artifact(self.name)


@copy_docs(JobHandle)
class AsyncJobHandle(_Job):
    """A job on the server, with `await`."""

    def __init__(self, client: "AsyncClient", job: "job_pb2.Job"):
        super().__init__(job)
        self._client = client

    async def refresh(self) -> "job_pb2.Job":
        self.job = await self._client.get_job(self.name)
        return self.job

    async def watch(self, *, timeout: Optional[float] = None) -> AsyncIterator["job_pb2.Job"]:
        async for job in self._client.watch_job(self.name, timeout=timeout):
            self.job = job
            yield job

    async def wait(self, on_progress: Optional[OnJob] = None, *, timeout: Optional[float] = None,
                   check: bool = True) -> "job_pb2.Job":
        async for job in self.watch(timeout=timeout):
            if on_progress is not None:
                on_progress(job)
        return self._result(check)

    async def cancel(self) -> "job_pb2.Job":
        self.job = await self._client.cancel_job(self.name)
        return self.job

    async def retry(self) -> "job_pb2.Job":
        self.job = await self._client.retry_job(self.name)
        return self.job

    async def delete(self) -> None:
        await self._client.delete_job(self.name)

    @property
    def artifact(self) -> "AsyncArtifactHandle":
        return AsyncArtifactHandle(self._client, self._artifact_name())

    async def report(self) -> Report:
        return await self.artifact.report()

    async def study(self) -> StudyTable:
        return await self._client.get_study(self.name)


@copy_docs(ArtifactHandle)
class AsyncArtifactHandle:
    """An artifact on the server, with `await`."""

    def __init__(self, client: "AsyncClient", name: str):
        self._client = client
        self.name = name

    def __repr__(self) -> str:
        return f"<AsyncArtifactHandle {self.name}>"

    async def get(self) -> "artifact_pb2.Artifact":
        return await self._client.get_artifact(self.name)

    async def download(self, folder: PathLike, *, on_progress: Optional[OnProgress] = None) -> "artifact_pb2.Artifact":
        return await self._client.download_artifact(self.name, folder, on_progress=on_progress)

    async def report(self) -> Report:
        return await self._client.get_report(self.name)

    async def delete(self) -> None:
        await self._client.delete_artifact(self.name)
