"""How long a call may take: its time limits, and the deadlines that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf
from time import monotonic
from typing import Any

from .errors import APITimeoutError, ConfigurationError

CONNECT_TIMEOUT = 5.0
DEFAULT_TIMEOUT = 600.0
"""Seconds; the first token of a long prompt on a busy server may take minutes, and so may a whole answer."""
MAX_TIMEOUT = 1_000_000  # seconds; the operating system's own limits are not far above
WHOLE_PATIENCE = 10
"""How many times `first_delta` a whole answer may take to come, if its bytes keep coming."""


@dataclass(frozen=True, slots=True)
class Timeout:
    """Time limits of a call, in seconds; None is no limit. What runs out ends in an `APITimeoutError`.

    ```python
    from tir_qwen import Client, Timeout

    client = Client(timeout=Timeout(first_delta=120, between_deltas=30, total=900))
    ```

    Attributes:
        connect: To be connected with the server, encryption included.
        first_delta: From the request to the first piece of the answer. A whole answer is one piece: this limits it,
            unless its bytes have begun to come and keep coming. Also to be given one of the client's connections.
        between_deltas: From one piece of a streamed answer to the next. Bytes that bring nothing, as the comments by
            which gateways keep a connection alive, do not count; neither does the time that the caller takes.
        total: From the call to its last piece; further requests, the waits before them, and the caller's time
            included.

    Raises:
        ConfigurationError: A limit is no number above 0 and up to 1,000,000.
    """

    connect: float | None = CONNECT_TIMEOUT
    first_delta: float | None = DEFAULT_TIMEOUT
    between_deltas: float | None = DEFAULT_TIMEOUT
    total: float | None = None

    def __post_init__(self) -> None:
        for name in _PARTS:
            seconds = getattr(self, name)
            if seconds is not None and not _is_limit(seconds):
                raise ConfigurationError(f"timeout: {name} must be {_NUMBER}, or None.")


_PARTS = tuple(part.name for part in fields(Timeout))
_NUMBER = f"a number of seconds, above 0 and up to {MAX_TIMEOUT}"


def timeout_from(value: Any) -> Timeout | None:
    """Read a `timeout` argument; None if it is unset.

    Args:
        value: Seconds without progress (connecting has 5 of them at most); a `Timeout`; a dict of its parts; or a
            timeout of httpx or httpx2, whose `read` limits both the first delta and the time between deltas.

    Raises:
        ConfigurationError: It is nothing of that.
    """
    if value is None or isinstance(value, Timeout):
        return value
    if _is_limit(value):
        return Timeout(min(value, CONNECT_TIMEOUT), value, value)
    if isinstance(value, Mapping):
        if unknown := sorted(str(name) for name in value.keys() - set(_PARTS)):
            raise ConfigurationError(f"timeout has no part {unknown[0]!r}: the parts are {', '.join(_PARTS)}.")
        return Timeout(**value)
    if hasattr(value, "connect") and hasattr(value, "read"):
        return Timeout(value.connect, value.read, value.read)
    raise ConfigurationError(f"timeout must be {_NUMBER}, or a tir_qwen.Timeout, or a dict of its parts.")


def _is_limit(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= MAX_TIMEOUT


class OverdueError(Exception):
    """Raised, through the HTTP engine, by a read that comes after the deadline."""


class Clock:
    """The deadlines of one call, by `time.monotonic`; `end` is that of a call of which this one is a part.

    Attributes:
        until: When the server has to have gone on.
        heard: Whether anything has come of it since the request was sent.
        end: When the call has to be over.
    """

    __slots__ = ("_part", "_whole", "end", "heard", "timeout", "until")

    def __init__(self, timeout: Timeout, end: float | None = None) -> None:
        self.timeout = timeout
        self.end = monotonic() + _seconds(timeout.total) if end is None else end
        self.until = self.end
        self.start()

    def start(self) -> None:
        """A request is about to be sent."""
        self.heard = False
        self._whole: float | None = None
        self._expect("first_delta")

    def go_on(self) -> None:
        """More of a streamed answer has come, and the caller has taken it."""
        self._expect("between_deltas")

    def go_on_whole(self) -> None:
        """More bytes of a whole answer have come."""
        if self._whole is None:
            self._whole = monotonic() + WHOLE_PATIENCE * _seconds(self.timeout.first_delta)
        self._expect("first_delta")
        self.until = min(self.until, self._whole)

    def left(self, seconds: float | None = None) -> float:
        """So many seconds, or those that are left of the call if they are fewer; not negative."""
        return max(min(_seconds(seconds), self.end - monotonic()), 0.0)

    def overdue(self, kind: str = "") -> APITimeoutError:
        """The error for a deadline that has passed: which, and what the limit was.

        Args:
            kind: The HTTP engine's name for the error, if it has raised one.
        """
        part, words = _KINDS.get(kind, (self._part, _WORDS[self._part]))
        if monotonic() >= self.end:
            part, words = "total", "the call was not over"
        seconds = getattr(self.timeout, part)
        limit = "the time limit" if seconds is None else f"{seconds:g} s"
        return APITimeoutError(f"{words} within {limit} (timeout: {part})")

    def _expect(self, part: str) -> None:
        self._part = part
        self.until = min(monotonic() + _seconds(getattr(self.timeout, part)), self.end)


_WORDS = {"first_delta": "the answer did not begin", "between_deltas": "the answer did not go on"}
_KINDS = {
    "ConnectTimeout": ("connect", "there was no connection to the server"),
    "PoolTimeout": ("first_delta", "no connection of the client's became free"),
    "WriteTimeout": ("first_delta", "the server did not take the request"),
}


def _seconds(limit: float | None) -> float:
    return inf if limit is None else limit
