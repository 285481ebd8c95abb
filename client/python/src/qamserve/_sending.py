"""A stream of requests made by an iterator that blocks, sent by a blocking call."""
from __future__ import annotations

import threading
from typing import Any, Iterator, List, Optional

import grpc

from .errors import from_grpc, local_error


class SyncSender:
    """Sends once. gRPC reads the iterator in a thread of its own and has no way to hand an exception of it back: it is
    caught there, ends the call, and is raised again in the caller."""

    def __init__(self, requests: Iterator[Any]):
        self._requests = requests
        self._started = threading.Event()
        self._call: Any = None
        self._failure: List[BaseException] = []

    def _guarded(self) -> Iterator[Any]:
        try:
            yield from self._requests
        except GeneratorExit:
            raise  # the call has ended before the requests did
        except BaseException as error:
            self._failure.append(error)
            self._started.wait()
            self._call.cancel()

    def send(self, stub: Any, timeout: Optional[float], metadata: Any) -> Any:
        self._call = stub.future(self._guarded(), timeout=timeout, metadata=metadata)
        self._started.set()
        try:
            return self._call.result()
        except grpc.FutureCancelledError:
            if self._failure:
                raise self._failure[0] from None
            raise local_error(grpc.StatusCode.CANCELLED, "CANCELLED", "the call was cancelled") from None
        except grpc.RpcError as error:
            if self._failure:
                raise self._failure[0] from None
            raise from_grpc(error) from error
        except BaseException:
            self._call.cancel()
            raise
