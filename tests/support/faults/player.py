"""Faults as scripts, and where they are played: local servers, and addresses without a server."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from time import monotonic, sleep
from typing import Any

import pytest

from tests.support.faults.outcomes import REUSED, TEXT, Fault
from tests.support.paths import DATA
from tests.support.server import HangUpError, Loopback, completion, pieces, stream
from tir_qwen.testing import Request

ELSEWHERE = b"http://elsewhere.invalid"
"""In a script: the address of a second server."""
FOREVER = 6.0
"""Seconds after which the server ends what would last for ever, so that a client which hangs is found out."""
_CERTIFICATE = DATA / "self_signed.pem"


class Do(Enum):
    """Actions of a server other than sending bytes."""

    FIN = "closes the connection"
    RST = "resets the connection"
    HANG = "does nothing until the client leaves"
    ANSWER = "answers as it should"
    READ = "waits until the caller has got what was sent"


FIN, RST, HANG, ANSWER, READ = Do


class Again:
    """Steps that are repeated forever."""

    def __init__(self, *steps: Step) -> None:
        self.steps = steps


Step = bytes | float | Do | Again
"""Bytes to send, seconds to wait, or something else to do."""
Script = Sequence[Step]
"""What is done with one request; the connection stays open unless it says otherwise."""


@dataclass(frozen=True)
class Stage:
    """The place where a fault is played.

    Attributes:
        base_url: The address.
        requests: Tells how many requests came, after a moment if they were to be more; None where nobody can tell.
        settle: Waits for what the server does after the call before the fault.
    """

    base_url: str
    requests: Callable[[int], int | None]
    settle: Callable[[], Any] = bool


def _counted(count: Callable[[], int]) -> Callable[[int], int]:
    """Return a count once it is stable: a server may be slow to notice what a client has abandoned."""

    def counted(expected: int) -> int:
        end = monotonic() + 2
        while count() < expected and monotonic() < end:
            sleep(0.001)
        return count()

    return counted


class _Player:
    """Plays a fault's scripts in the threads of a server."""

    def __init__(self, fault: Fault, read: threading.Event) -> None:
        self._end = monotonic() + FOREVER
        self._scripts = iter(fault.scripts)
        self._script: Script = ()
        self._read = read
        self.server = Loopback(self._answer)
        self.elsewhere = Loopback(lambda _: [completion("elsewhere")])

    def _answer(self, request: Request) -> Iterator[bytes]:
        self._script = next(self._scripts, self._script)
        return self._play(self._script, request)

    def _play(self, steps: Sequence[Step], request: Request) -> Iterator[bytes]:
        for step in steps:
            if isinstance(step, bytes):
                yield step.replace(ELSEWHERE, self.elsewhere.url.encode())
            elif isinstance(step, float):
                if self.server.left_within(step):
                    raise HangUpError
            elif isinstance(step, Again):
                while monotonic() < self._end:
                    yield from self._play(step.steps, request)
                raise HangUpError
            elif step is ANSWER:
                yield from pieces(stream(*TEXT) if request.json()["stream"] else completion(TEXT))
            else:
                self._do(step)

    def _do(self, step: Do) -> None:
        if step is READ:
            self._read.wait(self._end - monotonic())
            return
        if step is HANG:
            self.server.left_within(self._end - monotonic())
        if step is RST:
            self.server.reset_connection()
        raise HangUpError


@contextmanager
def here(fault: Fault, read: threading.Event) -> Iterator[Stage]:
    """A local server, and a second one to which it may redirect, which must receive no request."""
    player = _Player(fault, read)
    server, elsewhere = player.server, player.elsewhere
    first = fault.phase == REUSED
    with ExitStack() as stack:
        stack.enter_context(server)
        if any(isinstance(step, bytes) and ELSEWHERE in step for step in fault.scripts[0]):
            stack.enter_context(elsewhere)
        else:
            elsewhere.server_close()
        yield Stage(
            server.base_url,
            _counted(lambda: len(server.requests) + len(elsewhere.requests) - first),
            server.noticed if first and fault.scripts[0][-1] in (FIN, RST) else bool,
        )


@contextmanager
def self_signed(_: Fault, __: threading.Event) -> Iterator[Stage]:
    """A server with an untrusted certificate, which counts the TLS handshakes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_CERTIFICATE)
    with Loopback(lambda _: [completion("not to be had")], tls=context) as server:
        yield Stage(server.base_url.replace("http:", "https:"), _counted(lambda: server.connections))


@contextmanager
def unknown(_: Fault, __: threading.Event) -> Iterator[Stage]:
    """A host name that does not resolve; the lookups are counted."""
    asked: list[Any] = []

    def getaddrinfo(host: Any, *_: Any, **__: Any) -> None:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield Stage("https://faults.invalid/v1", _counted(lambda: len(asked)))


@contextmanager
def nowhere(_: Fault, __: threading.Event) -> Iterator[Stage]:
    """A port that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    yield Stage(f"http://127.0.0.1:{port}/v1", lambda _: None)


@contextmanager
def full(_: Fault, __: threading.Event) -> Iterator[Stage]:
    """A server that accepts no connections and whose queue is full."""
    with ExitStack() as stack:
        address = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0)).getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield Stage(f"http://127.0.0.1:{address[1]}/v1", lambda _: None)
