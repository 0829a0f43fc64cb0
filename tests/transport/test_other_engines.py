"""HTTP engines that work differently from those that are installed today, played by changing these."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    ask,
    both_clients,
    echo,
    event,
    failure,
    response,
    whole_and_streamed,
)
from tests.support.stopping_servers import open_sockets
from tir_qwen import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    Client,
    StreamInterruptedError,
    Timeout,
    TIRError,
)
from tir_qwen._transport.body.body import ConnectionChunks
from tir_qwen._transport.body.interception import (
    HookedRead,
    HookedWrite,
    ReadContext,
    current_read,
    install_hooks,
    remove_hooks,
)
from tir_qwen._transport.deadline import Deadline
from tir_qwen._transport.engine import _engine
from tir_qwen._transport.trace import RequestTrace
from tir_qwen.testing import Request
from tir_qwen.testing._server import Answer

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def core() -> str:
    """The name of the package below the engine."""
    name: str = _engine().__name__.replace("httpx", "httpcore")
    return name


def connection_classes() -> list[Any]:
    """The engine's HTTP/1.1 connections, synchronous and asynchronous."""
    name = core()
    return [
        import_module(f"{name}._sync.http11").HTTP11Connection,
        import_module(f"{name}._async.http11").AsyncHTTP11Connection,
    ]


def stream_classes() -> list[Any]:
    """The engine's network streams, synchronous and asynchronous."""
    name = core()
    return [import_module(f"{name}._backends.sync").SyncStream, import_module(f"{name}._backends.anyio").AnyIOStream]


def write_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write head and content of a request in one write."""

    def send(connection: Any, sent: Any) -> bytes:
        """Return what to write now: nothing before the request has ended."""
        kept: bytes = vars(connection).get("kept", b"") + (connection._h11_state.send(sent) or b"")
        connection.kept = b"" if type(sent).__name__ == "EndOfMessage" else kept
        return b"" if connection.kept else kept

    def send_event(self: Any, event: Any, timeout: float | None = None) -> None:
        if data := send(self, event):
            self._network_stream.write(data, timeout=timeout)

    async def asend_event(self: Any, event: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109
        if data := send(self, event):
            await self._network_stream.write(data, timeout=timeout)

    one, other = connection_classes()
    monkeypatch.setattr(one, "_send_event", send_event)
    monkeypatch.setattr(other, "_send_event", asend_event)


def read_before_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the head, wait for the server's consent, and only then write the content."""
    one, other = connection_classes()
    send, asend = one._send_request_headers, other._send_request_headers

    def send_request_headers(self: Any, request: Any) -> None:
        request.headers.append((b"Expect", b"100-continue"))
        send(self, request=request)
        assert self._network_stream.read(65536, timeout=5) == CONTINUE

    async def asend_request_headers(self: Any, request: Any) -> None:
        request.headers.append((b"Expect", b"100-continue"))
        await asend(self, request=request)
        assert await self._network_stream.read(65536, timeout=5) == CONTINUE

    monkeypatch.setattr(one, "_send_request_headers", send_request_headers)
    monkeypatch.setattr(other, "_send_request_headers", asend_request_headers)


def fix_attributes(*names: str) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a function that gives the engine's streams attributes that cannot be set, as `__slots__` does."""

    def fix(monkeypatch: pytest.MonkeyPatch) -> None:
        def setattr_(self: Any, name: str, value: Any) -> None:
            if name in names:
                raise AttributeError(f"{type(self).__name__!r} object attribute {name!r} is read-only")
            object.__setattr__(self, name, value)

        for stream_class in stream_classes():
            monkeypatch.setattr(stream_class, "__setattr__", setattr_)

    return fix


def rename_events(renamed: Callable[[str], str], keys: Callable[[Any], Any] = dict) -> Callable[[Any], None]:
    """Return a function that makes the engine report its events by other names, or with other keys."""

    def rename(monkeypatch: pytest.MonkeyPatch) -> None:
        original = RequestTrace.record
        monkeypatch.setattr(
            RequestTrace, "record", lambda self, event, info: original(self, renamed(event), keys(info))
        )

    return rename


def switch_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turn the hooks off, as the user can."""
    monkeypatch.setenv("TIR_QWEN_DIRECT_READS", "0")


ENGINES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "as it is": lambda _: None,
    "one write": write_at_once,
    "read between": read_before_the_content,
    "fixed read": fix_attributes("read"),
    "fixed write": fix_attributes("write"),
    "fixed both": fix_attributes("read", "write"),
    "other events": rename_events(lambda event: f"engine.{event.replace('.', '_')}"),
    "no connect events": rename_events(lambda event: event.replace("connect", "dial").replace("start_tls", "wrap")),
    "other keys": rename_events(str, lambda _: {"result": None, "address": ("127.0.0.1", 1)}),
    "switched off": switch_off,
}
DIRECT_READS = {"as it is": 2, "one write": 2, "read between": 2}
"""How many of two streams over one connection are read directly; one, if the hooks are not there from the start."""
DIRECT_READS |= dict.fromkeys(("other events", "no connect events", "other keys"), 1)


@pytest.fixture(params=ENGINES)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Change the engine; return in which way."""
    ENGINES[request.param](monkeypatch)
    return str(request.param)


class Consenting(Loopback):
    """Answers requests, and consents to those whose content waits for that."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        handler = self.RequestHandlerClass
        self.RequestHandlerClass = type("Handler", (handler,), {"_read": lambda this: _read(handler, this)})


def _read(handler: Any, this: Any) -> Request | None:
    rfile = this.rfile

    def readline() -> bytes:
        line: bytes = rfile.readline()
        if line.lower().startswith(b"expect:"):
            this.wfile.write(CONTINUE)
        return line

    this.rfile = SimpleNamespace(readline=readline, read=rfile.read)
    try:
        received: Request | None = handler._read(this)
    finally:
        this.rfile = rfile
    return received


def calls(driver: Driver, client: Any, streamed: bool, number: int) -> list[str]:
    """Make calls one after another, in one event loop if they are asynchronous."""

    async def one() -> str:
        if streamed:
            return "".join([delta.content async for delta in client.stream(MESSAGES)])
        return str((await client.complete(MESSAGES)).content)

    async def all_of_them() -> list[str]:
        async with asyncio.timeout(10), client:
            return [await one() for _ in range(number)]

    if driver.make is Client:
        with client:
            return [ask(driver, client, streamed) for _ in range(number)]
    return asyncio.run(all_of_them())


@whole_and_streamed
@both_clients
def test_any_engine_gives_the_right_answers(driver: Driver, kind: str, streamed: bool) -> None:
    """Whole and streamed answers are right, their connection is reused, and none stays open."""
    with Consenting(echo) as server:
        client = driver.make(base_url=server.base_url, max_retries=0, timeout=Timeout(1, 5, 5, 5))
        assert calls(driver, client, streamed, 3) == [QUESTION] * 3
        assert server.connections == 1
        assert open_sockets(server) == 0
    assert [request.json()["messages"] for request in server.requests] == [MESSAGES] * 3


@both_clients
def test_bodies_bypass_the_engine_where_that_is_possible(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: str
) -> None:
    """Streams are read directly as soon as the hooks are installed, however the engine writes, and not without them."""
    direct = []
    original = ConnectionChunks.hand_back
    monkeypatch.setattr(ConnectionChunks, "hand_back", lambda self: direct.append(self) or original(self))
    with Consenting(echo) as server:
        assert calls(driver, driver.make(base_url=server.base_url), True, 2) == [QUESTION] * 2
    assert len(set(map(id, direct))) == DIRECT_READS.get(kind, 0)


def refuse(_: Request) -> list[bytes]:
    """Refuse the token."""
    return [response({"error": {"message": "no"}}, "401 Unauthorized")]


def hang_up(_: Request) -> Iterator[bytes]:
    """Hang up instead of an answer."""
    raise HangUpError
    yield b""


def break_off(_: Request) -> Iterator[bytes]:
    """Hang up within an answer."""
    yield STREAM_HEAD + event("In its ")
    raise HangUpError


BROKE = "the connection broke before the end of the answer (RemoteProtocolError)"
ERRORS: dict[str, tuple[Answer, type[TIRError], str]] = {
    "refused": (refuse, AuthenticationError, "401 Unauthorized: no"),
    "hung up": (hang_up, APIConnectionError, "the connection to {} broke before the server's response ("),
    "broken off": (break_off, StreamInterruptedError, BROKE),
}


@pytest.mark.parametrize("error", ERRORS)
@both_clients
def test_errors_of_any_engine_are_ours(driver: Driver, kind: str, error: str) -> None:
    """Refusals and broken connections raise the same errors as ever, and leave no socket open."""
    answer, expected, words = ERRORS[error]
    with Consenting(answer) as server:
        client = driver.make(base_url=server.base_url, max_retries=0, timeout=Timeout(1, 5, 5, 5))
        caught = failure(driver, client, streamed=True)
        driver.close(client)
        assert open_sockets(server) == 0
        address = server.base_url.split("/")[2]
    assert (type(caught), str(caught)[: len(words.format(address))]) == (expected, words.format(address))


@whole_and_streamed
@both_clients
def test_time_limits_hold_with_any_engine(driver: Driver, kind: str, streamed: bool) -> None:
    """An answer that does not begin is given up in time."""

    def wait(_: Request) -> Iterator[bytes]:
        server.left_within(5)
        yield b""

    with Consenting(echo) as server:
        server.answer = wait
        client = driver.make(base_url=server.base_url, max_retries=0, timeout=Timeout(5, 0.1, 0.1))
        error = failure(driver, client, streamed)
    assert (type(error), str(error)) == (
        APITimeoutError,
        "there was no answer within 0.1 s (timeout: first_delta)",
    )


@pytest.mark.parametrize("keys", ["other keys", "no connect events", "other events"])
@both_clients
def test_an_unknown_address_is_not_taken_for_a_proxy(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, keys: str
) -> None:
    """If the engine does not say whom it connects to, errors name the server and no proxy."""
    ENGINES[keys](monkeypatch)
    with Loopback(echo) as server:
        address = server.base_url
    error = failure(driver, driver.make(base_url=address, max_retries=0), streamed=False)
    assert str(error) == f"could not connect to {address.split('/')[2]}: Connection refused"


class Slotted:
    """A stream whose attributes are fixed."""

    __slots__ = ()

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read nothing."""
        return b""

    def write(self, data: bytes, timeout: float | None = None) -> None:
        """Write nothing."""


class ReadOnly(Slotted):
    """A stream whose `read` alone can be set."""

    __slots__ = ("__dict__",)

    @property
    def write(self) -> Any:  # type: ignore[override]
        """Write nothing."""
        return print


@pytest.mark.parametrize("stream_class", [Slotted, ReadOnly])
def test_a_stream_has_both_hooks_or_none(stream_class: Any) -> None:
    """A stream on which one hook cannot be installed does not keep the other."""
    stream = stream_class()
    assert [install_hooks(stream) for _ in range(2)] == [False, False]
    assert not isinstance(stream.read, HookedRead)
    remove_hooks(stream)
    assert stream.read(1) == b""


def test_a_request_in_one_write_is_not_held_back() -> None:
    """Only a head is held back until its content is written; a whole request is written at once."""
    written: list[bytes] = []
    write = HookedWrite(lambda data, _: written.append(data))
    token = current_read.set(ReadContext(Deadline(Timeout()), is_pooled=True))
    try:
        for data in (b"POST /v1 HTTP/1.1\r\n\r\n{}", b"POST /v1 HTTP/1.1\r\n\r\n", b"{}"):
            write(data)
    finally:
        current_read.reset(token)
    assert list(filter(None, written)) == [b"POST /v1 HTTP/1.1\r\n\r\n{}"] * 2
    assert written[0]


def test_the_switch_turns_off_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """TIR_QWEN_DIRECT_READS=0 leaves a stream as it is; other values do not."""
    found = {}
    for value in ("0", "1", ""):
        monkeypatch.setenv("TIR_QWEN_DIRECT_READS", value)
        stream = SimpleNamespace(read=lambda *_: b"", write=lambda *_: None)
        install_hooks(stream)
        found[value] = isinstance(stream.read, HookedRead)
    assert found == {"0": False, "1": True, "": True}
