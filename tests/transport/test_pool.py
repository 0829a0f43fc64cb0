"""When a connection is reused, replaced or given up."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    HangUpError,
    Loopback,
    Sync,
    ask,
    both_clients,
    completion,
    echo,
    in_turn,
    record_waits,
    response,
    whole_and_streamed,
)
from tir_qwen import (
    APIConnectionError,
    AsyncClient,
    Client,
)
from tir_qwen.testing import Request


def two_calls(client: Any, streamed: bool, between: Callable[[], Any] = bool) -> list[str]:
    """Return two answers, from the same event loop if the client is asynchronous."""

    async def one(client: AsyncClient) -> str:
        if streamed:
            return "".join([delta.content async for delta in client.stream(MESSAGES)])
        return (await client.complete(MESSAGES)).content

    async def two(client: AsyncClient) -> list[str]:
        first = await one(client)
        await asyncio.to_thread(between)
        return [first, await one(client)]

    if isinstance(client, AsyncClient):
        return asyncio.run(two(client))
    first = ask(Sync(), client, streamed)
    between()
    return [first, ask(Sync(), client, streamed)]


@whole_and_streamed
def test_connections_are_shared(streamed: bool) -> None:
    """Consecutive calls reuse one connection, even after an error response."""
    refused = response({"error": "no"}, "400 Bad Request")
    with Loopback(in_turn(*[completion(), refused] * 3)) as server, Client(base_url=server.base_url) as client:
        for number in range(6):
            if number % 2:
                with pytest.raises(Exception, match="400 Bad Request: no"):
                    list(client.stream(MESSAGES)) if streamed else client.complete(MESSAGES)
            else:
                client.complete(MESSAGES)
        assert server.connections == 1


@both_clients
def test_streams_share_a_connection(driver: Driver) -> None:
    """A stream that was read to its end leaves its connection to the next call."""
    with Loopback(echo) as server:
        assert two_calls(driver.make(base_url=server.base_url), True) == [QUESTION, QUESTION]
        assert server.connections == 1


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@both_clients
def test_connection_closed_by_the_server(driver: Driver, reset: bool) -> None:
    """An idle connection closed by the server is replaced without using up a retry."""

    def answer(request: Request) -> Iterator[bytes]:
        yield from echo(request)
        if reset:
            server.reset_connection()
        raise HangUpError

    with Loopback(answer) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        assert two_calls(client, False, server.noticed) == [QUESTION, QUESTION]
        assert server.connections == 2


@both_clients
def test_stale_connection(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """If the server closes a reused connection just then, the request goes over a new one at no extra wait or retry."""
    waits = record_waits(monkeypatch)
    connection = threading.local()

    def answer(request: Request) -> list[bytes]:
        if hasattr(connection, "used"):
            raise HangUpError
        connection.used = True
        return echo(request)

    with Loopback(answer) as server:
        assert two_calls(driver.make(base_url=server.base_url, max_retries=0), False) == [QUESTION, QUESTION]
        assert len(server.requests) == 3
    assert sum(waits) == 0


@both_clients
def test_a_broken_connection_at_work_is_no_stale_one(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """With retries disabled, a server that dies at work on a reused connection is not asked again."""
    monkeypatch.setattr("tir_qwen._transport.connections._STALE_SECONDS", 0.1)
    connection = threading.local()

    def answer(_: Request) -> Iterator[bytes]:
        if hasattr(connection, "used"):
            time.sleep(0.3)
            raise HangUpError
        connection.used = True
        yield completion("Hi")

    with Loopback(answer) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        with pytest.raises(APIConnectionError):
            two_calls(client, False)
        assert len(server.requests) == 2


@both_clients
def test_a_server_that_hangs_up_on_every_request(driver: Driver) -> None:
    """A request that breaks its connection is repeated only once, however many idle connections there are."""
    with Loopback(echo) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        if isinstance(client, Client):
            streams = [client.stream(MESSAGES) for _ in range(8)]
            for stream in streams:
                next(stream)
            for stream in streams:
                list(stream)
            server.answer = in_turn()
            before = len(server.requests)
            with pytest.raises(APIConnectionError):
                client.complete(MESSAGES)
        else:
            before = asyncio.run(hung_up_on(client, server))
        assert len(server.requests) - before == 2


async def hung_up_on(client: AsyncClient, server: Loopback) -> int:
    """Fill the pool, have the server hang up on every request, and return the total number of requests."""
    await asyncio.gather(*(client.complete(MESSAGES) for _ in range(8)))
    server.answer = in_turn()
    before = len(server.requests)
    with pytest.raises(APIConnectionError):
        await client.complete(MESSAGES)
    return before
