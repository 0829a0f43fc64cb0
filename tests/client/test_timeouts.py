"""The accepted forms of `timeout`, and how both clients enforce it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

from langchain_tir_qwen import ChatTIRQwen
from llama_index_tir_qwen import TIRQwen
from tests.support.server import (
    STREAM_HEAD,
    Driver,
    Loopback,
    ask,
    both_clients,
    completion,
    event,
    failure,
    in_turn,
    outcome_of,
    record_waits,
    response,
    stream,
    whole_and_streamed,
)
from tir_qwen import (
    APITimeoutError,
    Client,
    ConfigurationError,
    RateLimitError,
    Timeout,
)
from tir_qwen.testing import Request
from tir_qwen.timeouts import timeout_from

LOCAL = "http://127.0.0.1:9/v1"


def test_default_time_limits() -> None:
    """By default, a server has 5 seconds to accept a connection and 10 minutes for each step of the answer."""
    assert Timeout() == Timeout(connect=5.0, first_delta=600.0, between_deltas=600.0, total=None)


@pytest.mark.parametrize(
    ("given", "timeout"),
    [
        (None, None),
        (30, Timeout(5.0, 30, 30)),
        (2.5, Timeout(2.5, 2.5, 2.5)),
        (Timeout(total=9), Timeout(total=9)),
        ({"first_delta": 20, "total": 90.0}, Timeout(5.0, 20, 600.0, 90.0)),
        ({"between_deltas": None}, Timeout(between_deltas=None)),
        (httpx.Timeout(7.0, connect=1.0), Timeout(1.0, 7.0, 7.0)),
        (httpx2.Timeout(None), Timeout(None, None, None)),
    ],
)
def test_ways_to_write_it(given: Any, timeout: Timeout | None) -> None:
    """`timeout` accepts seconds, a `Timeout`, a dict of its fields, or an httpx timeout."""
    assert timeout_from(given) == timeout


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (0, "timeout must be a number of seconds, above 0 and up to 1000000, or a tir_qwen.Timeout, or a dict of"),
        ("soon", "timeout must be a number of seconds"),
        (True, "timeout must be a number of seconds"),
        ((5, 60), "timeout must be a number of seconds"),
        ({"read": 5}, "timeout has no field 'read': the fields are connect, first_delta, between_deltas, total."),
        ({"total": -1}, "timeout: total must be a number of seconds, above 0 and up to 1000000, or None."),
        ({"connect": "5"}, "timeout: connect must be a number of seconds"),
    ],
)
@both_clients
def test_what_is_no_time_limit(driver: Driver, given: Any, words: str) -> None:
    """Other values of `timeout` are rejected by clients, calls and both integrations."""
    client = driver.make(base_url=LOCAL)
    for refused in (
        lambda: driver.make(base_url=LOCAL, timeout=given),
        lambda: driver.complete(client, timeout=given),
        lambda: ChatTIRQwen(base_url=LOCAL, timeout=given),
        lambda: TIRQwen(api_base=LOCAL, timeout=given),
    ):
        with pytest.raises(ConfigurationError) as caught:
            refused()
        assert words.removeprefix("timeout ") in str(caught.value)
        assert "timeout: timeout" not in str(caught.value)


@pytest.mark.parametrize("face", [ChatTIRQwen, TIRQwen])
def test_faces_keep_it(face: Any) -> None:
    """Models accept a dict as `timeout`, show its values, and round-trip through their own dump."""
    model = face(base_url=LOCAL, timeout={"first_delta": 20, "total": 90})
    timeout = Timeout(first_delta=20, total=90)
    assert model.timeout == timeout
    assert "timeout=Timeout(connect=5.0, first_delta=20, between_deltas=600.0, total=90)" in repr(model)
    dumped = json.loads(model.model_dump_json(include={"timeout"}))
    assert face(base_url=LOCAL, **dumped).timeout == timeout
    assert face(base_url=LOCAL, timeout=30).model_dump()["timeout"] == 30


def silent(after: bytes = b"") -> Any:
    """Send these bytes, then nothing."""

    def answer(_: Request) -> Iterator[bytes]:
        yield after
        threading.Event().wait(6)

    return answer


@pytest.mark.parametrize(
    ("timeout", "words"),
    [
        (Timeout(first_delta=0.2, between_deltas=60), "there was no answer within 0.2 s (timeout: first_delta)"),
        (Timeout(first_delta=60, between_deltas=0.2), "did not go on within 0.2 s (timeout: between_deltas)"),
        (Timeout(total=0.2), "the call was not over within 0.2 s (timeout: total)"),
    ],
)
@both_clients
def test_each_part_limits_its_own(driver: Driver, timeout: Timeout, words: str) -> None:
    """`first_delta`, `between_deltas` and `total` are enforced separately, and the error names the one exceeded."""
    begun = STREAM_HEAD if "no answer" in words else STREAM_HEAD + event("Hi")
    with Loopback(silent(begun)) as server:
        began = time.monotonic()
        outcome = outcome_of(driver.deltas(driver.make(base_url=server.base_url, timeout=timeout, max_retries=0)))
        assert time.monotonic() - began < 30
    assert outcome.error is APITimeoutError
    assert words in outcome.words


@whole_and_streamed
@both_clients
def test_the_total_counts_retries(driver: Driver, streamed: bool) -> None:
    """`total` limits the whole call, so a retry has only the time that earlier attempts left."""
    with Loopback(silent()) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(first_delta=0.2, total=0.9), max_retries=9)
        began = time.monotonic()
        error = failure(driver, client, streamed)
        assert time.monotonic() - began < 10  # nine more attempts would take longer
    assert type(error) is APITimeoutError
    assert error.attempts == len(server.requests) == 2


@whole_and_streamed
@both_clients
def test_a_wait_that_the_total_forbids(driver: Driver, streamed: bool) -> None:
    """If the requested wait exceeds what remains of `total`, the error is raised at once."""
    busy = response(b"", "429 Too Many Requests", retry_after="30")
    with Loopback(in_turn(busy)) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(total=20))
        began = time.monotonic()
        error = failure(driver, client, streamed)
        assert time.monotonic() - began < 5
    assert type(error) is RateLimitError
    assert error.attempts == 1


@both_clients
def test_a_second_request_has_what_the_first_has_left(driver: Driver) -> None:
    """A second request for an invalid object must finish within the `total` of the call."""

    def answer(_: Request) -> Iterator[bytes]:
        if len(server.requests) == 2:
            threading.Event().wait(6)
        time.sleep(0.3)
        yield completion("no object")

    with Loopback(answer) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(total=0.6), max_retries=0)
        began = time.monotonic()
        format_ = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
        assert driver.complete(client, response_format=format_).content == "no object"
        assert time.monotonic() - began < 5
    assert len(server.requests) == 2


@both_clients
def test_a_call_has_its_own(driver: Driver) -> None:
    """A call's `timeout` replaces the client's entirely."""
    with Loopback(silent()) as server:
        client = driver.make(base_url=server.base_url, timeout=Timeout(first_delta=30), max_retries=0)
        for timeout in ({"first_delta": 0.2}, Timeout(total=0.2), 0.2):
            with pytest.raises(APITimeoutError, match=r"within 0\.2 s"):
                ask(driver, client, streamed=True, timeout=timeout)


@both_clients
def test_retries_wait_as_before(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """Without `total`, nothing shortens the waits before retries."""
    waits = record_waits(monkeypatch)
    with Loopback(silent()) as server:
        client = driver.make(base_url=server.base_url, timeout=0.1)
        error = failure(driver, client, streamed=False)
    assert error.attempts == len(server.requests) == 3
    assert len(waits) == 2


def test_a_time_limit_of_a_configuration_file() -> None:
    """A number may be given as a string, as in environment variables and configuration files."""
    assert ChatTIRQwen(base_url=LOCAL, timeout="30").timeout == 30


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "5"])
def test_an_invalid_timeout_is_rejected(wrong: Any) -> None:
    """An invalid `timeout` is rejected by the constructor."""
    with pytest.raises(ConfigurationError, match="timeout"):
        Client(base_url=LOCAL, timeout=wrong)


@whole_and_streamed
@both_clients
def test_an_answer_that_comes_slowly(driver: Driver, streamed: bool) -> None:
    """An answer may take longer than `timeout`, which limits only the time without progress."""
    raw = stream(*"In its cage.") if streamed else completion("In its cage.")
    size = len(raw) // 9

    def answer(_: Request) -> Iterator[bytes]:
        for at in range(0, len(raw), size):
            yield raw[at : at + size]
            time.sleep(0.1)

    with Loopback(answer) as server:
        assert ask(driver, driver.make(base_url=server.base_url, timeout=0.5), streamed) == "In its cage."
