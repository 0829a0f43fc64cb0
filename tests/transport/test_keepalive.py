"""TCP keep-alive: which sockets have it, and what does without it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import pytest

from tests.support.server import MESSAGES, QUESTION, Driver, Loopback, ask, both_clients, echo
from tests.transport.test_interception import SERVER_TLS, proxy, socks, trust, tunnel
from tir_qwen import AsyncClient, Client
from tir_qwen._transport.keepalive import keep_alive
from tir_qwen._transport.trace import RequestTrace

OPTIONS = [
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", 60),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 4),
    *([(socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 80_000)] if hasattr(socket, "TCP_USER_TIMEOUT") else []),
]
KEPT_ALIVE = [value for _, _, value in OPTIONS]


def options_of(sock: Any) -> list[int]:
    """The options of a socket, as the operating system reports them."""
    return [sock.getsockopt(level, getattr(socket, name)) for level, name, _ in OPTIONS]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """List the options of each socket over which a request is answered."""
    seen: list[list[int]] = []
    original = RequestTrace.record

    def record(self: RequestTrace, event: str, info: Any) -> None:
        original(self, event, info)
        if event == "http11.receive_response_headers.complete" and self.opened_stream is not None:
            seen.append(options_of(self.opened_stream.get_extra_info("socket")))

    monkeypatch.setattr(RequestTrace, "record", record)
    return seen


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "TLS"])
@both_clients
def test_new_connections_are_kept_alive(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, encrypted: bool, opened: list[list[int]]
) -> None:
    """The socket of a new connection, with or without TLS, has all the options that the system knows."""
    trust(monkeypatch)
    with Loopback(echo, tls=SERVER_TLS if encrypted else None) as server:
        client = driver.make(base_url=server.base_url.replace("http:", "https:" if encrypted else "http:"))
        assert ask(driver, client, streamed=True) == QUESTION
        driver.close(client)
    assert opened == [KEPT_ALIVE]


@pytest.mark.parametrize(("kind", "scheme"), [(tunnel, "http"), (socks, "socks5")], ids=["tunnel", "socks"])
@both_clients
def test_connections_through_a_proxy_are_kept_alive(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any, scheme: str, opened: list[list[int]]
) -> None:
    """The socket of a connection to a proxy has the options too."""
    trust(monkeypatch)
    with Loopback(echo, tls=SERVER_TLS) as server, proxy(kind, server.server_address[1]) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://127.0.0.1:{port}")
        client = driver.make(base_url=f"https://localhost:{server.server_address[1]}/v1")
        assert ask(driver, client, streamed=False) == QUESTION
        driver.close(client)
    assert opened
    assert [options for options in opened if options != KEPT_ALIVE] == []


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
def test_connections_of_a_client_of_the_users_are_kept_alive(engine: Any, opened: list[list[int]]) -> None:
    """A connection that an HTTP client passed in by the user opens for a call has the options."""
    with Loopback(echo) as server:
        with engine.Client() as given:
            assert Client(base_url=server.base_url, http_client=given).complete(MESSAGES).content == QUESTION

        async def call() -> str:
            async with engine.AsyncClient() as given:
                return (await AsyncClient(base_url=server.base_url, http_client=given).complete(MESSAGES)).content

        assert asyncio.run(call()) == QUESTION
    assert opened == [KEPT_ALIVE] * 2


def stream_with(sock: Any) -> SimpleNamespace:
    """A network stream over this socket."""
    return SimpleNamespace(get_extra_info={"socket": sock}.get)


@pytest.mark.parametrize("stream", [None, object(), stream_with(None), stream_with(object())])
def test_streams_without_a_socket_are_left_alone(stream: Any) -> None:
    """A stream that does not reveal a socket, or reveals something else, is no error."""
    keep_alive(stream)


@pytest.mark.parametrize("refused", ["SO_KEEPALIVE", "TCP_KEEPINTVL"])
def test_an_option_that_is_refused_does_not_matter(refused: str) -> None:
    """The other options are set if the system refuses one, as it does for a Unix socket."""
    taken: list[int] = []

    def setsockopt(_: int, option: int, value: int) -> None:
        if option == getattr(socket, refused):
            raise OSError(92, "Protocol not available")
        taken.append(value)

    keep_alive(stream_with(SimpleNamespace(setsockopt=setsockopt)))
    assert taken == [value for _, name, value in OPTIONS if name != refused]


@pytest.mark.parametrize("lacking", [("TCP_KEEPCNT",), ("TCP_KEEPIDLE", "TCP_KEEPALIVE", "TCP_KEEPINTVL")])
def test_options_that_the_platform_lacks_are_skipped(monkeypatch: pytest.MonkeyPatch, lacking: tuple[str, ...]) -> None:
    """A platform that lacks some of the options gets the others."""
    for name in lacking:
        monkeypatch.delattr(socket, name, raising=False)
    kept = [(level, getattr(socket, name), value) for level, name, value in OPTIONS if hasattr(socket, name)]
    with closing(socket.socket()) as sock:
        keep_alive(stream_with(sock))
        assert [sock.getsockopt(level, option) for level, option, _ in kept] == [value for _, _, value in kept]
    assert 1 in [value for _, _, value in kept]


def test_the_name_of_an_option_on_macos_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the time before the first probe is called TCP_KEEPALIVE, it is set under that name."""
    taken: list[tuple[int, int, int]] = []
    monkeypatch.delattr(socket, "TCP_KEEPIDLE", raising=False)
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 16, raising=False)
    keep_alive(stream_with(SimpleNamespace(setsockopt=lambda *option: taken.append(option))))
    assert taken[:2] == [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, 16, 60)]
