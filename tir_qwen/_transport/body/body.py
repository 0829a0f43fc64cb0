"""The body of a response: chunked bodies are read off the connection, all others through the HTTP engine.

Within a body the engine adds nothing but its own time, which is most of the cost of a short chunk: h11, and eight
nested iterators. So chunks are read off the connection here. At their end the engine is told that the body has ended,
so that the connection can serve another call.
"""

from __future__ import annotations

from typing import Any

from ..._asyncgen import aclosing_unhooked
from ...errors import StreamInterruptedError
from ..deadline import Deadline
from .chunked import END, ChunkedDecoder
from .interception import HookedRead, ReadContext, current_read, seconds_left

MAX_READ_BYTES = 64 * 1024
"""Size of one read; the engines use the same."""
_BROKEN = "the connection broke before the end of the answer (RemoteProtocolError)"
"""What the engine's own error becomes when another body breaks."""


class Body:
    """A body that is read through the engine, whatever its protocol and its compression."""

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
    """As `Body`, for an asynchronous response."""

    def __init__(self, response: Any) -> None:
        # httpx leaves it to the event loop to close the generators within its own.
        closes_nested = type(response).__module__.startswith("httpx2")
        self._pieces = aclosing_unhooked(response.aiter_bytes(), deep=closes_nested)
        self.aclose = self._pieces.aclose

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
    """A chunked body that is read off its connection."""

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
    """As `ChunkedBody`, for an asynchronous response."""

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
    """The chunks of a body, between the connection and the engine.

    Attributes:
        receive: The connection's own `read`: takes a number of bytes and a timeout in seconds.
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
        """Return what has arrived together with the head.

        Raises:
            StreamInterruptedError: What arrived last is not a chunk.
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
        """Let the engine read the end of the body; False if it has done so, or if the connection is of no more use."""
        if self._handed_back or self._decoder.rest:
            return False
        self._handed_back = True
        self._read.put(END)
        return True


def open_body(response: Any, *, engine_reads_body: bool) -> Body:
    """Return the body of a response, read past the engine where that is possible."""
    chunks = None if engine_reads_body else _connection_chunks(response)
    return ChunkedBody(response, chunks) if chunks else Body(response)


def open_async_body(response: Any, *, engine_reads_body: bool) -> AsyncBody:
    """Return the body of an asynchronous response, read past the engine where that is possible."""
    chunks = None if engine_reads_body else _connection_chunks(response)
    return AsyncChunkedBody(response, chunks) if chunks else AsyncBody(response)


def _connection_chunks(response: Any) -> ConnectionChunks | None:
    """Return the chunks of a body, unless it is encoded otherwise or the engine has read some of it."""
    read = getattr(response.extensions.get("network_stream"), "read", None)
    if not isinstance(read, HookedRead) or not read.after_head:
        return None
    if response.status_code != 200:  # some other statuses have no body, whatever their head says
        return None
    transfer_encoding = response.headers.get("transfer-encoding", "").lower()
    content_encoding = response.headers.get("content-encoding", "identity").lower()
    is_plain = transfer_encoding == "chunked" and content_encoding == "identity"
    return ConnectionChunks(read) if is_plain else None
