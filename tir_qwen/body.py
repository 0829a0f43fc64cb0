"""A response's body: read through the HTTP engine or, where it is in chunks, without it.

Within a body the engine adds nothing but its time, which is most of what a short chunk costs: h11, and eight iterators
within each other. So chunks are read off the connection here; at their end the engine is told that the body has ended,
so that the connection can serve another call.
"""

from __future__ import annotations

from typing import Any

from .chunked import END, ChunkedDecoder
from .connection import Read, Use, in_use, seconds_left
from .errors import StreamInterruptedError
from .inner import inner
from .timeouts import Clock

MAX_BYTES = 64 * 1024
"""Of one read, as the engines do."""
_BROKEN = "the connection broke before the end of the answer (RemoteProtocolError)"
"""As for any other body, where the engine has found it."""


class Body:
    """A response's body, read through the engine: decompressed, and whatever the protocol."""

    def __init__(self, response: Any) -> None:
        self._pieces = response.iter_bytes()

    def read(self, clock: Clock) -> bytes:
        """What comes next of it; nothing once it has ended."""
        in_use.set(Use(clock))
        try:
            return next(self._pieces, b"")
        finally:
            in_use.set(None)


class AsyncBody:
    """As `Body`."""

    def __init__(self, response: Any) -> None:
        own = type(response).__module__.startswith("httpx2")  # httpx leaves the generators within its own to the loop
        self._pieces = inner(response.aiter_bytes(), deep=own)
        self.aclose = self._pieces.aclose

    async def read(self, clock: Clock) -> bytes:
        """As `Body.read`."""
        in_use.set(Use(clock))
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            return b""
        finally:
            in_use.set(None)


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
        self._told = False

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
        """Have the engine find the end of the body, once; not if more has come: the connection is of no use then."""
        if self._told or self._decoder.rest:
            return False
        self._told = True
        self._read.put(END)
        return True


def chunks_of(response: Any) -> Chunks | None:
    """The chunks of a response's body, if it is in chunks and the engine has read nothing of it."""
    read = getattr(response.extensions.get("network_stream"), "read", None)
    if not isinstance(read, Read) or not read.after_head:
        return None
    if response.status_code != 200:  # some others have no body, whatever their head says
        return None
    coding = response.headers.get("transfer-encoding", ""), response.headers.get("content-encoding", "identity")
    return Chunks(read) if [name.lower() for name in coding] == ["chunked", "identity"] else None
