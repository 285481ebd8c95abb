"""A backup of the metadata as a file, written once for both clients (see _flows.py)."""
from __future__ import annotations

import hashlib
import json
import os
import pathlib
from typing import Any

import grpc

from ._flows import Flow, Receive, Work
from .errors import QamserveError, local_error
from .v1 import admin_pb2

_PARTIAL = ".partial"


def _corrupt(message: str) -> QamserveError:
    return local_error(grpc.StatusCode.DATA_LOSS, "BACKUP_CORRUPT", message)


class _Check:
    """Of lines that come in pieces: all but the last are summed up, and the last one tells how many rows there are and what
    the sum is. The header is no row."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._lines = 0
        self._rest = b""  # of a line that has not ended yet
        self._last = b""  # line, which may be the closing one

    def add(self, piece: bytes) -> None:
        *whole, self._rest = (self._rest + piece).split(b"\n")
        for line in whole:
            if self._last:
                self._digest.update(self._last + b"\n")
                self._lines += 1
            self._last = line

    def finish(self) -> int:
        try:
            told = json.loads(self._last)
            rows, digest = int(told["rows"]), told["sha256"]
        except (ValueError, KeyError, TypeError):
            rows, digest = -1, ""
        if self._rest or rows < 0:
            raise _corrupt(f"the backup ends after {self._lines} lines without its last one; try again")
        if digest != self._digest.hexdigest() or rows != self._lines - 1:
            raise _corrupt(f"the backup has {self._lines - 1} rows with SHA-256 {self._digest.hexdigest()}; its last line "
                           "tells other ones")
        return rows


def backup(path: pathlib.Path) -> Flow:
    """Writes PATH.partial, checks it and only then gives it its name. Returns the number of rows."""
    partial = path.with_name(path.name + _PARTIAL)
    check = _Check()
    try:
        with open(partial, "wb") as out:
            def take(message: Any) -> None:
                check.add(message.data)
                out.write(message.data)

            yield Receive("admin.BackupMetadata", admin_pb2.BackupMetadataRequest(), take)
            rows = check.finish()
            out.flush()
            yield Work(lambda: os.fsync(out.fileno()))
        os.replace(partial, path)
        return rows
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
