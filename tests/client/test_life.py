"""The lifecycle of a client: leaving streams, closing, garbage collection, and copying."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
from typing import Any

import pytest

from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    Endless,
    Loopback,
    ask,
    both_clients,
    echo,
    record_complaints,
)
from tir_qwen import AsyncClient, Client


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
        first, *others = server.requests
        assert others == [first] * (1 + used)
