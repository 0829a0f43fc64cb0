"""Edge cases: conflicting settings, HTTP clients of the wrong kind, and bodies crafted to be slow to parse."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import httpx2
import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    HangUpError,
    Loopback,
    Received,
    both_clients,
    completion,
    echo,
    in_turn,
)
from tir_qwen import APITimeoutError, AsyncClient, Client, ConfigurationError, StreamInterruptedError
from tir_qwen._response.server_errors import error_from_frame, error_from_response
from tir_qwen.errors import APIConnectionError

LOCAL = {"base_url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize("body", [b" " * 2_000_000, b"'loc': (" * 100_000, b"x " * 500_000 + b"'input': "])
def test_refusals_take_linear_time(body: bytes) -> None:
    """An error body crafted to be slow to parse is read in linear time; a quadratic pattern would take minutes here."""
    assert str(error_from_response(400, {}, body)).startswith("400 Bad Request")
    assert str(error_from_frame({"error": body.decode()})).startswith("the server reported an error")


@pytest.mark.parametrize(("kind", "given"), [(Client, httpx2.AsyncClient), (AsyncClient, httpx.Client)])
def test_client_of_the_wrong_kind(kind: Any, given: Any) -> None:
    """Passing a synchronous HTTP client to `AsyncClient`, or the other way round, is rejected immediately."""
    with pytest.raises(ConfigurationError, match=r"must be an? (Async)?Client of httpx or httpx2"):
        kind(**LOCAL, http_client=given())


@pytest.mark.parametrize("wrong", ["2", -1, 1.5, True])
@both_clients
def test_an_invalid_max_retries_is_rejected(driver: Driver, wrong: Any) -> None:
    """An invalid `max_retries` is rejected by the constructor or the call, not at the first failure."""
    with pytest.raises(ConfigurationError, match="max_retries"):
        driver.make(**LOCAL, max_retries=wrong)
    with pytest.raises(ConfigurationError, match="max_retries"):
        driver.complete(driver.make(**LOCAL), max_retries=wrong)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), "5"])
def test_an_invalid_timeout_is_rejected(wrong: Any) -> None:
    """An invalid `timeout` is rejected by the constructor."""
    with pytest.raises(ConfigurationError, match="timeout"):
        Client(**LOCAL, timeout=wrong)


@both_clients
def test_template_arguments_in_extra_body(driver: Driver) -> None:
    """`chat_template_kwargs` in `extra_body` is merged with the thinking switch instead of overwriting it."""
    extra = {"chat_template_kwargs": {"custom": 1}}
    with Loopback(in_turn(completion("Hi"))) as server:
        driver.complete(driver.make(base_url=server.base_url), enable_thinking=False, extra_body=extra)
    assert server.received[0].json()["chat_template_kwargs"] == {"enable_thinking": False, "custom": 1}
    assert extra == {"chat_template_kwargs": {"custom": 1}}


@pytest.mark.parametrize("engine", [httpx, httpx2])
def test_default_time_limit_of_a_users_client(engine: Any) -> None:
    """An HTTP client with the engine's default timeout of 5 seconds gets our longer default instead."""
    sent: list[Any] = []

    def note(request: Any) -> Any:
        sent.append(request.extensions["timeout"])
        return engine.Response(200, content=completion("Hi").partition(b"\r\n\r\n")[2])

    for given in ({}, {"timeout": 7.0}):
        client = engine.Client(transport=engine.MockTransport(note), **given)
        Client(**LOCAL, http_client=client).complete(MESSAGES)
    assert [limits["read"] for limits in sent] == [600.0, 7.0]


@both_clients
def test_a_broken_connection_at_work_is_no_stale_one(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With retries disabled, a server that dies at work on a reused connection is not asked again."""
    monkeypatch.setattr("tir_qwen._transport.connections._STALE_SECONDS", 0.1)
    connection = threading.local()

    def answer(_: Received) -> Iterator[bytes]:
        if hasattr(connection, "used"):
            time.sleep(0.3)
            raise HangUpError
        connection.used = True
        yield completion("Hi")

    with Loopback(answer) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        with pytest.raises(APIConnectionError):
            two_calls(client)
        assert len(server.received) == 2


def two_calls(client: Any) -> None:
    """Make two calls; the asynchronous client makes both on the same event loop."""
    if isinstance(client, Client):
        client.complete(MESSAGES)
        client.complete(MESSAGES)
        return

    async def both() -> None:
        await client.complete(MESSAGES)
        await client.complete(MESSAGES)

    asyncio.run(both())


@both_clients
def test_a_whole_answer_without_end(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A complete answer that trickles in forever eventually times out, although every byte counts as progress."""
    monkeypatch.setattr("tir_qwen._transport.deadline.WHOLE_ANSWER_FACTOR", 2)
    end = time.monotonic() + 5

    def answer(_: Received) -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{"
        while time.monotonic() < end:
            time.sleep(0.02)
            yield b" "
        raise HangUpError

    with Loopback(answer) as server, pytest.raises((APITimeoutError, StreamInterruptedError)) as caught:
        driver.complete(driver.make(base_url=server.base_url, timeout=0.2))
    assert isinstance(caught.value, APITimeoutError)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_fork_while_a_client_is_being_made() -> None:
    """A child forked while another thread holds the client's lock can still make calls: it gets its own lock."""
    with Loopback(echo) as server:
        client = Client(base_url=server.base_url)
        read, write = os.pipe()
        with client._pool._connections.released:  # as that other thread would hold it
            child = os.fork()
            if not child:
                os.write(write, client.complete(MESSAGES).content.encode())
                os._exit(0)
        os.close(write)
        with os.fdopen(read) as said:
            assert said.read() == QUESTION
        os.waitpid(child, 0)


async def test_cancelled_while_encryption_is_agreed_on() -> None:
    """Cancelling a task during the TLS handshake leaves no socket open."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = AsyncClient("1", "token", base_url=f"https://127.0.0.1:{listening.getsockname()[1]}/v1")
        task = asyncio.create_task(client.complete(MESSAGES))
        accepted, _ = await asyncio.to_thread(listening.accept)
        with accepted:
            accepted.settimeout(5)
            assert await asyncio.to_thread(accepted.recv, 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while await asyncio.to_thread(accepted.recv, 4096):
                pass
