"""HTTP clients passed in by the user, from either httpx or httpx2, regardless of the engine in use."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from demo.replay import Received
from tests.support.server import (
    MESSAGES,
    QUESTION,
    STREAM_HEAD,
    Loopback,
    echo,
    event,
    in_turn,
    record_waits,
    response,
    whole_and_streamed,
)
from tir_qwen import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    Client,
    StreamInterruptedError,
    TIRError,
)

engines = pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
asynchronous = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def call(
    engine: ModuleType, asynchronous: bool, streamed: bool, options: dict[str, Any], settings: dict[str, Any]
) -> str:
    """Make a call through the user's HTTP client, close ours, and check that theirs stays open."""

    def sync_call() -> str:
        with engine.Client(**options) as given:
            with Client(http_client=given, **settings) as client:
                if streamed:
                    content = "".join(delta.content for delta in client.stream(MESSAGES))
                else:
                    content = client.complete(MESSAGES).content
            assert not given.is_closed
        return content

    async def async_call() -> str:
        async with engine.AsyncClient(**options) as given:
            async with AsyncClient(http_client=given, **settings) as client:
                if streamed:
                    content = "".join([delta.content async for delta in client.stream(MESSAGES)])
                else:
                    content = (await client.complete(MESSAGES)).content
            assert not given.is_closed
        return content

    return asyncio.run(async_call()) if asynchronous else sync_call()


@engines
@asynchronous
@whole_and_streamed
def test_a_client_of_the_users(engine: ModuleType, asynchronous: bool, streamed: bool) -> None:
    """The user's HTTP client sends the requests, with its own headers added to ours, and stays open."""
    options = {"headers": {"x-proxy-key": "blue", "accept": "text/plain"}}
    with Loopback(echo) as server:
        settings = {"base_url": server.base_url, "access_token": "token-4711"}
        assert call(engine, asynchronous, streamed, options, settings) == QUESTION
    (request,) = server.received
    assert request.headers["x-proxy-key"] == "blue"
    assert request.headers["accept"] == ("text/event-stream" if streamed else "application/json")
    assert request.headers["authorization"] == "Bearer token-4711"


@engines
def test_copies_share_it(engine: ModuleType) -> None:
    """A copy of a client shares the user's HTTP client."""
    with Loopback(echo) as server, engine.Client(headers={"x-proxy-key": "blue"}) as given:
        client = Client(base_url=server.base_url, http_client=given)
        for twin in (copy.copy(client), copy.deepcopy(client)):
            assert twin.complete(MESSAGES).content == QUESTION
    assert [request.headers["x-proxy-key"] for request in server.received] == ["blue", "blue"]


@engines
@asynchronous
def test_a_pickle_leaves_it_behind(engine: ModuleType, asynchronous: bool) -> None:
    """A client can be pickled despite its unpicklable HTTP client, and opens its own connections when unpickled."""
    kind, given = (AsyncClient, engine.AsyncClient()) if asynchronous else (Client, engine.Client())
    with Loopback(echo) as server:
        twin = pickle.loads(pickle.dumps(kind(base_url=server.base_url, http_client=given)))
        answer = asyncio.run(twin.complete(MESSAGES)) if asynchronous else twin.complete(MESSAGES)
    assert answer.content == QUESTION


@engines
@asynchronous
def test_its_redirects_are_not_followed(engine: ModuleType, asynchronous: bool) -> None:
    """Redirects are not followed, even if the user's HTTP client would, so no secret reaches another address."""
    with Loopback(in_turn()) as elsewhere:
        moved = response(b"", "307 Temporary Redirect", location=elsewhere.base_url)
        with Loopback(in_turn(moved)) as server, pytest.raises(APIStatusError, match="307 Temporary Redirect"):
            call(engine, asynchronous, False, {"follow_redirects": True}, {"base_url": server.base_url})
    assert elsewhere.connections == 0


@engines
@asynchronous
@whole_and_streamed
def test_its_timeout_holds(engine: ModuleType, asynchronous: bool, streamed: bool) -> None:
    """If `timeout` is not set, the timeout of the user's HTTP client applies."""
    over = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        over.wait(5)
        yield from ()

    with Loopback(answer) as server:
        settings = {"base_url": server.base_url, "max_retries": 0}
        with pytest.raises(APITimeoutError) as caught:
            call(engine, asynchronous, streamed, {"timeout": 0.1}, settings)
        over.set()
    assert str(caught.value) == "the answer did not begin within 0.1 s (timeout: first_delta)"


@engines
@asynchronous
@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b"", APIConnectionError),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", StreamInterruptedError),
        (STREAM_HEAD + event("In its ") + b"5\r\n", StreamInterruptedError),
        (b"no HTTP\r\n\r\n", APIConnectionError),
    ],
)
def test_its_errors_are_ours(engine: ModuleType, asynchronous: bool, raw: bytes, kind: type[TIRError]) -> None:
    """Errors from the user's HTTP client are raised as ours, without the original as cause or context."""
    with Loopback(in_turn(raw)) as server, pytest.raises(TIRError) as caught:
        call(engine, asynchronous, False, {}, {"base_url": server.base_url, "max_retries": 0})
    assert type(caught.value) is kind
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@engines
@asynchronous
@pytest.mark.parametrize(
    ("words", "requests"),
    [
        ("[Errno -2] Name or service not known", 3),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1006)", 1),
    ],
)
def test_connections_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, engine: ModuleType, asynchronous: bool, words: str, requests: int
) -> None:
    """A failed name lookup is retried; an invalid certificate is not."""
    waits = record_waits(monkeypatch)
    made = []

    def fail(request: Any) -> None:
        made.append(request)
        raise engine.ConnectError(words, request=request)

    with pytest.raises(APIConnectionError) as caught:
        call(engine, asynchronous, False, {"transport": engine.MockTransport(fail)}, {"base_url": "http://[::1]/v1"})
    assert str(caught.value) == f"no connection to the server: {words}"
    assert caught.value.attempts == len(made) == requests
    assert len(waits) == requests - 1


LONG = "within 600 s (timeout: first_delta)"
BROKE = "the connection broke before the server's response"


@engines
@pytest.mark.parametrize(
    ("name", "kind", "words", "requests"),
    [
        ("ConnectTimeout", APITimeoutError, "there was no connection to the server within 5 s (timeout: connect)", 3),
        ("PoolTimeout", APITimeoutError, f"none of the client's connections became free {LONG}", 3),
        ("ReadTimeout", APITimeoutError, f"the answer did not begin {LONG}", 3),
        ("WriteTimeout", APITimeoutError, f"the server did not take the request {LONG}", 3),
        ("ReadError", APIConnectionError, f"{BROKE} (ReadError)", 3),
        ("ProxyError", APIConnectionError, f"{BROKE} (ProxyError)", 3),
        ("UnsupportedProtocol", APIConnectionError, f"{BROKE} (UnsupportedProtocol)", 1),
        ("LocalProtocolError", APIConnectionError, f"{BROKE} (LocalProtocolError)", 1),
    ],
)
def test_every_error_of_its(
    monkeypatch: pytest.MonkeyPatch, engine: ModuleType, name: str, kind: type[TIRError], words: str, requests: int
) -> None:
    """Each error of the HTTP library becomes one of ours that describes the problem without quoting its text."""
    record_waits(monkeypatch)

    def fail(request: Any) -> None:
        raise getattr(engine, name)("canary", request=request)

    with pytest.raises(TIRError) as caught:
        call(engine, False, False, {"transport": engine.MockTransport(fail)}, {"base_url": "http://[::1]/v1"})
    assert type(caught.value) is kind
    assert str(caught.value) == words
    assert caught.value.attempts == requests
    assert caught.value.__context__ is None


@engines
def test_what_is_not_its_error(engine: ModuleType) -> None:
    """Errors raised by the user's own code inside the HTTP client pass through unchanged."""

    def fail(_: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(engine, False, False, {"transport": engine.MockTransport(fail)}, {"base_url": "http://[::1]/v1"})


@engines
@asynchronous
def test_our_timeouts_reach_it(engine: ModuleType, asynchronous: bool) -> None:
    """Connecting gets at most 5 seconds of a long `timeout`, and all of a short one."""
    seen = []

    def answer(request: Any) -> Any:
        seen.append(request.extensions["timeout"])
        return engine.Response(401)

    for timeout in (None, 30.0, 2.0):
        with pytest.raises(APIStatusError):
            call(
                engine,
                asynchronous,
                False,
                {"transport": engine.MockTransport(answer), "timeout": 7.0},
                {"base_url": "http://[::1]/v1", "timeout": timeout},
            )
    assert seen == [
        {"connect": 7.0, "read": 7.0, "write": 7.0, "pool": 7.0},
        {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": 30.0},
        {"connect": 2.0, "read": 2.0, "write": 2.0, "pool": 2.0},
    ]


@engines
@asynchronous
def test_our_timeout_wins(engine: ModuleType, asynchronous: bool) -> None:
    """Our `timeout` overrides that of the user's HTTP client, whichever library it comes from."""
    with Loopback(echo) as server:
        settings = {"base_url": server.base_url, "timeout": 10.0}
        assert call(engine, asynchronous, False, {"timeout": 1e-9}, settings) == QUESTION
