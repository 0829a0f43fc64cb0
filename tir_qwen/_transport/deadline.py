"""The deadlines of one call, computed from its `Timeout`."""

from __future__ import annotations

from math import inf
from time import monotonic

from ..errors import APITimeoutError
from ..timeouts import Timeout

WHOLE_ANSWER_FACTOR = 10
"""A non-streaming answer whose bytes keep arriving may take this many times `first_delta`."""

_STEPS = {"first_delta": "there was no answer", "between_deltas": "the answer did not go on"}
_TIMEOUTS = {
    "ConnectTimeout": ("connect", "there was no connection"),
    "PoolTimeout": ("first_delta", "none of the client's connections became free"),
    "LineTimeout": ("first_delta", "the endpoint accepted none of the client's calls"),
    "WriteTimeout": ("first_delta", "the server did not take the request"),
}


class DeadlineExceededError(Exception):
    """Raised through the HTTP engine by a read that starts after the deadline."""


class Deadline:
    """The deadlines of one call, as values of `time.monotonic`.

    Attributes:
        timeout: The limits, in seconds.
        expires_at: When the server must have made progress.
        total_expires_at: When the whole call must have finished.
        received_bytes: Whether any bytes have arrived since the request was sent.
    """

    __slots__ = ("_step", "_whole_answer_expires_at", "expires_at", "received_bytes", "timeout", "total_expires_at")

    def __init__(self, timeout: Timeout, total_expires_at: float | None = None) -> None:
        """Start the clock.

        Args:
            timeout: The limits, in seconds.
            total_expires_at: The deadline of the longer call that this one is part of, in place of `timeout.total`.
        """
        self.timeout = timeout
        if total_expires_at is None:
            total_expires_at = monotonic() + _seconds(timeout.total)
        self.total_expires_at = total_expires_at
        self.expires_at = total_expires_at
        self.start_request()

    def start_request(self) -> None:
        """Restart the limits of a request, which is about to be sent."""
        self.received_bytes = False
        self._whole_answer_expires_at: float | None = None
        self._start_step("first_delta")

    def extend(self) -> None:
        """Allow `between_deltas` from now: a part of a streamed answer has arrived and the caller is done with it."""
        self._start_step("between_deltas")

    def extend_whole_answer(self) -> None:
        """Allow `first_delta` from now: bytes of a non-streaming answer have arrived."""
        if self._whole_answer_expires_at is None:
            self._whole_answer_expires_at = monotonic() + WHOLE_ANSWER_FACTOR * _seconds(self.timeout.first_delta)
        self._start_step("first_delta")
        self.expires_at = min(self.expires_at, self._whole_answer_expires_at)

    def remaining(self, seconds: float | None = None) -> float:
        """Return `seconds`, or the time left for the whole call if that is less; never negative."""
        return max(min(_seconds(seconds), self.total_expires_at - monotonic()), 0.0)

    def timeout_error(self, engine_error: str = "", problem: str = "") -> APITimeoutError:
        """Return the error for a deadline that has passed, naming the limit.

        Args:
            engine_error: Class name of the HTTP engine's timeout error, if there was one, or `LineTimeout`.
            problem: What did not happen in time, if the caller knows more precisely.
        """
        part, usual_problem = _TIMEOUTS.get(engine_error, (self._step, _STEPS[self._step]))
        if monotonic() >= self.total_expires_at:
            part, usual_problem = "total", "the call was not over"
        problem = problem or usual_problem
        seconds = getattr(self.timeout, part)
        limit = "the time limit" if seconds is None else f"{seconds:g} s"
        return APITimeoutError(f"{problem} within {limit} (timeout: {part})")

    def _start_step(self, step: str) -> None:
        self._step = step
        self.expires_at = min(monotonic() + _seconds(getattr(self.timeout, step)), self.total_expires_at)


def _seconds(limit: float | None) -> float:
    return inf if limit is None else limit
