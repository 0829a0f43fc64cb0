"""How the deadlines of a call move as it goes on, and what ends it in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import (
    DONE,
    END,
    STREAM_HEAD,
    Driver,
    HangUpError,
    Loopback,
    ask,
    both_clients,
    completion,
    event,
    failure,
    in_turn,
    outcome_of,
    response,
    stream,
)
from tests.transport.test_body import at_once
from tir_qwen import (
    APITimeoutError,
    Client,
    StreamInterruptedError,
    Timeout,
)
from tir_qwen._transport.deadline import Deadline
from tir_qwen.testing import Request


@both_clients
def test_a_whole_answer_without_end(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete answer that trickles in forever eventually times out, although every byte counts as progress."""
    monkeypatch.setattr("tir_qwen._transport.deadline.WHOLE_ANSWER_FACTOR", 2)
    end = time.monotonic() + 5

    def answer(_: Request) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{"
        while time.monotonic() < end:
            time.sleep(0.02)
            yield b" "
        raise HangUpError

    with Loopback(answer) as server, pytest.raises((APITimeoutError, StreamInterruptedError)) as caught:
        driver.complete(driver.make(base_url=server.base_url, timeout=0.2))
    assert isinstance(caught.value, APITimeoutError)


def test_the_limit_of_a_whole_answer_does_not_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """All bytes of a whole answer share ten times `first_delta`, counted from the first ones; a retry starts anew."""
    now = 100.0
    monkeypatch.setattr("tir_qwen._transport.deadline.monotonic", lambda: now)
    deadline = Deadline(Timeout(first_delta=10, total=None))
    seen = []
    for now in (105.0, 114.0, 150.0, 199.0, 204.0):  # noqa: B007 - read by the clock
        deadline.extend_whole_answer()
        seen.append(deadline.expires_at)
    assert seen == [115.0, 124.0, 160.0, 205.0, 205.0]
    now = 300.0
    deadline.start_request()
    deadline.extend_whole_answer()
    assert deadline.expires_at == 310.0


def test_a_pause_before_a_retry_is_not_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt has the full `first_delta`, regardless of earlier attempts and the waits between them."""
    now = 100.0
    monkeypatch.setattr("tir_qwen._transport.deadline.monotonic", lambda: now)
    deadline = Deadline(Timeout(first_delta=10, total=25))
    assert (deadline.expires_at, deadline.remaining()) == (110.0, 25.0)
    now = 108.0
    deadline.start_request()
    assert (deadline.expires_at, deadline.remaining(60)) == (118.0, 17.0)
    now = 120.0
    deadline.extend()
    assert (deadline.expires_at, deadline.remaining(2)) == (125.0, 2.0)
    now = 126.0
    assert str(deadline.timeout_error()) == "the call was not over within 25 s (timeout: total)"
    assert deadline.remaining() == 0.0


@both_clients
def test_the_total_counts_the_callers_time(driver: Driver) -> None:
    """`total` is wall-clock time and includes the time a slow consumer takes; other limits cover only the server."""
    for timeout, kind in ((Timeout(between_deltas=0.1), None), (Timeout(total=0.3), APITimeoutError)):
        with Loopback(in_turn(stream(*"abcdef"))) as server:
            outcome = outcome_of(map(dawdle, driver.deltas(driver.make(base_url=server.base_url, timeout=timeout))))
        assert outcome.error is kind


def dawdle(delta: Any) -> Any:
    """Wait before taking the next delta."""
    time.sleep(0.15)
    return delta


@both_clients
def test_a_total_that_is_over_before_the_request(driver: Driver) -> None:
    """If time runs out before a request is sent, it is not sent, even if a connection is available."""

    def nap(*_: Any) -> None:
        time.sleep(0.4)

    async def anap(*_: Any) -> None:
        await asyncio.sleep(0.4)

    busy = response(b"", "503 x", retry_after_ms="1")
    with Loopback(in_turn(busy, completion())) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(total=0.3))
        error = failure(driver, client, streamed=False, on_retry=nap if isinstance(client, Client) else anap)
        assert len(server.requests) == 1
    assert (type(error), error.attempts) == (APITimeoutError, 1)
    assert str(error) == "the call was not over within 0.3 s (timeout: total)"


@both_clients
def test_the_total_counts_within_one_read(driver: Driver) -> None:
    """`total` also ends a call whose answer has arrived in full but whose caller is slow to consume the deltas."""
    with Loopback(at_once(stream(*"abcdef"))) as server:
        deltas = driver.deltas(driver.make(base_url=server.base_url, timeout=Timeout(total=0.4)))
        seen = outcome_of(time.sleep(0.15) or delta for delta in deltas)
    assert [delta.content for delta in seen.deltas] == list("abcdef"[: len(seen.deltas)])
    assert (seen.error, seen.words) == (APITimeoutError, "the call was not over within 0.4 s (timeout: total)")


@pytest.mark.parametrize("timeout", [Timeout(None, None, None), Timeout(between_deltas=None)], ids=["none", "one less"])
@both_clients
def test_no_time_limit(driver: Driver, timeout: Timeout) -> None:
    """A part of `timeout` that is None sets no limit."""
    with Loopback(lambda _: [STREAM_HEAD, event("a"), event("b"), event("", "stop") + DONE + END]) as server:
        server.pause = 0.02
        assert ask(driver, driver.make(base_url=server.base_url, timeout=timeout, max_retries=0), True) == "ab"
