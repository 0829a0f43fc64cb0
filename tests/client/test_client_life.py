"""The lifecycle of a client: its connections, closing, and copying."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from demo.replay import Received
from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    Endless,
    HangUpError,
    Loopback,
    Sync,
    ask,
    both_clients,
    completion,
    echo,
    in_turn,
    record_complaints,
    record_waits,
    response,
    whole_and_streamed,
)
from tir_qwen import AsyncClient, Client
from tir_qwen._transport.engine import _client_options


@both_clients
def test_leaving_a_stream_early(driver: Driver) -> None:
    """Leaving the loop over a stream closes its connection at once, so that the server stops; the next call works."""
    endless = Endless()
    with Loopback(endless) as server:
        client = driver.make(base_url=server.base_url)
        noticed: list[bool] = []
        deltas = driver.begin(client, 3, lambda: noticed.append(endless.noticed()))
        assert [delta.content for delta in deltas] == ["0", "1", "1"]
        assert noticed == [True]
        server.answer = echo
        assert ask(driver, client, streamed=True) == QUESTION


def test_break_out_of_a_stream() -> None:
    """A plain `break` closes the stream; the caller need not close a generator."""
    endless = Endless()
    with Loopback(endless) as server:
        client = Client(base_url=server.base_url)
        for _ in client.stream(MESSAGES):
            break
        assert endless.noticed()


async def test_break_out_of_an_async_stream() -> None:
    """A plain `break` closes an async stream too, as soon as the event loop gets to it."""
    endless = Endless()
    with Loopback(endless) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            async for _ in client.stream(MESSAGES):
                break
            assert await asyncio.to_thread(endless.noticed)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_cancelled_tasks(streamed: bool) -> None:
    """Cancelling a task closes its connection at any point, and leaves the client usable."""
    endless = Endless()

    async def call(client: AsyncClient) -> None:
        if streamed:
            async for _ in client.stream(MESSAGES):
                pass
        else:
            await client.complete(MESSAGES)

    with Loopback(endless) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            for number in range(40):
                task = asyncio.create_task(call(client))
                await asyncio.sleep(number * 0.0005)  # from before connecting to the middle of the answer
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            endless.left.clear()
            task = asyncio.create_task(call(client))
            await asyncio.sleep(0.1)
            task.cancel()
            assert await asyncio.to_thread(endless.noticed)
            server.answer = echo
            assert (await client.complete(MESSAGES)).content == QUESTION
        assert await asyncio.to_thread(server.noticed, server.connections)


def test_idle_connections_are_left_before_the_server_leaves_them() -> None:
    """Idle connections expire after 4 seconds, because uvicorn, which serves vLLM, closes them after 5."""
    assert _client_options()["limits"].keepalive_expiry == 4.0


@both_clients
def test_closed_clients_open_again(driver: Driver) -> None:
    """`close` drops all connections, and the next call opens a new one."""
    with Loopback(echo) as server:
        client = driver.make(base_url=server.base_url)
        for number in range(1, 4):
            assert ask(driver, client, streamed=False) == QUESTION
            driver.close(client)
            driver.close(client)
            assert server.connections == number
            assert server.noticed()


@both_clients
def test_context_manager(driver: Driver) -> None:
    """A `with` or `async with` block closes the client's connections, even when an exception leaves it."""

    def sync_block() -> None:
        with Client(base_url=server.base_url) as client:
            client.complete(MESSAGES)
            raise KeyError

    async def async_block() -> None:
        async with AsyncClient(base_url=server.base_url) as client:
            await client.complete(MESSAGES)
            raise KeyError

    with Loopback(echo) as server:
        with pytest.raises(KeyError):
            sync_block() if driver.make is Client else asyncio.run(async_block())
        assert server.noticed()


def test_forgotten_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that was never closed closes its connections when garbage-collected, without a warning."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        Client(base_url=server.base_url).complete(MESSAGES)
        gc.collect()
        assert server.noticed()
    assert complaints() == []


async def test_forgotten_async_client() -> None:
    """An async client that was never closed also closes its connections, in the event loop they belong to."""
    with Loopback(echo) as server:
        await AsyncClient(base_url=server.base_url).complete(MESSAGES)
        gc.collect()
        assert await asyncio.to_thread(server.noticed)


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


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))])
@pytest.mark.parametrize("used", [False, True])
@both_clients
def test_copies_work_independently_of_the_original(driver: Driver, used: bool, again: Any) -> None:
    """A copied or unpickled client sends identical requests, and keeps working after the original is closed."""
    with Loopback(echo) as server:
        client = driver.make(
            6530, "token-4711", base_url=server.url, default_headers={"X-Team": "blue"}, model="m", timeout=5
        )
        if used:
            ask(driver, client, streamed=True)
        twin = again(client)
        driver.close(client)
        assert repr(twin) == repr(client)
        assert ask(driver, twin, streamed=True) == ask(driver, client, streamed=True)
        driver.close(client)
        driver.close(twin)
        first, *others = server.received
        assert others == [first] * (1 + used)


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


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@both_clients
def test_connection_closed_by_the_server(driver: Driver, reset: bool) -> None:
    """An idle connection closed by the server is replaced without using up a retry."""

    def answer(request: Received) -> Iterator[bytes]:
        yield from echo(request)
        raise HangUpError

    with Loopback(answer, reset=reset) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        assert two_calls(client, False, server.noticed) == [QUESTION, QUESTION]
        assert server.connections == 2


@both_clients
def test_streams_share_a_connection(driver: Driver) -> None:
    """A stream that was read to its end leaves its connection to the next call."""
    with Loopback(echo) as server:
        assert two_calls(driver.make(base_url=server.base_url), True) == [QUESTION, QUESTION]
        assert server.connections == 1


@both_clients
def test_stale_connection(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """If the server closes a reused connection just then, the request goes over a new one at no extra wait or retry."""
    waits = record_waits(monkeypatch)
    connection = threading.local()

    def answer(request: Received) -> list[bytes]:
        if hasattr(connection, "used"):
            raise HangUpError
        connection.used = True
        return echo(request)

    with Loopback(answer) as server:
        assert two_calls(driver.make(base_url=server.base_url, max_retries=0), False) == [QUESTION, QUESTION]
        assert len(server.received) == 3
    assert sum(waits) == 0
