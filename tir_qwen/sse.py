"""Server-sent events: bytes in, events out, however the bytes are cut.

Works on bytes: `str.splitlines` (and the line iterators of the HTTP libraries) also split at U+2028, U+2029 and
U+0085, which stand unescaped inside JSON strings. Source: https://html.spec.whatwg.org/#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator

from .errors import MalformedChunkError

MAX_EVENT_BYTES = 16 * 1024 * 1024

Event = tuple[bytes, bytes]
"""An event's type (empty unless the stream names one) and its data."""


class SSEDecoder:
    """An incremental decoder of an event stream (without its byte order mark).

    An event that the stream's end cuts off is discarded, as specified.
    """

    __slots__ = ("_after_cr", "_data", "_event", "_line", "_size")

    def __init__(self) -> None:
        self._line = bytearray()  # the line whose end has not arrived
        self._data: list[bytes] = []  # the data lines of the event whose end has not arrived
        self._size = 0
        self._event = b""
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events that end within `data`.

        Raises:
            MalformedChunkError: An event is larger than `MAX_EVENT_BYTES`.
        """
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == 0x0A:  # a CRLF cut in the middle: the CR has already ended the line
                data = data[1:]
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = data.split(b"\n")
        if len(lines) > 1 and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        for line in lines[:-1]:
            if self._size + len(line) > MAX_EVENT_BYTES:
                raise _too_large()
            if line:
                self._field(line)
            elif self._data or self._event:
                event = (self._event, b"\n".join(self._data))
                self._data.clear()
                self._event = b""
                self._size = 0
                yield event
        self._line += lines[-1]
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise _too_large()

    def _field(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._size += len(line) + 1
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            self._event = line[6:].strip()
        elif line == b"data":
            self._size += len(line) + 1
            self._data.append(b"")
        # Anything else is a comment (":"), an id, a retry time or unknown: nothing to a completion.


def _too_large() -> MalformedChunkError:
    return MalformedChunkError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
