"""When and how often to try again."""
from __future__ import annotations

import dataclasses
import random
from typing import Optional

import grpc

from .errors import QamserveError

# The server still holds what a broken stream left, or has too much to do; or another client with the same content is
# ahead, and asking again tells how far.
_PASSING_REASONS = frozenset({"UPLOAD_BUSY", "UPLOAD_OFFSET", "SERVER_BUSY", "QUEUE_FULL"})


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """What is tried again, and how patiently.

    Only what cannot do harm: reads, and changes that carry a request_id, by which the server knows a repetition. These
    are tried again after UNAVAILABLE, `call_attempts` times in all. Uploads, downloads and watches go on where they were
    cut off, after UNAVAILABLE or a busy server, until `transfer_attempts` in a row brought nothing. Generating, chatting
    and scoring are never repeated: they cost the server much, and half of an answer may have been seen.
    """
    call_attempts: int = 3
    transfer_attempts: int = 10
    initial_backoff: float = 0.25  # seconds; doubles with each attempt
    max_backoff: float = 10.0


def passes_by_itself(error: QamserveError) -> bool:
    """Whether a transfer or a watch has a reason to go on after this."""
    return error.code is grpc.StatusCode.UNAVAILABLE or error.reason in _PASSING_REASONS


class Backoff:
    """Counts attempts in a row without progress. Not thread-safe."""

    def __init__(self, policy: RetryPolicy, attempts: int):
        self._policy = policy
        self._limit = attempts
        self._made = 0

    def reset(self) -> None:
        self._made = 0

    def next_pause(self, error: QamserveError) -> Optional[float]:
        """Seconds to wait before the next attempt, or None: give up."""
        self._made += 1
        if self._made >= self._limit:
            return None
        pause = min(self._policy.max_backoff, self._policy.initial_backoff * 2.0 ** min(self._made - 1, 20))
        # Clients that a restart cut off together should not come back together.
        pause *= random.uniform(0.8, 1.2)
        return max(pause, error.retry_after or 0.0)
