"""The HTTP library underneath: clients passed in by the user, its defaults, and what it reads from the environment."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import httpx2
import pytest

from tests.support.secrets import (
    CREDENTIALS,
    SETTINGS,
    TOKEN,
    engines_frames,
    in_frames,
    leaked,
    logged,
    shown,
)
from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    Loopback,
    both_clients,
    completion,
    echo,
    failure,
    in_turn,
    response,
    whole_and_streamed,
)
from tir_qwen import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    Client,
    ConfigurationError,
)
from tir_qwen._transport.engine import new_async_client, new_client
from tir_qwen.testing import Request

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
    (request,) = server.requests
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
    assert [request.headers["x-proxy-key"] for request in server.requests] == ["blue", "blue"]


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

    def answer(_: Request) -> Iterator[bytes]:
        over.wait(5)
        yield from ()

    with Loopback(answer) as server:
        settings = {"base_url": server.base_url, "max_retries": 0}
        with pytest.raises(APITimeoutError) as caught:
            call(engine, asynchronous, streamed, {"timeout": 0.1}, settings)
        over.set()
    assert str(caught.value) == "there was no answer within 0.1 s (timeout: first_delta)"


@engines
@asynchronous
def test_our_timeout_wins(engine: ModuleType, asynchronous: bool) -> None:
    """Our `timeout` overrides that of the user's HTTP client, whichever library it comes from."""
    with Loopback(echo) as server:
        settings = {"base_url": server.base_url, "timeout": 10.0}
        assert call(engine, asynchronous, False, {"timeout": 1e-9}, settings) == QUESTION


LOCAL = {"base_url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize(("kind", "given"), [(Client, httpx2.AsyncClient), (AsyncClient, httpx.Client)])
def test_client_of_the_wrong_kind(kind: Any, given: Any) -> None:
    """Passing a synchronous HTTP client to `AsyncClient`, or the other way round, is rejected immediately."""
    with pytest.raises(ConfigurationError, match=r"must be an? (Async)?Client of httpx or httpx2"):
        kind(**LOCAL, http_client=given())


@pytest.mark.parametrize("engine", [httpx, httpx2])
def test_default_time_limit_of_a_users_client(engine: Any) -> None:
    """An HTTP client with the engine's default timeout of 5 seconds gets our longer default instead."""
    sent: list[Any] = []

    def note(request: Any) -> Any:
        sent.append(request.extensions["timeout"])
        return engine.Response(200, content=completion("Hi").partition(b"\r\n\r\n")[2])

    for given in ({}, {"timeout": 7.0}):
        client = engine.Client(transport=engine.MockTransport(note), **given)
        Client(**LOCAL, http_client=client).complete(MESSAGES)
    assert [limits["read"] for limits in sent] == [600.0, 7.0]


@both_clients
def test_cookies_are_not_stored(driver: Driver) -> None:
    """Cookies are not stored, so a call cannot reveal earlier calls, possibly of other users."""

    def answer(request: Request) -> list[bytes]:
        return [response(completion().partition(b"\r\n\r\n")[2], set_cookie="session=alice; Path=/")]

    with Loopback(answer) as server:
        client = driver.make(**SETTINGS, base_url=server.url)
        if isinstance(client, Client):
            for _ in range(2):
                client.complete(MESSAGES)
        else:

            async def twice() -> None:
                for _ in range(2):
                    await client.complete(MESSAGES)

            asyncio.run(twice())
    assert [request.headers.get("cookie") for request in server.requests] == [None, None]


@pytest.mark.parametrize("token", [TOKEN, None])
@both_clients
def test_netrc_passwords_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver, token: str | None
) -> None:
    """A password for the host in the user's `.netrc` is never sent, with or without a token."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with Loopback(echo) as server:
        driver.complete(driver.make(base_url=server.base_url, access_token=token))
    assert server.requests[0].headers.get("authorization") == (f"Bearer {token}" if token else None)


PROXIES = (
    "http://someone:pass-canary@127.0.0.1:1",
    "http://someone:pass-canary/2@127.0.0.1:1",
    "http://someone:pass-canary@[::bad",
    "foo://someone:pass-canary@127.0.0.1:1",
)


@pytest.mark.parametrize("proxy", PROXIES)
@pytest.mark.parametrize("scheme", ["http", "https"])
@both_clients
def test_password_of_a_proxy(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, driver: Driver, scheme: str, proxy: str
) -> None:
    """The password of a proxy from the environment appears in no error and no log, even if the proxy URL is invalid."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", proxy)
    client = driver.make(**SETTINGS, base_url=f"{scheme}://host.invalid", allow_http=True, max_retries=0)
    error = failure(driver, client, streamed=False)
    secrets = (*CREDENTIALS, "pass-canary")
    assert leaked(shown(error) + logged(caplog), secrets) == []
    assert in_frames(error, secrets) == []
    assert engines_frames(error) == []


@pytest.mark.parametrize("create", [new_client, new_async_client])
def test_encrypted_proxies_share_the_certificates(monkeypatch: pytest.MonkeyPatch, create: Callable[[], Any]) -> None:
    """A connection to an https:// proxy does not load the certificates again; an http:// proxy needs none."""
    monkeypatch.setenv("HTTPS_PROXY", "https://127.0.0.1:1")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    first, second = create(), create()
    contexts = [
        {
            str(transport._pool._proxy_url.scheme): transport._pool._proxy_ssl_context
            for transport in mounted
            if transport
        }
        for mounted in (first._mounts.values(), second._mounts.values())
    ]
    assert contexts[0] == contexts[1]
    assert {scheme: type(context) for scheme, context in contexts[0].items()} == {
        "b'http'": type(None),
        "b'https'": ssl.SSLContext,
    }
