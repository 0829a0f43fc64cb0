"""TLS contexts of new connections: which certificates they contain, and which connections share them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from socket import create_server
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Async,
    Driver,
    Loopback,
    Sync,
    ask,
    both_clients,
    echo,
    failure,
    record_waits,
)
from tests.transport.test_interception import CERTIFICATE, SERVER_TLS
from tir_qwen import APIConnectionError, Client, ConfigurationError, Timeout, TIRError
from tir_qwen._transport.engine import _engine

Create = Callable[[], Any]
HASHED_NAME = "ce275665.0"
"""What `openssl rehash` calls a file with this certificate."""


@pytest.fixture(autouse=True)
def _nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tir_qwen._transport.certificates._contexts", {})
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)


def https(server: Loopback) -> str:
    """The base URL of a server that speaks TLS."""
    return server.base_url.replace("http:", "https:")


def create_by(monkeypatch: pytest.MonkeyPatch, create: Create, system: str = "Linux") -> None:
    """Make the engine create its contexts in this way, and the operating system be this one."""
    monkeypatch.setattr(_engine(), "create_ssl_context", create)
    monkeypatch.setattr("tir_qwen._transport.certificates.platform", SimpleNamespace(system=lambda: system))


class Truststore(ssl.SSLContext):
    """A context like truststore's, which lets no two handshakes run at the same time."""

    used: list[Truststore]

    def __init__(self, _: Any) -> None:
        self.load_verify_locations(CERTIFICATE)
        self._lock = threading.Lock()

    def wrap_socket(self, *arguments: Any, **options: Any) -> Any:
        self.used.append(self)
        with self._lock:
            return super().wrap_socket(*arguments, **options)


@pytest.fixture
def truststore() -> Create:
    """Return a function that creates such contexts, which list their handshakes in `Truststore.used`."""
    Truststore.used = []
    return lambda: Truststore(ssl.PROTOCOL_TLS_CLIENT)


@both_clients
def test_certificates_named_after_a_failure_are_used(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """SSL_CERT_FILE takes effect in the client that has just rejected the server's certificate."""
    with Loopback(echo, tls=SERVER_TLS) as server:
        client = driver.make(base_url=https(server), max_retries=0)
        error = failure(driver, client, streamed=False)
        assert (type(error), getattr(error, "reason", "")) == (APIConnectionError, "certificate")
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert ask(driver, client, streamed=False) == QUESTION
        driver.close(client)


WRONG_FILES = {"missing": "No such file or directory", "directory": "Is a directory", "text": "not PEM format"}


def make(folder: Path, kind: str) -> Path:
    """Make something that is no file with certificates."""
    path = folder / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "text":
        path.write_text("no certificates here\n")
    return path


@pytest.mark.parametrize(("kind", "problem"), WRONG_FILES.items(), ids=list(WRONG_FILES))
@both_clients
def test_a_wrong_certificate_file_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver, kind: str, problem: str
) -> None:
    """An unusable SSL_CERT_FILE is a ConfigurationError without a connection or a retry, until it is corrected."""
    waits = record_waits(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(make(tmp_path, kind)))
    with Loopback(echo, tls=SERVER_TLS) as server:
        client = driver.make(base_url=https(server))
        errors = [failure(driver, client, streamed) for streamed in (False, True)]
        assert (server.connections, waits) == (0, [])
        monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
        assert ask(driver, client, streamed=False) == QUESTION
        driver.close(client)
    expected = (ConfigurationError, f"SSL_CERT_FILE does not name readable certificates ({problem}).", None)
    assert [(type(error), str(error), error.__context__) for error in errors] == [expected] * 2


@both_clients
def test_a_certificate_file_that_appears_later_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver
) -> None:
    """A file that was missing at the first call is read at the next one."""
    path = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with Loopback(echo, tls=SERVER_TLS) as server:
        client = driver.make(base_url=https(server))
        assert type(failure(driver, client, streamed=False)) is ConfigurationError
        path.write_bytes(CERTIFICATE.read_bytes())
        assert ask(driver, client, streamed=False) == QUESTION
        driver.close(client)


@pytest.mark.parametrize("others", ["", "missing:"], ids=["alone", "after another"])
@both_clients
def test_a_directory_of_certificates_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver, others: str
) -> None:
    """Certificates in SSL_CERT_DIR, named by their hash, are trusted."""
    (tmp_path / HASHED_NAME).write_bytes(CERTIFICATE.read_bytes())
    monkeypatch.setenv("SSL_CERT_DIR", f"{others}{tmp_path}")
    with Loopback(echo, tls=SERVER_TLS) as server:
        client = driver.make(base_url=https(server))
        assert ask(driver, client, streamed=True) == QUESTION
        driver.close(client)


@pytest.mark.parametrize("kind", ["missing", "text"])
@both_clients
def test_a_wrong_directory_of_certificates_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: Driver, kind: str
) -> None:
    """A SSL_CERT_DIR that is no directory is a ConfigurationError, instead of an untrusted server."""
    monkeypatch.setenv("SSL_CERT_DIR", str(make(tmp_path, kind)))
    with Loopback(echo, tls=SERVER_TLS) as server:
        error = failure(driver, driver.make(base_url=https(server)), streamed=False)
        assert server.connections == 0
    assert (type(error), str(error)) == (
        ConfigurationError,
        "SSL_CERT_DIR does not name readable certificates (not a directory).",
    )


def test_all_connections_share_a_plain_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Certificates are loaded once for all the connections of both clients."""
    original, contexts = _engine().create_ssl_context, []

    def create() -> Any:
        contexts.append(original())
        return contexts[-1]

    create_by(monkeypatch, create)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with Loopback(echo, tls=SERVER_TLS) as server:
        for driver in (Sync(), Async(), Sync(), Async()):
            client = driver.make(base_url=https(server))
            assert ask(driver, client, streamed=False) == QUESTION
            driver.close(client)
        assert server.connections == 4
    assert len(contexts) == 1


@pytest.mark.parametrize(("system", "expected"), [("Darwin", 3), ("Windows", 3), ("Linux", 0)])
@both_clients
def test_a_context_with_a_lock_is_never_shared(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, truststore: Create, system: str, expected: int
) -> None:
    """A context of another class serves one connection each; on Linux, a plain one takes its place."""
    used: list[Any] = []
    client_class = type(driver.make(base_url="http://127.0.0.1:9/v1")).__name__
    original = getattr(_engine(), client_class)

    def new(**options: Any) -> Any:
        used.append(options["verify"])
        return original(**options)

    create_by(monkeypatch, truststore, system)
    monkeypatch.setattr(_engine(), client_class, new)
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    with Loopback(echo, tls=SERVER_TLS) as server:
        for _ in range(3):
            client = driver.make(base_url=https(server))
            assert ask(driver, client, streamed=False) == QUESTION
            driver.close(client)
    locked = [context for context in used if isinstance(context, Truststore)]
    assert len(set(map(id, locked))) == len(locked)
    assert len(locked) >= expected if expected else locked == []
    assert {type(context) for context in used} == {Truststore if expected else ssl.SSLContext}


@pytest.mark.parametrize("system", ["Darwin", "Linux"])
def test_a_context_in_the_place_of_the_plain_one_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, truststore: Create, system: str
) -> None:
    """Where `truststore.inject_into_ssl()` has replaced `ssl.SSLContext`, each connection has a context of its own."""
    create_by(monkeypatch, truststore, system)
    monkeypatch.setattr(ssl, "SSLContext", Truststore)
    monkeypatch.setattr(ssl, "create_default_context", truststore)
    with Loopback(echo, tls=SERVER_TLS) as server:
        for _ in range(2):
            with Client(base_url=https(server)) as client:
                assert client.complete(MESSAGES).content == QUESTION
    one, other = Truststore.used
    assert one is not other


def test_a_silent_host_does_not_hold_up_others(monkeypatch: pytest.MonkeyPatch, truststore: Create) -> None:
    """A host that never shakes hands does not delay a call to another host from another thread."""
    create_by(monkeypatch, truststore, "Darwin")
    with (
        Loopback(echo, tls=SERVER_TLS) as server,
        closing(create_server(("127.0.0.1", 0))) as silent,
        ThreadPoolExecutor(1) as threads,
        Client(base_url=https(server)) as client,
    ):
        address = f"https://127.0.0.1:{silent.getsockname()[1]}/v1"
        waiting = Client(base_url=address, max_retries=0, timeout=Timeout(connect=5))
        call = threads.submit(waiting.complete, MESSAGES)
        connection, _ = silent.accept()
        with connection:
            assert connection.recv(1)  # the handshake has begun
            assert client.complete(MESSAGES).content == QUESTION
            assert not call.done()
        with pytest.raises(TIRError):
            call.result(5)
