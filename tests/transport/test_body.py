"""Reading response bodies off the connection: what servers may send, and when the connection is reused."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from vcr import VCR

from tests.support.faults.vocabulary import EVENTS, WHOLE_BODY, told
from tests.support.paths import DATA
from tests.support.server import (
    END,
    MESSAGES,
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    Outcome,
    ask,
    both_clients,
    completion,
    event,
    failure,
    outcome_of,
    record_waits,
    response,
    stream,
    whole_and_streamed,
)
from tests.support.stopping_servers import Stopping
from tir_qwen import AsyncClient, InternalServerError, StreamInterruptedError
from tir_qwen.testing import Request
from tir_qwen.testing._server import Answer

TEXT = "In its cage."
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
TRAILERS = b"0\r\nx-sum: 7\r\nx-more:\r\n\r\n"
HINTS = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
AB = stream("ab")
AB_TRAILED = AB[: -len(END)] + TRAILERS
CLOSING = AB.replace(b"200 OK\r\n", b"200 OK\r\nconnection: close\r\n")


def chunks(body: bytes, size: int = 1, extension: bytes = b"", end: bytes = END) -> bytes:
    """Encode a body in chunks of this size."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + end


FORMS = {
    "one chunk": told(EVENTS),
    "a chunk for each byte": STREAM_HEAD + chunks(EVENTS),
    "extensions and trailers": STREAM_HEAD + chunks(EVENTS, 50, b';a="b;c"; d ', TRAILERS),
    "zeros and white space": STREAM_HEAD + b"00%X \t\r\n%b\r\n000 \r\n\r\n" % (len(EVENTS), EVENTS),
    "bare newlines": STREAM_HEAD.replace(b"\r\n", b"\n") + chunks(EVENTS, 50),
    "a bare newline for the blank line": STREAM_HEAD[:-2] + b"\n" + chunks(EVENTS, 50),
    "capitals": STREAM_HEAD.replace(b"transfer-encoding: chunked", b"TRANSFER-ENCODING:CHUNKED ") + chunks(EVENTS, 50),
    "early hints": HINTS + told(EVENTS),
    "many heads": CONTINUE + HINTS + CONTINUE.replace(b"\r\n", b"\n") + HINTS + told(EVENTS),
    "gzip": HEAD + b"content-encoding: gzip\r\n" + CHUNKED + chunks(gzip.compress(EVENTS, mtime=0), 9),
    "identity": HEAD + b"content-encoding: identity\r\n" + CHUNKED + chunks(EVENTS, 50),
    "a length as well": HEAD + b"content-length: 3\r\n" + CHUNKED + chunks(EVENTS, 50),
    "until it closes": HEAD + b"\r\n" + EVENTS,
    "HTTP/1.0 until it closes": HEAD.replace(b"1.1", b"1.0") + b"\r\n" + EVENTS,
    "HTTP/1.0 in chunks": STREAM_HEAD.replace(b"1.1", b"1.0") + chunks(EVENTS, 50),
    "more than the body": told(EVENTS) + stream("or not"),
}


def at_once(*raws: bytes) -> Answer:
    """Answer each request with the next response, in one write."""
    left = iter(raws)
    return lambda _: [next(left)]


def outcome(driver: Driver, raw: bytes, *, hang_up: bool = True) -> Outcome:
    """Return what a caller sees of a streamed answer sent in one write."""

    def answer(_: Request) -> Iterator[bytes]:
        yield raw
        if hang_up:
            raise HangUpError

    with Loopback(answer) as server:
        return outcome_of(driver.deltas(driver.make(base_url=server.base_url, max_retries=0, timeout=2)))


def read_at_most(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Limit the bytes that each read from a connection returns."""
    monkeypatch.setattr("tir_qwen._transport.body.body.MAX_READ_BYTES", size)
    for core in ("httpcore", "httpcore2"):
        for kind in ("_sync.http11.HTTP11Connection", "_async.http11.AsyncHTTP11Connection"):
            monkeypatch.setattr(f"{core}.{kind}.READ_NUM_BYTES", size)


def in_turn(driver: Driver, url: str, streamed: list[bool], between: Callable[[], Any] = bool) -> list[str]:
    """Make calls one after another with one client, in one event loop if it is asynchronous."""
    client = driver.make(base_url=url, max_retries=0, timeout=2)

    async def one(way: bool) -> str:
        if not way:
            return (await client.complete(MESSAGES)).content
        return "".join([delta.content async for delta in client.stream(MESSAGES)])

    async def all_of_them() -> list[str]:
        return [(await one(way), await asyncio.to_thread(between))[0] for way in streamed]

    if driver.make is AsyncClient:
        return asyncio.run(all_of_them())
    return [(ask(driver, client, way), between())[0] for way in streamed]


@pytest.mark.parametrize("form", FORMS)
@both_clients
def test_every_form_of_a_body(monkeypatch: pytest.MonkeyPatch, driver: Driver, form: str) -> None:
    """An answer is the same however the server encodes its body and the network splits it."""
    expected = outcome(driver, response(EVENTS, content_type="text/event-stream"))
    assert ([delta.content for delta in expected.deltas], expected.error) == (["In its ", "cage.", "", ""], None)
    for size in (2**16, 1, 2, 3, 70):
        read_at_most(monkeypatch, size)
        assert outcome(driver, FORMS[form]) == expected


@pytest.mark.parametrize("size", [1, 2**16])
@pytest.mark.parametrize("raw", [AB, AB_TRAILED, HINTS + AB, CLOSING], ids=["plain", "trailers", "hints", "closing"])
@both_clients
def test_one_connection_for_all(monkeypatch: pytest.MonkeyPatch, driver: Driver, size: int, raw: bytes) -> None:
    """Whole and streamed answers, chunked or not, share a connection unless the server announces that it closes it."""
    read_at_most(monkeypatch, size)
    whole = b"HTTP/1.1 200 OK\r\n" + CHUNKED + chunks(b"\r\n\n " + WHOLE_BODY + b"\n\r\n\n", 11)
    with Loopback(at_once(raw, raw, completion("b"), raw, whole, raw, whole, raw)) as server:
        streamed = [True, True, False, True, False, True, False, True]
        assert in_turn(driver, server.base_url, streamed) == ["ab", "ab", "b", "ab", TEXT, "ab", TEXT, "ab"]
        assert server.connections == (5 if raw is CLOSING else 1)


@both_clients
def test_an_end_that_comes_late(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """The client waits briefly for the end of the body, so that the connection can be reused."""
    monkeypatch.setattr("tir_qwen._transport.connections.DRAIN_SECONDS", 5.0)
    monkeypatch.setattr("tir_qwen._transport.async_pool.DRAIN_SECONDS", 5.0)
    with Loopback(lambda _: [AB[: -len(END)] + b"0\r", b"\nx-sum: 1\r\n\r", b"\n"]) as server:
        server.pause = 0.02
        assert in_turn(driver, server.base_url, [True] * 3) == ["ab"] * 3
        assert server.connections == 1


@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("surplus", [b"\r\n", b"0\r\n\r\n", stream("or not")], ids=["line", "end", "answer"])
@both_clients
def test_more_than_an_answer(driver: Driver, surplus: bytes, later: bool) -> None:
    """Data that follows an answer is never taken for the next answer, which comes over a new connection."""
    wanted, written = threading.Semaphore(0), threading.Semaphore(0)

    def answer(_: Request) -> Iterator[bytes]:
        yield stream(f"answer {len(server.requests)}") + (b"" if later else surplus)
        wanted.acquire(timeout=5)
        yield surplus if later else b""
        written.release()

    def between() -> None:
        wanted.release()
        assert written.acquire(timeout=5)

    with Loopback(answer) as server:
        assert in_turn(driver, server.base_url, [True] * 2, between) == ["answer 1", "answer 2"]
        assert server.connections == 2


@pytest.mark.parametrize("rest", [b"zz\r\n", b"", b"5\r", b"f\r\ndata: ", b"0\r\nx: y\r\n"])
@both_clients
def test_a_body_that_breaks_off(driver: Driver, rest: bytes) -> None:
    """Deltas before an interruption are yielded; a broken chunk is an error at once, even on an open connection."""
    seen = outcome(driver, STREAM_HEAD + event("a") + rest, hang_up=rest != b"zz\r\n")
    assert [delta.content for delta in seen.deltas] == ["a"]
    broke = "the connection broke before the end of the answer (RemoteProtocolError)"
    assert (seen.error, seen.words) == (StreamInterruptedError, broke)


@pytest.mark.parametrize("rest", [b"", b"1f4\r\ndata: {", b"0\r\nx: "], ids=["between", "in a chunk", "in a trailer"])
@both_clients
def test_left_within_the_body(driver: Driver, rest: bytes) -> None:
    """Leaving a stream in the middle of a read closes its connection, however much of the body has arrived."""
    with Stopping(STREAM_HEAD + event("0") + event("1") + event("2") + rest) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        taken = driver.begin(client, 2, lambda: server.is_left() or pytest.fail("it is still connected"))
        assert [delta.content for delta in taken] == ["0", "1"]
        server.answer = at_once(AB)
        assert ask(driver, client, streamed=True) == "ab"


@whole_and_streamed
@both_clients
def test_refusals_in_chunks(monkeypatch: pytest.MonkeyPatch, driver: Driver, streamed: bool) -> None:
    """A chunked error response is handled like any other: its message, its `Retry-After`, and the retry."""
    waits = record_waits(monkeypatch)
    head = b"HTTP/1.1 503 x\r\nretry-after: 7\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    busy = head + chunks(b'{"error":\n\r\n\n{"message": "busy"}}', 5, b";x", TRAILERS)
    with Loopback(at_once(busy, busy, AB if streamed else completion("ab"), busy)) as server:
        client = driver.make(base_url=server.base_url)
        assert ask(driver, client, streamed) == "ab"
        assert server.connections == 1
        error = failure(driver, client, streamed, max_retries=0)
    assert (type(error), str(error)) == (InternalServerError, "503 Service Unavailable: busy")
    assert waits == pytest.approx([7.35, 7.35])


@both_clients
def test_deltas_in_one_write_all_arrive_over_tls(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Over TLS, thousands of deltas sent in one write all arrive, and so does what follows."""
    certificate = DATA / "self_signed.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    words = [f"{number} " for number in range(3000)]
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with Loopback(at_once(stream(*words), *[FORMS["many heads"]] * 2), tls=context) as server:
        assert in_turn(driver, server.base_url.replace("http:", "https:"), [True] * 3) == ["".join(words), TEXT, TEXT]
        assert server.connections == 1


def louder(engine: Any, asynchronous: bool) -> Any:
    """A user's HTTP client with a transport that changes the body."""

    class Louder(engine.SyncByteStream, engine.AsyncByteStream):
        def __init__(self, body: Any) -> None:
            self.body, self.close, self.aclose = body, getattr(body, "close", None), getattr(body, "aclose", None)

        def __iter__(self) -> Iterator[bytes]:
            return (piece.replace(b"b", b"B") for piece in self.body)

        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for piece in self.body:
                yield piece.replace(b"b", b"B")

    class Transport(engine.HTTPTransport):
        def handle_request(self, request: Any) -> Any:
            answer = super().handle_request(request)
            answer.stream = Louder(answer.stream)
            return answer

    class AsyncTransport(engine.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            answer = await super().handle_async_request(request)
            answer.stream = Louder(answer.stream)
            return answer

    return engine.AsyncClient(transport=AsyncTransport()) if asynchronous else engine.Client(transport=Transport())


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
@both_clients
def test_a_transport_of_the_users(driver: Driver, engine: Any) -> None:
    """The transport of an HTTP client passed in by the user decides what the body is."""
    with Loopback(at_once(CLOSING)) as server:
        given = louder(engine, asynchronous=driver.make is AsyncClient)
        client = driver.make(base_url=server.base_url, http_client=given, max_retries=0, timeout=2)
        assert ask(driver, client, streamed=True) == "aB"


@whole_and_streamed
@both_clients
def test_vcrpy_records_and_replays_answers(driver: Driver, streamed: bool, tmp_path: Path) -> None:
    """With vcrpy, a recorded call and its replay both return the server's answer."""
    cassette = str(tmp_path / "cassette.yaml")
    with Loopback(at_once(stream("a\n\n"), AB)) as server, VCR().use_cassette(cassette):
        assert in_turn(driver, server.base_url, [streamed] * 2) == ["a\n\n", "ab"]
    with VCR().use_cassette(cassette, record_mode="none"):
        assert in_turn(driver, server.base_url, [streamed] * 2) == ["a\n\n", "ab"]
