"""Errors of requests that get no response name the host and port of the server or the proxy, and the cause."""

from __future__ import annotations

import asyncio
import os
import resource
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from types import ModuleType
from typing import Any

import pytest

from tests.support.secrets import CREDENTIALS, SETTINGS, TOKEN, leaked, shown
from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    Loopback,
    ask,
    both_clients,
    echo,
    failure,
    in_turn,
    record_waits,
)
from tests.transport.test_engine import asynchronous, call, engines
from tests.transport.test_interception import CERTIFICATE, SERVER_TLS, forward, proxy, receive, socks, trust, tunnel
from tir_qwen import APIConnectionError, APITimeoutError, AsyncClient, Client, Timeout, TIRError
from tir_qwen.testing import Request

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
def test_a_server_without_tls(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """A TLS handshake with a server that does not speak TLS names the server, and is not retried."""
    waits = record_waits(monkeypatch)
    asked: list[int] = []

    def speak_plainly(connection: socket.socket, _: int) -> None:
        asked.append(0)
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with proxy(speak_plainly, 0) as port:
        error = refused(driver, base_url=f"https://127.0.0.1:{port}/v1", max_retries=2)
    assert str(error) == (
        f"could not connect to 127.0.0.1:{port}: the server does not speak TLS at this port: should the URL begin with"
        " http:?"
    )
    assert (error.reason, error.is_retryable) == ("tls", False)
    assert (error.attempts, len(asked), waits) == (1, 1, [])


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


def trickle(connection: socket.socket, _: int) -> None:
    """Answer CONNECT, byte after byte, without end."""
    receive(connection, b"\r\n\r\n")
    connection.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
    with suppress(OSError):
        while not select.select([connection], [], [], 0.02)[0]:
            connection.sendall(b"z")


def wait(connection: socket.socket, _: int) -> None:
    """Answer nothing."""
    while connection.recv(65536):
        pass


def wait_after_greeting(connection: socket.socket, _: int) -> None:
    """Accept the greeting of a SOCKS5 client, and answer nothing else."""
    connection.recv(connection.recv(2)[1])
    connection.sendall(b"\x05\x00")
    wait(connection, 0)


SLOW_PROXIES = [
    (wait, "http", REMOTE),
    (trickle, "http", REMOTE),
    (wait, "socks5", REMOTE),
    (wait_after_greeting, "socks5", REMOTE),
    (wait_after_greeting, "socks5", PLAIN),
]


@pytest.mark.parametrize(
    ("kind", "scheme", "settings"), SLOW_PROXIES, ids=["silent", "slow", "socks", "socks later", "socks without TLS"]
)
@both_clients
def test_a_proxy_has_as_long_as_a_connection_may_take(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any, scheme: str, settings: dict[str, Any]
) -> None:
    """The limit `connect` includes the wait for a proxy that opens no tunnel, even if bytes keep arriving."""
    with proxy(kind, 0) as port:
        monkeypatch.setenv("ALL_PROXY", f"{scheme}://127.0.0.1:{port}")
        started_at = time.monotonic()
        error = refused(driver, **settings, timeout=Timeout(connect=0.2, first_delta=30))
        assert 0.2 <= time.monotonic() - started_at < 3
    server = "host.invalid:443" if settings is REMOTE else "host.invalid:8000"
    words = f"the proxy 127.0.0.1:{port} did not connect to {server} within 0.2 s (timeout: connect)"
    assert (type(error), str(error), error.reason) == (APITimeoutError, words, "proxy")


@engines
@asynchronous
def test_a_proxy_of_the_users_client_has_longer(engine: ModuleType, asynchronous: bool) -> None:
    """The limit that an error names is the one that was exceeded: the user's client knows no other for a proxy."""
    limits = Timeout(connect=0.1, first_delta=0.3, between_deltas=0.3)
    settings = {**REMOTE, "max_retries": 0, "timeout": limits}
    with proxy(wait, 0) as port, pytest.raises(APITimeoutError) as caught:
        call(engine, asynchronous, False, {"proxy": f"http://127.0.0.1:{port}"}, settings)
    assert str(caught.value) == (
        f"the proxy 127.0.0.1:{port} did not connect to host.invalid:443 within 0.3 s (timeout: first_delta)"
    )


@both_clients
def test_a_proxy_has_longer_without_the_hooks(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """With the hooks turned off, the limit `first_delta` ends the wait for a proxy, and is named."""
    monkeypatch.setenv("TIR_QWEN_DIRECT_READS", "0")
    with proxy(wait, 0) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        error = refused(driver, **REMOTE, timeout=Timeout(connect=0.1, first_delta=0.3, between_deltas=0.3))
    assert str(error) == (
        f"the proxy 127.0.0.1:{port} did not connect to host.invalid:443 within 0.3 s (timeout: first_delta)"
    )


@pytest.mark.parametrize(("kind", "variable"), [(tunnel, "HTTPS_PROXY"), (forward, "HTTP_PROXY")])
@both_clients
def test_an_answer_through_a_proxy_has_as_long_as_any(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any, variable: str
) -> None:
    """Once a proxy has connected, the limit `connect` does not apply to the answer."""
    trust(monkeypatch)

    def answer(request: Request) -> Iterator[bytes]:
        server.left_within(0.3)
        yield from echo(request)

    encrypted = kind is tunnel
    with Loopback(echo, tls=SERVER_TLS if encrypted else None) as server, proxy(kind, server.server_address[1]) as port:
        server.answer = answer
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        address = f"{'https' if encrypted else 'http'}://localhost:{server.server_address[1]}/v1"
        client = driver.make(base_url=address, max_retries=0, timeout=Timeout(connect=0.25, first_delta=5))
        assert ask(driver, client, streamed=False) == QUESTION
        driver.close(client)


@pytest.mark.parametrize(
    ("status", "attempts"),
    [
        ("407 Proxy Authentication Required", 1),
        ("403 Forbidden", 1),
        ("429 Too Many Requests", 3),
        ("503 Service Unavailable", 3),
    ],
)
@both_clients
def test_what_a_proxy_refuses_for_good_is_not_retried(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, status: str, attempts: int
) -> None:
    """Only a status of the proxy that may pass is retried; the error names it either way."""
    waits = record_waits(monkeypatch)
    asked: list[int] = []

    def refuse(connection: socket.socket, _: int) -> None:
        asked.append(0)
        answer_connect(f"HTTP/1.1 {status}\r\n\r\n".encode())(connection, 0)

    with proxy(refuse, 0) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        error = refused(driver, **REMOTE, max_retries=2)
    assert str(error) == f"the proxy 127.0.0.1:{port} did not connect to host.invalid:443: {status}"
    assert (error.reason, error.attempts, len(asked), len(waits)) == ("proxy", attempts, attempts, attempts - 1)


@pytest.mark.parametrize("direct_reads", ["1", "0"])
@both_clients
def test_a_connection_through_socks_is_not_taken_for_a_reused_one(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, direct_reads: str
) -> None:
    """A server that hangs up on a new connection through a SOCKS proxy is not asked again without an attempt."""
    monkeypatch.setenv("TIR_QWEN_DIRECT_READS", direct_reads)
    with Loopback(in_turn(b"")) as server, proxy(socks, server.server_address[1]) as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        error = refused(driver, base_url=f"http://localhost:{server.server_address[1]}/v1")
        assert (error.attempts, server.connections) == (1, 1)


class Lingering(Loopback):
    """Reads what a client sends after a failed handshake: closing at once would take back the reason of the failure."""

    def shutdown_request(self, request: Any) -> None:
        with suppress(OSError), socket.socket(fileno=os.dup(request.fileno())) as plain:
            plain.settimeout(5)
            while plain.recv(65536):
                pass
        super().shutdown_request(request)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
@both_clients
def test_a_server_that_demands_a_certificate_of_the_client(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, version: ssl.TLSVersion
) -> None:
    """A server that demands a client certificate is asked once, and the error says why it ended the connection."""
    trust(monkeypatch)
    waits = record_waits(monkeypatch)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    with Lingering(echo, tls=context) as server:
        address = f"127.0.0.1:{server.server_address[1]}"
        error = refused(driver, base_url=f"https://{address}/v1", max_retries=2)
        assert server.connections == 1
    if version is ssl.TLSVersion.TLSv1_2:
        assert str(error).startswith(f"could not connect to {address}: [SSL: ")
        assert str(error).endswith(" alert handshake failure")  # in between, OpenSSL's versions differ
    else:
        advice = "the server demands a client certificate: pass an http_client that has one"
        assert str(error) == f"the connection to {address} broke before the server's response ({advice})"
    assert (error.reason, error.is_retryable, error.attempts, waits) == ("tls", False, 1, [])


def answer_socks(*replies: bytes) -> Callable[[socket.socket, int], None]:
    """Return a proxy that sends these bytes to a SOCKS5 client, one after the other."""

    def answer(connection: socket.socket, _: int) -> None:
        for reply in replies:
            connection.recv(65536)
            connection.sendall(reply)
        connection.recv(65536)

    return answer


NOT_SOCKS = {
    "HTTP": [b"HTTP/1.1 400 pass-canary\r\n\r\n"],
    "cut": [b"\x05"],
    "unknown": [b"\x05\x00", b"\x05\x77\x00\x01" + bytes(6)],
    "other methods": [b"\x05\xff"],
}


@pytest.mark.parametrize("replies", NOT_SOCKS.values(), ids=list(NOT_SOCKS))
@both_clients
def test_a_proxy_that_does_not_speak_socks(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, replies: list[bytes]
) -> None:
    """A malformed answer of a SOCKS proxy is an error of the proxy like any other."""
    with proxy(answer_socks(*replies), 0) as port:
        monkeypatch.setenv("ALL_PROXY", f"socks5://127.0.0.1:{port}")
        error = refused(driver, **REMOTE)
    assert (str(error), error.reason) == (f"the proxy 127.0.0.1:{port} did not connect to host.invalid:443", "proxy")


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
def test_too_many_open_files(asynchronous: bool, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If this process has too many open files, the error says so and what to do, in asynchronous calls too."""
    port = free_port()
    addresses = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
    ]
    if host == "localhost":  # not every machine has both, or can look them up without opening a file
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
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
