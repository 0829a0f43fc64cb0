"""HTTP/1.1's chunked coding: bytes in, the body out, however the bytes are cut (pure).

Stands in for h11, which spends more time on a chunk than all that follows takes. Source: RFC 9112, section 7.1.
"""

from __future__ import annotations

import re

END = b"0\r\n\r\n"
"""The end of a body without trailers."""
MAX_HEAD = 16 * 1024
"""Bytes of a chunk's head, or of the trailers, that are waited for."""

_HEAD = re.compile(rb"\r\n([0-9A-Fa-f]{1,20})(?:[ \t]{0,%d}|;[^\n]{0,%d}?)\r\n" % (MAX_HEAD, MAX_HEAD))
"""The end of one chunk and the head of the next; extensions mean nothing."""
_BLANK_LINE = re.compile(rb"\n\r?\n")


class ChunkedDecoder:
    """An incremental decoder of one body."""

    __slots__ = ("_held", "_last", "_left", "broken", "ended", "rest")

    def __init__(self) -> None:
        self.ended = False
        self.broken = False
        """Whether what came last is no chunk: nothing after it can be read."""
        self.rest = b""
        """What has come after the body: more than there may be."""
        self._left = 0  # bytes of the chunk that have not come
        self._held = b"\r\n"  # the beginning of a head; before the first one, as if a chunk had ended
        self._last = False  # past the head of the last chunk, which is empty: trailers follow

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes add to the body."""
        if self.ended or self.broken:
            self.rest += data
            return b""
        pieces: list[bytes] = []
        at = min(self._left, len(data))
        if at:
            self._left -= at
            pieces.append(data[:at])
        if not self._left and not self._last:
            if self._held:
                data, at = self._held + data[at:], 0
                self._held = b""
            at = self._read_chunks(data, at, pieces)
        if self._last:
            self._read_trailers(data[at:])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _read_chunks(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Read whole heads from `at`, and what has come of their chunks; return where the trailers begin."""
        while head := _HEAD.match(data, at):
            size = int(head[1], 16)
            start = head.end()
            if not size:
                self._last = True
                self._held = b"\n"  # trailers begin after a line end: a blank line may be the first
                return start
            at = start + size
            pieces.append(data[start:at])
            if at >= len(data):
                self._left = at - len(data)
                return at
        self._held = data[at:]
        begun = b"\r\n".startswith(self._held[:2]) and b"\r\n" not in self._held[2:]
        self.broken = not begun or len(self._held) > MAX_HEAD + 24  # what stands around an extension
        return at

    def _read_trailers(self, data: bytes) -> None:
        held = self._held + data
        end = _BLANK_LINE.search(held, 0, MAX_HEAD)
        if end:
            self.ended = True
            self.rest = held[end.end() :]
        else:
            self._held = held
            self.broken = len(held) >= MAX_HEAD
