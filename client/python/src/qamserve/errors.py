"""What goes wrong, as exceptions: one class for each status code, with the server's reason."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple, Type

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

# Given to an UNAVAILABLE that no server explained: nothing listens there, or the connection broke.
SERVER_UNREACHABLE = "SERVER_UNREACHABLE"
_DETAILS_KEY = "grpc-status-details-bin"


class QamserveError(Exception):
    """A call that failed.

    code: the gRPC status code.
    reason: stable, UPPER_SNAKE: "ARTIFACT_IN_USE". The name of the code where the server gave none.
    message: for people; names the field and the limit where there are any.
    retry_after: seconds after which the server thinks that trying again makes sense, or None.
    metadata: of the google.rpc.ErrorInfo.
    field_violations: (field, description) of each field that was refused.
    """

    def __init__(self, code: grpc.StatusCode, reason: str, message: str, *, retry_after: Optional[float] = None,
                 metadata: Optional[Dict[str, str]] = None, field_violations: Optional[List[Tuple[str, str]]] = None):
        super().__init__(f"{message} ({code.name}, {reason})")
        self.code = code
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        self.metadata = metadata or {}
        self.field_violations = field_violations or []


class InvalidArgumentError(QamserveError):
    """A field is wrong; trying the same again gives the same answer."""


class NotFoundError(QamserveError):
    """There is nothing of this name."""


class AlreadyExistsError(QamserveError):
    """The name is taken."""


class PermissionDeniedError(QamserveError):
    """The API key has not the scope for this."""


class UnauthenticatedError(QamserveError):
    """No API key, or one that the server does not accept."""


class FailedPreconditionError(QamserveError):
    """Not in this state of things: an artifact that is served cannot be deleted."""


class ResourceExhaustedError(QamserveError):
    """Above a limit: memory, disk, a queue, what an API key may do. See retry_after."""


class UnavailableError(QamserveError):
    """The server cannot be reached, is stopping, or has the model not ready."""


class DeadlineExceededError(QamserveError):
    """It took longer than the caller allowed."""


class CancelledError(QamserveError):
    """Somebody cancelled the call."""


class DataLossError(QamserveError):
    """Bytes arrived that are not those that were promised."""


class AbortedError(QamserveError):
    """Somebody else was faster: the etag is no longer that of the resource."""


class JobError(QamserveError):
    """A job that was waited for did not succeed; `job` is its last state."""

    def __init__(self, job: Any):
        error = job.error
        code = next((c for c in grpc.StatusCode if c.value[0] == error.code), grpc.StatusCode.UNKNOWN)
        super().__init__(code, error.reason or self.default_reason, f"{job.name}: {error.message or self.default_reason}")
        self.job = job

    default_reason = "JOB_FAILED"


class JobRejectedError(JobError):
    """A gate refused the artifact; the message says which and why."""
    default_reason = "JOB_REJECTED"


class JobFailedError(JobError):
    """A task of the job failed for good. `JobHandle.retry` goes on from the tasks that are done."""


class JobCancelledError(JobError):
    """Somebody cancelled the job."""
    default_reason = "JOB_CANCELLED"


_CLASSES: Dict[grpc.StatusCode, Type[QamserveError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.DATA_LOSS: DataLossError,
    grpc.StatusCode.ABORTED: AbortedError,
}


def make_error(code: grpc.StatusCode, reason: str, message: str, **more: Any) -> QamserveError:
    return _CLASSES.get(code, QamserveError)(code, reason, message, **more)


def _details_of(error: grpc.RpcError) -> List[Any]:
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == _DETAILS_KEY:
            try:
                return list(status_pb2.Status.FromString(value).details)
            except DecodeError:
                return []  # of a proxy between us and the server, perhaps; code and message still stand
    return []


def from_grpc(error: grpc.RpcError) -> QamserveError:
    """The exception for what grpc raised."""
    code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
    message: str = error.details() or ""  # type: ignore[attr-defined]
    reason = SERVER_UNREACHABLE if code is grpc.StatusCode.UNAVAILABLE else code.name
    more: Dict[str, Any] = {}
    info, retry, bad = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo(), error_details_pb2.BadRequest()
    for detail in _details_of(error):
        try:
            if detail.Unpack(info) and info.reason:
                reason, more["metadata"] = info.reason, dict(info.metadata)
            elif detail.Unpack(retry):
                more["retry_after"] = retry.retry_delay.ToTimedelta().total_seconds()
            elif detail.Unpack(bad):
                more["field_violations"] = [(v.field, v.description) for v in bad.field_violations]
        except DecodeError:
            continue
    return make_error(code, reason, message, **more)


def local_error(code: grpc.StatusCode, reason: str, message: str) -> QamserveError:
    """One that no server sent: about files on this machine, or about what a server sent."""
    return make_error(code, reason, message)
