"""How bytes are read off a connection: with the caller's deadline and, where a body is in chunks, past the HTTP engine.

Within a body the engine adds nothing but its time, which is most of what a short chunk costs: eight iterators within
each other, and h11. So a connection hands the engine a response's head alone; the body is read here, and then the
engine is told that it has ended, so that the connection can serve another call.
"""

from __future__ import annotations

import re
from contextvars import ContextVar
from inspect import iscoroutinefunction
from time import monotonic
from typing import Any

from .chunked import END, ChunkedDecoder
from .errors import StreamInterruptedError
from .inner import inner
from .timeouts import Clock, OverdueError

MAX_BYTES = 64 * 1024
"""Of one read, as the engines do."""
_BLANK_LINE = re.compile(rb"\n\r?\n")
_BROKEN = "the connection broke before the end of the answer (RemoteProtocolError)"


class Reading:
    """For whom the engine reads."""

    __slots__ = ("clock", "head", "unsent")

    def __init__(self, clock: Clock, *, head: bool = False) -> None:
        self.clock = clock
        self.head = head
        """Whether it is to get no more than a response's head."""
        self.unsent = b""
        """The head of the request, which waits for the content."""


reading: ContextVar[Reading | None] = ContextVar("reading", default=None)
"""Set while the engine reads for a call.

The engine has one time limit for each read of a head or a body, and any byte starts it anew. So the deadline has to be
kept where the bytes are read; and since a connection passes to another thread or task as soon as a body has ended, it
is the reader's and not the connection's.
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
        now = reading.get()
        data = self._held or _heard(now, self.direct(max_bytes, _left(now, timeout)))
        return self._give(data, now)

    def take(self) -> bytes:
        """What has come and the engine has not got."""
        held, self._held = self._held, b""
        return held

    def put(self, data: bytes) -> None:
        """Have the engine read this next."""
        self._held = data

    def _give(self, data: bytes, now: Reading | None) -> bytes:
        self._held, self.after_head = b"", False
        if now is None or not now.head:
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
        now = reading.get()
        data = self._held or _heard(now, await self.direct(max_bytes, _left(now, timeout)))
        return self._give(data, now)


class Write:
    """A connection's `write`, as the engine calls it; to be awaited if that is.

    The engine writes a request's head and its content one after the other. Together they are one packet, where that is
    enough, and one call of the system's instead of two, each of which takes as long as all else that writing takes.
    """

    def __init__(self, write: Any) -> None:
        self.direct = write

    def __call__(self, data: bytes, timeout: float | None = None) -> Any:
        """Write for the engine."""
        now = reading.get()
        if now is not None and now.head:
            if data.startswith(b"POST "):
                now.unsent, data = data, b""
            elif now.unsent:
                data, now.unsent = now.unsent + data, b""
        return self.direct(data, timeout)


def _left(now: Reading | None, timeout: float | None) -> float | None:
    return timeout if now is None else seconds_left(now.clock, timeout)


def _heard(now: Reading | None, data: bytes) -> bytes:
    if now is not None and data:
        now.clock.heard = True
    return data


def seconds_left(clock: Clock, timeout: float | None = None) -> float | None:
    """The seconds until the deadline, or `timeout` if they are fewer.

    Raises:
        OverdueError: There are none.
    """
    left = clock.until - monotonic()
    if left <= 0:
        raise OverdueError
    return left if timeout is None or left < timeout else timeout


def limit(stream: Any) -> bool:
    """Have the reads of a connection keep the caller's deadline; return whether they did so already."""
    read = getattr(stream, "read", None)
    if isinstance(read, Read):
        return True
    if read is not None:
        stream.read = (AsyncRead if iscoroutinefunction(read) else Read)(read)
        stream.write = Write(stream.write)
    return False


class Body:
    """A response's body, read through the engine: decompressed, and whatever the protocol."""

    def __init__(self, response: Any) -> None:
        self._pieces = response.iter_bytes()

    def read(self, clock: Clock) -> bytes:
        """What comes next of it; nothing once it has ended."""
        reading.set(Reading(clock))
        try:
            return next(self._pieces, b"")
        finally:
            reading.set(None)


class AsyncBody:
    """As `Body`."""

    def __init__(self, response: Any) -> None:
        own = type(response).__module__.startswith("httpx2")  # httpx leaves the generators within its own to the loop
        self._pieces = inner(response.aiter_bytes(), deep=own)
        self.aclose = self._pieces.aclose

    async def read(self, clock: Clock) -> bytes:
        """As `Body.read`."""
        reading.set(Reading(clock))
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            return b""
        finally:
            reading.set(None)


class ChunkedBody(Body):
    """A body in chunks, read off its connection."""

    def __init__(self, response: Any, chunks: Chunks) -> None:
        super().__init__(response)
        self._chunks = chunks

    def read(self, clock: Clock) -> bytes:
        """As `Body.read`."""
        chunks = self._chunks
        while not chunks.ended:
            if data := chunks.decode(chunks.take() or chunks.direct(MAX_BYTES, seconds_left(clock))):
                return data
        return super().read(clock) if chunks.end() else b""


class AsyncChunkedBody(AsyncBody):
    """As `ChunkedBody`."""

    def __init__(self, response: Any, chunks: Chunks) -> None:
        super().__init__(response)
        self._chunks = chunks

    async def read(self, clock: Clock) -> bytes:
        """As `Body.read`."""
        chunks = self._chunks
        while not chunks.ended:
            if data := chunks.decode(chunks.take() or await chunks.direct(MAX_BYTES, seconds_left(clock))):
                return data
        return await super().read(clock) if chunks.end() else b""


class Chunks:
    """The chunks of a body, between the connection and the engine."""

    def __init__(self, read: Read) -> None:
        self.direct = read.direct
        self._read = read
        self._decoder = ChunkedDecoder()

    @property
    def ended(self) -> bool:
        """Whether all has come."""
        return self._decoder.ended

    def take(self) -> bytes:
        """What has come already.

        Raises:
            StreamInterruptedError: It is no chunk.
        """
        if self._decoder.broken:
            raise StreamInterruptedError(_BROKEN)
        return self._read.take()

    def decode(self, data: bytes) -> bytes:
        """Return what `data` adds to the body.

        Raises:
            StreamInterruptedError: There is none: the connection has ended.
        """
        if not data:
            raise StreamInterruptedError(_BROKEN)
        return self._decoder.feed(data)

    def end(self) -> bool:
        """Have the engine find the end of the body; not if more than that has come: the connection is of no use."""
        self._read.put(END)
        return not self._decoder.rest


def chunks_of(response: Any) -> Chunks | None:
    """The chunks of a response's body, if it is in chunks and the engine has read nothing of it."""
    read = getattr(response.extensions.get("network_stream"), "read", None)
    if not isinstance(read, Read) or not read.after_head or response.status_code != 200:
        return None
    coding = response.headers.get("transfer-encoding", ""), response.headers.get("content-encoding", "identity")
    return Chunks(read) if [name.lower() for name in coding] == ["chunked", "identity"] else None
