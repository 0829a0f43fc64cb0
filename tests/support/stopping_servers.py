"""Servers that stop within an answer, and the files and sockets that this process has open."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.server import DONE, STREAM_HEAD, HangUpError, Loopback, completion, event, response
from tir_qwen.testing import Request

LAST = "after the last delta"
STREAMED = {
    "between deltas": STREAM_HEAD + event("0"),
    "within a frame": STREAM_HEAD + event("0") + event("1")[:30],
    LAST: STREAM_HEAD + event("0") + event("", "stop") + DONE,
}
"""What has come of a stream that has a delta."""
PHASES = {
    "before the headers": b"",
    "within the headers": STREAM_HEAD[:30],
    "before a delta": STREAM_HEAD,
    **STREAMED,
    "within a whole answer": completion()[:-20],
    "within a refusal": response({"error": "no"}, "400 Bad Request")[:-5],
}
"""What has come of a response, wherever it may be left."""


class Stopping(Loopback):
    """Begins an answer, stops, and notices when the client leaves; can resume after a while.

    Args:
        begin: The bytes before it stops.
        rest: The bytes after it.
    """

    def __init__(self, begin: bytes, rest: bytes | None = None) -> None:
        self.begin, self.rest = begin, rest
        self.reached = threading.Event()
        """Set as soon as the beginning is written."""
        self.left = threading.Event()
        super().__init__(self._stop)

    def _stop(self, _: Request) -> Iterator[bytes]:
        yield self.begin
        self.reached.set()
        if self.rest is not None and not self.left_within(0.1):
            yield self.rest
        if self.left_within(10):
            self.left.set()
        raise HangUpError

    def is_left(self) -> bool:
        """Return whether the client leaves within five seconds."""
        return self.left.wait(5)


@contextmanager
def unaccepting() -> Iterator[int]:
    """Return a port to which connecting takes forever."""
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # the only one for which there is room
        yield full.getsockname()[1]


def open_files() -> int:
    """Return the number of files of any kind that this process has open."""
    return sum(1 for entry in _descriptors() if _mode(entry))


def open_sockets(server: Loopback | None = None) -> int:
    """Return the number of TCP sockets that this process has open, optionally only those to one server."""
    return sum(_is_ours(entry, server) for entry in _descriptors())


def _descriptors() -> list[int]:
    return [int(entry.name) for entry in Path("/dev/fd").iterdir()]


def _mode(descriptor: int) -> int:
    with suppress(OSError):  # that of the listing itself, or closed meanwhile
        return os.fstat(descriptor).st_mode
    return 0


def _is_ours(descriptor: int, server: Loopback | None) -> bool:
    if not stat.S_ISSOCK(_mode(descriptor)):
        return False
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as twin:
        is_tcp = twin.family in (socket.AF_INET, socket.AF_INET6) and twin.type == socket.SOCK_STREAM
        return is_tcp and (server is None or twin.getpeername()[1] == server.server_address[1])
    return False
