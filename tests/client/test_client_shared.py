"""One client shared by several threads, tasks and event loops."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import httpx
import httpx2
import pytest

from demo.replay import Received
from tests.support.server import (
    MESSAGES,
    QUESTION,
    Driver,
    Endless,
    Loopback,
    Sync,
    ask,
    both_clients,
    echo,
    in_turn,
    record_complaints,
)
from tir_qwen import APIConnectionError, AsyncClient, Client


def test_threads_share_a_client() -> None:
    """Threads can share a client, and each gets the answer to its own question."""
    questions = [f"question {number} " for number in range(64)]
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:

        def call(question: str) -> str:
            messages = [{"role": "user", "content": question}]
            whole = client.complete(messages).content
            return whole + "".join(delta.content for delta in client.stream(messages))

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(call, questions)) == [question * 2 for question in questions]


async def test_tasks_share_a_client() -> None:
    """Tasks can share a client."""
    questions = [f"question {number}" for number in range(64)]
    with Loopback(echo) as server:
        async with AsyncClient(base_url=server.base_url) as client:
            answers = await asyncio.gather(
                *(client.complete([{"role": "user", "content": question}]) for question in questions)
            )
    assert [answer.content for answer in answers] == questions


def test_one_event_loop_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async client can be used in several `asyncio.run` calls; each closes its own connections when it ends."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)

        async def calls() -> None:
            await asyncio.gather(*(client.complete(MESSAGES) for _ in range(3)))
            assert [delta.content async for delta in client.stream(MESSAGES)][:3] == list("Whe")

        for _ in range(4):
            asyncio.run(calls())
        assert server.noticed(server.connections)
    assert complaints() == []


def test_event_loop_that_ends_within_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished stream is closed together with its event loop."""
    complaints = record_complaints(monkeypatch)
    endless = Endless()
    with Loopback(endless) as server:
        client = AsyncClient(base_url=server.base_url)
        left = []

        async def begin() -> None:
            deltas = client.stream(MESSAGES)
            left.append(deltas)
            await anext(deltas)

        asyncio.run(begin())
        assert endless.noticed()
        server.answer = echo
        assert asyncio.run(client.complete(MESSAGES)).content == QUESTION
        left.clear()
    assert complaints() == []


@pytest.mark.parametrize("turns", range(5))
def test_client_forgotten_while_its_loop_ends(
    turns: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client garbage-collected in its loop's last task closes its connections without warnings."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        held = [AsyncClient(base_url=server.base_url)]
        kept: list[Any] = []

        async def forget() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                held.clear()
                gc.collect()

        async def calls() -> None:
            await asyncio.gather(*(held[0].complete(MESSAGES) for _ in range(3)))
            kept.append(asyncio.ensure_future(forget()))
            for _ in range(turns):
                await asyncio.sleep(0)

        asyncio.run(calls())
        kept.clear()
        if held:  # the task was cancelled before it started
            del held[0]
        gc.collect()
        assert server.noticed(server.connections)
    said = [record.getMessage() for record in caplog.records if record.name in ("asyncio", "tir_qwen")]
    assert (complaints(), said) == ([], [])


def test_event_loops_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async client can be used by the event loops of several threads at once."""
    complaints = record_complaints(monkeypatch)
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)
        start = threading.Barrier(6)

        async def calls(name: str) -> list[str]:
            messages = [{"role": "user", "content": name}]
            return [answer.content for answer in await asyncio.gather(*(client.complete(messages) for _ in range(5)))]

        def run(name: str) -> list[list[str]]:
            start.wait(5)
            return [asyncio.run(calls(name)) for _ in range(3)]

        names = [f"thread {number}" for number in range(6)]
        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(run, names)) == [[[name] * 5] * 3 for name in names]
        assert server.noticed(server.connections)
    assert complaints() == []


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
def test_a_connection_changes_hands(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    """Threads waiting for a shared connection each get their full `timeout` once they have it."""
    pool = import_module(engine.__name__.replace("httpx", "httpcore")).ConnectionPool
    close_connections = pool._close_connections

    def slowly(self: Any, closing: Any) -> None:
        close_connections(self, closing)  # the connection is already free
        time.sleep(0.05)

    def answer(request: Received) -> Iterator[bytes]:
        time.sleep(0.3)
        yield from echo(request)

    monkeypatch.setattr(pool, "_close_connections", slowly)
    with Loopback(answer) as server, engine.Client(limits=engine.Limits(max_connections=1), timeout=20) as given:
        client = Client(base_url=server.base_url, http_client=given, max_retries=0)
        with ThreadPoolExecutor(3) as threads:
            answers = list(threads.map(lambda _: ask(Sync(), client, streamed=True), range(3)))
    assert answers == [QUESTION] * 3


@pytest.mark.parametrize("engine", [httpx, httpx2], ids=lambda module: module.__name__)
async def test_a_connection_changes_hands_between_tasks(monkeypatch: pytest.MonkeyPatch, engine: Any) -> None:
    """Tasks waiting for a shared connection each get their full `timeout` once they have it."""
    pool = import_module(engine.__name__.replace("httpx", "httpcore")).AsyncConnectionPool
    close_connections = pool._close_connections

    async def slowly(self: Any, closing: Any) -> None:
        await close_connections(self, closing)
        await asyncio.sleep(0.05)

    def answer(request: Received) -> Iterator[bytes]:
        time.sleep(0.3)
        yield from echo(request)

    async def call() -> str:
        return "".join([delta.content async for delta in client.stream(MESSAGES)])

    monkeypatch.setattr(pool, "_close_connections", slowly)
    limits = engine.Limits(max_connections=1)
    with Loopback(answer) as server:
        async with engine.AsyncClient(limits=limits, timeout=20) as given:
            client = AsyncClient(base_url=server.base_url, http_client=given, max_retries=0)
            assert await asyncio.gather(call(), call(), call()) == [QUESTION] * 3


class SlowLoop(asyncio.SelectorEventLoop):
    """An event loop whose `is_closed` is slow, so that other threads run in between."""

    def is_closed(self) -> bool:
        time.sleep(0.0005)
        return super().is_closed()


def test_event_loops_come_and_go_at_the_same_time() -> None:
    """Threads can open and close event loops around one async client in any order."""
    with Loopback(echo) as server:
        client = AsyncClient(base_url=server.base_url)

        def run(_: int) -> list[str]:
            answers = []
            for _ in range(5):
                with asyncio.Runner(loop_factory=SlowLoop) as runner:
                    answers.append(runner.run(client.complete(MESSAGES)).content)
            return answers

        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(run, range(8))) == [[QUESTION] * 5] * 8


def test_close_while_others_are_at_work() -> None:
    """Closing a client lets calls in other threads finish and get their answers."""
    with Loopback(echo) as server, Client(base_url=server.base_url) as client:
        answers: list[str] = []

        def ask() -> None:
            answers.extend(client.complete(MESSAGES).content for _ in range(50))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            client.close()
        assert answers == [QUESTION] * 200


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
            before = len(server.received)
            with pytest.raises(APIConnectionError):
                client.complete(MESSAGES)
        else:
            before = asyncio.run(hung_up_on(client, server))
        assert len(server.received) - before == 2


async def hung_up_on(client: AsyncClient, server: Loopback) -> int:
    """Fill the pool, have the server hang up on every request, and return the total number of requests."""
    await asyncio.gather(*(client.complete(MESSAGES) for _ in range(8)))
    server.answer = in_turn()
    before = len(server.received)
    with pytest.raises(APIConnectionError):
        await client.complete(MESSAGES)
    return before
