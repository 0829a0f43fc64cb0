"""Hooks around a connection's reads and writes: they keep the call's deadline, and stop after a response's head.

The engine has one timeout for each read, and any byte starts it anew, so a deadline can only be kept where the bytes
are read. And since the head of a response is handed to the engine alone, its body can be read past the engine: see
`body`.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from inspect import iscoroutinefunction
from math import inf
from time import monotonic
from typing import Any

from ..deadline import Deadline, DeadlineExceededError

_BLANK_LINE = re.compile(rb"\n\r?\n")


class ReadContext:
    """What the hooks need to know of the call for which the engine reads or writes.

    Attributes:
        deadline: Of the call.
        is_pooled: Whether the engine is to send a request over a connection of our pool, and to read no more than the
            head of its response.
        request_sent: Whether that request has been sent; what was sent before it was for a proxy.
        pending_head: The head of the request, which waits for its content.
    """

    __slots__ = ("deadline", "is_pooled", "pending_head", "request_sent")

    def __init__(self, deadline: Deadline, *, is_pooled: bool = False) -> None:
        self.deadline = deadline
        self.is_pooled = is_pooled
        self.request_sent = False
        self.pending_head = b""


current_read: ContextVar[ReadContext | None] = ContextVar("current_read", default=None)
"""Set while the engine works for a call.

It belongs to the reader and not to the connection, which is passed to another thread or task as soon as a body has
ended.
"""


class HookedRead:
    """A network stream's `read`, as the engine calls it.

    Attributes:
        direct: The stream's own `read`.
        after_head: Whether the engine has been given a response's head to its end, and nothing after it.
    """

    def __init__(self, read: Any) -> None:
        self.direct = read
        self.after_head = False
        self._held = b""  # what arrived after the head
        self._tail = b""  # the last bytes of an incomplete head: its blank line may have begun

    def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:
        """Read for the engine, whose own limit for this read is `timeout` seconds."""
        context = current_read.get()
        data = self._held or _note_bytes(context, self.direct(max_bytes, _read_timeout(context, timeout)))
        return self._up_to_head(data, context)

    def take(self) -> bytes:
        """Return what has arrived and was not given to the engine."""
        held, self._held = self._held, b""
        return held

    def put(self, data: bytes) -> None:
        """Let the engine read `data` next."""
        self._held = data

    def _up_to_head(self, data: bytes, context: ReadContext | None) -> bytes:
        self._held, self.after_head = b"", False
        if context is None or not (context.is_pooled and context.request_sent):
            return data
        searched = self._tail + data
        if blank_line := _BLANK_LINE.search(searched):
            end = blank_line.end() - len(self._tail)
            self._held, self._tail, self.after_head = data[end:], b"", True
            return data[:end]
        self._tail = searched[-2:]
        return data


class AsyncHookedRead(HookedRead):
    """As `HookedRead`, for an asynchronous stream."""

    async def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the engine's
        """Read for the engine; see `HookedRead.__call__`."""
        context = current_read.get()
        data = self._held or _note_bytes(context, await self.direct(max_bytes, _read_timeout(context, timeout)))
        return self._up_to_head(data, context)


class HookedWrite:
    """A network stream's `write`, as the engine calls it; awaited if the stream's is.

    The engine writes a request's head and its content separately. Joined, they are one system call, and a single packet
    where that is enough.
    """

    def __init__(self, write: Any) -> None:
        self.direct = write

    def __call__(self, data: bytes, timeout: float | None = None) -> Any:
        """Write for the engine."""
        context = current_read.get()
        if context is not None and context.is_pooled:
            if data.startswith(b"POST "):
                context.pending_head, data = data, b""
            elif context.pending_head:
                data = context.pending_head + data
                context.pending_head, context.request_sent = b"", True
        try:
            return self.direct(data, timeout)
        finally:
            data = b""  # an interruption here must not leave the request in the locals of its traceback


def seconds_left(deadline: Deadline, timeout: float | None = None) -> float | None:
    """Return the seconds until the deadline, or `timeout` if that is less; None without either.

    Raises:
        DeadlineExceededError: The deadline has passed.
    """
    left = deadline.expires_at - monotonic()
    if left <= 0:
        raise DeadlineExceededError
    if timeout is not None and timeout <= left:
        return timeout
    return None if left == inf else left


def install_hooks(stream: Any) -> bool:
    """Install the hooks on a network stream; return whether they were there already."""
    read = getattr(stream, "read", None)
    if isinstance(read, HookedRead):
        return True
    if read is not None:
        stream.read = (AsyncHookedRead if iscoroutinefunction(read) else HookedRead)(read)
        stream.write = HookedWrite(stream.write)
    return False


def remove_hooks(stream: Any) -> None:
    """Put the stream's own methods back."""
    stream.read, stream.write = stream.read.direct, stream.write.direct


def is_hooked(response: Any) -> bool:
    """Whether the response's connection had the hooks from its first byte on; if not, it has them from now on.

    Never with HTTP/2, where one call's reads serve other calls too.
    """
    return response.http_version == "HTTP/1.1" and install_hooks(response.extensions.get("network_stream"))


def _read_timeout(context: ReadContext | None, timeout: float | None) -> float | None:
    return timeout if context is None else seconds_left(context.deadline, timeout)


def _note_bytes(context: ReadContext | None, data: bytes) -> bytes:
    if context is not None and data:
        context.deadline.received_bytes = True
    return data
