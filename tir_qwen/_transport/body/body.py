"""Reading of response bodies: chunked ones directly from the connection, all others through the HTTP engine.

Most of the cost of a short chunk is the time spent in the engine (h11 and eight nested iterators), which contributes
nothing within a body. So chunks are read directly from the connection. At the end of the body, the engine is told so,
which makes the connection reusable.
"""

from __future__ import annotations

from typing import Any

from ..._asyncgen import aclosing_unhooked
from ...errors import StreamInterruptedError
from ..deadline import Deadline
from .chunked import END, ChunkedDecoder
from .interception import HookedRead, ReadContext, current_read, seconds_left

MAX_READ_BYTES = 64 * 1024
"""Maximum size of a read, as in the engines."""
_BROKEN = "the connection broke before the end of the answer (RemoteProtocolError)"
"""The same text as for the engine's error when a body that it reads breaks."""


class Body:
    """A body that is read through the engine, with any protocol and compression."""

    def __init__(self, response: Any) -> None:
        self._pieces = response.iter_bytes()

    def read(self, deadline: Deadline) -> bytes:
        """Return the next bytes, or none once the body has ended."""
        current_read.set(ReadContext(deadline))
        try:
            return next(self._pieces, b"")
        finally:
            current_read.set(None)


class AsyncBody:
    """Like `Body`, for an asynchronous response."""

    def __init__(self, response: Any) -> None:
        # httpx leaves it to the event loop to close its nested generators.
        closes_nested = type(response).__module__.startswith("httpx2")
        self._pieces = aclosing_unhooked(response.aiter_bytes(), deep=closes_nested)

    async def aclose(self) -> None:
        """Close the engine's generators, if they have started."""
        await self._pieces.aclose()

    async def read(self, deadline: Deadline) -> bytes:
        """Return the next bytes, or none once the body has ended."""
        current_read.set(ReadContext(deadline))
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            return b""
        finally:
            current_read.set(None)


class ChunkedBody(Body):
    """A chunked body that is read directly from its connection."""

    def __init__(self, response: Any, chunks: ConnectionChunks) -> None:
        super().__init__(response)
        self._chunks = chunks

    def read(self, deadline: Deadline) -> bytes:
        """Return the next bytes, or none once the body has ended."""
        chunks = self._chunks
        while not chunks.ended:
            if data := chunks.decode(chunks.take_received() or chunks.receive(MAX_READ_BYTES, seconds_left(deadline))):
                return data
        return super().read(deadline) if chunks.hand_back() else b""


class AsyncChunkedBody(AsyncBody):
    """Like `ChunkedBody`, for an asynchronous response."""

    def __init__(self, response: Any, chunks: ConnectionChunks) -> None:
        super().__init__(response)
        self._chunks = chunks

    async def read(self, deadline: Deadline) -> bytes:
        """Return the next bytes, or none once the body has ended."""
        chunks = self._chunks
        while not chunks.ended:
            if data := chunks.decode(
                chunks.take_received() or await chunks.receive(MAX_READ_BYTES, seconds_left(deadline))
            ):
                return data
        return await super().read(deadline) if chunks.hand_back() else b""


class ConnectionChunks:
    """Decodes the chunks of a body, bypassing the engine, and hands its end back to the engine.

    Attributes:
        receive: The connection's own `read`, which takes a number of bytes and a timeout in seconds.
    """

    def __init__(self, read: HookedRead) -> None:
        self.receive = read.direct
        self._read = read
        self._decoder = ChunkedDecoder()
        self._handed_back = False

    @property
    def ended(self) -> bool:
        """Whether the whole body has arrived."""
        return self._decoder.ended

    def take_received(self) -> bytes:
        """Return bytes that arrived together with the response's headers.

        Raises:
            StreamInterruptedError: The last bytes to arrive were not a valid chunk.
        """
        if self._decoder.broken:
            raise StreamInterruptedError(_BROKEN)
        return self._read.take()

    def decode(self, data: bytes) -> bytes:
        """Return what `data` adds to the body.

        Raises:
            StreamInterruptedError: `data` is empty: the connection has been closed.
        """
        if not data:
            raise StreamInterruptedError(_BROKEN)
        return self._decoder.feed(data)

    def hand_back(self) -> bool:
        """Let the engine read the end of the body; return False if it already has, or if the connection is unusable."""
        if self._handed_back or self._decoder.rest:
            return False
        self._handed_back = True
        self._read.put(END)
        return True


def open_body(response: Any, *, engine_reads_body: bool) -> Body:
    """Return the body of a response, which bypasses the engine where possible."""
    chunks = None if engine_reads_body else _connection_chunks(response)
    return ChunkedBody(response, chunks) if chunks else Body(response)


def open_async_body(response: Any, *, engine_reads_body: bool) -> AsyncBody:
    """Return the body of an asynchronous response, which bypasses the engine where possible."""
    chunks = None if engine_reads_body else _connection_chunks(response)
    return AsyncChunkedBody(response, chunks) if chunks else AsyncBody(response)


def _connection_chunks(response: Any) -> ConnectionChunks | None:
    """Return the chunks of a body; None if it is encoded otherwise, or if the engine has read some of it."""
    read = getattr(response.extensions.get("network_stream"), "read", None)
    if not isinstance(read, HookedRead) or not read.after_head:
        return None
    if response.status_code != 200:  # some other statuses have no body, whatever their headers say
        return None
    transfer_encoding = response.headers.get("transfer-encoding", "").lower()
    content_encoding = response.headers.get("content-encoding", "identity").lower()
    is_plain = transfer_encoding == "chunked" and content_encoding == "identity"
    return ConnectionChunks(read) if is_plain else None
