"""Errors of the HTTP library, raised as errors of ours."""

from __future__ import annotations

import errno
from types import ModuleType
from typing import Any

import pytest

from tests.support.server import (
    STREAM_HEAD,
    Loopback,
    event,
    in_turn,
    record_waits,
    response,
)
from tests.transport.test_engine import asynchronous, call, engines
from tir_qwen import (
    APIConnectionError,
    APITimeoutError,
    MalformedChunkError,
    StreamInterruptedError,
    TIRError,
)
from tir_qwen._transport.deadline import Deadline
from tir_qwen._transport.errors import error_from_engine
from tir_qwen._transport.trace import RequestTrace
from tir_qwen.timeouts import Timeout


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
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_corrupt_compression(engine: ModuleType, asynchronous: bool, streamed: bool) -> None:
    """An answer whose compression is corrupt is malformed, and the error does not quote it."""
    corrupt = response(b"\x1f\x8bno gzip", content_encoding="gzip")
    with Loopback(in_turn(corrupt)) as server, pytest.raises(TIRError) as caught:
        call(engine, asynchronous, streamed, {}, {"base_url": server.base_url, "max_retries": 0})
    assert (type(caught.value), caught.value.args) == (
        MalformedChunkError,
        ("the compression of the answer is corrupt",),
    )
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


UNTRUSTED = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate"


@engines
@asynchronous
@pytest.mark.parametrize(
    ("text", "words", "requests"),
    [
        ("[Errno -2] Name or service not known", "Name or service not known", 3),
        (f"{UNTRUSTED} (_ssl.c:1006)", UNTRUSTED, 1),
        ("", "the connection was closed", 3),
    ],
)
def test_connections_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, engine: ModuleType, asynchronous: bool, text: str, words: str, requests: int
) -> None:
    """A failed name lookup is retried; an invalid certificate is not."""
    waits = record_waits(monkeypatch)
    made = []

    def fail(request: Any) -> None:
        made.append(request)
        raise engine.ConnectError(text, request=request)

    with pytest.raises(APIConnectionError) as caught:
        call(engine, asynchronous, False, {"transport": engine.MockTransport(fail)}, {"base_url": "http://[::1]/v1"})
    assert str(caught.value) == f"could not connect to [::1]:80: {words}"
    assert caught.value.attempts == len(made) == requests
    assert len(waits) == requests - 1


LONG = "within 600 s (timeout: first_delta)"


BROKE = "the connection to [::1]:80 broke before the server's response"


@engines
@pytest.mark.parametrize(
    ("name", "kind", "words", "requests"),
    [
        ("ConnectTimeout", APITimeoutError, "could not connect to [::1]:80 within 5 s (timeout: connect)", 3),
        ("PoolTimeout", APITimeoutError, f"none of the client's connections became free {LONG}", 3),
        ("ReadTimeout", APITimeoutError, f"there was no answer {LONG}", 3),
        ("WriteTimeout", APITimeoutError, f"the server did not take the request {LONG}", 3),
        ("ReadError", APIConnectionError, f"{BROKE} (ReadError)", 3),
        ("ProxyError", APIConnectionError, "the proxy did not connect to [::1]:80", 3),
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
@pytest.mark.parametrize("begun", [False, True])
def test_a_connection_that_the_system_gives_up_has_broken(engine: Any, begun: bool) -> None:
    """An unanswered keep-alive probe is no time limit of ours, though Python's error is a TimeoutError too."""
    deadline = Deadline(Timeout())

    def failure(cause: OSError) -> BaseException:
        error = engine.ReadTimeout("")
        error.__cause__ = cause
        return error_from_engine(error, deadline, None if begun else RequestTrace("http://a/v1"))

    lost, late = failure(TimeoutError(errno.ETIMEDOUT, "Connection timed out")), failure(TimeoutError("timed out"))
    assert isinstance(late, APITimeoutError)
    detail = "(the other side no longer answers)"
    if begun:
        assert isinstance(lost, StreamInterruptedError)
        assert str(lost) == f"the connection broke before the end of the answer {detail}"
    else:
        assert type(lost) is APIConnectionError
        assert str(lost) == f"the connection to a:80 broke before the server's response {detail}"
        assert lost.is_retryable
