"""A loopback server in its own process that answers chat completions at once, or at a model's pace.

It must use less CPU than the clients measured against it: answers are built once and written in bursts.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from pydantic_core import from_json

from .answers import bursts, events, whole
from .work import Work

CERTIFICATE = Path(__file__).parents[1] / "tests/data/self_signed.pem"
"""The certificate of a server that speaks TLS, with its key."""
_PHASES = 64
_phase = count()


class Connection(asyncio.Protocol):
    """Answers the requests of a connection, one after another."""

    def __init__(self) -> None:
        self._received = b""
        self._rest: list[bytes] = []  # last part first
        self._full = False
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        """Answer once the request is complete."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) >= length:
            self._received = b""
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        request = from_json(body)
        content = request["messages"][-1]["content"]
        work = _work(content if isinstance(content, str) else content[0]["text"])
        with_usage = bool((request.get("stream_options") or {}).get("include_usage"))
        if not request.get("stream"):
            self._loop.call_later(work.pace, self._transport.write, whole(work))
        elif work.pace:
            self._rest = events(work, with_usage)[::-1]
            # Otherwise, streams that begin together would send all their chunks at the same time.
            self._due = self._loop.time() + work.pace * (next(_phase) % _PHASES) / _PHASES
            self._write_paced(work.pace)
        else:
            self._rest, self._due = bursts(work, with_usage)[::-1], 0.0
            self._write()

    def _write(self) -> None:
        while self._rest and not self._full:
            self._transport.write(self._rest.pop())

    def _write_paced(self, pace: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._rest.pop())
        if self._rest:
            self._due += pace
            self._loop.call_at(self._due, self._write_paced, pace)

    def pause_writing(self) -> None:
        """Pause until the client has read more."""
        self._full = True

    def resume_writing(self) -> None:
        """Continue, unless writing is timed by a pace."""
        self._full = False
        if not self._due:
            self._write()


_works: dict[str, Work] = {}


def _work(question: str) -> Work:
    if question not in _works:
        _works[question] = Work(**from_json(question))
    return _works[question]


async def main(tls: str = "") -> None:
    """Print the port and listen until standard input ends."""
    context = _context(tls) if tls else None
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", 0, ssl=context, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def _context(version: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion[version]
    context.load_cert_chain(CERTIFICATE)
    return context


@contextmanager
def running(tls: str = "") -> Iterator[str]:
    """Run a server in its own process; yield its base URL. `tls` is the version to speak, such as `TLSv1_3`."""
    command = [sys.executable, "-m", "benchmarks.server", *filter(None, [tls])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
