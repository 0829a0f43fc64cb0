"""What the HTTP engine reads and writes of a connection, with the caller's deadline.

A response's head is handed to the engine alone, so that its body can be read without it: see `body`.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from inspect import iscoroutinefunction
from math import inf
from time import monotonic
from typing import Any

from .timeouts import Clock, OverdueError

_BLANK_LINE = re.compile(rb"\n\r?\n")


class Use:
    """A call's use of a connection, by way of the engine."""

    __slots__ = ("clock", "own", "sent", "unsent")

    def __init__(self, clock: Clock, *, own: bool = False) -> None:
        self.clock = clock
        self.own = own
        """Whether it is to send a request over a connection of ours, and to read no more than the response's head."""
        self.sent = False
        """Whether that request has been sent: what came before was a proxy's."""
        self.unsent = b""
        """The head of the request, which waits for the content."""


in_use: ContextVar[Use | None] = ContextVar("in_use", default=None)
"""Set while the engine works for a call.

The engine has one time limit for each read, and any byte starts it anew. So the deadline has to be kept where the bytes
are read; and since a connection passes to another thread or task as soon as a body has ended, it is the reader's, not
the connection's.
"""


class Read:
    """A connection's `read`, as the engine calls it."""

    def __init__(self, read: Any) -> None:
        self.direct = read
        """The connection's own."""
        self.after_head = False
        """Whether the engine has got all up to the end of a head, and nothing after it."""
        self._held = b""  # what came after the head
        self._end = b""  # the end of what came before it, in which its blank line may have begun

    def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:
        """Read for the engine, which has this limit for each read."""
        now = in_use.get()
        data = self._held or _heard(now, self.direct(max_bytes, _left(now, timeout)))
        return self._give(data, now)

    def take(self) -> bytes:
        """What has come and the engine has not got."""
        held, self._held = self._held, b""
        return held

    def put(self, data: bytes) -> None:
        """Have the engine read this next."""
        self._held = data

    def _give(self, data: bytes, now: Use | None) -> bytes:
        self._held, self.after_head = b"", False
        if now is None or not (now.own and now.sent):
            return data
        searched = self._end + data
        if found := _BLANK_LINE.search(searched):
            end = found.end() - len(self._end)
            self._held, self._end, self.after_head = data[end:], b"", True
            return data[:end]
        self._end = searched[-2:]
        return data


class AsyncRead(Read):
    """As `Read`; awaited."""

    async def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the engine's
        """As `Read.__call__`."""
        now = in_use.get()
        data = self._held or _heard(now, await self.direct(max_bytes, _left(now, timeout)))
        return self._give(data, now)


class Write:
    """A connection's `write`, as the engine calls it; to be awaited if that is.

    The engine writes a request's head and its content one after the other. Together they are one system call, and one
    packet where that is enough.
    """

    def __init__(self, write: Any) -> None:
        self.direct = write

    def __call__(self, data: bytes, timeout: float | None = None) -> Any:
        """Write for the engine."""
        now = in_use.get()
        if now is not None and now.own:
            if data.startswith(b"POST "):
                now.unsent, data = data, b""
            elif now.unsent:
                data, now.unsent, now.sent = now.unsent + data, b"", True
        try:
            return self.direct(data, timeout)
        finally:
            data = b""  # for reports with locals, should this be interrupted


def _left(now: Use | None, timeout: float | None) -> float | None:
    return timeout if now is None else seconds_left(now.clock, timeout)


def _heard(now: Use | None, data: bytes) -> bytes:
    if now is not None and data:
        now.clock.heard = True
    return data


def seconds_left(clock: Clock, timeout: float | None = None) -> float | None:
    """The seconds until the deadline, or `timeout` if they are fewer; None without either.

    Raises:
        OverdueError: There are none.
    """
    left = clock.until - monotonic()
    if left <= 0:
        raise OverdueError
    if timeout is not None and timeout <= left:
        return timeout
    return None if left == inf else left


def take_over(stream: Any) -> bool:
    """Have the engine use a connection by way of the above; return whether it did so already."""
    read = getattr(stream, "read", None)
    if isinstance(read, Read):
        return True
    if read is not None:
        stream.read = (AsyncRead if iscoroutinefunction(read) else Read)(read)
        stream.write = Write(stream.write)
    return False
