"""Connections that carry more than plain answers: proxies, rejected requests, and responses without a body."""

from __future__ import annotations

import select
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.support.paths import DATA
from tests.support.secrets import SETTINGS, hunted
from tests.support.server import (
    QUESTION,
    STREAM_HEAD,
    Driver,
    Loopback,
    ask,
    both_clients,
    echo,
    event,
    failure,
)
from tir_qwen import Client, StreamInterruptedError

CERTIFICATE = DATA / "self_signed.pem"
SERVER_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
SERVER_TLS.load_cert_chain(CERTIFICATE)


def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clients trust the server's certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))


def receive(connection: socket.socket, end: bytes) -> bytes:
    """Receive everything up to this delimiter."""
    data = b""
    while not data.endswith(end):
        data += connection.recv(1)
    return data


def forward(connection: socket.socket, port: int) -> None:
    """Forward a request whose target is an absolute URL."""
    method, target, rest = receive(connection, b"\r\n").split(b" ", 2)
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(b" ".join([method, b"/" + target.split(b"/", 3)[3], rest]))
        exchange(connection, server)


def tunnel(connection: socket.socket, port: int) -> None:
    """Open a tunnel, as an HTTP proxy does for TLS."""
    assert receive(connection, b"\r\n\r\n").startswith(b"CONNECT localhost:")
    with socket.create_connection(("127.0.0.1", port)) as server:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        exchange(connection, server)


def socks(connection: socket.socket, port: int) -> None:
    """Open a SOCKS5 tunnel; the reported address, 10.10.10.10, consists of newline bytes."""
    greeting = connection.recv(2)
    connection.recv(greeting[1])
    connection.sendall(b"\x05\x00")
    _, _, _, kind = connection.recv(4)
    connection.recv((connection.recv(1)[0] if kind == 3 else 4) + 2)
    with socket.create_connection(("127.0.0.1", port)) as server:
        connection.sendall(b"\x05\x00\x00\x01\n\n\n\n\n\n")
        exchange(connection, server)


def exchange(one: socket.socket, other: socket.socket) -> None:
    """Relay data in both directions until one side ends."""
    while True:
        for end in select.select([one, other], [], [])[0]:
            data = end.recv(65536)
            if not data:
                return
            (other if end is one else one).sendall(data)


@contextmanager
def proxy(kind: Callable[[socket.socket, int], None], port: int) -> Iterator[int]:
    """Run a proxy in front of the server at `port`, and yield its own port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection: socket.socket) -> None:
            with connection, suppress(ConnectionResetError):
                kind(connection, port)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # closed
                    return
                threading.Thread(target=serve, args=[connection], daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("kind", "variable", "scheme", "encrypted"),
    [
        (forward, "HTTP_PROXY", "http", False),
        (tunnel, "HTTPS_PROXY", "http", True),
        (socks, "ALL_PROXY", "socks5", False),
        (socks, "ALL_PROXY", "socks5", True),
    ],
    ids=["forward", "tunnel", "socks", "socks, encrypted"],
)
@both_clients
def test_calls_go_through_a_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, kind: Any, variable: str, scheme: str, encrypted: bool
) -> None:
    """Whole and streamed answers arrive through a proxy from the environment."""
    trust(monkeypatch)
    with Loopback(echo, tls=SERVER_TLS if encrypted else None) as server, proxy(kind, server.server_address[1]) as port:
        monkeypatch.setenv(variable, f"{scheme}://127.0.0.1:{port}")
        address = f"{'https' if encrypted else 'http'}://localhost:{server.server_address[1]}/v1"
        client = driver.make(**{**SETTINGS, "base_url": address, "timeout": 5, "max_retries": 0})
        assert [ask(driver, client, streamed) for streamed in (True, False, True)] == [QUESTION] * 3
        driver.close(client)


def test_locals_of_a_write_that_is_interrupted() -> None:
    """Ctrl-C while a long prompt is being sent leaves neither credentials nor the prompt in the traceback's locals."""
    main, stopped = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        connection, _ = deaf.accept()
        with connection:
            connection.recv(1)  # it is being sent
            while not stopped.wait(1):  # repeat until it is noticed: during garbage collection, Ctrl-C is swallowed
                signal.pthread_kill(main, signal.SIGINT)

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = Client(**SETTINGS, base_url=f"http://127.0.0.1:{deaf.getsockname()[1]}/v1")
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            client.complete([{"role": "user", "content": "word " * 5_000_000}])
        stopped.set()
        interrupting.join()
    assert hunted(caught.value) == []


@both_clients
def test_an_answer_without_a_body(driver: Driver) -> None:
    """A status that has no body ends the response immediately, even if the headers announce a body."""
    head = STREAM_HEAD.replace(b"200 OK", b"204 No Content")
    with Loopback(lambda _: [head]) as server:
        error = failure(driver, driver.make(base_url=server.base_url, timeout=5, max_retries=0), True)
    assert (type(error), str(error)) == (StreamInterruptedError, "the server sent no answer")


@both_clients
def test_encryption_that_breaks(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Corrupt TLS data within an answer raises `StreamInterruptedError` with the partial answer."""
    trust(monkeypatch)

    def answer(_: Any) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ")
        with socket.socket(fileno=socket.dup(server._own.connection.fileno())) as plain:
            plain.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
        server.left_within(5)

    with Loopback(answer, tls=SERVER_TLS) as server:
        address = server.base_url.replace("http:", "https:")
        error = failure(driver, driver.make(base_url=address, timeout=5, max_retries=0), True)
    assert type(error) is StreamInterruptedError
    assert error.partial is not None
    assert error.partial.content == "In its "
