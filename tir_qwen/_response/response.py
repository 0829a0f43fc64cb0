"""Decoder of a response body: bytes in, deltas out, both for streams and for non-streaming responses."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import MalformedChunkError
from ..types import Completion, Delta
from .accumulator import Accumulator
from .choice import DEFAULT_OPTIONS, DecodingOptions
from .chunk import ChunkDecoder
from .signs import Signs
from .sse import SSEDecoder

PREFIX = b"\xef\xbb\xbf \t\r\n"
"""The bytes of a byte order mark and of white space, to strip before a body."""
MAX_BODY_BYTES = 256 * 1024 * 1024
"""Maximum size of a non-streaming response; log-probabilities can make one tens of megabytes large."""


class ResponseDecoder:
    """Decodes the body of one response: call `feed` with its bytes as they arrive, then `close`.

    The body itself shows whether it is a stream, since an event stream cannot start with a brace. So it does not matter
    if a gateway answers a streaming request with a non-streaming response, or vice versa.
    """

    __slots__ = ("_accumulator", "_body", "_chunks", "_events", "_is_whole")

    def __init__(
        self, secrets: tuple[str, ...] = (), options: DecodingOptions = DEFAULT_OPTIONS, request: bytes = b""
    ) -> None:
        """Start without a body; `request` is the content of the request, which no error repeats."""
        self._events = SSEDecoder()
        self._chunks = ChunkDecoder(secrets, options, request)
        self._accumulator = Accumulator()
        self._is_whole: bool | None = None  # None: nothing but white space has arrived
        self._body = bytearray()

    @property
    def is_whole(self) -> bool:
        """Whether the response is known not to be a stream."""
        return bool(self._is_whole)

    @property
    def done(self) -> bool:
        """Whether the answer is complete, even if more bytes follow."""
        return self._chunks.done

    @property
    def heard(self) -> int:
        """Number of non-empty deltas received, including those whose text is still held back."""
        return self._chunks.heard

    @property
    def signs(self) -> Signs:
        """How the server sent the answer."""
        return self._chunks.signs

    def completion(self) -> Completion:
        """Return everything that has arrived so far."""
        return self._accumulator.completion()

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Decode bytes of the body and yield their deltas.

        Raises:
            StreamError: The answer is malformed, or reports an error.
        """
        if self._is_whole is None:
            data = data.lstrip(PREFIX)
            if not data:
                return
            self._is_whole = data[0] in b"{[<"
        if self._is_whole:
            self._body += data
            if len(self._body) > MAX_BODY_BYTES:
                raise MalformedChunkError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
            return
        for event, payload in self._events.feed(data):
            for delta in self._chunks.feed(payload, event):
                self._accumulator.add(delta)
                yield delta

    def close(self) -> Iterator[Delta]:
        """Yield the remaining deltas at the end of the body.

        Raises:
            StreamError: The answer is incomplete, or the body is not an answer.
        """
        for delta in self._remaining():
            self._accumulator.add(delta)
            yield delta

    def interrupt(self) -> None:
        """Add what was held back to `completion`, after the stream broke."""
        for delta in self._chunks.interrupt():
            self._accumulator.add(delta)

    def _remaining(self) -> Iterator[Delta]:
        if self._is_whole:
            body = bytes(self._body)
            self._body.clear()
            if body.startswith(b"<"):
                raise MalformedChunkError("the server sent an HTML or XML page instead of an answer")
            yield from self._chunks.feed(body)
            yield from self._chunks.feed(b"[DONE]")  # the body is complete, so the answer has ended in any case
        yield from self._chunks.close()
