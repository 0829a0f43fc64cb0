"""A response's body to deltas: bytes in, deltas out, whether the answer is whole or streamed (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from .choice import NOTHING, Expected
from .decoder import ChunkDecoder
from .errors import MalformedChunkError
from .fold import Fold
from .sse import SSEDecoder
from .types import Completion, Delta

_BEFORE = b"\xef\xbb\xbf \t\r\n"
"""A byte order mark and white space, which may stand before an answer; no answer begins with one of these bytes."""
MAX_BODY_BYTES = 256 * 1024 * 1024
"""The largest whole answer that is read; one with log-probabilities may take tens of megabytes."""


class AnswerDecoder:
    """Decodes one response's body: `feed` its bytes as they come, then `close`.

    The body itself says what it is, so that a gateway which streams a whole answer, or answers a stream as a whole, is
    understood: an event stream cannot begin with a brace.
    """

    __slots__ = ("_body", "_chunks", "_events", "_fold", "_whole")

    def __init__(self, secrets: tuple[str, ...] = (), expected: Expected = NOTHING) -> None:
        self._events = SSEDecoder()
        self._chunks = ChunkDecoder(secrets, expected)
        self._fold = Fold()
        self._whole: bool | None = None  # None: nothing but white space has come yet
        self._body = bytearray()

    @property
    def whole(self) -> bool:
        """True if the answer comes as a whole, not as a stream."""
        return bool(self._whole)

    @property
    def done(self) -> bool:
        """True once the answer is complete, though bytes may follow."""
        return self._chunks.done

    @property
    def heard(self) -> int:
        """How much has come, though it may still be held back."""
        return self._chunks.heard

    def completion(self) -> Completion:
        """All that has come so far, as one value."""
        return self._fold.completion()

    def feed(self, data: bytes) -> Iterator[Delta]:
        """Yield what these bytes bring.

        Raises:
            StreamError: The answer is broken.
        """
        if self._whole is None:
            data = data.lstrip(_BEFORE)
            if not data:
                return
            self._whole = data[0] in b"{[<"
        if self._whole:
            self._body += data
            if len(self._body) > MAX_BODY_BYTES:
                raise MalformedChunkError(f"the answer is larger than {MAX_BODY_BYTES} bytes")
            return
        for event, payload in self._events.feed(data):
            for delta in self._chunks.feed(payload, event):
                self._fold.add(delta)
                yield delta

    def close(self) -> Iterator[Delta]:
        """Yield the rest: the body has ended.

        Raises:
            StreamError: The answer did not end, or is not one.
        """
        for delta in self._rest():
            self._fold.add(delta)
            yield delta

    def broken(self) -> None:
        """Add what was held back to what has come: no more does."""
        for delta in self._chunks.broken():
            self._fold.add(delta)

    def _rest(self) -> Iterator[Delta]:
        if self._whole:
            body = bytes(self._body)
            self._body.clear()
            if body.startswith(b"<"):
                raise MalformedChunkError("the server sent a page of HTML or XML instead of an answer")
            yield from self._chunks.feed(body)
            yield from self._chunks.feed(b"[DONE]")  # the body is all there: it ended, whatever it says
        yield from self._chunks.close()
