"""Uploads and downloads, written once for both clients: generators that yield what is to be done (an Action) and get its
result, or its error, back. client.py runs them with blocking calls, aio.py with awaited ones."""
from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
from typing import Any, Callable, Generator, Iterator, List, Optional, Union

import grpc

from ._files import LocalFile
from ._retry import Backoff, RetryPolicy, passes_by_itself
from .errors import QamserveError, local_error
from .v1 import artifact_pb2, checkpoint_pb2, common_pb2

# Half of what one message may carry: a dropped stream loses little, and a message's overhead is lost in the noise.
CHUNK_BYTES = 512 << 10
_HASH_BYTES = 1 << 20
_PARTIAL = ".partial"
_PAGE_SIZE = 1000
_MAX_PAGES = 1000  # a server whose pages never end must not fill our memory


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a transfer stands. phase: "hash", "transfer", "check" or "retry"."""
    phase: str
    file: str
    done_bytes: int  # of total_bytes, skipped_bytes included
    total_bytes: int
    skipped_bytes: int  # were there already: not sent
    error: Optional[QamserveError] = None  # of "retry": what broke
    retry_in: float = 0.0  # of "retry": seconds


OnProgress = Callable[[Progress], None]


@dataclasses.dataclass
class Call:
    """One unary call."""
    method: str
    request: Any
    slow: bool = False
    repeat: bool = False  # as RetryPolicy says, where the flow has no plan of its own


@dataclasses.dataclass
class Send:
    """A call whose requests are a stream; the iterator blocks while it reads."""
    method: str
    requests: Iterator[Any]


@dataclasses.dataclass
class Receive:
    """A call whose answer is a stream; `take` blocks while it writes, and ends the call by raising."""
    method: str
    request: Any
    take: Callable[[Any], None]


@dataclasses.dataclass
class Work:
    """Something that blocks."""
    run: Callable[[], Any]


@dataclasses.dataclass
class Sleep:
    seconds: float


Action = Union[Call, Send, Receive, Work, Sleep]
Flow = Generator[Action, Any, Any]


class _Transfer:
    """Counts bytes and tells of them."""

    def __init__(self, on_progress: Optional[OnProgress], policy: RetryPolicy):
        self._on_progress = on_progress
        self.backoff = Backoff(policy, policy.transfer_attempts)
        self.done = self.total = self.skipped = 0
        self.file = ""

    def tell(self, phase: str, **more: Any) -> None:
        if self._on_progress is not None:
            self._on_progress(Progress(phase, self.file, self.done, self.total, self.skipped, **more))

    def pause(self, error: QamserveError) -> Flow:
        """Waits before the next attempt, or raises `error` if there is to be none."""
        seconds = self.backoff.next_pause(error) if passes_by_itself(error) else None
        if seconds is None:
            raise error
        self.tell("retry", error=error, retry_in=seconds)
        yield Sleep(seconds)


class _Upload(_Transfer):
    def __init__(self, files: List[LocalFile], kind: int, display_name: str, on_progress: Optional[OnProgress],
                 policy: RetryPolicy):
        super().__init__(on_progress, policy)
        self.files, self.kind, self.display_name = files, kind, display_name
        self.total = sum(file.size for file in files)

    def run(self) -> Flow:
        for file in self.files:
            self.file = file.name
            yield Work(lambda file=file: file.hash(self._hashed))
        self.done = 0
        state = yield from self._create()
        self.skipped = min(self._committed(state), self.total)
        yield from self._send_all(state)
        self.tell("check")
        # Checking is idempotent; a server that restarts meanwhile is worth waiting for.
        return (yield from self._until_answered(Call("checkpoints.CompleteUpload",
                                                     checkpoint_pb2.CompleteUploadRequest(name=state.name), slow=True)))

    def _hashed(self, size: int) -> None:
        self.done += size
        self.tell("hash")

    def _create(self) -> Flow:
        # No request_id: the content names the upload, and a repeated call must tell how much has arrived since. Tried
        # once: before the first answer nothing is worth waiting for, the server is not there.
        infos = [common_pb2.FileInfo(name=f.name, sha256=f.sha256, size_bytes=f.size) for f in self.files]
        request = checkpoint_pb2.CreateUploadRequest(kind=self.kind, files=infos, display_name=self.display_name)
        return (yield Call("checkpoints.CreateUpload", request, slow=True))

    def _until_answered(self, call: Call) -> Flow:
        while True:
            try:
                return (yield call)
            except QamserveError as error:
                yield from self.pause(error)

    def _committed(self, state: Any) -> int:
        by_digest = {f.file.sha256: f.file.size_bytes if f.complete else f.committed_bytes for f in state.files}
        return sum(by_digest[file.sha256] for file in self.files)

    def _send_all(self, state: Any) -> Flow:
        """Sends until the server has every byte; after a break asks again where each file stands."""
        while True:
            try:
                yield from self._send_missing(state)
                return
            except QamserveError as error:
                if error.reason == "UPLOAD_DIGEST":
                    raise self._explained(error) from error
                yield from self.pause(error)
            before = self._committed(state)
            state = yield from self._until_answered(
                Call("checkpoints.QueryUpload", checkpoint_pb2.QueryUploadRequest(name=state.name)))
            if self._committed(state) > before:
                self.backoff.reset()

    def _send_missing(self, state: Any) -> Flow:
        self.done = self._committed(state)
        local = {file.sha256: file for file in self.files}
        sent = set()
        for remote in state.files:
            digest = remote.file.sha256
            # The same content under two names is sent once. A file whose bytes are all there but which nobody checked
            # gets an empty message, which makes the server do so.
            if remote.complete or digest in sent:
                continue
            sent.add(digest)
            yield from self._send_file(state.name, local[digest], remote.committed_bytes)

    def _send_file(self, upload: str, file: LocalFile, offset: int) -> Flow:
        self.file = file.name

        def messages() -> Iterator[Any]:
            at, first = offset, True
            while first or at < file.size:
                data = file.read(at, min(CHUNK_BYTES, file.size - at))
                yield (checkpoint_pb2.UploadFileRequest(upload=upload, sha256=file.sha256, offset=at, data=data) if first
                       else checkpoint_pb2.UploadFileRequest(data=data))
                first = False
                at += len(data)
                self.done += len(data)
                self.tell("transfer")

        answer = yield Send("checkpoints.UploadFile", messages())
        if not answer.complete:
            raise local_error(grpc.StatusCode.UNAVAILABLE, "UPLOAD_SHORT",
                              f"{file.name}: the server has {answer.committed_bytes} of {file.size} bytes")
        self.backoff.reset()

    def _explained(self, error: QamserveError) -> QamserveError:
        changed = any(file.name == self.file and file.changed() for file in self.files)
        why = ("was changed while it was sent; upload it again when it is still" if changed else
               "arrived damaged although it is unchanged here; upload it again")
        return local_error(error.code, error.reason, f"{error.message}; {self.file} {why}")


def upload(files: List[LocalFile], kind: int, display_name: str, on_progress: Optional[OnProgress],
           policy: RetryPolicy) -> Flow:
    """Digests, asks what is missing, sends it, has the whole checked. Returns the CompleteUploadResponse."""
    return _Upload(files, kind, display_name, on_progress, policy).run()


def _is_plain_name(name: str) -> bool:
    """A server must not choose a path outside the folder."""
    return name not in ("", ".", "..") and not any(c in name for c in "/\\\0")


class _Download(_Transfer):
    def __init__(self, artifact: str, folder: pathlib.Path, on_progress: Optional[OnProgress], policy: RetryPolicy):
        super().__init__(on_progress, policy)
        self.artifact, self.folder = artifact, folder

    def run(self) -> Flow:
        info = yield Call("artifacts.GetArtifact", artifact_pb2.GetArtifactRequest(name=self.artifact), repeat=True)
        for file in info.files:
            if not _is_plain_name(file.name) or file.size_bytes < 0:
                raise local_error(grpc.StatusCode.DATA_LOSS, "DOWNLOAD_NAME", f"{self.artifact} lists a file {file.name!r} "
                                  f"of {file.size_bytes} bytes, which cannot be a file of an artifact")
            self.total += file.size_bytes
        yield Work(lambda: self._prepare(info))
        for file in info.files:
            yield from self._fetch(file)
        for file in info.files:
            if self._partial(file).exists():
                os.replace(self._partial(file), self._final(file))
        return info

    def _final(self, file: Any) -> pathlib.Path:
        return self.folder / file.name

    def _partial(self, file: Any) -> pathlib.Path:
        return self.folder / (file.name + _PARTIAL)

    @staticmethod
    def _size(path: pathlib.Path) -> int:
        return path.stat().st_size if path.is_file() else 0

    def _prepare(self, info: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = sum(max(0, f.size_bytes - max(self._size(self._final(f)), self._size(self._partial(f))))
                     for f in info.files)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise local_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_FULL",
                              f"{self.artifact} needs {needed} more bytes in {self.folder}, where {free} are free")

    def _digest(self, path: pathlib.Path, phase: str) -> str:
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(_HASH_BYTES):
                digest.update(block)
                self.tell(phase)
        return digest.hexdigest()

    def _fetch(self, file: Any) -> Flow:
        """Leaves the file checked under its partial name, unless a checked one has its final name already."""
        self.file = file.name
        final, partial = self._final(file), self._partial(file)
        if final.is_file() and self._size(final) == file.size_bytes:
            if (yield Work(lambda: self._digest(final, "hash"))) == file.sha256:
                self.done += file.size_bytes
                self.skipped += file.size_bytes
                return
        if self._size(partial) > file.size_bytes:
            partial.unlink()
        yield from self._receive(file, partial)
        if (yield Work(lambda: self._digest(partial, "check"))) != file.sha256:
            partial.unlink()
            raise local_error(grpc.StatusCode.DATA_LOSS, "DOWNLOAD_DIGEST", f"{file.name} is not what the artifact lists "
                              f"(SHA-256 {file.sha256}); the damaged copy was removed, download again")

    def _receive(self, file: Any, partial: pathlib.Path) -> Flow:
        with open(partial, "ab") as out:
            start = out.tell()
            self.done += start
            self.skipped += start

            def take(message: Any) -> None:
                if len(message.data) > file.size_bytes - out.tell():
                    raise local_error(grpc.StatusCode.DATA_LOSS, "DOWNLOAD_SIZE", f"{file.name}: the server sent more than "
                                      f"the {file.size_bytes} bytes that {self.artifact} lists")
                out.write(message.data)
                self.done += len(message.data)
                if message.data:
                    self.backoff.reset()
                self.tell("transfer")

            while out.tell() < file.size_bytes:
                request = artifact_pb2.DownloadFileRequest(artifact=self.artifact, file=file.name, offset=out.tell())
                try:
                    yield Receive("artifacts.DownloadFile", request, take)
                    if out.tell() < file.size_bytes:
                        raise local_error(grpc.StatusCode.UNAVAILABLE, "DOWNLOAD_SHORT", f"{file.name}: the server ended "
                                          f"the stream at byte {out.tell()} of {file.size_bytes}")
                except QamserveError as error:
                    yield from self.pause(error)
            out.flush()
            yield Work(lambda: os.fsync(out.fileno()))


def download(artifact: str, folder: pathlib.Path, on_progress: Optional[OnProgress], policy: RetryPolicy) -> Flow:
    """Fetches every file as NAME.partial, goes on where an earlier attempt stopped, checks each digest and only then gives
    the files their names. Returns the Artifact."""
    return _Download(artifact, folder, on_progress, policy).run()


def all_pages(method: str, request: Any, field: str) -> Flow:
    """Follows next_page_token; returns the items of all pages."""
    items: List[Any] = []
    request.page_size = _PAGE_SIZE
    for _ in range(_MAX_PAGES):
        answer = yield Call(method, request, repeat=True)
        items.extend(getattr(answer, field))
        if not answer.next_page_token:
            return items
        request.page_token = answer.next_page_token
    raise local_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_PAGES",
                      f"the list has more than {_MAX_PAGES} pages of {_PAGE_SIZE}")
