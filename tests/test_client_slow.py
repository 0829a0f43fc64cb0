"""What both clients make of servers that take their time, or fall silent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.replay import Received
from tir_qwen import (
    APITimeoutError,
    Choice,
    Completion,
    PermissionDeniedError,
)

from .loopback import (
    DONE,
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    ask,
    both_clients,
    chunk,
    completion,
    event,
    failure,
    outcome_of,
    record_waits,
    stream,
    whole_and_streamed,
)

PARTIAL = Completion([Choice(content="In its ")], None, {"id": "x"})


@pytest.mark.parametrize("where", ["client", "call"])
@both_clients
def test_silence_before_the_answer(monkeypatch: pytest.MonkeyPatch, driver: Driver, where: str) -> None:
    """A server that says nothing for longer than `timeout` is tried again, then given up."""
    waits = record_waits(monkeypatch)
    over = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        over.wait(5)
        yield from ()

    with Loopback(answer) as server:
        settings: dict[str, Any] = {"timeout": 0.15} if where == "client" else {"timeout": 30}
        client = driver.make(base_url=server.base_url, max_retries=1, **settings)
        began = time.monotonic()
        error = failure(driver, client, streamed=True, **({} if where == "client" else {"timeout": 0.15}))
        assert time.monotonic() - began < 3
        over.set()
    assert type(error) is APITimeoutError
    assert str(error) == "the answer did not begin within 0.15 s (timeout: first_delta)"
    assert error.attempts == len(server.received) == 2
    assert len(waits) == 1


@both_clients
def test_silence_within_the_answer(driver: Driver) -> None:
    """A stream that falls silent is given up with what had come, and not asked again."""
    over = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ")
        over.wait(5)

    with Loopback(answer) as server:
        outcome = outcome_of(driver.deltas(driver.make(base_url=server.base_url, timeout=0.15)))
        over.set()
    assert outcome.error is APITimeoutError
    assert outcome.partial == PARTIAL
    assert len(server.received) == 1


@both_clients
def test_a_server_that_hangs_after_the_end(driver: Driver) -> None:
    """What a server does after `[DONE]` keeps nobody waiting."""
    over = threading.Event()

    def answer(_: Received) -> Iterator[bytes]:
        yield STREAM_HEAD + event("Hi") + event("", "stop") + DONE
        over.wait(5)

    with Loopback(answer) as server:
        began = time.monotonic()
        deltas = list(driver.deltas(driver.make(base_url=server.base_url, timeout=4)))
        assert time.monotonic() - began < 1
        assert deltas[-1].last
        over.set()


@whole_and_streamed
@both_clients
def test_an_answer_that_comes_slowly(driver: Driver, streamed: bool) -> None:
    """An answer may take longer than `timeout`, which limits the time without progress."""
    raw = stream(*"In its cage.") if streamed else completion("In its cage.")
    size = len(raw) // 9

    def answer(_: Received) -> Iterator[bytes]:
        for at in range(0, len(raw), size):
            yield raw[at : at + size]
            time.sleep(0.1)

    with Loopback(answer) as server:
        assert ask(driver, driver.make(base_url=server.base_url, timeout=0.5), streamed) == "In its cage."


def comments() -> Iterator[bytes]:
    """Signs of life, and nothing else."""
    while True:
        yield chunk(b": keep-alive\n\n")


def drops() -> Iterator[bytes]:
    """One event, a byte at a time."""
    yield chunk(b"data: {")
    while True:
        yield chunk(b" ")


@pytest.mark.parametrize("sent", [comments, drops])
@both_clients
def test_signs_of_life_are_no_progress(driver: Driver, sent: Callable[[], Iterator[bytes]]) -> None:
    """A server that sends bytes but no delta for longer than `timeout` is given up like a silent one."""
    end = time.monotonic() + 1.5

    def answer(_: Received) -> Iterator[bytes]:
        yield STREAM_HEAD + event("In its ")
        for piece in sent():
            time.sleep(0.02)
            yield piece
            if time.monotonic() > end:
                raise HangUpError

    with Loopback(answer) as server:
        outcome = outcome_of(driver.deltas(driver.make(base_url=server.base_url, timeout=0.2)))
    assert outcome.error is APITimeoutError
    assert outcome.words == "the answer did not go on within 0.2 s (timeout: between_deltas)"
    assert outcome.partial == PARTIAL


@both_clients
def test_a_refusal_that_comes_slowly(driver: Driver) -> None:
    """The status says enough: a refusal whose body never ends is not waited for any longer than an answer is."""
    end = time.monotonic() + 2.5

    def answer(_: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n"
        while time.monotonic() < end:
            yield chunk(b"x")
            time.sleep(0.02)
        raise HangUpError

    with Loopback(answer) as server:
        began = time.monotonic()
        error = failure(driver, driver.make(base_url=server.base_url, timeout=0.3), streamed=False)
        assert time.monotonic() - began < 1.5
    assert type(error) is PermissionDeniedError
