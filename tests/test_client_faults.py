"""What both clients make of servers that fail or hang up."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from demo.replay import Received
from tir_qwen import (
    APIConnectionError,
    Choice,
    Completion,
    MalformedChunkError,
    RateLimitError,
    ServerStreamError,
    StreamInterruptedError,
    TIRError,
)

from .loopback import (
    END,
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    both_clients,
    chunk,
    completion,
    event,
    failure,
    in_turn,
    outcome_of,
    record_waits,
    response,
    stream,
)

PARTIAL = Completion([Choice(content="In its ")], None, {"id": "x"})


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\ncontent-ty"], ids=["before", "within"])
@both_clients
def test_hangup_before_the_body(monkeypatch: pytest.MonkeyPatch, driver: Driver, head: bytes, reset: bool) -> None:
    """A connection that breaks before or within the response's head is tried again."""
    waits = record_waits(monkeypatch)

    with Loopback(in_turn(head, head, completion("Hi")), reset=reset) as server:
        client = driver.make(base_url=server.base_url, max_retries=1)
        error = failure(driver, client, streamed=False)
        assert type(error) is APIConnectionError
        assert str(error).startswith("the connection broke before the server's response (")
        assert error.attempts == len(server.received) == 2
        assert len(waits) == 1
        assert driver.complete(client).content == "Hi"


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@both_clients
def test_hangup_within_the_answer(monkeypatch: pytest.MonkeyPatch, driver: Driver, reset: bool) -> None:
    """What the model has begun to answer is never asked again; the error holds what had come."""
    waits = record_waits(monkeypatch)
    seen = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ")
        seen.wait(5)
        yield event("cage.")[:30]
        raise HangUpError

    with Loopback(answer, reset=reset) as server:
        deltas = driver.deltas(driver.make(base_url=server.base_url))
        assert next(deltas).content == "In its "
        seen.set()
        with pytest.raises(StreamInterruptedError) as caught:
            list(deltas)
    assert caught.value.partial == PARTIAL
    assert caught.value.attempts == len(server.received) == 1
    assert caught.value.is_retryable
    assert waits == []


@pytest.mark.parametrize("cut", ["empty", "half", "all but the last byte"])
@both_clients
def test_a_whole_answer_that_is_cut(driver: Driver, cut: str) -> None:
    """A whole answer that does not come whole is an error, never a short answer."""
    raw = completion("In its cage.")
    start = raw.index(b"\r\n\r\n") + 4
    at = {"empty": start, "half": start + 40, "all but the last byte": -1}[cut]
    with Loopback(in_turn(raw[:at], completion())) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed=False)
    assert type(error) is StreamInterruptedError
    assert error.attempts == len(server.received) == 1


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (b"", StreamInterruptedError, "the server sent no answer"),
        (chunk(b"data: [DONE]\n\n"), StreamInterruptedError, "the server sent no answer"),
        (event("Hi"), StreamInterruptedError, "the answer stopped before its end"),
        (
            chunk(b"<html>Sorry</html>"),
            MalformedChunkError,
            "the server sent a page of HTML or XML instead of an answer",
        ),
        (chunk(b"data: {oops\n\n"), MalformedChunkError, "a chunk of the answer is not valid JSON ("),
        (chunk(b"data: [1]\n\n"), MalformedChunkError, "a chunk of the answer is not a JSON object"),
        (
            event("Hi") + chunk(b'data: {"error": {"message": "engine died", "code": 400}}\n\ndata: [DONE]\n\n'),
            ServerStreamError,
            "the server reported an error in its answer: engine died",
        ),
        (
            event("Hi") + chunk(b"event: error\ndata: out of memory\n\n"),
            ServerStreamError,
            "the server reported an error in its answer: out of memory",
        ),
        (event("Hi") + event("", "abort"), ServerStreamError, "the server gave the answer up (finish_reason: abort)"),
    ],
)
@both_clients
def test_broken_answers(driver: Driver, body: bytes, kind: type[TIRError], words: str) -> None:
    """An answer that is none, breaks off or reports an error is an error with what had come, and not asked again."""
    with Loopback(in_turn(STREAM_HEAD + body + END, stream("again"))) as server:
        deltas = driver.deltas(driver.make(base_url=server.base_url))
        outcome = outcome_of(deltas)
    assert outcome.error is kind
    assert outcome.words.startswith(words)
    assert outcome.partial is not None
    assert outcome.partial.content == "".join(delta.content for delta in outcome.deltas)
    assert len(server.received) == 1


@both_clients
def test_corrupt_compression(driver: Driver) -> None:
    """A compressed answer that cannot be unpacked is a malformed one."""
    with Loopback(in_turn(response(b"\x1f\x8bno gzip", content_encoding="gzip"))) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed=False)
    assert type(error) is MalformedChunkError
    assert str(error) == "the compression of the answer is corrupt"


@both_clients
def test_a_refusal_that_cannot_be_read_whole(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """The status says enough: a refusal's body may be cut, corrupt or endless, and is still a refusal."""
    waits = record_waits(monkeypatch)
    endless = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        if len(server.received) == 1:
            yield b"HTTP/1.1 503 x\r\ncontent-length: 100\r\n\r\ncut"
            raise HangUpError
        if len(server.received) == 2:
            yield response(b"\x1f\x8bno gzip", "502 x", content_encoding="gzip")
        try:
            yield b"HTTP/1.1 429 x\r\ntransfer-encoding: chunked\r\n\r\n"
            while True:
                yield chunk(b"x" * 10_000)
        finally:
            endless.set()

    with Loopback(answer) as server:
        error = failure(driver, driver.make(base_url=server.base_url), streamed=False)
        assert endless.wait(5)
    assert type(error) is RateLimitError
    assert error.attempts == 3
    assert len(waits) == 2


@pytest.mark.parametrize("name", ["X-Padded", "x-empty", "Cookie"])
@both_clients
def test_every_accepted_header_can_be_sent(driver: Driver, name: str) -> None:
    """A header that the settings accept arrives; white space around it is no part of it."""
    value = {"X-Padded": "  a b  ", "x-empty": "", "Cookie": 'a=1; b="2"'}[name]
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=server.base_url, default_headers={name: value}))
    assert server.received[0].headers[name.lower()] == value.strip()
