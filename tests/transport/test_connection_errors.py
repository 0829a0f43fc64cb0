"""Errors of requests that get no response name the host and port of the server or the proxy, and the cause."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import ModuleType
from typing import Any

import pytest

from tests.support.secrets import CREDENTIALS, SETTINGS, TOKEN, leaked, shown
from tests.support.server import MESSAGES, Driver, Loopback, both_clients, echo, failure, in_turn
from tests.transport.test_engine import asynchronous, call, engines
from tests.transport.test_interception import SERVER_TLS, forward, proxy, receive, socks, trust, tunnel
from tir_qwen import APIConnectionError, APITimeoutError, AsyncClient, Client, Timeout, TIRError

REMOTE = {"base_url": "https://host.invalid/path-canary/v1", "access_token": TOKEN}
PLAIN = {"base_url": "http://host.invalid:8000/path-canary/v1", "access_token": TOKEN, "allow_http": True}


def free_port() -> int:
    """Return a port at which nobody listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port: int = taken.getsockname()[1]
        return port


def refused(driver: Driver, **settings: Any) -> APIConnectionError:
    """Return the error of a call that gets no answer."""
    error = failure(driver, driver.make(**{"timeout": 5, "max_retries": 0, **settings}), streamed=False)
    assert isinstance(error, APIConnectionError)
    assert leaked(shown(error), (*CREDENTIALS, "path-canary", "pass-canary")) == []
    return error


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["one address", "two addresses"])
@both_clients
def test_a_server_that_is_not_running(driver: Driver, host: str) -> None:
    """A refused connection names the host and port, and says that it was refused, in asynchronous calls too."""
    port = free_port()
    error = refused(driver, base_url=f"http://{host}:{port}/v1")
    assert str(error) == f"could not connect to {host}:{port}: Connection refused"
    assert (error.reason, error.is_retryable) == ("refused", True)


@both_clients
def test_a_misspelt_host(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """A host name that does not resolve is named, with the default port of its scheme and without the project id."""

    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    error = refused(driver, **SETTINGS, base_url="https://host.invalid")
    assert str(error) == "could not connect to host.invalid:443: Name or service not known"
    assert (error.reason, error.is_retryable) == ("name", True)


@both_clients
def test_a_server_that_does_not_accept(driver: Driver) -> None:
    """A connect timeout names the host, the port and the limit."""
    with Loopback(echo) as server, closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        error = refused(driver, base_url=f"https://127.0.0.1:{port}/v1", timeout=Timeout(connect=0.1))
        over = refused(driver, base_url=f"https://127.0.0.1:{port}/v1", timeout=Timeout(total=0.1))
        assert server.connections == 0
    assert type(error) is type(over) is APITimeoutError
    assert str(error) == f"could not connect to 127.0.0.1:{port} within 0.1 s (timeout: connect)"
    assert str(over) == f"could not connect to 127.0.0.1:{port} within 0.1 s (timeout: total)"
    assert error.reason == over.reason == "unreachable"


@both_clients
def test_a_certificate_that_nobody_trusts(driver: Driver) -> None:
    """An untrusted certificate names the server that has it, and is not retried."""
    with Loopback(echo, tls=SERVER_TLS) as server:
        port = server.server_address[1]
        error = refused(driver, base_url=f"https://127.0.0.1:{port}/v1")
    assert str(error) == (
        f"could not connect to 127.0.0.1:{port}: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed:"
        " self-signed certificate"
    )
    assert (error.reason, error.is_retryable) == ("certificate", False)


@both_clients
def test_a_server_without_tls(driver: Driver) -> None:
    """A TLS handshake with a server that does not speak TLS names the server."""

    def speak_plainly(connection: socket.socket, _: int) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with proxy(speak_plainly, 0) as port:
        error = refused(driver, base_url=f"https://127.0.0.1:{port}/v1")
    assert str(error) == (
        f"could not connect to 127.0.0.1:{port}: the server does not speak TLS at this port: should the URL begin with"
        " http:?"
    )
    assert (error.reason, error.is_retryable) == ("tls", False)


PROXIES = [("HTTPS_PROXY", "http", REMOTE), ("HTTP_PROXY", "http", PLAIN), ("ALL_PROXY", "socks5", REMOTE)]


@pytest.mark.parametrize(("variable", "scheme", "settings"), PROXIES)
@both_clients
def test_a_dead_proxy(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, variable: str, scheme: str, settings: dict[str, Any]
) -> None:
    """A proxy of the environment that is not running is named as such, without its password."""
    port = free_port()
    monkeypatch.setenv(variable, f"{scheme}://someone:pass-canary@127.0.0.1:{port}")
    error = refused(driver, **settings)
    assert str(error) == f"could not connect to the proxy 127.0.0.1:{port}: Connection refused"
    assert error.reason == "proxy"


@engines
@asynchronous
def test_a_dead_proxy_of_the_users_client(engine: ModuleType, asynchronous: bool) -> None:
    """The proxy of a client that the user passed in is named too."""
    port = free_port()
    options = {"proxy": f"http://someone:pass-canary@127.0.0.1:{port}"}
    with pytest.raises(APIConnectionError) as caught:
        call(engine, asynchronous, False, options, {**REMOTE, "max_retries": 0})
    assert str(caught.value) == f"could not connect to the proxy 127.0.0.1:{port}: Connection refused"
    assert leaked(shown(caught.value), (*CREDENTIALS, "path-canary", "pass-canary")) == []


def answer_connect(status: bytes) -> Callable[[socket.socket, int], None]:
    """Return a proxy that answers CONNECT in this way and hangs up."""

    def refuse(connection: socket.socket, _: int) -> None:
        receive(connection, b"\r\n\r\n")
        connection.sendall(status)

    return refuse


def refuse_socks(connection: socket.socket, _: int) -> None:
    """Refuse to open a SOCKS5 tunnel."""
    connection.recv(connection.recv(2)[1])
    connection.sendall(b"\x05\x00")
    connection.recv(65536)
    connection.sendall(b"\x05\x04\x00\x01" + bytes(6))


@pytest.mark.parametrize(
    ("kind", "scheme", "words"),
    [
        (answer_connect(b"HTTP/1.1 407 pass-canary\r\n\r\n"), "http", ": 407 Proxy Authentication Required"),
        (answer_connect(b"HTTP/1.1 599 pass-canary\r\n\r\n"), "http", ""),
        (refuse_socks, "socks5", ": Host unreachable"),
    ],
    ids=["407", "599", "socks"],
)
@both_clients
def test_a_proxy_that_refuses(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any, scheme: str, words: str
) -> None:
    """A proxy that does not connect to the server is named with its status, and not quoted further."""
    with proxy(kind, 0) as port:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{port}")
        error = refused(driver, **REMOTE)
    assert str(error) == f"the proxy 127.0.0.1:{port} did not connect to host.invalid:443{words}"
    assert error.reason == "proxy"


@both_clients
def test_a_proxy_that_hangs(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """A proxy that never opens the tunnel is blamed for the timeout, rather than the server."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        error = refused(driver, **REMOTE, timeout=Timeout(first_delta=0.1))
    assert str(error) == (
        f"the proxy 127.0.0.1:{port} did not connect to host.invalid:443 within 0.1 s (timeout: first_delta)"
    )
    assert error.reason == "proxy"


@both_clients
def test_a_proxy_that_hangs_up(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """A proxy that closes the connection instead of opening the tunnel is named."""
    with proxy(answer_connect(b""), 0) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        error = refused(driver, **REMOTE)
    assert str(error) == (
        f"the connection to host.invalid:443 through the proxy 127.0.0.1:{port} broke before the server's response"
        " (RemoteProtocolError)"
    )
    assert error.reason == "proxy"


@pytest.mark.parametrize(("kind", "scheme"), [(tunnel, "http"), (socks, "socks5")], ids=["tunnel", "socks"])
@both_clients
def test_a_certificate_behind_a_proxy(monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any, scheme: str) -> None:
    """A TLS failure behind a proxy is the server's, and says through which proxy."""
    with Loopback(echo, tls=SERVER_TLS) as server, proxy(kind, server.server_address[1]) as port:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{port}")
        error = refused(driver, base_url=f"https://localhost:{server.server_address[1]}/v1", access_token=TOKEN)
    assert str(error) == (
        f"could not connect to localhost:{server.server_address[1]} through the proxy 127.0.0.1:{port}:"
        " [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"
    )
    assert error.reason == "certificate"


@pytest.mark.parametrize("kind", [None, forward, tunnel, socks], ids=["direct", "forward", "tunnel", "socks"])
@both_clients
def test_a_server_that_hangs_up(monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any) -> None:
    """A connection that breaks before the response names the server, and the proxy if there is one."""
    trust(monkeypatch)
    encrypted = kind is tunnel
    with (
        Loopback(in_turn(b""), tls=SERVER_TLS if encrypted else None) as server,
        proxy(kind, server.server_address[1]) as port,
    ):
        if kind is not None:
            monkeypatch.setenv("ALL_PROXY", f"{'socks5' if kind is socks else 'http'}://127.0.0.1:{port}")
        address = f"localhost:{server.server_address[1]}"
        error = refused(driver, base_url=f"{'https' if encrypted else 'http'}://{address}/v1")
    way = f"{address} through the proxy 127.0.0.1:{port}" if kind else address
    assert str(error).startswith(f"the connection to {way} broke before the server's response (")
    assert error.reason == ""


@both_clients
def test_a_host_that_is_a_secret(driver: Driver) -> None:
    """A host that is also a credential is masked in the error."""
    error = refused(driver, base_url="https://key-canary.invalid/v1", access_token="key-canary.invalid")
    assert str(error) == "could not connect to ***:443: Name or service not known"


@contextmanager
def no_more_files() -> Iterator[None]:
    """Make it impossible to open another file or socket."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_file = os.open(os.devnull, os.O_RDONLY)
    os.close(next_file)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["one address", "two addresses"])
@asynchronous
def test_too_many_open_files(asynchronous: bool, host: str) -> None:
    """If this process has too many open files, the error says so and what to do, in asynchronous calls too."""
    port = free_port()
    settings: dict[str, Any] = {"base_url": f"http://{host}:{port}/v1", "max_retries": 0}
    errors: list[TIRError] = []

    def sync_call() -> None:
        client = Client(**settings)
        for exhausted in (False, True):  # the first call imports the engine, which opens files
            with no_more_files() if exhausted else closing(socket.socket()), pytest.raises(TIRError) as caught:
                client.complete(MESSAGES)
            errors.append(caught.value)

    async def async_call() -> None:
        client = AsyncClient(**settings)
        for exhausted in (False, True):
            with no_more_files() if exhausted else closing(socket.socket()), pytest.raises(TIRError) as caught:
                await client.complete(MESSAGES)
            errors.append(caught.value)

    asyncio.run(async_call()) if asynchronous else sync_call()
    error = errors[1]
    assert isinstance(error, APIConnectionError)
    assert str(error) == (
        f"could not connect to {host}:{port}: Too many open files. Every call in progress has a connection: raise the"
        " limit of open files (ulimit -n), or make fewer calls at once"
    )
    assert error.reason == "open_files"
