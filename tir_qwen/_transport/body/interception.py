"""Hooks on a connection's reads and writes, which enforce the call's deadline and separate response head and body.

The engine has only a timeout per read, which any byte restarts, so a deadline can only be enforced where the bytes are
read. And as the engine is given the response's head without any of the body, the body can be read bypassing it: see
`body`.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from contextvars import ContextVar
from inspect import iscoroutinefunction
from math import inf
from time import monotonic
from typing import Any

from ..deadline import Deadline, DeadlineExceededError

_BLANK_LINE = re.compile(rb"\n\r?\n")
_END_OF_HEAD = b"\r\n\r\n"
_SWITCH = "TIR_QWEN_DIRECT_READS"


class ReadContext:
    """What the hooks need to know about the call for which the engine is reading or writing.

    Attributes:
        deadline: The deadline of the call.
        is_pooled: Whether the engine is sending a request over a connection of our pool, and must read no more than
            the head of the response.
        request_sent: Whether that request has been sent; anything sent earlier was for a proxy.
        pending_head: The head of the request, held back until its content can be sent with it.
        write: The connection's own `write`, while there is such a head.
    """

    __slots__ = ("_connect_expires_at", "deadline", "is_pooled", "pending_head", "request_sent", "write")

    def __init__(self, deadline: Deadline, *, is_pooled: bool = False) -> None:
        self.deadline = deadline
        self.is_pooled = is_pooled
        self.request_sent = False
        self.pending_head = b""
        self.write: Any = None
        self._connect_expires_at: float | None = None

    def flush(self, timeout: float | None) -> Any:
        """Send the head without any content, as for an engine that waits for an answer first; may be awaitable."""
        data, self.pending_head, self.request_sent = self.pending_head, b"", True
        try:
            return self.write(data, timeout)
        finally:
            data = b""

    @property
    def expires_at(self) -> float:
        """When the next bytes must have arrived: those of a proxy that is to connect have less time."""
        if self.request_sent or not self.is_pooled:
            return self.deadline.expires_at
        if self._connect_expires_at is None:
            self._connect_expires_at = monotonic() + self.deadline.remaining(self.deadline.timeout.connect)
        return min(self._connect_expires_at, self.deadline.expires_at)


current_read: ContextVar[ReadContext | None] = ContextVar("current_read", default=None)
"""The context of the call that the engine is working on in this thread or task.

It is not stored with the connection, which another thread or task may use as soon as a body has ended.
"""


class HookedRead:
    """A network stream's `read`, as the engine calls it.

    Attributes:
        direct: The stream's own `read`.
        after_head: Whether the engine has been given exactly a response's head, and nothing after it.
    """

    def __init__(self, read: Any) -> None:
        self.direct = read
        self.after_head = False
        self._held = b""  # what arrived after the head
        self._tail = b""  # the last bytes of an incomplete head, which may begin its blank line

    def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:
        """Read on behalf of the engine, whose own limit for this read is `timeout` seconds."""
        context = current_read.get()
        if context is not None and context.pending_head:
            context.flush(timeout)
        data = self._held or _note_bytes(context, self.direct(max_bytes, _read_timeout(context, timeout)))
        return self._up_to_head(data, context)

    def take(self) -> bytes:
        """Return bytes that have arrived but were not given to the engine."""
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
    """Like `HookedRead`, for an asynchronous stream."""

    async def __call__(self, max_bytes: int, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - the engine's
        """Read on behalf of the engine; see `HookedRead.__call__`."""
        context = current_read.get()
        if context is not None and context.pending_head:
            await context.flush(timeout)
        data = self._held or _note_bytes(context, await self.direct(max_bytes, _read_timeout(context, timeout)))
        return self._up_to_head(data, context)


class HookedWrite:
    """A network stream's `write`, as the engine calls it; returns what the stream's own does, perhaps an awaitable.

    The engines write a request's head and content separately. Joined, they take a single system call, and a single
    packet if they fit.
    """

    def __init__(self, write: Any) -> None:
        self.direct = write

    def __call__(self, data: bytes, timeout: float | None = None) -> Any:
        """Write on behalf of the engine."""
        context = current_read.get()
        if context is not None and context.is_pooled:
            if data.startswith(b"POST ") and data.endswith(_END_OF_HEAD):
                context.pending_head, context.write, data = data, self.direct, b""
            elif context.pending_head or data.startswith(b"POST "):
                data = context.pending_head + data
                context.pending_head, context.request_sent = b"", True
        try:
            return self.direct(data, timeout)
        finally:
            data = b""  # an interruption must not leave the request in its traceback's locals


def seconds_left(deadline: Deadline | ReadContext, timeout: float | None = None) -> float | None:
    """Return the seconds until the deadline, or `timeout` if that is less; None if there is no limit.

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
    """Install the hooks on a network stream; return whether they were already installed."""
    read = getattr(stream, "read", None)
    if isinstance(read, HookedRead):
        return True
    if read is not None and os.environ.get(_SWITCH) != "0":
        try:
            stream.read = (AsyncHookedRead if iscoroutinefunction(read) else HookedRead)(read)
            stream.write = HookedWrite(stream.write)
        except AttributeError:  # the stream has fixed attributes: the engine does without us
            with suppress(AttributeError):
                stream.read = read
    return False


def remove_hooks(stream: Any) -> None:
    """Restore the stream's own methods, if it has the hooks."""
    if isinstance(getattr(stream, "read", None), HookedRead):
        stream.read, stream.write = stream.read.direct, stream.write.direct


def ensure_hooked(response: Any) -> bool:
    """Install the hooks on a response's connection for later responses; return whether they were already there.

    Always False with HTTP/2, where one call's reads also serve other calls.
    """
    return response.http_version == "HTTP/1.1" and install_hooks(response.extensions.get("network_stream"))


def _read_timeout(context: ReadContext | None, timeout: float | None) -> float | None:
    return timeout if context is None else seconds_left(context, timeout)


def _note_bytes(context: ReadContext | None, data: bytes) -> bytes:
    if context is not None and data:
        context.deadline.received_bytes = True
    return data
