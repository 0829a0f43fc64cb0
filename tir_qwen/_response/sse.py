"""Decoder of server-sent events: bytes in, events out, however the bytes are split.

It works on bytes because `str.splitlines`, and the line iterators of the HTTP libraries, also split at U+2028, U+2029
and U+0085, which occur unescaped inside JSON strings.
Source: https://html.spec.whatwg.org/#event-stream-interpretation
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import MalformedChunkError

MAX_EVENT_BYTES = 16 * 1024 * 1024

Event = tuple[bytes, bytes]
"""The type of an event (empty unless the stream names one) and its data."""


class SSEDecoder:
    """An incremental decoder of an event stream whose byte order mark has been removed.

    An incomplete event at the end of the stream is discarded, as the specification requires.
    """

    __slots__ = ("_after_cr", "_data_lines", "_event_type", "_line", "_size")

    def __init__(self) -> None:
        self._line = bytearray()  # an incomplete line
        self._data_lines: list[bytes] = []  # of an incomplete event
        self._event_type = b""
        self._size = 0  # of the data lines, in bytes
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Decode `data` and yield the events that it completes.

        Raises:
            MalformedChunkError: An event is larger than `MAX_EVENT_BYTES`.
        """
        if self._after_cr and data:
            self._after_cr = False
            if data[0] == 0x0A:  # the second half of a CRLF, whose CR has already ended the line
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
                self._add_field(line)
            elif self._data_lines or self._event_type:
                event = (self._event_type, b"\n".join(self._data_lines))
                self._data_lines.clear()
                self._event_type = b""
                self._size = 0
                yield event
        self._line += lines[-1]
        if self._size + len(self._line) > MAX_EVENT_BYTES:
            raise _too_large()

    def _add_field(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._size += len(line) + 1
            self._data_lines.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line.startswith(b"event:"):
            self._event_type = line[6:].strip()
        elif line == b"data":
            self._size += len(line) + 1
            self._data_lines.append(b"")
        # Comments, ids, retry times and unknown fields have no meaning for a completion.


def _too_large() -> MalformedChunkError:
    return MalformedChunkError(f"an event is larger than {MAX_EVENT_BYTES} bytes")
