"""The life of a client: its connections, and its copies."""

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
    """Leaving the loop closes the connection at once, which makes the server stop; the next call works."""
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
    """A `break` is enough: nobody has to know that there is a generator to close."""
    endless = Endless()
    with Loopback(endless) as server:
        client = Client(base_url=server.base_url)
        for _ in client.stream(MESSAGES):
            break
        assert endless.noticed()


async def test_break_out_of_an_async_stream() -> None:
    """A `break` is enough here too, though the connection closes only when the event loop comes to it."""
    endless = Endless()
    with Loopback(endless) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            async for _ in client.stream(MESSAGES):
                break
            assert await asyncio.to_thread(endless.noticed)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
async def test_cancelled_tasks(streamed: bool) -> None:
    """Cancelling a task closes its connection, wherever it is, and leaves the client as good as new."""
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
                await asyncio.sleep(number * 0.0005)  # from before the connection to within the answer
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
    """An idle connection is used for 4 s, since uvicorn, on which vLLM runs, closes it after 5."""
    assert _client_options()["limits"].keepalive_expiry == 4.0


@both_clients
def test_closed_clients_open_again(driver: Driver) -> None:
    """After `close` a client has no connections, and opens one when it is asked again."""
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
    """A `with` or `async with` block closes the client's connections, also when it is left by an error."""

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
    """A client that is not closed closes its connections when it is garbage, without a warning."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        Client(base_url=server.base_url).complete(MESSAGES)
        gc.collect()
        assert server.noticed()
    assert complaints() == []


async def test_forgotten_async_client() -> None:
    """An asynchronous client that is not closed closes its connections too, in the event loop that they belong to."""
    with Loopback(echo) as server:
        await AsyncClient(base_url=server.base_url).complete(MESSAGES)
        gc.collect()
        assert await asyncio.to_thread(server.noticed)


@whole_and_streamed
def test_connections_are_shared(streamed: bool) -> None:
    """One connection serves one call after another; a refused one leaves it in order too."""
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
def test_copies(driver: Driver, used: bool, again: Any) -> None:
    """A copied or unpickled client asks the same with the same credentials, and lives when the first one is closed."""
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
    """Two answers, in one event loop if there is to be one."""

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
    """An idle connection that the server has closed is replaced, at no cost."""

    def answer(request: Received) -> Iterator[bytes]:
        yield from echo(request)
        raise HangUpError

    with Loopback(answer, reset=reset) as server:
        client = driver.make(base_url=server.base_url, max_retries=0)
        assert two_calls(client, False, server.noticed) == [QUESTION, QUESTION]
        assert server.connections == 2


@both_clients
def test_streams_share_a_connection(driver: Driver) -> None:
    """A stream that was read to its end leaves its connection for the next call, without a handshake."""
    with Loopback(echo) as server:
        assert two_calls(driver.make(base_url=server.base_url), True) == [QUESTION, QUESTION]
        assert server.connections == 1


@both_clients
def test_stale_connection(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    """A kept connection that the server closes just now costs no retry and no wait: a new one gets the request."""
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
